r"""Greatest common divisors and least common multiples of monomials such as ``50x`` or ``3\pi``."""

from __future__ import annotations

import math
from fractions import Fraction

from aipo_env.grading.nodes import Call, Mul, Node, Num, Pow, Sym


def common_monomial(name: str, args: list[Node]) -> Node | None:
    """Return ``gcd`` or ``lcm`` of monomials as a product; None if an argument is no monomial.

    Coefficients are combined as rationals; every other factor is a prime of its own.
    """
    parts = [_factored(arg) for arg in args]
    if not parts or any(part is None for part in parts):
        return None
    monomials = [part for part in parts if part is not None]
    tops = [coefficient.numerator for coefficient, _ in monomials]
    bottoms = [coefficient.denominator for coefficient, _ in monomials]
    if name == "gcd":
        coefficient = Fraction(math.gcd(*tops), math.lcm(*bottoms))
    else:
        coefficient = Fraction(math.lcm(*tops), math.gcd(*bottoms))
    atoms = {key: atom for _, powers in monomials for key, (atom, _) in powers.items()}
    factors: list[Node] = [Num(coefficient)]
    for key, atom in atoms.items():
        exponents = [powers[key][1] if key in powers else 0 for _, powers in monomials]
        exponent = min(exponents) if name == "gcd" else max(exponents)
        factors.append(Pow(atom, Num(Fraction(exponent))))
    return Mul(factors)


_Factored = tuple[Fraction, dict[str, tuple[Node, int]]]


def _factored(node: Node) -> _Factored | None:
    if isinstance(node, Num):
        return (node.value, {}) if node.value else None
    if isinstance(node, Sym):
        return Fraction(1), {node.name: (node, 1)}
    if isinstance(node, Mul):
        coefficient, powers = Fraction(1), dict[str, tuple[Node, int]]()
        for factor in node.factors:
            part = _factored(factor)
            if part is None:
                return None
            coefficient *= part[0]
            for key, (atom, exponent) in part[1].items():
                powers[key] = (atom, exponent + (powers[key][1] if key in powers else 0))
        return coefficient, powers
    if isinstance(node, Pow) and isinstance(node.exponent, Num) and node.exponent.value.denominator == 1:
        count, part = int(node.exponent.value), _factored(node.base)
        if part is None or (not 0 <= count <= 64 and (part[1] or abs(count) > 64)):
            return None
        return part[0] ** count, {key: (atom, k * count) for key, (atom, k) in part[1].items()}
    if isinstance(node, Call) and node.name == "root":
        return _root(node)
    return None


def _root(node: Call) -> _Factored | None:
    radicand, degree = node.args
    if not (isinstance(radicand, Num) and radicand.value.denominator == 1 and degree == Num(Fraction(2))):
        return None
    number = int(radicand.value)
    if not 0 < number < 10**12:
        return None
    root = math.isqrt(number)
    if root * root == number:
        return Fraction(root), {}
    return Fraction(1), {f"root {number}": (node, 1)}
