"""A small expression tree and its parser. Text is parsed, never executed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Final, TypeVar

from aipo_agents.lexer import Token

MAX_DEPTH: Final = 40
MAX_DIGITS: Final = 1000

_CLOSING: Final = {"(": ")", "[": "]", "{": "}", "floor": "floor", "ceil": "ceil"}
_TWO_ARGUMENTS: Final = frozenset({"binom", "root"})
_MANY_ARGUMENTS: Final = frozenset({"gcd", "lcm", "max", "min"})


class ParseError(Exception):
    """Text that is not an expression; the message says why, in a few words."""


@dataclasses.dataclass(frozen=True, slots=True)
class Number:
    """A decimal literal, exactly."""

    value: Fraction
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Variable:
    """A letter, perhaps with a subscript, or the constants pi and e."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """An operation: + - * / ^ neg ! mod deg % or a function. `implicit` marks a product without a sign."""

    op: str
    args: tuple[Expression, ...]
    implicit: bool = False


Expression = Number | Variable | Call


def parse(tokens: Sequence[Token]) -> Expression:
    """Parses the tokens of one expression.

    Raises:
        ParseError: they are none, or an ambiguous one (`1/2x`).
    """
    parser = _Parser(tokens)
    expression = parser.sum()
    parser.expect_end()
    return expression


_T = TypeVar("_T")


def fold(expression: Expression, visit: Callable[[Expression, tuple[_T, ...]], _T]) -> _T:
    """Computes a value bottom-up: `visit` gets a node and the values of its arguments.

    A long sum is a tree as deep as it is long, so this does not recurse.
    """
    stack: list[tuple[Expression, bool]] = [(expression, False)]
    values: list[_T] = []
    while stack:
        node, expanded = stack.pop()
        if isinstance(node, Call) and not expanded:
            stack.append((node, True))
            stack.extend((arg, False) for arg in reversed(node.args))
            continue
        count = len(node.args) if isinstance(node, Call) else 0
        args = tuple(values[len(values) - count :])
        del values[len(values) - count :]
        values.append(visit(node, args))
    return values[0]


def variables(expression: Expression) -> set[str]:
    """The names of the variables; pi and e are constants."""
    names: set[str] = set()

    def visit(node: Expression, args: tuple[None, ...]) -> None:
        if isinstance(node, Variable):
            names.add(node.name)

    fold(expression, visit)
    return names - {"pi", "e"}


def has_work(expression: Expression) -> bool:
    """Whether there is something to multiply out or to rewrite: a sum inside of a product, `sin 2x`."""

    def visit(node: Expression, args: tuple[int, ...]) -> int:
        # 0: no sum, 1: a sum, 2: a sum below another operation, or a function of more than a letter
        if not isinstance(node, Call):
            return 0
        if node.op in ("+", "-", "neg"):
            return max(1 if node.op != "neg" else 0, *args)
        if node.op not in ("*", "/", "^") and any(isinstance(arg, Call) for arg in node.args):
            return 2
        return 2 if max(args, default=0) else 0

    return fold(expression, visit) == 2


def count_terms(expression: Expression) -> int:
    """The number of terms of a sum, as it is written."""
    stack, count = [expression], 0
    while stack:
        node = stack.pop()
        if isinstance(node, Call) and node.op in ("+", "-", "neg"):
            stack.extend(node.args)
        else:
            count += 1
    return count


class _Parser:
    """Recursive descent with a bounded depth; tokens are looked at once."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = list(tokens)
        self._position = 0
        self._depth = 0
        self._bars = 0

    def sum(self) -> Expression:
        left = self._signed(self._product)
        while (operator := self._peek_operator("+", "-")) is not None:
            self._position += 1
            left = Call(operator, (left, self._signed(self._product)))
        return left

    def expect_end(self) -> None:
        if self._position < len(self._tokens):
            raise ParseError(f"unexpected '{self._tokens[self._position].text}'")

    def _peek(self) -> Token | None:
        return self._tokens[self._position] if self._position < len(self._tokens) else None

    def _peek_operator(self, *operators: str) -> str | None:
        token = self._peek()
        return token.text if token is not None and token.kind == "operator" and token.text in operators else None

    def _signed(self, parse_rest: Callable[[], Expression]) -> Expression:
        negative = False
        while (sign := self._peek_operator("+", "-")) is not None:
            self._position += 1
            negative ^= sign == "-"
        value = parse_rest()
        return Call("neg", (value,)) if negative else value

    def _product(self) -> Expression:
        left = self._power()
        divided = False  # by a slash, so that a following factor without a sign is ambiguous
        while True:
            operator = self._peek_operator("*", "/", "mod", "%")
            if operator is not None:
                self._position += 1
                right = self._signed(self._power)
                left = Call("mod" if operator == "%" else operator, (left, right))
                divided = operator == "/"
            elif self._starts_factor():
                token = self._tokens[self._position]
                if divided:
                    raise ParseError("a/bc can be read in two ways; add brackets")
                if token.kind == "number":
                    raise ParseError(f"two numbers without a sign between them, before {token.text[:20]!r}")
                if token.text == "frac" and isinstance(left, Number):
                    raise ParseError("a number before a fraction can be a sum or a product; add a sign")
                left = Call("*", (left, self._power()), implicit=True)
            else:
                return left

    def _starts_factor(self) -> bool:
        token = self._peek()
        if token is None:
            return False
        return token.kind in ("number", "name", "function", "open") or (token.kind == "bar" and not self._bars)

    def _power(self) -> Expression:
        base = self._postfix(self._atom())
        if self._peek_operator("^") is None:
            return base
        self._position += 1
        if self._peek_operator("deg") is not None:
            self._position += 1
            return Call("deg", (base,))
        token, following = self._peek(), self._tokens[self._position + 1 : self._position + 3]
        if token is not None and token.text == "{" and [t.text for t in following] == ["deg", "}"]:
            self._position += 3
            return Call("deg", (base,))
        return Call("^", (base, self._nested(lambda: self._signed(self._power))))

    def _postfix(self, value: Expression) -> Expression:
        while (operator := self._peek_operator("!", "%", "deg")) is not None:
            if operator == "%" and self._percent_is_modulo():
                return value
            self._position += 1
            if operator == "!" and self._peek_operator("!") is not None:
                raise ParseError("double factorials are not supported")
            value = Call(operator, (value,))
        return value

    def _percent_is_modulo(self) -> bool:
        following = self._tokens[self._position + 1 : self._position + 2]
        return bool(following) and following[0].kind in ("number", "name", "function", "open")

    def _nested(self, parse_inner: Callable[[], Expression]) -> Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ParseError("it is nested too deeply")
        value = parse_inner()
        self._depth -= 1
        return value

    def _atom(self) -> Expression:
        return self._nested(self._unbounded_atom)

    def _unbounded_atom(self) -> Expression:
        token = self._peek()
        if token is None:
            raise ParseError("something is missing")
        self._position += 1
        if token.kind == "number":
            return _number(token)
        if token.kind == "name":
            following = self._peek()
            if following is not None and following.text == "(" and token.text in ("f", "g", "h"):
                raise ParseError(f"{token.text} is an unknown function")
            if following is not None and following.text == "(" and token.text == "C":
                return self._function("binom")
            return Variable(token.text)
        if token.kind == "function":
            return self._function(token.text)
        if token.kind == "open":
            value = self.sum()
            self._close(_CLOSING[token.text])
            return Call(token.text, (value,)) if token.text in ("floor", "ceil") else value
        if token.kind == "bar":
            self._bars += 1
            value = self.sum()
            self._bars -= 1
            closing = self._peek()
            if closing is None or closing.kind != "bar":
                raise ParseError("a bar | is not closed")
            self._position += 1
            return Call("abs", (value,))
        raise ParseError(f"unexpected '{token.text}'")

    def _close(self, text: str) -> None:
        token = self._peek()
        if token is None or token.kind != "close" or token.text != text:
            raise ParseError("a bracket is not closed")
        self._position += 1

    def _function(self, name: str) -> Expression:
        if name == "frac":
            return Call("/", (self._argument(single_digits=True), self._argument(single_digits=True)))
        index: Expression | None = None
        token = self._peek()
        if name == "sqrt" and token is not None and token.text == "[":
            self._position += 1
            index = self.sum()
            self._close("]")
        elif name == "log" and token is not None and token.text == "_":
            self._position += 1
            index = self._argument()
        exponent: Expression | None = None
        if self._peek_operator("^") is not None and name not in ("sqrt", "binom"):
            self._position += 1
            exponent = self._argument()
            if not (isinstance(exponent, Number) and exponent.value > 0):
                raise ParseError(f"{name}^-1 can be read in two ways")
        args = self._arguments(name)
        if index is not None:
            name, args = ("root", (*args, index)) if name == "sqrt" else ("log", (*args, index))
        value = Call(name, args)
        return value if exponent is None else Call("^", (value, exponent))

    def _arguments(self, name: str) -> tuple[Expression, ...]:
        token = self._peek()
        if name in _TWO_ARGUMENTS and (token is None or token.text != "("):
            return (self._argument(single_digits=True), self._argument(single_digits=True))
        if token is not None and token.text in ("(", "{", "["):
            self._position += 1
            args = [self.sum()]
            while (comma := self._peek()) is not None and comma.text == ",":
                self._position += 1
                args.append(self.sum())
            self._close(_CLOSING[token.text])
            limits = (
                (2, 2) if name in _TWO_ARGUMENTS else (1, 20 if name in _MANY_ARGUMENTS else 2 if name == "log" else 1)
            )
            if not limits[0] <= len(args) <= limits[1]:
                raise ParseError(f"{name} has {len(args)} arguments")
            return tuple(args)
        if name == "sqrt":
            return (self._argument(),)
        # `sin 2x`: a product of numbers and letters, up to the next sign or function.
        value = self._power()
        while (
            (token := self._peek()) is not None and token.kind == "name" and isinstance(value, Number | Variable | Call)
        ):
            value = Call("*", (value, self._power()), implicit=True)
        return (value,)

    def _argument(self, single_digits: bool = False) -> Expression:
        r"""One argument in the manner of LaTeX: a group, or a token (`\frac12` takes single digits)."""
        token = self._peek()
        if token is None:
            raise ParseError("an argument is missing")
        if single_digits and token.kind == "number" and len(token.text) > 1 and token.text.isdigit():
            self._tokens[self._position] = dataclasses.replace(token, text=token.text[1:], start=token.start + 1)
            return _number(dataclasses.replace(token, text=token.text[0], end=token.start + 1))
        return self._atom()


def _number(token: Token) -> Number:
    if len(token.text) > MAX_DIGITS:
        raise ParseError(f"a number has more than {MAX_DIGITS} digits")
    return Number(Fraction(token.text), token.text)
