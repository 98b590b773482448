"""From a command line, and the TOML or YAML file that it names, to the call of a function.

cyclopts does all of it; here stand what our commands have in common, and the words of their mistakes. A file's keys are the
command's options, nested ones (`--sampling.max-tokens`) as tables; what stands on the command line comes first.
"""

from __future__ import annotations

import functools
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, is_typeddict

from cyclopts import App, Argument, ArgumentCollection, CycloptsError, Parameter, Token
from cyclopts.config import Dict

from aipo_env.errors import AipoError, ConfigurationError, DataNotFoundError, MissingDependencyError
from aipo_env.field_types import read_table, read_text, type_of
from aipo_env.make_options import Options

T = TypeVar("T")

FLAT = Parameter(name="*")
"""Of a parameter that is a dataclass: its fields are options of the command itself."""


def _read_table(kind: Any, tokens: Sequence[Token]) -> dict[str, Any]:
    token, read = tokens[-1], read_text(tokens[-1].value)
    try:
        return read_table(str(token.keyword), read, kind) if is_typeddict(kind) else dict(read)
    except ConfigurationError as error:
        where = f" It stands in {token.source}." if token.source != "cli" else ""
        raise ConfigurationError(f"{error}{where}") from None


TABLE = Parameter(converter=_read_table, accepts_keys=False, n_tokens=1, consume_multiple=False)
"""Of a parameter that is a dictionary: names and values behind the option, or a table in a file."""
TABLE(Options)
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
        call, bound, _ = app.parse_args(_as_json(arguments, app), print_error=False, exit_on_error=False)
    except CycloptsError as error:
        if isinstance(error.__cause__, AipoError):
            raise error.__cause__ from None
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
    """A command's options as they are typed, then those of its first table."""
    app = new_app("")
    app.default(command)
    arguments = app.assemble_argument_collection()
    inside = [f"{flag} {name}" for flag in [*_tables(arguments)][:1] for name in Options.__annotations__]
    return [*(argument.name for argument in arguments if not argument.children), *inside]


def with_flags(message: str, options: Iterable[str]) -> str:
    """A message that names options as the command line does.

    `samples_per_prompt` becomes `--samples-per-prompt`, and so does a name of one word where it is no word of the sentence:
    first of all, behind a dot, and before "=", "<", ">" or "must". `data=`, which is in a table, becomes `--env-options data`.
    """
    names = {flag.rpartition(" ")[2].removeprefix("--").replace("-", "_"): flag for flag in reversed([*options])}
    flags = {name.rpartition(".")[2]: flag for name, flag in names.items()} | names

    def flag(found: re.Match[str]) -> str:
        name, behind = found[1], message[found.end(1) :]
        certain: object = "_" in name or "." in name or not found.start() or re.match("=| [<>]| must", behind)
        if " " in flags.get(name, ""):
            certain = found[2] or re.match("=| must", behind) or ("_" in name and re.match(" is | would ", behind))
        return flags.get(name, found[0]) if certain else found[0]

    return re.sub(r"(?<![\w.'\"`/-])([a-z]+(?:[_.][a-z_]+)*)\b(?![/('\"`])(=(?=[\s,.)]))?", flag, message)


def _tables(arguments: Iterable[Argument]) -> dict[str, Argument]:
    """The options that are tables, by their names."""
    return {argument.name: argument for argument in arguments if argument.parameter.converter is _read_table}


def _as_json(arguments: Sequence[str], app: App) -> list[str]:
    """`--env-options level 2 style terse`, and `--env-options.level 2`, as one JSON object behind the option."""
    known, found = _tables(app.assemble_argument_collection()), dict[str, dict[str, Any]]()
    rest, tokens = list(arguments), []
    while rest:
        token = rest.pop(0)
        typed = token.replace("_", "-")
        flag = next((name for name in known if typed == name or typed.startswith(f"{name}.")), None)
        if flag is None:
            tokens.append(token)
            continue
        path = token[len(flag) + 1 :]
        given = path.split("=", 1) if path else []
        while rest and not rest[0].startswith("--") and not (path and len(given) == 2):
            given.append(rest.pop(0))
        if len(given) % 2 or not given:
            wrong = f"{given[-1]!r} has no value" if given else "there are none"
            raise ConfigurationError(
                f"{flag} takes names and values in turn, as in {flag} level 2 style terse; {wrong}."
            )
        for name, text in zip(given[::2], given[1::2], strict=True):
            keys = name.split(".")
            value = read_text(text, type_of(known[flag].resolved_hint, keys))
            for key in reversed(keys):
                value = {key: value}
            _merge(found.setdefault(flag, {}), value)
    return [*tokens, *(f"{flag}={json.dumps(table)}" for flag, table in found.items())]


def _merge(table: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Puts options into a table, in the place of those that it has; tables in it are merged as well."""
    for name, value in more.items():
        if isinstance(value, Mapping) and isinstance(own := table.get(name), dict):
            _merge(own, value)
        else:
            table[name] = value


def _from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Adds the options of the file that `--config` names; what the command line says of a table comes on top of the file's."""
    tables = {flag: (table, table.tokens[:], dict[str, Any]()) for flag, table in _tables(arguments).items()}
    files = [token.value for argument in arguments if argument.name == "--config" for token in argument.tokens]
    for path in (Path(file).expanduser() for file in files):
        values = _read(path)
        for key in [key for key in values if f"--{key.replace('_', '-')}" in tables]:
            table, own, found = tables[f"--{key.replace('_', '-')}"]
            if not isinstance(given := values.pop(key), Mapping):
                raise ConfigurationError(f"{table.name} is a table of options, got {given!r} in {path}.")
            _merge(found, given)
            for token in own:
                _merge(found, json.loads(token.value))
            table.tokens[:] = [Token(keyword=table.name, value=json.dumps(found, default=str), source=str(path))]
        Dict(values, source=str(path), use_commands_as_keys=False)(app, commands, arguments)
    for argument in arguments:
        if argument.children and argument.tokens:
            raise ConfigurationError(f"{argument.name} is a table of options, got {argument.tokens[0].value}.")


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
