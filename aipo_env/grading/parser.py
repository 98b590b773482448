"""A recursive-descent parser from cleaned LaTeX (or plain ASCII mathematics) to a tree.

It evaluates nothing and calls nothing by name, so no text can make it run code. Depth and length are bounded.
"""

from __future__ import annotations

from fractions import Fraction

from aipo_env.grading.lexer import RELATIONS, Token, Unreadable, tokenize
from aipo_env.grading.literals import MAX_DIGITS, MINUS_ONE, grouped, is_mixed, mixed_number, read_number, times
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
    Sequence,
    SetOperation,
    Sym,
    Text,
)

__all__ = ["Unreadable", "parse"]

MAX_DEPTH = 40

_MATRICES = frozenset(["matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array"])
_SYSTEMS = frozenset(["cases", "aligned", "align", "align*", "gathered", "split", "dcases", "rcases"])
_CLOSERS = {"(": (")", "]"), "[": (")", "]"), "\\{": ("\\}",), "{": ("}",)}
_SET_OPERATORS = {"\\cup": "cup", "\\cap": "cap", "\\setminus": "setminus", "\\triangle": "xor"}
_FUNCTION_LETTERS = frozenset("fghFGH")
_BIG = {"\\int": "int", "\\iint": "iint", "\\oint": "oint", "\\sum": "sum", "\\prod": "prod", "\\lim": "lim"}
_ACCENTS = {
    "\\overline": "overline",
    "\\vec": "vec",
    "\\hat": "hat",
    "\\tilde": "tilde",
    "\\overrightarrow": "vec",
}
_FENCES = {"\\lfloor": ("\\rfloor", "floor"), "\\lceil": ("\\rceil", "ceil"), "\\lvert": ("\\rvert", "abs")}
_END = Token("end of text", "")


def parse(text: str, *, thousands: bool = True) -> Node:
    """Parse a cleaned answer.

    Args:
        text: the output of `clean`.
        thousands: read ``1,234`` outside brackets as one number.

    Raises:
        Unreadable: if the text is outside the grammar.
    """
    parser = _Parser(tokenize(text, thousands=thousands))
    node = parser.listing()
    if parser.peek() is not _END:
        raise Unreadable("trailing")
    return node


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.bars = 0

    def peek(self, ahead: int = 0) -> Token:
        index = self.position + ahead
        return self.tokens[index] if index < len(self.tokens) else _END

    def take(self) -> Token:
        token = self.peek()
        self.position += 1
        return token

    def accept(self, text: str) -> bool:
        token = self.peek()
        if token.text == text and token.kind != "text":
            self.position += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise Unreadable("syntax")

    # -- lists
    # ------------------------------------------------------------------------------------------------

    def listing(self) -> Node:
        """Items separated by commas, semicolons, "and" or "or"."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nesting", final=True)
        items, separators = [self.item()], list[str]()
        while self.peek().text in (",", ";", "and", "or") and self.peek().kind == "op":
            separator = self.take().text
            if self.peek().text in ("and", "or") and self.peek().kind == "op":
                self.take()
            if self.peek() is _END or self.peek().text in (")", "]", "}", "\\}"):
                break  # a trailing separator
            separators.append(separator)
            items.append(self.item())
        self.depth -= 1
        return grouped(items, separators)

    def item(self) -> Node:
        """A chain of relations between expressions, or words."""
        first = self.peek()
        if first.kind == "text":
            words = self.words()
            if self.peek() is _END or self.peek().kind == "op":
                return Text(words)
            # Words before a formula ("the area is 5") say nothing about its value.
            return self.item()
        members = [self.set_expression()]
        operators: list[str] = []
        while True:
            token = self.peek()
            if token.kind == "relation":
                operators.append(self.take().text)
            elif token.kind == "op" and token.text in RELATIONS:
                operators.append(RELATIONS[self.take().text])
            else:
                break
            members.append(self.set_expression())
        if self.peek().text == "\\pmod" or (self.peek().text == "(" and self.peek(1).text == "\\mod"):
            members[-1] = self.congruence(members[-1])
        return Relation(members, operators) if operators else members[0]

    def congruence(self, value: Node) -> Node:
        r"""``a \pmod n``."""
        if self.accept("("):
            self.expect("\\mod")
            modulus = self.sum()
            self.expect(")")
        else:
            self.take()
            modulus = self.argument()
        return Call("congruent", [value, modulus])

    def words(self) -> str:
        words = []
        while self.peek().kind == "text":
            words.append(self.take().text[6:-1])
        return " ".join(words)

    # -- expressions
    # ------------------------------------------------------------------------------------------

    def set_expression(self) -> Node:
        node = self.sum()
        while True:
            token = self.peek()
            if token.text in _SET_OPERATORS:
                operator = _SET_OPERATORS[self.take().text]
            elif token.text == "U" and isinstance(node, Sequence | SetOperation) and self.peek(1).text in ("(", "["):
                self.take()
                operator = "cup"
            else:
                break
            right = self.sum()
            if isinstance(node, SetOperation) and node.operator == operator and operator in ("cup", "cap"):
                node.operands.append(right)
            else:
                node = SetOperation(operator, [node, right])
        if self.peek().kind == "op" and self.peek().text == ":":
            self.take()
            parts = [node, self.sum()]
            while self.peek().kind == "op" and self.accept(":"):
                parts.append(self.sum())
            return Call("ratio", parts)
        return node

    def sum(self) -> Node:
        terms: list[Node] = []
        while True:
            sign, plus_minus = 1, 0
            signs = 0
            while True:
                token = self.peek()
                if token.text == "-" and token.kind == "op":
                    sign = -sign
                elif token.text in ("\\pm", "\\mp"):
                    plus_minus = 1 if token.text == "\\pm" else -1
                elif not (token.text == "+" and token.kind == "op"):
                    break
                self.take()
                signs += 1
            if signs > 8:
                raise Unreadable("signs", final=True)
            if terms and not signs:
                break
            term = self.product(negative=sign < 0)
            terms.append(PlusMinus(term, plus_minus) if plus_minus else term)
            if self.peek().text not in ("+", "-", "\\pm", "\\mp") or self.peek().kind == "text":
                break
        return terms[0] if len(terms) == 1 else Add(terms)

    def product(self, *, negative: bool = False) -> Node:
        node = self.factor()
        if negative:
            node = (
                Num(-node.value, node.decimals, node.digits) if isinstance(node, Num) else Mul([Num(MINUS_ONE), node])
            )
        while True:
            token = self.peek()
            if token.kind == "op" and token.text in ("*", "/", "\\mod"):
                self.take()
                right = self.signed_factor()
                if token.text == "*":
                    node = times(node, right)
                elif token.text == "/":
                    node = times(node, Pow(right, Num(MINUS_ONE)))
                else:
                    node = Call("mod", [node, right])
            elif self.starts_factor(token):
                if token.kind == "number" and self.peek(-1).kind == "number":
                    # "1 1/2" is a mixed number; any other two numbers in a row are not one answer.
                    node = self.mixed(node)
                    continue
                right = self.factor()
                mixed = is_mixed(node, right, self.tokens, self.position)
                node = mixed_number(node, right) if mixed else times(node, right)
            elif token.kind in ("text", "unit") or (token.kind == "op" and token.text == "%"):
                return self.quantity(node)
            else:
                return node

    def mixed(self, whole: Node) -> Node:
        number = self.take()
        if self.peek().text == "/" and self.peek(1).kind == "number" and isinstance(whole, Num) and whole.decimals < 0:
            self.take()
            bottom = read_number(self.take().text).value
            if bottom and number.text.isdigit():
                return mixed_number(whole, Num(Fraction(int(number.text[:MAX_DIGITS])) / bottom))
        raise Unreadable("adjacent numbers")

    def signed_factor(self) -> Node:
        sign = 1
        while self.peek().kind == "op" and self.peek().text in ("+", "-"):
            sign = -sign if self.take().text == "-" else sign
        factor = self.factor()
        return factor if sign > 0 else times(Num(MINUS_ONE), factor)

    def starts_factor(self, token: Token) -> bool:
        if token.kind in ("number", "symbol", "function", "begin"):
            return True
        if token.kind == "command":
            return token.text not in _SET_OPERATORS and token.text not in (
                "\\pm", "\\mp", "\\rfloor", "\\rceil", "\\rangle", "\\}", "\\to", "\\pmod", "\\choose", "\\circ",
            )  # fmt: skip
        if token.text == "|" and token.kind == "op":
            return self.bars == 0
        if token.text == "(" and self.peek(1).text == "\\mod":
            return False
        return token.kind == "op" and token.text in ("(", "[", "{", "\\lvert", "\\|")

    def quantity(self, node: Node) -> Node:
        """A value followed by a unit."""
        unit: list[str] = []
        while True:
            token = self.peek()
            if token.kind == "text":
                unit.append(self.take().text[6:-1].strip())
            elif token.kind == "unit" or (token.kind == "op" and token.text == "%"):
                unit.append(self.take().text)
            elif token.text == "^" and unit and self.peek(1).kind == "number":
                self.take()
                unit.append("^" + self.take().text)
            elif token.text == "^" and unit and self.peek(1).text == "{" and self.peek(2).kind == "number":
                unit.append("^" + self.peek(2).text)
                self.position += 3
                self.expect("}")
            elif token.text == "/" and unit and self.peek(1).kind in ("text", "unit", "symbol"):
                self.take()
                following = self.take()
                unit.append("/" + (following.text[6:-1] if following.kind == "text" else following.text))
            else:
                break
        return Quantity(node, " ".join(part for part in unit if part))

    # -- factors
    # ----------------------------------------------------------------------------------------------

    def factor(self) -> Node:
        node = self.atom()
        while True:
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

    def power(self, base: Node) -> Node:
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
            exponent = self.power(exponent)
        return Pow(base, exponent)

    def primed(self, node: Node) -> Node:
        name = ""
        while self.accept("'"):
            name += "'"
        if isinstance(node, Sym):
            node = Sym(node.name + name)
            if self.peek().text == "_":
                self.take()
                node = self.subscripted(node)
            if self.peek().text == "(" or (self.peek().text == "{" and self.peek(1).text == "("):
                return Call(node.name if isinstance(node, Sym) else "?", self.arguments())
            return node
        return Call("derivative" + name, [node])

    def subscripted(self, node: Node) -> Node:
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
                if token is _END:
                    raise Unreadable("syntax")
                if level == 0:
                    break
        else:
            self.take()
        label = "".join(t.text for t in self.tokens[start : self.position] if t.text not in ("{", "}"))
        name, primes = node.name.rstrip("'"), node.name[len(node.name.rstrip("'")) :]
        result = Sym(f"{name}_{label}{primes}")
        if self.peek().text == "'":
            return self.primed(result)
        if name in _FUNCTION_LETTERS and self.peek().text == "(":
            return Call(result.name, self.arguments())
        return result

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
        opening = self.take().text
        if self.peek().text in _CLOSERS[opening]:
            closing = self.take().text
            if opening == "\\{":
                return Sequence("{", "}", [])
            raise Unreadable("empty group")
        bars, self.bars = self.bars, 0
        given = opening == "\\{" and self.peek().kind == "symbol" and self.peek(1).text in (":", "\\mid", "|")
        if given:
            self.position += 2  # a set given by a condition on its members
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

    def arguments(self) -> list[Node]:
        """Arguments of a function, in brackets of any kind."""
        if self.peek().text == "{" and self.peek(1).text == "(":
            self.take()
            node = self.group()
            self.expect("}")
        else:
            node = self.group()
        if isinstance(node, Sequence):
            return node.items
        return [node]

    def atom(self) -> Node:
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
            if token.text == "|":
                self.bars += 1
                node = self.sum()
                self.bars -= 1
                self.expect("|")
                return Call("abs", [node])
            if token.text == "\\|":
                node = self.sum()
                self.expect("\\|")
                return Call("norm", [node])
            if token.text in _FENCES:
                return self.fenced(token.text)
        raise Unreadable("syntax")

    def symbol(self, name: str) -> Node:
        if self.peek().text == "(":
            # f(...) is a function; so is any letter in "P(x) = ...".
            defines = self.peek(1).kind == "symbol" and self.peek(2).text == ")" and self.peek(3).text == "="
            if name in _FUNCTION_LETTERS or defines:
                return Call(name, self.arguments())
        if name in _FUNCTION_LETTERS and self.peek().text == "{" and self.peek(1).text == "(":
            return Call(name, self.arguments())
        return Sym(name)

    def repeating(self, text: str) -> Node:
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
        closing, name = _FENCES[opening]
        bars, self.bars = self.bars, 0
        node = self.listing()
        self.bars = bars
        self.expect(closing)
        return Call(name, [node])

    def command(self, name: str) -> Node:
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
        if name in (
            "\\rfloor",
            "\\rceil",
            "\\rangle",
            "\\}",
            "\\to",
            "\\circ",
            "\\pm",
            "\\mp",
            "\\end",
            "\\choose",
        ):
            raise Unreadable("syntax")
        return Sym(name)

    def function(self, name: str) -> Node:
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
        if self.peek().text == "^":
            self.take()
            exponent = self.argument(whole_numbers=True)
        (value,) = self.function_arguments()[:1]
        node = times(Call("log", [value]), Pow(Call("log", [base]), Num(MINUS_ONE)))
        return Pow(node, exponent) if exponent is not None else node

    def function_arguments(self) -> list[Node]:
        if self.peek().text in ("(", "{", "[", "\\{") and self.peek().kind in ("op", "command"):
            return self.arguments()
        if self.peek().kind == "function":
            return [self.factor()]
        factors = [self.signed_factor()]
        while self.starts_factor(self.peek()) and self.peek().kind in ("number", "symbol", "command"):
            if self.peek().kind == "number" and self.peek(-1).kind == "number":
                raise Unreadable("adjacent numbers")
            factors.append(self.factor())
        return [factors[0] if len(factors) == 1 else Mul(factors)]

    def big_operator(self, name: str) -> Node:
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
        level = 0
        for end in range(self.position, len(self.tokens) - 1):
            token, following = self.tokens[end], self.tokens[end + 1]
            level += (token.text in ("(", "[", "{", "\\{")) - (token.text in (")", "]", "}", "\\}"))
            if level < 0:
                break
            if level == 0 and token.text == "d" and token.kind == "symbol" and _is_variable(following):
                inner = _Parser(self.tokens[self.position : end])
                inner.depth = self.depth + 1
                body: Node = inner.sum() if inner.tokens else Num(Fraction(1))
                if inner.peek() is not _END:
                    raise Unreadable("syntax")
                self.position = end + 2
                return body, Sym(following.text)
        body = self.sum()
        if isinstance(body, Mul) and len(body.factors) > 2 and body.factors[-2] == Sym("d"):
            last = body.factors[-1]
            return Mul(body.factors[:-2]), last
        return body, Sym("x")

    def environment(self, opening: str) -> Node:
        name = opening[opening.index("{") + 1 : opening.index("}")]
        rows: list[list[Node]] = [[]]
        while True:
            token = self.peek()
            if token is _END:
                raise Unreadable("environment")
            if token.kind == "end":
                self.take()
                break
            if token.kind == "newline":
                self.take()
                rows.append([])
            elif token.text == "&":
                self.take()
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
