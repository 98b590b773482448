"""Evaluate a tree at a point: exactly while it stays rational, in complex floating point otherwise.

Two expressions are the same function if they agree at a few points chosen without regard to them (Schwartz
and Zippel). Functions without a known value, such as ``f`` or an integral, are replaced by fixed smooth
functions of their arguments, so that equal arguments give equal values. Every step is bounded; nothing is
looked up by name in Python.
"""

from __future__ import annotations

import cmath
import hashlib
import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from aipo_env.grading.monomials import common_monomial
from aipo_env.grading.nodes import (
    Add,
    Call,
    Matrix,
    Mul,
    Node,
    Num,
    PlusMinus,
    Pow,
    Quantity,
    Relation,
    Sym,
    Text,
)
from aipo_env.grading.quadrature import integrate

Value = Fraction | complex

MAX_BITS = 4096
MAX_STEPS = 20_000
MAX_RANGE = 2_000


class NoValue(Exception):
    """The tree has no scalar value at this point: undefined, too large, or not a scalar."""


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


class Budget:
    """Bounds the work of one comparison, however many evaluations it takes."""

    __slots__ = ("left",)

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.left = steps

    def spend(self, steps: int) -> None:
        """Take steps away.

        Raises:
            NoValue: if none are left.
        """
        self.left -= steps
        if self.left < 0:
            raise NoValue("steps")


class Evaluator:
    """Evaluates trees at one point. After use, ``opaque`` tells whether a placeholder function took part."""

    def __init__(
        self,
        budget: Budget | None = None,
        point: int = 0,
        *,
        positive: bool = True,
        whole: bool = False,
    ) -> None:
        r"""Choose the point.

        Args:
            budget: what bounds the work; one of its own by default.
            point: 0 to 4; different points give different values to each variable.
            positive: give every variable a positive value.
            whole: give every variable a positive whole value, so that sums up to n can be done.
        """
        self.budget = budget if budget is not None else Budget()
        self.point, self.positive, self.whole = point, positive, whole
        self.opaque = False
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
        self.budget.spend(1)
        if isinstance(node, Num):
            return node.value
        if isinstance(node, Sym):
            return self._symbol(node.name)
        if isinstance(node, Add):
            total: Value = Fraction(0)
            for term in node.terms:
                total = _add(total, self._value(term))
            return total
        if isinstance(node, Mul):
            product: Value = Fraction(1)
            for factor in node.factors:
                product = _multiply(product, self._value(factor))
            return product
        if isinstance(node, Pow):
            return _power(self._value(node.base), self._value(node.exponent))
        if isinstance(node, Call):
            return self._call(node.name, node.args)
        if isinstance(node, Quantity):
            inner = self._value(node.value)
            if node.unit == "%":
                return _multiply(inner, Fraction(1, 100))
            return _multiply(inner, math.pi / 180 + 0j) if node.unit == "deg" else inner
        raise NoValue("structure")

    def _symbol(self, name: str) -> Value:
        if name in self.bound:
            return self.bound[name]
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name == "\\infty":
            raise NoValue("infinity")
        if self.whole:
            return Fraction(4 + (_hash(name)[self.point] + 5 * self.point) % 17)
        return _coordinate(name, self.point, self.positive)

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
            # Of monomials or polynomials, not of their values at this point.
            monomial = common_monomial(name, args)
            return self._value(monomial) if monomial is not None else self._placeholder(name, values)
        if name == "side+":
            return values[0]  # "x \\to 3^+" is a limit's default direction
        if name in _UNARY and len(values) == 1:
            return _finite(_UNARY[name](values[0]))
        if name in _EXACT:
            exact = _EXACT[name](values)
            if exact is not None:
                return exact
        return self._placeholder(name, values)

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
        ends = [_complex(self._value(end)) for end in (lower, upper)]
        if any(end.imag for end in ends):
            return None
        outer = self.bound.get(index)

        def at(x: float) -> complex:
            self.bound[index] = complex(x)
            return _complex(self._value(body))

        try:
            return integrate(at, ends[0].real, ends[1].real)
        finally:
            if outer is None:
                self.bound.pop(index, None)
            else:
                self.bound[index] = outer

    def _bounds(self, node: Node) -> Value:
        if isinstance(node, Text):
            return Fraction(0)
        if isinstance(node, Relation):
            return sum((self._bounds(m) * (k + 2) for k, m in enumerate(node.members)), start=0j)
        if node == Sym("\\infty"):
            return Fraction(1000003)
        return self._value(node)

    def _series(self, name: str, body: Node, index: str, start: int, stop: int) -> Value:
        outer = self.bound.get(index)
        total: Value = Fraction(name == "prod")
        for k in range(start, stop + 1):
            self.bound[index] = Fraction(k)
            term = self._value(body)
            total = _multiply(total, term) if name == "prod" else _add(total, term)
        if outer is None:
            self.bound.pop(index, None)
        else:
            self.bound[index] = outer
        return total

    def _determinant(self, rows: list[list[Node]]) -> Value:
        size = len(rows)
        if size > 5 or any(len(row) != size for row in rows):
            raise NoValue("determinant")
        self.budget.spend(40**2 if size == 5 else 100)
        table = [[self._value(entry) for entry in row] for row in rows]

        def expand(rows_left: list[int], columns: list[int]) -> Value:
            if not rows_left:
                return Fraction(1)
            total: Value = Fraction(0)
            for k, column in enumerate(columns):
                minor = expand(rows_left[1:], columns[:k] + columns[k + 1 :])
                signed = _multiply(table[rows_left[0]][column], Fraction(-1 if k % 2 else 1))
                total = _add(total, _multiply(signed, minor))
            return total

        return expand(list(range(size)), list(range(size)))

    def _placeholder(self, name: str, values: list[Value]) -> Value:
        # f(x) and f(y) differ whatever f is; but an integral or a gcd might equal something else in disguise.
        self.opaque = self.opaque or len(name.rstrip("'").partition("_")[0]) > 1
        digest = _hash("function " + name)
        total = 0.5 + digest[0] / 256 + 0j
        for k, value in enumerate(values):
            number = _complex(value)
            squashed = number / (1 + abs(number))
            a, b = digest[(2 * k + 1) % 16] + 7, digest[(2 * k + 2) % 16] + 11
            total += (a + 13 * k) / 64 * squashed + (b + 5 * k) / 97 * squashed * squashed
            total *= 1 + squashed / (3 + k)
        return total


_CONSTANTS: dict[str, Value] = {"\\pi": math.pi + 0j, "e": math.e + 0j, "i": 1j}


def _is_minus_infinity(node: Node) -> bool:
    return isinstance(node, Mul) and Sym("\\infty") in node.factors


def _complex(value: Value) -> complex:
    return complex(float(value)) if isinstance(value, Fraction) else value


def _finite(value: Value) -> Value:
    if isinstance(value, complex) and not cmath.isfinite(value):
        raise NoValue("overflow")
    return value


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Fraction) -> Value:
    return value if _bits(value) <= MAX_BITS else _complex(value)


def _add(left: Value, right: Value) -> Value:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return _bounded(left + right)
    return _finite(_complex(left) + _complex(right))


def _multiply(left: Value, right: Value) -> Value:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return _bounded(left * right)
    return _finite(_complex(left) * _complex(right))


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(exponent, Fraction) and isinstance(base, Fraction):
        if exponent.denominator == 1:
            count = exponent.numerator
            if base in (0, 1, -1) or abs(count) * _bits(base) <= MAX_BITS:
                return base**count
        else:
            return _rational_power(base, exponent)
    number, power = _complex(base), _complex(exponent)
    if number == 0 and power == 0:
        raise NoValue("0^0")
    return _finite(number**power)


def _rational_power(base: Fraction, exponent: Fraction) -> Value:
    """A root: exact if it is rational; odd roots of negative numbers are the real ones."""
    degree = exponent.denominator
    if base < 0 and degree % 2:
        inner = _rational_power(-base, exponent)
        return _multiply(inner, Fraction(-1 if exponent.numerator % 2 else 1))
    if base >= 0 and degree <= 12 and _bits(base) * abs(exponent.numerator) <= MAX_BITS:
        top, bottom = _exact_root(base.numerator, degree), _exact_root(base.denominator, degree)
        if top is not None and bottom is not None:
            return Fraction(top, bottom) ** exponent.numerator
    return _finite(_complex(base) ** float(exponent))


def _exact_root(number: int, degree: int) -> int | None:
    if degree == 2:
        root = math.isqrt(number)
    else:
        if number.bit_length() > 900:
            return None
        root = round(number ** (1.0 / degree))
    return root if root**degree == number else None


def _in_base(args: list[Node]) -> Value:
    digits, base = args
    if not (isinstance(digits, Num) and isinstance(base, Num)) or not 2 <= base.value <= 36:
        raise NoValue("base")
    return Fraction(int(str(digits.value), int(base.value)))


def _root(values: list[Value]) -> Value | None:
    radicand, degree = values
    if not isinstance(degree, Fraction) or degree == 0:
        return _power(radicand, _power(degree, Fraction(-1)))
    return _power(radicand, 1 / degree)


def _integers(values: list[Value], limit: int) -> list[int] | None:
    if all(isinstance(v, Fraction) and v.denominator == 1 and abs(v.numerator) <= limit for v in values):
        return [v.numerator for v in values if isinstance(v, Fraction)]
    return None


def _factorial(values: list[Value]) -> Value | None:
    whole = _integers(values, 400)
    if whole is not None and whole[0] >= 0:
        return Fraction(math.factorial(whole[0]))
    if isinstance(values[0], Fraction) and 0 < values[0] < 100:
        return complex(math.gamma(float(values[0]) + 1))
    return None


def _binomial(values: list[Value]) -> Value | None:
    if len(values) != 2:
        return None
    whole = _integers(values, 1000)
    if whole is None:
        return None
    n, k = whole
    if n < 0:
        return None
    return Fraction(math.comb(n, k)) if 0 <= k <= n else Fraction(0)


def _fractions(values: list[Value]) -> list[Fraction] | None:
    fractions = [v for v in values if isinstance(v, Fraction)]
    return fractions if values and len(fractions) == len(values) else None


def _gcd(values: list[Value]) -> Value | None:
    exact = _fractions(values)
    if exact is None:
        return None
    return Fraction(math.gcd(*(v.numerator for v in exact)), math.lcm(*(v.denominator for v in exact)))


def _lcm(values: list[Value]) -> Value | None:
    exact = _fractions(values)
    if exact is None:
        return None
    return Fraction(math.lcm(*(v.numerator for v in exact)), math.gcd(*(v.denominator for v in exact)))


def _modulo(values: list[Value]) -> Value | None:
    left, right = values
    if isinstance(left, Fraction) and isinstance(right, Fraction) and right:
        return left % right
    a, b = _complex(left), _complex(right)
    if a.imag or b.imag or not b.real:
        return None
    return complex(a.real - b.real * math.floor(a.real / b.real))


def _extreme(values: list[Value], pick: Callable[[list[float]], float]) -> Value | None:
    exact = _fractions(values)
    if exact is not None:
        return max(exact) if pick([0.0, 1.0]) else min(exact)
    reals = [_complex(v) for v in values]
    return None if any(v.imag for v in reals) or not reals else complex(pick([v.real for v in reals]))


def _rounded(value: Value, rounding: Callable[[float], int]) -> Value:
    number = value if isinstance(value, Fraction) else _real(value)
    return Fraction(math.floor(number) if rounding is math.floor else math.ceil(number))


def _real(value: Value) -> float:
    number = _complex(value)
    if abs(number.imag) > 1e-12:
        raise NoValue("complex")
    return number.real


def _absolute(value: Value) -> Value:
    return abs(value) if isinstance(value, Fraction) else complex(abs(value))


def _real_log(value: Value) -> Value:
    if isinstance(value, Fraction) and value > 0:
        # The logarithm of a large rational must not pass through an overflowing float.
        return complex(math.log(value.numerator) - math.log(value.denominator))
    return cmath.log(_complex(value))


def _by(function: Callable[[complex], complex]) -> Callable[[Value], Value]:
    return lambda value: function(_complex(value))


_UNARY: dict[str, Callable[[Value], Value]] = {
    "sin": _by(cmath.sin), "cos": _by(cmath.cos), "tan": _by(cmath.tan), "sinh": _by(cmath.sinh),
    "cosh": _by(cmath.cosh), "tanh": _by(cmath.tanh), "arcsin": _by(cmath.asin), "arccos": _by(cmath.acos),
    "arctan": _by(cmath.atan), "arsinh": _by(cmath.asinh), "arcosh": _by(cmath.acosh), "artanh": _by(cmath.atanh),
    "sec": _by(lambda z: 1 / cmath.cos(z)), "csc": _by(lambda z: 1 / cmath.sin(z)),
    "cot": _by(lambda z: cmath.cos(z) / cmath.sin(z)), "sech": _by(lambda z: 1 / cmath.cosh(z)),
    "csch": _by(lambda z: 1 / cmath.sinh(z)), "coth": _by(lambda z: cmath.cosh(z) / cmath.sinh(z)),
    "arccot": _by(lambda z: math.pi / 2 - cmath.atan(z)), "arcsec": _by(lambda z: cmath.acos(1 / z)),
    "arccsc": _by(lambda z: cmath.asin(1 / z)), "exp": _by(cmath.exp), "ln": _real_log, "log": _real_log,
    "log10": lambda v: _complex(_real_log(v)) / math.log(10), "abs": _absolute,
    "floor": lambda v: _rounded(v, math.floor), "ceil": lambda v: _rounded(v, math.ceil),
    "sgn": lambda v: Fraction((_real(v) > 0) - (_real(v) < 0)),
}  # fmt: skip
_EXACT: dict[str, Callable[[list[Value]], Value | None]] = {
    "root": _root, "factorial": _factorial, "binom": _binomial, "gcd": _gcd, "lcm": _lcm, "mod": _modulo,
    "max": lambda v: _extreme(v, max), "min": lambda v: _extreme(v, min),
    "ratio": lambda v: _multiply(v[0], _power(v[1], Fraction(-1))) if len(v) == 2 else None,
}  # fmt: skip


def needs_positive(node: Node) -> bool:
    """Whether a tree has roots or logarithms, whose usual identities hold for positive variables only."""
    if isinstance(node, Pow):
        exponent = node.exponent
        whole = isinstance(exponent, Num) and exponent.value.denominator == 1
        return not whole or needs_positive(node.base)
    if isinstance(node, Call):
        return node.name in _BRANCHED or any(needs_positive(arg) for arg in node.args)
    if isinstance(node, Add):
        return any(needs_positive(term) for term in node.terms)
    if isinstance(node, Mul):
        return any(needs_positive(factor) for factor in node.factors)
    if isinstance(node, PlusMinus):
        return needs_positive(node.operand)
    return isinstance(node, Quantity) and needs_positive(node.value)


def counts(node: Node) -> bool:
    """Whether a tree has sums, products or binomials, which are defined for whole numbers."""
    if isinstance(node, Call):
        return node.name in ("sum", "prod", "binom") or any(counts(arg) for arg in node.args)
    if isinstance(node, Add):
        return any(counts(term) for term in node.terms)
    if isinstance(node, Mul):
        return any(counts(factor) for factor in node.factors)
    return isinstance(node, Pow) and (counts(node.base) or counts(node.exponent))


_BRANCHED = frozenset(
    [
        "root",
        "ln",
        "log",
        "log10",
        "arcsin",
        "arccos",
        "arctan",
        "arcsec",
        "arccsc",
        "arccot",
        "arsinh",
        "arcosh",
        "artanh",
    ]
)


def is_constant(node: Node) -> bool:
    """Whether a tree is a number."""
    return isinstance(node, Num | Add | Mul | Pow | Call | Quantity | Sym) and not has_variables(node)


def has_variables(node: Node) -> bool:
    """Whether a tree depends on a variable."""
    if isinstance(node, Sym):
        return node.name not in _CONSTANTS and node.name != "\\infty"
    if isinstance(node, Add):
        return any(has_variables(term) for term in node.terms)
    if isinstance(node, Mul):
        return any(has_variables(factor) for factor in node.factors)
    if isinstance(node, Pow):
        return has_variables(node.base) or has_variables(node.exponent)
    if isinstance(node, Call):
        return any(has_variables(arg) for arg in node.args)
    if isinstance(node, PlusMinus):
        return has_variables(node.operand)
    if isinstance(node, Quantity):
        return has_variables(node.value)
    return False
