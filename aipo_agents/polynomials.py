"""Polynomials in several variables with fractions as coefficients, to decide identities exactly.

Roots, sines and cosines enter as further variables with a rule for their square (sqrt(u)^2 = u, sin(u)^2 = 1
- cos(u)^2), so that equality of normal forms is a proof; inequality is one for genuine polynomials alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from aipo_agents.exact import EvaluationError, NotExactError, apply
from aipo_agents.expressions import Call, Expression, Number, Variable, fold
from aipo_agents.render import render

Monomial = tuple[tuple[str, int], ...]
"""Variables with their exponents, sorted by name; () is 1."""
Polynomial = Mapping[Monomial, Fraction]
"""Coefficients, none of them zero."""

MAX_TERMS: Final = 300
MAX_EXPONENT: Final = 60
MAX_COEFFICIENT_BITS: Final = 2000
MAX_WORK: Final = 50_000
MAX_PRIME: Final = 1000
"""Larger primes stay together under one root."""

ONE: Final[Monomial] = ()


class TooLargeError(Exception):
    """The normal form passes the bounds."""


@dataclasses.dataclass(frozen=True, slots=True)
class Quotient:
    """A polynomial over a polynomial."""

    numerator: Polynomial
    denominator: Polynomial


class Algebra:
    """Computes normal forms; one object has one budget of work, shared by all that it computes."""

    def __init__(self, max_work: int = MAX_WORK) -> None:
        self._work = max_work
        self._squares: dict[str, Polynomial] = {"i": {ONE: Fraction(-1)}}
        self.opaque = False
        """Whether something that is not a polynomial was met (so that a difference proves nothing)."""

    def normal_form(self, expression: Expression) -> Quotient:
        """The expression as a quotient of polynomials.

        Raises:
            TooLargeError: past the bounds.
            EvaluationError: division by zero.
        """
        return fold(expression, self._visit)

    def equal(self, left: Quotient, right: Quotient) -> bool:
        """Whether two quotients are the same, cross-multiplied."""
        return not self.difference(left, right)

    def difference(self, left: Quotient, right: Quotient) -> Polynomial:
        """The numerator of left - right; empty if they are equal."""
        return self.add(
            self.multiply(left.numerator, right.denominator),
            self.scale(self.multiply(right.numerator, left.denominator), Fraction(-1)),
        )

    def add(self, left: Polynomial, right: Polynomial) -> Polynomial:
        """The sum."""
        result = dict(left)
        for monomial, coefficient in right.items():
            total = result.get(monomial, Fraction(0)) + coefficient
            if total:
                result[monomial] = total
            else:
                result.pop(monomial, None)
        return self._checked(result, len(left) + len(right))

    def scale(self, polynomial: Polynomial, factor: Fraction) -> Polynomial:
        """The product with a number."""
        scaled = {monomial: coefficient * factor for monomial, coefficient in polynomial.items()} if factor else {}
        return self._checked(scaled, len(polynomial))

    def multiply(self, left: Polynomial, right: Polynomial) -> Polynomial:
        """The product, with squares of roots and sines replaced."""
        self._spend(len(left) * len(right))
        result: dict[Monomial, Fraction] = {}
        reducible = False
        for a, x in left.items():
            for b, y in right.items():
                exponents = dict(a)
                for name, exponent in b:
                    exponents[name] = exponents.get(name, 0) + exponent
                    reducible = reducible or (exponents[name] > 1 and name in self._squares)
                monomial = tuple(sorted(exponents.items()))
                result[monomial] = result.get(monomial, Fraction(0)) + x * y
        product = self._checked({m: c for m, c in result.items() if c}, 0)
        return self._reduce(product) if reducible else product

    def power(self, base: Polynomial, exponent: int) -> Polynomial:
        """Base ** exponent for exponent >= 0."""
        if exponent > MAX_EXPONENT:
            raise TooLargeError
        result: Polynomial = {ONE: Fraction(1)}
        for _ in range(exponent):
            result = self.multiply(result, base)
        return result

    def _reduce(self, polynomial: Polynomial) -> Polynomial:
        while True:
            found = next(
                (
                    (monomial, name, exponent)
                    for monomial in polynomial
                    for name, exponent in monomial
                    if exponent > 1 and name in self._squares
                ),
                None,
            )
            if found is None:
                return polynomial
            monomial, name, exponent = found
            rest = tuple((n, e) if n != name else (n, e % 2) for n, e in monomial if n != name or e % 2)
            replaced = self.multiply({rest: polynomial[monomial]}, self.power(self._squares[name], exponent // 2))
            others = {m: c for m, c in polynomial.items() if m != monomial}
            self._spend(len(others))
            polynomial = self.add(others, replaced)

    def _checked(self, polynomial: Polynomial, work: int) -> Polynomial:
        self._spend(work)
        if len(polynomial) > MAX_TERMS:
            raise TooLargeError
        for monomial, coefficient in polynomial.items():
            if max(coefficient.numerator.bit_length(), coefficient.denominator.bit_length()) > MAX_COEFFICIENT_BITS:
                raise TooLargeError
            if any(exponent > MAX_EXPONENT for _, exponent in monomial):
                raise TooLargeError
        return polynomial

    def _spend(self, work: int) -> None:
        self._work -= work + 1
        if self._work < 0:
            raise TooLargeError

    def _visit(self, node: Expression, args: tuple[Quotient, ...]) -> Quotient:
        if isinstance(node, Number):
            return Quotient({ONE: node.value} if node.value else {}, {ONE: Fraction(1)})
        if isinstance(node, Variable):
            return self._variable(node.name)
        if node.op in ("+", "-"):
            a, b = args
            right = b.numerator if node.op == "+" else self.scale(b.numerator, Fraction(-1))
            if a.denominator == b.denominator:
                return Quotient(self.add(a.numerator, right), a.denominator)
            total = self.add(self.multiply(a.numerator, b.denominator), self.multiply(right, a.denominator))
            return Quotient(total, self.multiply(a.denominator, b.denominator))
        if node.op == "neg":
            return Quotient(self.scale(args[0].numerator, Fraction(-1)), args[0].denominator)
        if node.op == "*":
            a, b = args
            return Quotient(self.multiply(a.numerator, b.numerator), self.multiply(a.denominator, b.denominator))
        if node.op == "/":
            return self._divide(args[0], args[1])
        if node.op == "^" and (exponent := constant(args[1])) is not None and exponent.denominator == 1:
            base, count = args[0], exponent.numerator
            if count < 0:
                base, count = self._divide(self._number(Fraction(1)), base), -count
            return Quotient(self.power(base.numerator, count), self.power(base.denominator, count))
        return self._other(node, args)

    def _other(self, node: Call, args: tuple[Quotient, ...]) -> Quotient:
        numbers = [constant(arg) for arg in args]
        if all(number is not None for number in numbers):
            try:
                return self._number(apply(node.op, tuple(number for number in numbers if number is not None)))
            except NotExactError:
                pass
        # The name of an opaque variable is its text, so that the same piece on both sides cancels.
        text = render(node)
        if len(text) > 200:
            raise TooLargeError
        self.opaque = True
        argument = args[0]
        if constant(Quotient(argument.denominator, {ONE: Fraction(1)})) == 1:
            if node.op == "sqrt":
                value = constant(argument)
                if value is not None and value > 0:
                    return self._surd(value)
                self._squares[text] = argument.numerator
            elif node.op == "sin":
                cosine = render(Call("cos", node.args))
                self._squares[text] = {ONE: Fraction(1), ((cosine, 2),): Fraction(-1)}
        return self._variable(text)

    def _surd(self, value: Fraction) -> Quotient:
        """sqrt(value) as a product of roots of primes, which makes sums of square roots a normal form."""
        rest, outside = value.numerator * value.denominator, 1
        exponents: dict[str, int] = {}
        for prime in (2, *range(3, MAX_PRIME, 2)):
            while rest % (prime * prime) == 0:
                rest //= prime * prime
                outside *= prime
            if rest % prime == 0:
                rest //= prime
                exponents[f"sqrt({prime})"] = 1
                self._squares[f"sqrt({prime})"] = {ONE: Fraction(prime)}
        if rest > 1:
            exponents[f"sqrt({rest})"] = 1
            self._squares[f"sqrt({rest})"] = {ONE: Fraction(rest)}
        self._spend(MAX_PRIME)
        return Quotient({tuple(sorted(exponents.items())): Fraction(outside, value.denominator)}, {ONE: Fraction(1)})

    def _divide(self, left: Quotient, right: Quotient) -> Quotient:
        if not right.numerator:
            raise EvaluationError("division by zero")
        divisor = constant(right)
        if divisor is not None:
            return Quotient(self.scale(left.numerator, 1 / divisor), left.denominator)
        return Quotient(
            self.multiply(left.numerator, right.denominator), self.multiply(left.denominator, right.numerator)
        )

    def _variable(self, name: str) -> Quotient:
        return Quotient({((name, 1),): Fraction(1)}, {ONE: Fraction(1)})

    def _number(self, value: Fraction) -> Quotient:
        return Quotient({ONE: value} if value else {}, {ONE: Fraction(1)})


def constant(quotient: Quotient) -> Fraction | None:
    """The value of a quotient without variables (and with a plain denominator), else None."""
    if not set(quotient.numerator) <= {ONE} or set(quotient.denominator) != {ONE}:
        return None
    return quotient.numerator.get(ONE, Fraction(0)) / quotient.denominator[ONE]
