"""Reads the expressions that an answer may be, without evaluating them as a program.

An answer is first held against a small alphabet, a length and a depth; then Python's parser makes a tree of it, and only
the nodes named here are walked. Numbers stay fractions or floating point, so no exponent can make one grow without end.
"""

from __future__ import annotations

import ast
import cmath
import re
from collections.abc import Callable, Collection
from fractions import Fraction

MAX_CHARS = 4000
MAX_DEPTH = 40
MAX_DIGITS = 60
MAX_EXPONENT = 200

_ALPHABET = re.compile(r"[0-9A-Za-z+\-*/(). ]*")
_LONG_NUMBER = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")

Monomial = tuple[tuple[str, int], ...]
Polynomial = dict[Monomial, Fraction]


class UnreadableError(ValueError):
    """The text is no expression of the kind that was asked for."""


def _tree(text: str) -> ast.expr:
    if len(text) > MAX_CHARS or not _ALPHABET.fullmatch(text) or _LONG_NUMBER.search(text):
        raise UnreadableError("too long, or characters that no expression has")
    depth = deepest = 0
    for character in text:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH or text.count("**") > MAX_CHARS // 10:
        raise UnreadableError("nested too deeply")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise UnreadableError("no expression") from error


def _number(node: ast.Constant) -> Fraction:
    if type(node.value) is int:
        return Fraction(node.value)
    if type(node.value) is float and abs(node.value) < 1e300:
        return Fraction(str(node.value))
    raise UnreadableError("no number")


def arithmetic(text: str) -> tuple[Fraction, list[int]]:
    """The value of a sum of products of whole numbers, and the numbers that it uses.

    Raises:
        UnreadableError: for anything but whole numbers, brackets and + - * /, and for a division by zero.
    """
    used: list[int] = []

    def walk(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int()):
                value = _number(node)
                used.append(int(value))
                return value
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return walk(operand)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -walk(operand)
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() as op, right=right):
                a, b = walk(left), walk(right)
                if isinstance(op, ast.Div):
                    if b == 0:
                        raise UnreadableError("division by zero")
                    return a / b
                return a + b if isinstance(op, ast.Add) else a - b if isinstance(op, ast.Sub) else a * b
        raise UnreadableError("no arithmetic")

    try:
        return walk(_tree(text)), used
    except RecursionError as error:
        raise UnreadableError("nested too deeply") from error


def expanded_polynomial(text: str, variables: Collection[str]) -> Polynomial:
    """A polynomial that is written as a sum of monomials: coefficients by monomial.

    Raises:
        UnreadableError: for anything else, a product of sums included.
    """

    def walk(node: ast.expr) -> Polynomial:
        match node:
            case ast.Constant():
                return _plain({(): _number(node)})
            case ast.Name(id=name) if name in variables:
                return {((name, 1),): Fraction(1)}
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return walk(operand)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return {key: -value for key, value in walk(operand).items()}
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
                total = walk(left)
                sign = 1 if isinstance(op, ast.Add) else -1
                for key, value in walk(right).items():
                    total[key] = total.get(key, Fraction(0)) + sign * value
                return _plain(total)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return _times(walk(left), walk(right))
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                divisor = walk(right)
                if set(divisor) != {()}:
                    raise UnreadableError("division by what is no number")
                return {key: value / divisor[()] for key, value in walk(left).items()}
            case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int() as exponent)):
                base = walk(left)
                if len(base) > 1 or not 0 <= exponent <= MAX_EXPONENT or isinstance(exponent, bool):
                    raise UnreadableError("a power of a sum, or a power that is too high")
                if () in base and exponent > 1:
                    raise UnreadableError("a power of a number")
                if any(value != 1 for value in base.values()) or not base:
                    raise UnreadableError("a power of a coefficient")
                if exponent == 0:
                    return {(): Fraction(1)}
                return {tuple((name, power * exponent) for name, power in key): Fraction(1) for key in base}
        raise UnreadableError("no polynomial")

    try:
        return _plain(walk(_tree(text)))
    except RecursionError as error:
        raise UnreadableError("nested too deeply") from error


def _plain(polynomial: Polynomial) -> Polynomial:
    """Without terms that vanish."""
    return {key: value for key, value in polynomial.items() if value}


def _times(a: Polynomial, b: Polynomial) -> Polynomial:
    # A number distributes over a sum of itself; everything else would be a product left unexpanded.
    if (len(a) > 1 and set(b) != {()}) or (len(b) > 1 and set(a) != {()}):
        raise UnreadableError("a product of sums")
    product: Polynomial = {}
    for key_a, value_a in a.items():
        for key_b, value_b in b.items():
            powers = dict(key_a)
            for name, power in key_b:
                powers[name] = powers.get(name, 0) + power
            product[tuple(sorted((n, p) for n, p in powers.items() if p))] = value_a * value_b
    return product


Dual = tuple[complex, complex]
"""A value and its derivative."""

_FUNCTIONS: dict[str, tuple[Callable[[complex], complex], Callable[[complex], complex]]] = {
    "exp": (cmath.exp, cmath.exp),
    "log": (cmath.log, lambda z: 1 / z),
    "ln": (cmath.log, lambda z: 1 / z),
    "sqrt": (cmath.sqrt, lambda z: 0.5 / cmath.sqrt(z)),
    "sin": (cmath.sin, cmath.cos),
    "cos": (cmath.cos, lambda z: -cmath.sin(z)),
    "tan": (cmath.tan, lambda z: 1 / cmath.cos(z) ** 2),
    "asin": (cmath.asin, lambda z: 1 / cmath.sqrt(1 - z * z)),
    "acos": (cmath.acos, lambda z: -1 / cmath.sqrt(1 - z * z)),
    "atan": (cmath.atan, lambda z: 1 / (1 + z * z)),
    "sinh": (cmath.sinh, cmath.cosh),
    "cosh": (cmath.cosh, cmath.sinh),
    "tanh": (cmath.tanh, lambda z: 1 / cmath.cosh(z) ** 2),
}
_CONSTANTS = {"E": complex(cmath.e), "pi": complex(cmath.pi)}
_POINTS = (0.31 + 0.17j, 0.12 - 0.23j, -0.27 + 0.11j, 0.73 + 0.41j, 1.19 - 0.33j, -0.64 - 0.29j)
_RELATIVE = 1e-6


def _dual(node: ast.expr, names: dict[str, Dual]) -> Dual:
    match node:
        case ast.Constant():
            return complex(_number(node)), 0j
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _dual(operand, names)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value, slope = _dual(operand, names)
            return -value, -slope
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
            value, slope = _dual(argument, names)
            function, derivative = _FUNCTIONS[name]
            return function(value), derivative(value) * slope if slope else 0j
        case ast.BinOp(left=left, op=op, right=right):
            (a, da), (b, db) = _dual(left, names), _dual(right, names)
            match op:
                case ast.Add():
                    return a + b, da + db
                case ast.Sub():
                    return a - b, da - db
                case ast.Mult():
                    return a * b, da * b + a * db
                case ast.Div():
                    return a / b, (da * b - a * db) / (b * b)
                case ast.Pow():
                    power = a**b
                    slope = b * a ** (b - 1) * da if da else 0j
                    return power, slope + (power * cmath.log(a) * db if db else 0j)
    raise UnreadableError("no elementary function")


def is_antiderivative(answer: str, integrand: str, variable: str) -> bool:
    """Whether the derivative of one elementary function is another one: d answer / d variable = integrand.

    Both are analytic, so they are compared at points of the complex plane, in floating point; `C` is any constant.

    Raises:
        UnreadableError: the answer is no elementary function of the variable, or the integrand is none.
    """
    tree, wanted = _tree(answer), _tree(integrand)
    compared = 0
    for point in _POINTS:
        names: dict[str, Dual] = {name: (value, 0j) for name, value in _CONSTANTS.items()}
        names |= {"C": (0.61 + 0.37j, 0j), variable: (point, 1 + 0j)}
        try:
            value, _ = _dual(wanted, names)
        except (ArithmeticError, ValueError) as error:
            if isinstance(error, UnreadableError):
                raise
            continue
        except RecursionError as error:
            raise UnreadableError("nested too deeply") from error
        try:
            _, slope = _dual(tree, names)
        except UnreadableError:
            raise
        except (ArithmeticError, ValueError):
            return False
        except RecursionError as error:
            raise UnreadableError("nested too deeply") from error
        if not abs(slope - value) <= _RELATIVE * abs(value):  # a NaN is not close to anything
            return False
        compared += 1
    return compared >= 3
