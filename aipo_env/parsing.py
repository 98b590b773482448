"""From a command line, and the TOML or YAML file that it names, to the call of a function.

cyclopts does all of it; here stand what our commands have in common, and the words of their mistakes. A file's keys are the
command's options, nested ones (`--sampling.max-tokens`) as tables; what stands on the command line comes first.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from cyclopts import App, Argument, ArgumentCollection, CycloptsError, Parameter
from cyclopts.config import Dict

from aipo_env.errors import AipoError, ConfigurationError, DataNotFoundError, MissingDependencyError

T = TypeVar("T")

FLAT = Parameter(name="*")
"""Of a parameter that is a dataclass: its fields are options of the command itself."""
ConfigFile = Annotated[
    Path | None,
    Parameter(name="--config", help="TOML or YAML file with any of these options; the command line comes first."),
]
"""The type of a command's parameter `config_file`, by which the command's options can stand in a file."""


def new_app(name: str, **options: Any) -> App:
    """A parser of our style: `--agents verify knowledge`, and help as the docstrings have it."""
    style = Parameter(consume_multiple=True, negative_iterable=(), allow_leading_hyphen=False, allow_repeating=True)
    return App(name=name, default_parameter=style, version_flags=(), config=_from_file, **options)


def parse(
    command: Callable[..., T], arguments: Sequence[str], prog: str, about: str | None = None
) -> functools.partial[T]:
    """The call that a command line stands for; with `--help` among the arguments, prints it and exits.

    Args:
        command: its parameters are the options; a dataclass has its fields.
        arguments: of the command line.
        prog: the command's name.
        about: what its help begins with; its docstring if left out.

    Raises:
        ConfigurationError: for arguments that cannot be read. Of what the command's own types raise, options are named as
            they are typed.
    """
    app = new_app(prog, help=about)
    app.default(command)
    try:
        call, bound, _ = app.parse_args(_by_key(arguments, app), print_error=False, exit_on_error=False)
    except CycloptsError as error:
        raise ConfigurationError(f"{error}{_about(error, app)} `{prog} --help` tells every option.") from None
    except AipoError as error:
        error.args = (with_flags(str(error), options_of(command)),)
        raise
    if call is not command:
        call(*bound.args, **bound.kwargs)
        if examples := getattr(command, "examples", ()):
            print("\n".join(["Examples:", *(f"  {example}" for example in examples)]))
        raise SystemExit(0)
    return functools.partial(command, *bound.args, **bound.kwargs)


def _about(error: CycloptsError, app: App) -> str:
    """Where the option of a mistake stands, and what it means."""
    if (option := error.argument) is None:
        return ""
    known = {
        argument.name: argument.parameter.help for argument in app.assemble_argument_collection(parse_docstring=True)
    }
    files = [f" It stands in {token.source}." for token in option.tokens[:1] if token.source not in f"cli {error}"]
    return "".join(files) + f" {option.name}: {' '.join((known[option.name] or '').split())}"


def options_of(command: Callable[..., object]) -> list[str]:
    """A command's options as they are typed."""
    app = new_app("")
    app.default(command)
    return [argument.name for argument in app.assemble_argument_collection() if not argument.children]


def with_flags(message: str, options: Iterable[str]) -> str:
    """A message that names options as the command line does.

    `samples_per_prompt` becomes `--samples-per-prompt`, and so does a name of one word where it is no word of the sentence:
    first of all, behind a dot, and before "=", "<", ">" or "must".
    """
    names = {flag[2:].replace("-", "_"): flag for flag in options}
    flags = {name.rpartition(".")[2]: flag for name, flag in names.items()} | names

    def flag(found: re.Match[str]) -> str:
        name, behind = found[1], message[found.end(1) :]
        certain = "_" in name or "." in name or not found.start() or re.match("=| [<>]| must", behind)
        return flags.get(name, found[0]) if certain else found[0]

    return re.sub(r"(?<![\w.'\"`/-])([a-z]+(?:[_.][a-z_]+)*)\b(?![/('\"`])(=(?=[\s,.)]))?", flag, message)


def _by_key(arguments: Sequence[str], app: App) -> list[str]:
    """`--env-options level 2 style terse` as `--env-options.level=2 --env-options.style=terse`, which a file's table joins."""
    tables = {argument.name for argument in app.assemble_argument_collection() if _is_dictionary(argument)}
    rest, tokens = list(arguments), []
    while rest:
        tokens.append(rest.pop(0))
        if (flag := tokens[-1].replace("_", "-")) in tables:
            tokens.pop()
            while rest and not rest[0].startswith("--"):
                name, *value = rest[:2]
                if not value or value[0].startswith("--"):
                    raise ConfigurationError(
                        f"{flag} takes names and values in turn, as in {flag} level 2 style terse; {name!r} has no value."
                    )
                tokens.append(f"{flag}.{name}={value[0]}")
                del rest[:2]
    return tokens


def _from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Adds the options of the file that `--config` names; a dictionary is merged by key, and a table in it is dotted keys."""
    tables = {table.name: (table, table.tokens[:]) for table in arguments if _is_dictionary(table)}
    files = [token.value for argument in arguments if argument.name == "--config" for token in argument.tokens]
    for path in (Path(file).expanduser() for file in files):
        for table, _ in tables.values():
            table.tokens.clear()
        Dict(_read(path), source=str(path), use_commands_as_keys=False)(app, commands, arguments)
    for table, own in tables.values():
        latest = {".".join(token.keys): token for token in (*table.tokens, *own)}
        table.tokens[:] = [token.evolve(keys=(name,) if name else ()) for name, token in latest.items()]
    for argument in arguments:
        if argument.children and argument.tokens:
            raise ConfigurationError(f"{argument.name} is a table of options, got {argument.tokens[0].value}.")


def _is_dictionary(argument: Argument) -> bool:
    return any(get_origin(kind) is dict for kind in (argument.hint, *get_args(argument.hint)))


def _read(path: Path) -> dict[str, Any]:
    suffix = path.suffix.lower()
    if suffix not in (".toml", ".yaml", ".yml"):
        raise ConfigurationError(f"a config file ends in .toml, .yaml or .yml; got {path}.")
    try:
        if suffix == ".toml":
            return tomllib.loads(path.read_text(encoding="utf-8"))
        import yaml

        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataNotFoundError(
            f"the config file {path} cannot be read: {error.strerror}. Correct --config."
        ) from error
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{path} is YAML, which needs the package PyYAML: pip install pyyaml. TOML needs nothing."
        ) from error
    except Exception as error:  # each of the two parsers has errors of its own
        raise ConfigurationError(f"{path} is not {suffix[1:].upper()} in UTF-8: {error}.") from error
    if not isinstance(values, Mapping | None):
        raise ConfigurationError(f"{path} must hold options as `name: value`, got {type(values).__name__}.")
    return dict(values or {})
