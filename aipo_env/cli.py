"""The `aipo` command. Each package adds its subcommands through the entry-point group `aipo.commands`."""

from __future__ import annotations

import importlib.metadata
import inspect
import sys
from collections.abc import Callable, Sequence

from aipo_env.errors import AipoError, MissingDependencyError, unknown_id

COMMAND_GROUP = "aipo.commands"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `aipo <command> ...`; returns the exit code: 0, 1 for a negative result, 2 for a user's error, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    entries = {entry.name: entry for entry in importlib.metadata.entry_points(group=COMMAND_GROUP)}
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_overview({name: _load(entry) for name, entry in sorted(entries.items())}))
            return 0
        if arguments[0] == "--version":
            print(importlib.metadata.version("aipo"))
            return 0
        name = arguments[0]
        if name not in entries:
            raise unknown_id("command", name, entries, "`aipo --help` lists them.")
        command = _load(entries[name])
        # A command may hand its arguments to another parser.
        pass_on = getattr(command, "pass_on", None)
        if pass_on is not None and (code := pass_on(arguments[1:])) is not None:
            return int(code)
        import tyro

        result = tyro.cli(command, args=arguments[1:], prog=f"aipo {name}")
        return result if isinstance(result, int) else 0
    except AipoError as error:
        print(f"aipo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("aipo: interrupted; what was finished is on disk.", file=sys.stderr)
        return 130


def _load(entry: importlib.metadata.EntryPoint) -> Callable[..., object]:
    try:
        command: Callable[..., object] = entry.load()
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"`aipo {entry.name}` needs the package {error.name!r}, which is not installed: pip install 'aipo[train]'."
        ) from error
    return command


def _overview(commands: dict[str, Callable[..., object]]) -> str:
    width = max(map(len, commands), default=0)
    lines = [
        f"  {name:<{width}}  {(inspect.getdoc(command) or '').splitlines()[0]}" for name, command in commands.items()
    ]
    return "\n".join(
        [
            "usage: aipo <command> [options]",
            "",
            *lines,
            "",
            "`aipo <command> --help` tells more about one of them.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
