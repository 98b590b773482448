"""The lower half of the grammar: numbers, symbols, functions, groups, environments.

`Factors` reads what binds tightly and calls back for what may stand inside brackets; `parser` adds that.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction

from aipo_env.grading.lexer import RELATIONS, Token, Unreadable
from aipo_env.grading.literals import MINUS_ONE, read_number, times
from aipo_env.grading.nodes import Call, Matrix, Mul, Node, Num, Pow, Quantity, Relation, Sequence, Sym, Text
from aipo_env.grading.vocabulary import TABLES

_MATRICES = frozenset(["matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array"])
_SYSTEMS = frozenset(["cases", "aligned", "align", "align*", "gathered", "split", "dcases", "rcases"])
_CLOSERS = {"(": (")", "]"), "[": (")", "]"), "\\{": ("\\}",), "{": ("}",)}
_FUNCTION_LETTERS = frozenset("fghFGH")
_BETWEEN_ARGUMENTS = frozenset([",", "|", "\\mid", "\\cap", "\\cup"])
_BIG = {"\\int": "int", "\\iint": "iint", "\\oint": "oint", "\\sum": "sum", "\\prod": "prod", "\\lim": "lim"}
_ACCENTS = {"\\" + name: name for name in ("overline", "vec", "hat", "tilde")} | {"\\overrightarrow": "vec"}
_FENCES = {"\\lfloor": ("\\rfloor", "floor"), "\\lceil": ("\\rceil", "ceil"), "\\lvert": ("\\rvert", "abs")}
_BARS = {"|": "abs", "\\|": "norm"}
NO_FACTOR = frozenset(
    r"\pm \mp \forall \rfloor \rceil \rangle \} \to \pmod \choose \circ \end".split()  # noqa: SIM905
)
"""Commands with which no factor starts."""
_SYMBOLS = frozenset[str](TABLES["symbols"])
MAX_LEVEL = 40
MAX_POSTFIXES = 12
END = Token("end of text", "")


class Factors:
    """Reads tokens from left to right; one object for one text."""

    # What the upper half of the grammar provides.
    listing: Callable[[], Node]
    item: Callable[[], Node]
    sum: Callable[[], Node]
    product: Callable[[], Node]
    signed_factor: Callable[[], Node]
    starts_factor: Callable[[Token], bool]

    def __init__(self, tokens: list[Token], own: frozenset[str] | None) -> None:
        self.tokens, self.own = tokens, own
        self.position = 0
        self.depth = 0
        self.bars = 0
        self.level = 0

    def peek(self, ahead: int = 0) -> Token:
        """Return a token without taking it."""
        index = self.position + ahead
        return self.tokens[index] if index < len(self.tokens) else END

    def take(self) -> Token:
        """Take the next token."""
        token = self.peek()
        self.position += 1
        return token

    def accept(self, text: str) -> bool:
        """Take the next token if it is this one."""
        token = self.peek()
        if token.text == text and token.kind != "text":
            self.position += 1
            return True
        return False

    def expect(self, text: str) -> None:
        """Take the next token, which must be this one."""
        if not self.accept(text):
            raise Unreadable("syntax")

    # -- factors
    # ----------------------------------------------------------------------------------------------

    def factor(self) -> Node:
        """An atom with its exponents, factorials, primes and subscripts."""
        return self.postfixed(self.atom())

    def postfixed(self, node: Node) -> Node:
        """What stands behind an atom and belongs to it."""
        for _ in range(MAX_POSTFIXES):
            token = self.peek()
            if token.kind not in ("op", "command"):
                return node
            if token.text in ("^", "**"):
                self.take()
                node = self.power(node)
            elif token.text == "!":
                self.take()
                node = Call("factorial", [node])
            elif token.text == "'":
                node = self.primed(node)
            elif token.text == "_":
                self.take()
                node = self.subscripted(node)
            else:
                return node
        raise Unreadable("nesting", final=True)

    def power(self, base: Node) -> Node:
        """What stands behind a caret: an exponent, a degree sign, primes, a side of a limit."""
        if self.peek().text == "\\circ" or (self.peek().text == "{" and self.peek(1).text == "\\circ"):
            braced = self.accept("{")
            self.take()
            if braced:
                self.expect("}")
            return Quantity(base, "deg")
        if self.peek().text == "{" and self.peek(1).text == "'":
            self.take()
            node = self.primed(base)
            self.expect("}")
            return node
        if (self.peek().text in ("+", "-") and self.peek(1).kind not in ("number", "symbol")) or (
            self.peek().text == "{" and self.peek(1).text in ("+", "-") and self.peek(2).text == "}"
        ):
            braced = self.accept("{")
            sign = self.take().text
            if braced:
                self.expect("}")
            return Call(f"side{sign}", [base])
        exponent = self.signed_factor() if self.peek().text in ("-", "+") else self.argument(whole_numbers=True)
        if self.peek().text in ("^", "**") and self.peek().kind == "op":
            # Plain-text towers associate to the right.
            self.take()
            self.level += 1
            if self.level > MAX_LEVEL:
                raise Unreadable("nesting", final=True)
            exponent = self.power(exponent)
            self.level -= 1
        return Pow(base, exponent)

    def primed(self, node: Node) -> Node:
        """``f'``, ``f'(x)``, ``y''``."""
        name = ""
        while self.accept("'"):
            name += "'"
        if isinstance(node, Num) and len(name) < 3:
            return Quantity(node, "ft" if len(name) == 1 else "in")
        if isinstance(node, Sym):
            node = Sym(node.name + name)
            if self.peek().text == "(" or (self.peek().text == "{" and self.peek(1).text == "("):
                return Call(node.name, self.arguments())
            return node
        return Call("derivative" + name, [node])

    def subscripted(self, node: Node) -> Node:
        """``x_1``, ``f_1(x)``, ``101_2``."""
        if isinstance(node, Num) and node.decimals < 0:
            base = self.argument(whole_numbers=True)
            if not isinstance(base, Num):
                raise Unreadable("subscript")
            return Call("base", [node, base])
        if isinstance(node, Pow):  # x^2_1 is (x_1)^2
            return Pow(self.subscripted(node.base), node.exponent)
        if not isinstance(node, Sym):
            raise Unreadable("subscript")
        start = self.position
        if self.peek().text == "{":
            level = 0
            while True:
                token = self.take()
                level += (token.text == "{") - (token.text == "}")
                if token is END:
                    raise Unreadable("syntax")
                if level == 0:
                    break
        else:
            self.take()
        label = "".join(t.text for t in self.tokens[start : self.position] if t.text not in ("{", "}"))
        name, primes = node.name.rstrip("'"), node.name[len(node.name.rstrip("'")) :]
        result = Sym(f"{name}_{label}{primes}")
        return Call(result.name, self.arguments()) if self.is_applied(result.name) else result

    def argument(self, *, whole_numbers: bool = False) -> Node:
        r"""A braced group, or else one token (one digit of a number, as in ``\frac12``)."""
        token = self.peek()
        if token.text == "{" and token.kind == "op":
            return self.group()
        if token.kind == "number" and not whole_numbers and len(token.text) > 1 and token.text.isdigit():
            self.tokens[self.position] = Token("number", token.text[1:], False)
            return read_number(token.text[0])
        return self.atom()

    def group(self) -> Node:
        """Brackets of any kind and what they hold."""
        opening = self.take().text
        if self.peek().text in _CLOSERS[opening]:
            closing = self.take().text
            if opening == "\\{":
                return Sequence("{", "}", [])
            raise Unreadable("empty group")
        bars, self.bars = self.bars, 0
        given = opening == "\\{" and self.condition()
        node = self.listing()
        if self.accept("\\choose"):
            node = Call("binom", [node, self.listing()])
        if given:
            self.expect("\\}")
            self.bars = bars
            return node
        closing = self.take().text
        self.bars = bars
        if closing not in _CLOSERS[opening]:
            raise Unreadable("brackets")
        bare = isinstance(node, Sequence) and node.opening == ""
        if opening == "\\{":
            return Sequence("{", "}", node.items if bare and isinstance(node, Sequence) else [node])
        if opening == "{":
            return node
        if bare and isinstance(node, Sequence):
            return Sequence(opening, closing, node.items)
        if (opening, closing) not in (("(", ")"), ("[", "]")):
            raise Unreadable("brackets")
        return node

    def condition(self) -> bool:
        r"""Skip ``x :`` or ``x \in \mathbb{R} \mid`` at the start of a set given by a condition on its members."""
        if self.peek().kind != "symbol":
            return False
        over_reals = [self.peek(ahead).text for ahead in range(1, 6)] == ["in", "\\mathbb", "{", "R", "}"]
        colon = 6 if over_reals else 1
        if self.peek(colon).text not in (":", "\\mid", "|"):
            return False
        self.position += colon + 1
        return True

    def arguments(self) -> list[Node]:
        """Arguments of a function, in brackets of any kind."""
        node = self.group()
        if isinstance(node, Sequence):
            return node.items
        return [node]

    def atom(self) -> Node:
        """The smallest parts: a number, a symbol, a function, a group."""
        self.level += 1
        if self.level > MAX_LEVEL:
            raise Unreadable("nesting", final=True)
        node = self.part()
        self.level -= 1
        return node

    def part(self) -> Node:
        """An atom, without counting how deep it stands."""
        token = self.take()
        if token.kind == "number":
            if self.peek().text == "\\overline" and "." in token.text:
                return self.repeating(token.text)
            return read_number(token.text)
        if token.kind == "symbol":
            return self.symbol(token.text)
        if token.kind == "function":
            return self.function(token.text)
        if token.kind == "unit" and token.text == "$":
            return Quantity(self.factor(), "$")
        if token.kind == "begin":
            return self.environment(token.text)
        if token.kind == "command":
            return self.command(token.text)
        if token.kind == "op":
            if token.text in _CLOSERS:
                self.position -= 1
                return self.group()
            if token.text in _BARS:
                self.bars += 1
                node = self.sum()
                self.bars -= 1
                self.expect(token.text)
                return Call(_BARS[token.text], [node])
            if token.text in _FENCES:
                return self.fenced(token.text)
        raise Unreadable("syntax")

    def symbol(self, name: str) -> Node:
        """A letter, or a function where brackets follow."""
        if self.is_applied(name):
            arguments = self.arguments()
            return Call("binom" if name == "C" and len(arguments) == 2 else name, arguments)
        return Sym(name)

    def is_applied(self, name: str) -> bool:
        r"""Whether brackets behind a letter hold its argument: ``f(x+1)``, ``P(0)``, ``P(A \cap B)``, but not ``x(x+1)``."""
        braced = self.peek().text == "{" and self.peek(1).text == "("
        if self.peek().text != "(" and not braced:
            return False
        if name.partition("_")[0] in _FUNCTION_LETTERS:
            return True
        if name in ("e", "i") or braced:
            return False
        if self.peek(2).text == ")":
            return self.peek(1).kind in ("number", "symbol") or self.peek(1).text[1:].isalpha()
        level = 0
        for ahead in range(60):
            token = self.peek(ahead)
            level += (token.text in ("(", "{")) - (token.text in (")", "}"))
            if level == 0 or token is END:
                return False
            if level == 1 and (token.text in _BETWEEN_ARGUMENTS or token.kind == "relation" or token.text in RELATIONS):
                return True
        return False

    def repeating(self, text: str) -> Node:
        r"""``0.1\overline{6}``."""
        self.take()
        self.expect("{")
        digits = self.take()
        self.expect("}")
        if digits.kind != "number" or not digits.text.isdigit() or len(digits.text) > 40 or len(text) > 40:
            raise Unreadable("repeating decimal")
        places = len(text.partition(".")[2])
        period = Fraction(int(digits.text), 10 ** len(digits.text) - 1) / 10**places
        return Num(Fraction(text if not text.endswith(".") else text + "0") + period)

    def fenced(self, opening: str) -> Node:
        """A floor, a ceiling, an absolute value."""
        closing, name = _FENCES[opening]
        bars, self.bars = self.bars, 0
        node = self.listing()
        self.bars = bars
        self.expect(closing)
        return Call(name, [node])

    def command(self, name: str) -> Node:
        """What a command begins."""
        if name in _CLOSERS:
            self.position -= 1
            return self.group()
        if name == "\\frac":
            top = self.argument()
            return times(top, Pow(self.argument(), Num(MINUS_ONE)))
        if name == "\\sqrt":
            if self.peek().text == "[":
                self.take()
                degree = self.sum()
                self.expect("]")
                return Call("root", [self.argument(whole_numbers=True), degree])
            return Call("root", [self.argument(whole_numbers=True), Num(Fraction(2))])
        if name == "\\binom":
            return Call("binom", [self.argument(), self.argument()])
        if name in _FENCES:
            return self.fenced(name)
        if name == "\\langle":
            node = self.listing()
            self.expect("\\rangle")
            return Sequence("(", ")", node.items) if isinstance(node, Sequence) and not node.opening else node
        if name == "\\emptyset":
            return Sequence("{", "}", [])
        if name in _ACCENTS:
            return Call(_ACCENTS[name], [self.argument()])
        if name == "\\mathbb":
            self.expect("{")
            letter = self.take().text
            self.expect("}")
            return Sym("\\mathbb " + letter)
        if name in _BIG:
            return self.big_operator(_BIG[name])
        if name[1:] not in _SYMBOLS:
            raise Unreadable("command")  # as a symbol it would make every right answer wrong
        return Sym(name)

    def function(self, name: str) -> Node:
        """A named function with its exponent and arguments."""
        exponent: Node | None = None
        while self.peek().text in ("^", "_", "'") and self.peek().kind == "op":
            mark = self.take().text
            if mark == "'":
                name += "'"
            elif mark == "_":
                base = self.argument(whole_numbers=True)
                if name == "log":
                    return self.logarithm(base, exponent)
                name += "_" + repr(base)
            elif self.peek().text == "{" and self.peek(1).text == "'":
                self.position += 2
                self.expect("}")
                name += "'"
            else:
                exponent = self.signed_factor() if self.peek().text == "-" else self.argument(whole_numbers=True)
        args = self.function_arguments()
        if isinstance(exponent, Num) and exponent.value == -1 and len(args) == 1 and not name.startswith("arc"):
            # The inverse hyperbolic functions are area functions: arsinh, not arcsinh.
            return Call(("ar" if name.endswith("h") else "arc") + name, args)
        node: Node = Call(name, args)
        return Pow(node, exponent) if exponent is not None else node

    def logarithm(self, base: Node, exponent: Node | None) -> Node:
        """A logarithm to a base."""
        (value,) = self.function_arguments()[:1]
        node = times(Call("log", [value]), Pow(Call("log", [base]), Num(MINUS_ONE)))
        return Pow(node, exponent) if exponent is not None else node

    def function_arguments(self) -> list[Node]:
        r"""Arguments in brackets, or the factors that follow: ``\sin 2x``."""
        if self.peek().text in ("(", "{", "[", "\\{") and self.peek().kind in ("op", "command"):
            arguments = self.arguments()
            if not arguments:
                raise Unreadable("syntax")
            return arguments
        factors = [self.signed_factor()]
        while self.starts_factor(self.peek()) and self.peek().kind in ("number", "symbol", "command"):
            if self.peek().kind == "number" and self.peek(-1).kind == "number":
                raise Unreadable("adjacent numbers")
            factors.append(self.factor())
        return [factors[0] if len(factors) == 1 else Mul(factors)]

    def big_operator(self, name: str) -> Node:
        """A sum, product, integral or limit with its bounds."""
        lower: Node = Text("")
        upper: Node = Text("")
        index: Node = Sym("x")
        while self.peek().text in ("_", "^") and self.peek().kind == "op":
            if self.take().text == "^":
                upper = self.argument(whole_numbers=True)
            elif name == "lim":
                self.expect("{")
                index = self.sum()
                self.expect("\\to")
                lower = self.sum()
                self.expect("}")
            else:
                lower = self.argument(whole_numbers=True) if self.peek().text != "{" else self.group()
                if isinstance(lower, Relation) and len(lower.members) == 2 and name in ("sum", "prod"):
                    index, lower = lower.members
        if name.endswith("int"):
            body, index = self.integrand()
        else:
            body = self.product()
        return Call(name, [body, index, lower, upper])

    def integrand(self) -> tuple[Node, Node]:
        """What stands before ``dx``, and the variable."""
        level = 0
        for end in range(self.position, len(self.tokens) - 1):
            token, following = self.tokens[end], self.tokens[end + 1]
            level += (token.text in ("(", "[", "{", "\\{")) - (token.text in (")", "]", "}", "\\}"))
            if level < 0:
                break
            if level == 0 and token.text == "d" and token.kind == "symbol" and _is_variable(following):
                inner = type(self)(self.tokens[self.position : end], self.own)
                inner.depth = self.depth + 1
                body: Node = inner.sum() if inner.tokens else Num(Fraction(1))
                if inner.peek() is not END:
                    raise Unreadable("syntax")
                self.position = end + 2
                return body, Sym(following.text)
        body = self.sum()
        factors = body.factors if isinstance(body, Mul) else []
        for place, (first, second) in enumerate(itertools.pairwise(factors)):
            if first == Sym("d") and isinstance(second, Sym):  # in a numerator: \frac{3\,dx}{x}
                return Mul([*factors[:place], *factors[place + 2 :]]), second
        return body, Sym("x")

    def environment(self, opening: str) -> Node:
        """A matrix or a system of equations."""
        name = opening[opening.index("{") + 1 : opening.index("}")]
        rows: list[list[Node]] = [[]]
        while True:
            token = self.peek()
            if token is END:
                raise Unreadable("environment")
            if token.kind == "end":
                self.take()
                break
            if token.kind == "newline":
                self.take()
                rows.append([])
            elif token.text == "&":
                self.take()
            elif token.kind == "text" and token.text[6:-1].strip() in ("if", "when", "for"):
                self.take()  # before the condition of a case
            else:
                rows[-1].append(self.listing() if name in _SYSTEMS else self.item())
        rows = [row for row in rows if row]
        if not rows:
            raise Unreadable("environment")
        if name in ("vmatrix", "Vmatrix"):
            return Call("det", [Matrix(rows)])
        if name in _MATRICES:
            return Matrix(rows)
        if name in _SYSTEMS:
            return Matrix(rows, "cases")
        raise Unreadable("environment")


def _is_variable(token: Token) -> bool:
    return token.kind == "symbol" or (token.kind == "command" and token.text[1:].isalpha())
