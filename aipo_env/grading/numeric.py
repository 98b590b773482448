"""Evaluate a tree at a point: exactly while it stays rational, as precisely as asked for otherwise.

Two expressions are the same function if they agree at a few points that nobody could foresee (Schwartz and Zippel).
Functions without a known value, such as ``f`` or an integral, are replaced by fixed smooth functions of their arguments,
so that equal arguments give equal values. Every step is bounded; nothing is looked up by name in Python.
"""

from __future__ import annotations

import hashlib
import itertools
from fractions import Fraction
from functools import lru_cache

from aipo_env.grading.arithmetic import Budget, NoValue, Numbers, Value, to_complex
from aipo_env.grading.functions import EXACT, UNARY
from aipo_env.grading.nodes import (
    Add,
    Call,
    Matrix,
    Mul,
    Node,
    Num,
    Pow,
    Quantity,
    Relation,
    SetOperation,
    Sym,
    Text,
    children,
    walk,
)
from aipo_env.grading.trees import has_variables, mentions, rebuilt

MAX_RANGE = 2_000
MAX_MAGNITUDE = 1 << 16
"""Exponent in base 2 that a number may have: functions of larger ones take as many bits of pi, and no clock stops that."""


POINTS = 5
_SIZES = (Fraction(1, 3), Fraction(9, 7), Fraction(5, 2), Fraction(13, 3), Fraction(331))


@lru_cache(maxsize=4096)
def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=16).digest()


@lru_cache(maxsize=8192)
def _coordinate(name: str, point: int, positive: bool) -> Fraction:
    """Return the value of a variable at a point: small, large, and of either sign over the points."""
    digest = _hash(name)
    size = _SIZES[(digest[0] + point) % len(_SIZES)] * (1 + Fraction(digest[point + 1], 1009))
    return size if positive or point % 2 == 0 else -size


class Evaluator:
    """Evaluates trees at one point.

    After use, ``placeholders`` tells whether functions without a value took part, ``opaque`` whether one of
    them may equal something else in disguise, ``approximate`` whether an integral was done by quadrature, ``largest`` and
    ``smallest`` the magnitudes met on the way, which say how precise it was.
    """

    def __init__(
        self,
        budget: Budget | None = None,
        point: int = 0,
        *,
        positive: bool = True,
        whole: bool = False,
        key: str = "",
        precision: int = 192,
    ) -> None:
        r"""Choose the point.

        Args:
            budget: what bounds the work; one of its own by default.
            point: 0 to 4; different points give different values to each variable.
            positive: give every variable a positive value.
            whole: give every variable a positive whole value, so that sums up to n can be done.
            key: moves the point, so that nobody knows it who does not know the key.
            precision: bits of the inexact numbers.
        """
        self.budget = budget if budget is not None else Budget()
        self.point, self.positive, self.whole, self.key = point, positive, whole, key
        self.numbers = Numbers(precision)
        self.opaque = self.placeholders = self.approximate = False
        self.largest = self.smallest = 0
        self.bound: dict[str, Value] = {}

    def value(self, node: Node) -> Value:
        """Return the value of a tree.

        Raises:
            NoValue: if it has none here.
        """
        try:
            return self._value(node)
        except (OverflowError, ZeroDivisionError, ValueError) as error:
            raise NoValue(type(error).__name__) from None

    def _value(self, node: Node) -> Value:
        value = self._computed(node)
        self.budget.spend(1 if isinstance(value, Fraction) else 3)
        magnitude = self.numbers.magnitude(value)
        if magnitude is not None:
            if abs(magnitude) > MAX_MAGNITUDE:
                raise NoValue("size")
            self.largest, self.smallest = max(self.largest, magnitude), min(self.smallest, magnitude)
        return value

    def _computed(self, node: Node) -> Value:
        if isinstance(node, Num):
            return node.value
        if isinstance(node, Sym):
            return self._symbol(node.name)
        if isinstance(node, Add):
            total: Value = Fraction(0)
            for term in node.terms:
                total = self.numbers.add(total, self._value(term))
            return total
        if isinstance(node, Mul):
            product: Value = Fraction(1)
            for factor in node.factors:
                product = self.numbers.multiply(product, self._value(factor))
            return product
        if isinstance(node, Pow):
            return self.numbers.power(self._value(node.base), self._value(node.exponent))
        if isinstance(node, Call):
            return self._call(node.name, node.args)
        if isinstance(node, Quantity):
            inner = self._value(node.value)
            if node.unit == "%":
                return self.numbers.multiply(inner, Fraction(1, 100))
            return self.numbers.multiply(inner, self.numbers.functions.pi / 180) if node.unit == "deg" else inner
        if isinstance(node, SetOperation) and all(isinstance(part, Sym) for part in node.operands):
            values = [self.numbers.inexact(self._value(part)) for part in node.operands]  # events: P(A \\cap B)
            both = [sum(values), sum(value * value for value in values)] if node.operator != "setminus" else values
            return self._placeholder(node.operator, both)
        raise NoValue("structure")

    def _symbol(self, name: str) -> Value:
        if name in self.bound:
            return self.bound[name]
        if name in _CONSTANTS:
            return +getattr(self.numbers.functions, _CONSTANTS[name])
        if name == "\\infty":
            raise NoValue("infinity")
        if self.whole:
            return Fraction(2 + (_hash(self.key + name)[self.point] + 5 * self.point) % 19)
        return _coordinate(self.key + name, self.point, self.positive)

    def _call(self, name: str, args: list[Node]) -> Value:
        if name in ("sum", "prod", "int", "lim", "iint", "oint"):
            return self._big(name, args)
        if name == "det" and len(args) == 1 and isinstance(args[0], Matrix):
            return self._determinant(args[0].rows)
        if name == "base":
            return _in_base(args)
        values = [self._value(arg) for arg in args]
        if name in ("gcd", "lcm") and not all(
            isinstance(value, Fraction) and not has_variables(arg) for value, arg in zip(values, args, strict=True)
        ):
            return self._common_monomial(name, args, values)
        if name == "side+":
            return values[0]  # "x \\to 3^+" is a limit's default direction
        if name in _OF_COMPLEX and len(values) == 1 and not has_variables(args[0]) and mentions(args[0], Sym("i")):
            z = self.numbers.inexact(values[0])
            return {"overline": z.conjugate(), "Re": z.real, "Im": z.imag}[name]
        if name in UNARY and len(values) == 1:
            value = UNARY[name](values[0], self.numbers)
            return value if isinstance(value, Fraction) else self.numbers.checked(value)
        if name in EXACT:
            exact = EXACT[name](values, self.numbers)
            if exact is not None:
                return exact
        return self._placeholder(name, values)

    def _common_monomial(self, name: str, args: list[Node], values: list[Value]) -> Value:
        r"""Return the gcd or lcm of monomials such as ``50x`` or ``3\pi``: each symbol or root counts as a prime."""
        atoms: list[Node] = []

        def primed(node: Node) -> Node:
            if not isinstance(node, Sym | Call):
                return rebuilt(node, [primed(part) for part in children(node)])
            value = self._value(node)
            if isinstance(value, Fraction) and not has_variables(node):
                return Num(value)
            if node not in atoms:
                atoms.append(node)
            if len(atoms) > len(_PRIMES):
                raise NoValue("symbols")
            return Num(_PRIMES[atoms.index(node)])

        if any(isinstance(part, Add) for arg in args for part in walk(arg)):
            return self._placeholder(name, values)
        common = EXACT[name]([self._value(primed(arg)) for arg in args], self.numbers)
        if not isinstance(common, Fraction):
            return self._placeholder(name, values)
        factors: list[Node] = []
        for atom, prime in zip(atoms, _PRIMES, strict=False):
            while common.numerator % prime == 0 != common:
                common, factors = common / prime, [*factors, atom]
        return self._value(Mul([Num(common), *factors]))

    def _big(self, name: str, args: list[Node]) -> Value:
        body, index, lower, upper = args
        if name in ("sum", "prod") and isinstance(index, Sym) and not isinstance(lower, Text | Relation):
            start = self._value(lower)
            stop = None if isinstance(upper, Text) or upper == Sym("\\infty") else self._value(upper)
            if (
                isinstance(start, Fraction) and isinstance(stop, Fraction)
                and start.denominator == stop.denominator == 1 and stop - start < MAX_RANGE
            ):  # fmt: skip
                return self._series(name, body, index.name, int(start), int(stop))
        if name == "int" and isinstance(index, Sym) and not isinstance(lower, Text) and not isinstance(upper, Text):
            integral = self._integral(body, index.name, lower, upper)
            if integral is not None:
                return integral
        values = [self._bounds(part) for part in (lower, upper)]
        return self._placeholder(name, [self._value(body), self._value(index), *values])

    def _integral(self, body: Node, index: str, lower: Node, upper: Node) -> Value | None:
        if Sym("\\infty") in (lower, upper) or _is_minus_infinity(lower) or isinstance(lower, Relation):
            return None
        ends = [to_complex(self._value(end)) for end in (lower, upper)]
        if any(end.imag for end in ends):
            return None
        self.approximate = True
        value, error = self.numbers.functions.quad(
            lambda x: self._bound_value(body, index, x),
            [end.real for end in ends],
            error=True,
            method="gauss-legendre",
            maxdegree=4,
        )
        return value if error <= 1e-11 * max(abs(value), 1e-3) else None

    def _bound_value(self, body: Node, index: str, value: Value) -> Value:
        """The value of a tree where an index has this value."""
        outer = {index: self.bound[index]} if index in self.bound else {}
        self.bound[index] = value
        try:
            return self._value(body)
        finally:
            del self.bound[index]
            self.bound.update(outer)

    def _bounds(self, node: Node) -> Value:
        if isinstance(node, Text):
            return Fraction(0)
        if isinstance(node, Relation):
            return sum((self.numbers.inexact(self._bounds(m)) * (k + 2) for k, m in enumerate(node.members)), start=0j)
        if node == Sym("\\infty"):
            return Fraction(1000003)
        return self._value(node)

    def _series(self, name: str, body: Node, index: str, start: int, stop: int) -> Value:
        total: Value = Fraction(name == "prod")
        combine = self.numbers.multiply if name == "prod" else self.numbers.add
        for k in range(start, stop + 1):
            total = combine(total, self._bound_value(body, index, Fraction(k)))
        return total

    def _determinant(self, rows: list[list[Node]]) -> Value:
        size = len(rows)
        if size > 5 or any(len(row) != size for row in rows):
            raise NoValue("determinant")
        self.budget.spend(40**2 if size == 5 else 100)
        table = [[self._value(entry) for entry in row] for row in rows]

        total: Value = Fraction(0)
        for columns in itertools.permutations(range(size)):  # Leibniz's formula
            term: Value = Fraction((-1) ** sum(a > b for a, b in itertools.combinations(columns, 2)))
            for row, column in zip(table, columns, strict=True):
                term = self.numbers.multiply(term, row[column])
            total = self.numbers.add(total, term)
        return total

    def _placeholder(self, name: str, values: list[Value]) -> Value:
        # f(x) and f(y) differ whatever f is; but an integral or a gcd might equal something else in disguise.
        self.placeholders = True
        self.opaque = self.opaque or len(name.rstrip("'").partition("_")[0]) > 1
        digest = _hash("function " + name)
        total = 0.5 + digest[0] / 256 + 0j
        for k, value in enumerate(values):
            number = self.numbers.inexact(value)
            squashed = number / (1 + abs(number))
            a, b = digest[(2 * k + 1) % 16] + 7, digest[(2 * k + 2) % 16] + 11
            total += (a + 13 * k) / 64 * squashed + (b + 5 * k) / 97 * squashed * squashed
            total *= 1 + squashed / (3 + k)
        return total


_PRIMES = tuple(10**12 + Fraction(k) for k in (39, 61, 63, 91, 121, 163, 169, 177, 189, 193))
_OF_COMPLEX = ("overline", "Re", "Im")
_CONSTANTS = {"\\pi": "pi", "e": "e", "i": "j"}


def _is_minus_infinity(node: Node) -> bool:
    return isinstance(node, Mul) and Sym("\\infty") in node.factors


def _in_base(args: list[Node]) -> Value:
    digits, base = args
    if not (isinstance(digits, Num) and isinstance(base, Num)) or not 2 <= base.value <= 36:
        raise NoValue("base")
    return Fraction(int(str(digits.value), int(base.value)))
