"""How model families write a call of a function: text -> calls, and calls -> text. Pure; nothing is executed or repaired.

Every function here takes one argument, the query. What a turn holds is read with its control tokens as their texts; where
the policy only spelled such a marker out in plain tokens, the caller puts `SPELLED` inside it, and no reader sees it.
A marker that stands there is one, in a code fence too. Every reader runs in time linear in the turn's length.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from aipo_env.dialects import harmony
from aipo_env.errors import ConfigurationError

SPELLED: Final = "\0"
"""Stands inside a marker that is none; never part of a query, except where JSON escapes it."""

UNFINISHED: Final = "the call was not finished."
_FORM = 'a call is an object with "name" and "arguments"'
_NAME = r"[A-Za-z_][A-Za-z0-9_.-]{0,63}"


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One call of a turn, complete or broken."""

    name: str
    """The function; empty where it cannot be read."""
    query: str
    start: int
    """Positions in the turn's text, markers included."""
    end: int
    problem: str = ""
    """Why it is no usable call, worded for the policy."""


class _Unusable(Exception):
    """Why what stands there is no usable call."""

    def __init__(self, problem: str, name: str = "") -> None:
        super().__init__(problem)
        self.name = name


_Found = tuple[str, str, int]
"""Function, query, and where in the read text the call ends."""


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """A syntax of calls, put together from how it delimits calls, reads one and writes one."""

    name: str
    """The key in `FAMILIES`."""
    markers: tuple[str, ...]
    """The texts that its reader gives a meaning, the opener of a call first; empty where the whole turn is the call."""
    blocks: Callable[[str], Iterator[tuple[int, int, int, int, bool]]]
    """Where calls stand in a turn: start, start and end of what is to be read, end, whether it was finished."""
    read: Callable[[str], Iterator[_Found]]
    """The calls of one block, in order. Raises `_Unusable`."""
    write: Callable[[str, str], str]
    around: tuple[str, str] = ("", "")
    """What stands before the first and behind the last call of a turn."""
    between: str = "\n"
    max_calls: int | None = None
    """Calls that one turn may hold; None for any number."""

    def calls(self, text: str) -> list[Call]:
        """All calls of one turn in order, complete or broken."""
        found: list[Call] = []
        for start, inner, inner_end, end, finished in self.blocks(text):
            if not finished:
                found.append(Call("", "", start, end, UNFINISHED))
                continue
            count = len(found)
            try:
                for name, query, length in self.read(text[inner:inner_end]):
                    found.append(Call(name, query, start, inner + length))
                    start = inner + length
            except _Unusable as problem:
                found.append(Call(problem.name, "", start, end, str(problem)))
            else:
                if len(found) > count and end > inner_end:
                    # The closing marker belongs to the last call.
                    found[-1] = dataclasses.replace(found[-1], end=end)
        return found

    def render(self, calls: Sequence[tuple[str, str]]) -> str:
        """The text of (function, query) pairs; `calls` is its inverse.

        Raises:
            ConfigurationError: for a query that the syntax cannot say, or more calls than a turn may hold.
        """
        if not calls or len(calls) > (self.max_calls or len(calls)):
            raise ConfigurationError(
                f"{self.name}: a turn calls 1 to {self.max_calls or 'any number of'} functions, got {len(calls)}."
            )
        text = self.around[0] + self.between.join(self.write(*call) for call in calls) + self.around[1]
        if [(call.name, call.query, call.problem) for call in self.calls(text)] != [(*call, "") for call in calls]:
            raise ConfigurationError(
                f"{self.name}: its syntax cannot say {calls!r}. A query is not blank and holds none of "
                f"{', '.join(map(repr, self.markers)) or 'its delimiters'}; a function's name is letters, digits and _ . -"
            )
        return text


# What stands in a call


def _json(text: str, name: str = "") -> object:
    try:
        return json.loads(text.replace(SPELLED, ""), strict=False)
    except (ValueError, RecursionError) as error:
        detail = f" ({error.msg} at character {error.pos})" if isinstance(error, json.JSONDecodeError) else ""
        raise _Unusable(f"the call is not JSON{detail}.", name) from None


def _query(arguments: object, name: str) -> str:
    """The query among a call's arguments: the one of that name, or the only text."""
    if isinstance(arguments, str):
        with contextlib.suppress(_Unusable):
            arguments = _json(arguments, name)
    if not isinstance(arguments, dict):
        raise _Unusable('the arguments of the call are no object: {"query": "..."} was expected.', name)
    texts = [value for value in arguments.values() if isinstance(value, str)]
    query = arguments.get("query", texts[0] if len(texts) == 1 else None)
    if not isinstance(query, str):
        raise _Unusable('the call has no text "query" among its arguments.', name)
    if not query.strip():
        raise _Unusable("the query of the call is empty.", name)
    return query


def _named(name: object) -> str:
    if not isinstance(name, str) or re.fullmatch(_NAME, name) is None:
        raise _Unusable(f"the call names no function; {_FORM}.")
    return name


def _object_call(value: object) -> tuple[str, str]:
    """A call that is one object."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict):
        raise _Unusable(f"{_FORM}.")
    name = _named(value.get("name"))
    return name, _query(value.get("arguments", value.get("parameters", {})), name)


def _dumps(value: object, markers: Sequence[str] = ()) -> str:
    text = json.dumps(value, ensure_ascii=False)
    for marker in markers:
        text = text.replace(marker, f"\\u{ord(marker[0]):04x}{marker[1:]}")
    return text


_DECODER = json.JSONDecoder(strict=False)


def _json_end(text: str, start: int, name: str = "") -> int:
    """Where the JSON value that begins at a position ends."""
    try:
        return _DECODER.raw_decode(text, start)[1]
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError):
            cut = error.msg.startswith("Unterminated") or not text[error.pos :].strip()
            raise _Unusable(UNFINISHED if cut else f"the call is not JSON ({error.msg}).", name) from None
        raise _Unusable("the call is not JSON.", name) from None


# Calls between two markers


def _between(opener: str, closer: str) -> Callable[[str], Iterator[tuple[int, int, int, int, bool]]]:
    """Blocks from an opener to the first closer, or to the next opener where it was not closed. Both are patterns."""
    marker = re.compile(f"(?P<open>{opener})|(?P<close>{closer})")

    def blocks(text: str) -> Iterator[tuple[int, int, int, int, bool]]:
        opened: re.Match[str] | None = None
        for match in marker.finditer(text):
            if opened is not None:
                finished = match["close"] is not None
                yield opened.start(), opened.end(), match.start(), match.end() if finished else match.start(), finished
            opened = match if match["open"] is not None else None
        if opened is not None:
            yield opened.start(), opened.end(), len(text), len(text), False

    return blocks


def _marked(
    name: str,
    opener: str,
    closer: str,
    read: Callable[[str], tuple[str, str]],
    write: Callable[[str, str], str],
    *further: str,
) -> Family:
    """A family with one call between two markers."""

    def one(text: str) -> Iterator[_Found]:
        yield *read(text), len(text)

    return Family(
        name,
        (opener, closer, *further),
        _between(re.escape(opener), re.escape(closer)),
        one,
        lambda function, query: f"{opener}{write(function, query)}{closer}",
    )


def _hermes_write(name: str, query: str) -> str:
    call = _dumps({"name": name, "arguments": {"query": query}}, ("<tool_call>", "</tool_call>"))
    return f"\n{call}\n"


_PARAMETER = re.compile(r"<parameter=(?P<key>[^<>\n]{1,64})>|(?P<close></parameter>)")
_FUNCTION = re.compile(rf"\s*<function=({_NAME})>")


def _qwen_xml_read(body: str) -> tuple[str, str]:
    head = _FUNCTION.match(body)
    if head is None:
        raise _Unusable("the call names no function: <function=NAME> was expected first.")
    arguments, opened = {}, None
    for match in _PARAMETER.finditer(body, head.end()):
        if opened is None:
            opened = match if match["close"] is None else None
        elif match["close"] is not None:
            value = body[opened.end() : match.start()]
            arguments[opened["key"]] = value.removeprefix("\n").removesuffix("\n").replace(SPELLED, "")
            opened = None
    if opened is not None:
        raise _Unusable("a parameter of the call was not closed with </parameter>.", head[1])
    return head[1], _query(arguments, head[1])


_GLM_TAG = re.compile(r"<(/?)arg_(key|value)>")


def _glm_read(body: str) -> tuple[str, str]:
    tags = list(_GLM_TAG.finditer(body))
    name = _named(body[: tags[0].start() if tags else len(body)].strip())
    if [(tag[1], tag[2]) for tag in tags] != [("", "key"), ("/", "key"), ("", "value"), ("/", "value")] * (
        len(tags) // 4
    ):
        raise _Unusable("the arguments of the call are no rows of <arg_key> and <arg_value>.", name)
    texts = [body[one.end() : other.start()] for one, other in zip(tags[::2], tags[1::2], strict=True)]
    values = [value.replace(SPELLED, "") for value in texts[1::2]]
    return name, _query(dict(zip(texts[::2], values, strict=True)), name)


_SEP = "<｜tool▁sep｜>"
_CALL, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_DEEPSEEK = (_CALL, _CALL_END, "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", _SEP)
_FENCE = re.compile(r"[ \t]*\n```json\n")


def _deepseek_read(body: str) -> tuple[str, str]:
    head, _, rest = body.partition(_SEP)
    if head.strip() == "function" and (fence := _FENCE.search(rest)) is not None:
        head, rest = rest[: fence.start()], rest[fence.end() :].rstrip().removesuffix("```")
    name = _named(head.strip())
    return name, _query(_json(rest, name), name)


def _deepseek(name: str, head: str, tail: str) -> Family:
    def write(function: str, query: str) -> str:
        return f"{_CALL}{head.format(function)}{_dumps({'query': query}, _DEEPSEEK)}{tail}{_CALL_END}"

    one = _marked(name, _CALL, _CALL_END, _deepseek_read, write, *_DEEPSEEK[2:])
    # The markers around all calls belong to the first and the last.
    outer = _between(rf"(?:{_DEEPSEEK[2]}\s*)?{_CALL}", rf"{_CALL_END}(?:\s*{_DEEPSEEK[3]})?")
    between = "\n" if tail else ""
    return dataclasses.replace(one, blocks=outer, write=write, around=_DEEPSEEK[2:4], between=between)


def _gemma(name: str, opener: str, closer: str, quote: str) -> Family:
    head = re.compile(rf"\s*call:({_NAME})\{{")
    key = re.compile(r"[{,]\s*(\w{1,64})\s*:\s*\Z")

    def read(body: str) -> tuple[str, str]:
        called = head.match(body)
        if called is None:
            raise _Unusable("the call names no function: call:NAME{...} was expected.")
        parts = body[called.end() - 1 :].split(quote)
        if len(parts) % 2 == 0 or not parts[-1].rstrip().endswith("}"):
            raise _Unusable("the braces or the quotes of the call were not closed.", called[1])
        keys = [key.search(part[-100:]) for part in parts[:-1:2]]
        values = (value.replace(SPELLED, "") for value in parts[1::2])
        arguments = {found[1]: value for found, value in zip(keys, values, strict=True) if found is not None}
        return called[1], _query(arguments, called[1])

    def write(function: str, query: str) -> str:
        return f"call:{function}{{query:{quote}{query}{quote}}}"

    return dataclasses.replace(_marked(name, opener, closer, read, write, quote), between="")


# Calls in Python's form

_PY_CALL = re.compile(rf"\s*({_NAME})\s*\(")
_PY_KEY = re.compile(r"\s*(?:([A-Za-z_]\w{0,63})\s*=\s*)?")
_PY_TEXT = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)
_PY_OTHER = re.compile(r"[^,()\[\]{}'\"]+")
_PY_ESCAPE = re.compile(r"\\([\\'\"nrt])")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def _python_text(literal: str) -> str:
    """What a literal says; a backslash before any other letter stays, as LaTeX is often written."""
    return _PY_ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[1]), literal.replace(SPELLED, ""))


def _python_write(quote: str) -> Callable[[str, str], str]:
    def write(name: str, query: str) -> str:
        for said, escaped in (("\\", "\\\\"), (quote, f"\\{quote}"), ("\n", "\\n"), ("\r", "\\r")):
            query = query.replace(said, escaped)
        return f"{name}(query={quote}{query}{quote})"

    return write


_BLANKS = re.compile(r"\s*")


def _behind_blanks(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    assert match is not None
    return match.end()


def _python_call(text: str, start: int) -> _Found:
    """The call `name(key='text', ...)` at a position."""
    called = _PY_CALL.match(text, start)
    if called is None:
        raise _Unusable("the call is not of the form name(query='...').")
    name, position = called[1], called.end()
    arguments: dict[str, str] = {}
    while text[position : position + 1] != ")":
        key = _PY_KEY.match(text, position)
        assert key is not None
        value = _PY_TEXT.match(text, key.end())
        other = _PY_OTHER.match(text, key.end()) if value is None else value
        if other is None:
            raise _Unusable(
                UNFINISHED if key.end() == len(text) else "an argument of the call is no text in quotes.", name
            )
        if value is not None:
            literal = value[1] if value[1] is not None else value[2]
            arguments[key[1] or str(len(arguments))] = _python_text(literal)
        position = other.end()
        position = _behind_blanks(text, position)
        if text[position : position + 1] == ",":
            position += 1
        elif text[position : position + 1] != ")":
            raise _Unusable(
                UNFINISHED if position == len(text) else "the parentheses of the call were not closed.", name
            )
    return name, _query(arguments, name), position + 1


def _python_list(text: str) -> Iterator[_Found]:
    """The calls of `[name(query='...'), ...]`."""
    position = len(text) - len(text.lstrip())
    if text[position : position + 1] != "[":
        raise _Unusable("the calls are not in a list: [name(query='...')].")
    while True:
        name, query, position = _python_call(text, position + 1)
        position = _behind_blanks(text, position)
        if text[position : position + 1] not in (",", "]"):
            raise _Unusable(UNFINISHED if position == len(text) else "the list of calls was not closed.", name)
        yield name, query, position + (text[position] == "]")
        if text[position] == "]":
            return


# Calls that are the whole turn, and those that nothing closes


def _whole(pattern: str) -> Callable[[str], Iterator[tuple[int, int, int, int, bool]]]:
    """The whole turn where it begins as a call does."""
    begins = re.compile(pattern)

    def blocks(text: str) -> Iterator[tuple[int, int, int, int, bool]]:
        if (match := begins.match(text)) is not None:
            yield match.start("call"), match.start("call"), len(text), len(text), True

    return blocks


_PYTHON_TAG = "<|python_tag|>"
_NEXT = re.compile(r"[\s;]*(?=\{)")


def _llama_read(text: str) -> Iterator[_Found]:
    position = len(_PYTHON_TAG) if text.startswith(_PYTHON_TAG) else 0
    if not text[position:].lstrip().startswith("{"):
        # Functions that are built in are called in another form: name.call(query="...").
        name, query, end = _python_call(text, position)
        yield name.removesuffix(".call"), query, end
        return
    while (ahead := _NEXT.match(text, position)) is not None:
        position = _json_end(text, ahead.end())
        yield *_object_call(_json(text[ahead.end() : position])), position


_MISTRAL_HEAD = re.compile(rf"\s*({_NAME})\s*(?:\[CALL_ID\][^\[]{{0,64}})?\[ARGS\]\s*")
_MISTRAL_END = re.compile(r"\[TOOL_CALLS\]|</s>|\Z")


def _mistral_blocks(text: str) -> Iterator[tuple[int, int, int, int, bool]]:
    opened: re.Match[str] | None = None
    for match in _MISTRAL_END.finditer(text):
        if opened is not None:
            yield opened.start(), opened.end(), match.start(), match.start(), True
        opened = match if match[0] == "[TOOL_CALLS]" else None


def _mistral_read(text: str) -> Iterator[_Found]:
    head = _MISTRAL_HEAD.match(text)
    if head is not None:
        end = _json_end(text, head.end(), head[1])
        yield head[1], _query(_json(text[head.end() : end], head[1]), head[1]), end
        return
    position = len(text) - len(text.lstrip())
    if text[position : position + 1] != "[":
        raise _Unusable(
            "the calls are neither a list of objects nor NAME[ARGS]{...}." if text[position:] else UNFINISHED
        )
    closed = False
    while not closed:
        start = position + 1
        position = _behind_blanks(text, _json_end(text, _behind_blanks(text, start)))
        if text[position : position + 1] not in (",", "]"):
            raise _Unusable(UNFINISHED if position == len(text) else "the list of calls was not closed.")
        closed = text[position] == "]"
        yield *_object_call(_json(text[start:position])), position + closed


def _mistral(name: str, form: str) -> Family:
    markers = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "</s>")

    def write(function: str, query: str) -> str:
        return form.format(function, _dumps({"query": query}, markers))

    used = tuple(marker for marker in markers if marker in form or marker == markers[0])
    return Family(name, used, _mistral_blocks, _mistral_read, write, between="")


# gpt-oss


def _harmony_blocks(text: str) -> Iterator[tuple[int, int, int, int, bool]]:
    for message in harmony.read_messages(text):
        if message.recipient:
            yield message.start, message.start, message.inner_end, message.end, message.ended


def _harmony_read(text: str) -> Iterator[_Found]:
    (message,) = harmony.read_messages(text)
    name = _named(message.recipient)
    if message.inner is None:
        raise _Unusable(UNFINISHED, name)
    yield name, _query(_json(text[message.inner :], name), name), len(text)


def _harmony_write(name: str, query: str) -> str:
    arguments = _dumps({"query": query}, harmony.MARKERS)
    return f" to=functions.{name}<|channel|>commentary json<|message|>{arguments}<|call|>"


_HERMES = ("<tool_call>", "</tool_call>")
_LFM = ("<|tool_call_start|>", "<|tool_call_end|>")

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        family.name: family
        for family in (
            _marked("hermes", *_HERMES, lambda body: _object_call(_json(body)), _hermes_write),
            _marked(
                "qwen-xml",
                *_HERMES,
                _qwen_xml_read,
                lambda name, query: f"\n<function={name}>\n<parameter=query>\n{query}\n</parameter>\n</function>\n",
                "</parameter>",
            ),
            _marked(
                "glm",
                *_HERMES,
                _glm_read,
                lambda name, query: f"{name}\n<arg_key>query</arg_key>\n<arg_value>{query}</arg_value>\n",
                *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
            ),
            _mistral("mistral-v11", "[TOOL_CALLS]{}[CALL_ID]000000000[ARGS]{}"),
            _mistral("mistral-v13", "[TOOL_CALLS]{}[ARGS]{}"),
            dataclasses.replace(
                _mistral("mistral-v3", '{{"name": "{}", "arguments": {}, "id": "000000000"}}'),
                around=("[TOOL_CALLS] [", "]"),
                between=", ",
            ),
            Family("harmony", harmony.MARKERS, _harmony_blocks, _harmony_read, _harmony_write, max_calls=1),
            _deepseek("deepseek-v3", "function<｜tool▁sep｜>{}\n```json\n", "\n```"),
            _deepseek("deepseek-v31", "{}<｜tool▁sep｜>", ""),
            _gemma("gemma4", "<|tool_call>", "<tool_call|>", '<|"|>'),
            _gemma("functiongemma", "<start_function_call>", "<end_function_call>", "<escape>"),
            Family(
                "lfm",
                _LFM,
                _between(*map(re.escape, _LFM)),
                _python_list,
                _python_write("'"),
                around=(f"{_LFM[0]}[", f"]{_LFM[1]}"),
                between=", ",
            ),
            Family(
                "llama-json",
                (),
                _whole(r'\s*(?P<call><\|python_tag\|>|\{\s*"(?:name|type|function)"\s*:)'),
                _llama_read,
                lambda name, query: f'{{"name": "{name}", "parameters": {_dumps({"query": query})}}}',
                max_calls=1,
            ),
            Family(
                "pythonic",
                (),
                _whole(rf"\s*(?P<call>\[\s*{_NAME}\()"),
                _python_list,
                _python_write('"'),
                around=("[", "]"),
                between=", ",
            ),
        )
    }
)
"""The families by name. The first three put other things between the same two markers; a turn of one is broken to another."""


def find_family(rendered: str, name: str, query: str) -> Family | None:
    """The family that wrote a rendering of one call; None where none did.

    Args:
        rendered: what a chat template made of an assistant message that calls `name`, further messages around it included.
        name: the function.
        query: its query, which the rendering holds once, in letters and digits.
    """
    line = rendered[rendered.rfind("\n", 0, max(rendered.find(query), 0)) + 1 :]
    found: list[tuple[bool, int, Family]] = []
    for family in FAMILIES.values():
        own = family.render([(name, query)])
        calls = family.calls(rendered if family.markers else line)
        if all(marker in rendered for marker in family.markers if marker in own) and any(
            (call.name, call.query, call.problem) == (name, query, "") for call in calls
        ):
            found.append((own not in rendered, len(found), family))
    # Of two that read it the one that would have written it so.
    return min(found)[2] if found else None
