"""A recursive-descent parser from cleaned LaTeX (or plain ASCII mathematics) to a tree.

It evaluates nothing and calls nothing by name, so no text can make it run code. Depth and length are bounded.
"""

from __future__ import annotations

import re
from fractions import Fraction

from aipo_env.grading.factors import END, NO_FACTOR, Factors
from aipo_env.grading.lexer import RELATIONS, Token, Unreadable, tokenize
from aipo_env.grading.literals import MAX_DIGITS, MINUS_ONE, grouped, is_mixed, joined, mixed_number, read_number, times
from aipo_env.grading.nodes import (
    Add,
    Call,
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
from aipo_env.grading.units import canonical_unit, is_unit
from aipo_env.grading.vocabulary import SCALES, introduces

__all__ = ["Unreadable", "parse"]

MAX_DEPTH = 40

_KINDS = (
    r"(?:(?:is|are|an?|any|all|some|arbitrary|positive|negative|non-?negative|non-?zero|real|whole|natural|odd|even"
    r"|constants?|integers?|numbers?|reals?|parameters?)\b\s*)"
)
_KIND = re.compile(rf"\s*{_KINDS}+")
_RANGE = re.compile(
    rf"[\s,;]*(?:where|for|with|for (?:all|every|any|each|some))\b\s*{_KINDS}*([A-Za-z]?\b)\s*{_KINDS}*"
)
_SET_OPERATORS = {"\\cup": "cup", "\\cap": "cap", "\\setminus": "setminus", "\\triangle": "xor"}


def parse(text: str, *, own: frozenset[str] | None = frozenset()) -> Node:
    """Parse a cleaned answer.

    Args:
        text: the output of `clean`.
        own: words that may be units besides the known ones; None for a gold, whose words are trusted.

    Raises:
        Unreadable: if the text is outside the grammar.
    """
    parser = _Parser(tokenize(text), own)
    node = parser.conditional()
    if parser.peek() is not END:
        raise Unreadable("trailing")
    return node


class _Parser(Factors):
    """The upper half of the grammar: lists, relations, sums, products, quantities."""

    def conditional(self) -> Node:
        r"""A list, with the range of its variables: ``2k, \\text{ where } k \\in \\mathbb{Z}``, ``2^n \\text{ for all } n``."""
        node = self.listing()
        while self.peek().text == "\\forall" or _RANGE.fullmatch(_words(self.peek())):
            words = _RANGE.fullmatch(_words(self.take()))
            conditions: list[Node] = [Sym(name) for name in (words[1] or "").split()] if words else []
            while self.peek() is not END:
                if _KIND.fullmatch(_words(self.peek())) or self.peek().text in (",", "and"):
                    self.take()
                else:
                    conditions.append(self.item())
            if not conditions:
                raise Unreadable("prose")
            node = Call("where", [node, Sequence("", "", conditions)])
        return node

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
            if self.peek() is END or self.peek().text in (")", "]", "}", "\\}"):
                if separator in ("and", "or"):
                    raise Unreadable("syntax")
                break  # a trailing separator
            if _RANGE.fullmatch(_words(self.peek())) or self.peek().text == "\\forall":
                break
            separators.append(separator)
            items.append(self.item())
        self.depth -= 1
        return grouped(items, separators)

    def item(self) -> Node:
        """A chain of relations between expressions, or words."""
        first = self.peek()
        if first.kind == "text":
            words = self.words()
            if self.peek() is END or self.peek().kind in ("op", "end", "newline"):
                return Text(words)
            if not introduces(words):
                raise Unreadable("prose")
            # Words before a formula ("the area is 5") say nothing about its value.
            return self.item()
        if self.position == 0 and first.text in ("~", "=") and first.kind in ("relation", "op"):
            self.take()  # "= 5" goes on from a question
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
            node, right = _as_set(node), _as_set(self.sum())
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
                if token.kind == "number" and self.peek(-1).kind == "number" and not isinstance(node, Pow | Mul):
                    # "2^6 3^5" is a product, "1 1/2" is a mixed number; any other two numbers in a row are not one answer.
                    node = self.mixed(node)
                    continue
                right = self.factor()
                mixed = is_mixed(node, right, self.tokens, self.position)
                node = mixed_number(node, right) if mixed else times(node, right)
            elif self.starts_unit(token):
                return self.compound(self.quantity(node))
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
            return token.text not in _SET_OPERATORS and token.text not in NO_FACTOR
        if token.text in ("|", "\\|") and token.kind == "op":
            # Bars that follow closing bars open again if enough are left: ||x||y||.
            left = sum(following.text == token.text for following in self.tokens[self.position :])
            return self.bars == 0 or (self.peek(-1).text == token.text and left >= self.bars + 2)
        if token.text == "(" and self.peek(1).text == "\\mod":
            return False
        return token.kind == "op" and token.text in ("(", "[", "{", "\\lvert")

    def starts_unit(self, token: Token) -> bool:
        """Whether a unit can start with a token."""
        if token.kind == "text":
            return not _RANGE.fullmatch(_words(token)) and not _KIND.fullmatch(_words(token))
        return token.kind == "unit" or (token.kind == "op" and token.text == "%")

    def compound(self, large: Node) -> Node:
        """A quantity, with what follows it in a smaller unit: ``2 hours 30 minutes``."""
        while self.peek().kind == "number" and self.peek(1).kind in ("text", "unit"):
            start = self.position
            whole = joined(large, self.quantity(read_number(self.take().text)))
            if whole is None:
                self.position = start
                break
            large = whole
        return large

    def quantity(self, node: Node) -> Node:
        """A value followed by a unit."""
        unit: list[str] = []
        while True:
            token = self.peek()
            if token.kind == "text" and self.starts_unit(token):
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
        words = " ".join(part for part in unit if part).split()
        while words and words[0].casefold() in SCALES:
            node = times(node, Num(Fraction(SCALES[words.pop(0).casefold()])))
        if not words and unit:
            return node
        if canonical_unit(" ".join(words)) == "%":
            words = ["%"]
        if not is_unit(" ".join(words), self.own):
            raise Unreadable("prose")
        return Quantity(node, " ".join(words))


def _words(token: Token) -> str:
    return token.text[6:-1] if token.kind == "text" else "-"


def _as_set(node: Node) -> Node:
    """Read ``{1, 2}`` in plain braces beside a set operation as a set."""
    return Sequence("{", "}", node.items) if isinstance(node, Sequence) and not node.opening else node
