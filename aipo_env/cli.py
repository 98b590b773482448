"""The `aipo` command. Each package adds its subcommands through the entry-point group `aipo.commands`."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import sys
from collections.abc import Callable, Sequence

from aipo_env.console import interrupted
from aipo_env.errors import AipoError, MissingDependencyError, StorageError, unknown_id
from aipo_env.installation import COMMON_NAMES, DISTRIBUTION, install_command, require_own, requirements

COMMAND_GROUP = "aipo.commands"
Command = Callable[..., object]

OK, NEGATIVE, USER_ERROR, INTERRUPTED, READER_GONE = 0, 1, 2, 130, 141
"""The exit codes: done; done with a negative result, or not complete, or a bug (with a traceback); a mistake in what was asked
for; Ctrl-C; whoever read the output (`| head`) left."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `aipo <command> ...`; returns the exit code (docs/command_line.md)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except AipoError as error:
        print(f"aipo: {error}", file=sys.stderr)
        return NEGATIVE if isinstance(error, StorageError) else USER_ERROR
    except ModuleNotFoundError as error:
        if (extra := _extra_with(error.name or "")) is None:
            raise
        print(
            f"aipo: this needs the package {error.name!r}, which is not installed: {install_command(extra)}",
            file=sys.stderr,
        )
        return USER_ERROR
    except KeyboardInterrupt:
        return interrupted("What was finished is on disk.")
    except BrokenPipeError:
        # Python flushes standard output once more at its end, where nobody could catch the error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE


def _run(arguments: list[str]) -> int:
    entries = {entry.name: entry for entry in _entries()}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(_entries()))
        return OK
    if arguments[0] == "--version":
        print(importlib.metadata.version(DISTRIBUTION))
        return OK
    name = arguments[0]
    if name not in entries:
        raise unknown_id("command", name, entries, "`aipo --help` lists them.")
    command = _load(entries[name])
    # A command may hand its arguments to another parser.
    pass_on = getattr(command, "pass_on", None)
    if pass_on is not None and (code := pass_on(arguments[1:])) is not None:
        return int(code)
    from aipo_env.parsing import options_of, parse, with_flags

    call = parse(command, arguments[1:], f"aipo {name}")
    try:
        result = call()
    except AipoError as error:
        error.args = (with_flags(str(error), options_of(command)),)
        raise
    return result if isinstance(result, int) else OK


def commands() -> dict[str, Command]:
    """Every command by name, those of other packages included; loads them all."""
    return {entry.name: _load(entry) for entry in _entries()}


def _entries() -> list[importlib.metadata.EntryPoint]:
    return sorted(importlib.metadata.entry_points(group=COMMAND_GROUP), key=lambda entry: entry.name)


def _extra_with(module: str) -> str | None:
    """The smallest extra that brings a package; None where none does, so that its absence is a bug of whoever imports it."""
    from aipo_env.doctor import EXTRAS

    package = module.partition(".")[0].replace("_", "-")
    return next((extra for extra in EXTRAS if package in {r.name.replace("_", "-") for r in requirements(extra)}), None)


def _load(entry: importlib.metadata.EntryPoint) -> Command:
    package = entry.module.partition(".")[0]
    if package in COMMON_NAMES and entry.dist is not None and entry.dist.name == DISTRIBUTION:
        require_own(package)
    try:
        command: Command = entry.load()
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"`aipo {entry.name}` needs the package {error.name!r}, which is not installed: {install_command('train')}"
        ) from error
    return command


def _overview(entries: Sequence[importlib.metadata.EntryPoint]) -> str:
    width = max((len(entry.name) for entry in entries), default=0)
    return "\n".join(
        [
            "usage: aipo <command> [options]",
            "",
            *(f"  {entry.name:<{width}}  {_summary(entry)}" for entry in entries),
            "",
            "First steps:",
            "  aipo doctor                                      what is installed here, and what works",
            "  aipo play rulebook-consult                       solve a task yourself, with the helpers",
            "  aipo demo                                        see a small policy learn from its helpers (minutes)",
            "  aipo train --config run.toml --out runs/mine     options from a file; Ctrl-C and the same command again go on",
            "",
            "`aipo <command> --help` tells more about one of them; `aipo completion --help` makes the Tab key know them.",
        ]
    )


def _summary(entry: importlib.metadata.EntryPoint) -> str:
    try:
        return (inspect.getdoc(_load(entry)) or "").partition("\n")[0]
    except Exception as error:  # the others can be used all the same, and this one tells by itself what is wrong
        return f"(cannot be loaded: {type(error).__name__}: {str(error)[:80]})"


if __name__ == "__main__":
    sys.exit(main())
