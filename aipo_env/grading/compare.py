"""Whether two answers are the same, by their structure; each rule has a name that the grade reports.

Lists, tuples, intervals, sets, matrices, equations, inequalities, quantities and words are taken apart
here; what remains is compared as scalars. ``equal=None`` means that our rules cannot tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from aipo_env.grading.intervals import equal_sets
from aipo_env.grading.lexer import Unreadable
from aipo_env.grading.matrices import carry_out
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
from aipo_env.grading.numeric import POINTS, Budget, Evaluator, NoValue, has_variables
from aipo_env.grading.parser import parse
from aipo_env.grading.policy import GradingPolicy
from aipo_env.grading.scalars import Outcome, compare_scalars
from aipo_env.grading.units import canonical_unit
from aipo_env.grading.words import compare_words

__all__ = ["Outcome", "compare"]

MAX_ITEMS = 64
_TRAILING_UNIT = re.compile(r"(.*[\d)}])\s*([A-Za-z][A-Za-z/^\d{} ]{0,20})")
_DECIMAL_COMMA = re.compile(r"-?0,\d+")
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}


def compare(gold_text: str, gold: Node | None, answer_text: str, answer: Node | None, policy: GradingPolicy) -> Outcome:
    """Compare a gold and an answer.

    Args:
        gold_text: the cleaned gold.
        gold: its tree, or None if it could not be parsed.
        answer_text: the cleaned answer.
        answer: its tree, or None.
        policy: the conventions.
    """
    if policy.kind == "integer":
        return _compare_integers(gold, answer)
    words = compare_words(gold_text, gold, answer_text, answer, policy)
    if words is not None:
        return words
    if gold is None or answer is None:
        return Outcome(None, "unreadable")
    outcome = _Comparison(policy).equal(gold, answer)
    if outcome.equal is not True:
        for left, right in _other_readings(gold_text, gold, answer_text, answer):
            other = _Comparison(policy).equal(left, right)
            if other.equal:
                return other
    return outcome


def _compare_integers(gold: Node | None, answer: Node | None) -> Outcome:
    """Exact integers, whatever stands around them: a unit, ``x =``, a fraction that is whole."""
    values: list[Fraction] = []
    for node in (gold, answer):
        if node is None:
            return Outcome(None, "integer.unreadable")
        node = _settle(node, trusted=node is gold)
        assigned = _assignment(node)
        node = assigned[1] if assigned else node
        node = node.value if isinstance(node, Quantity) else node
        if has_variables(node):
            return Outcome(False, "integer.variables")
        try:
            value = Evaluator().value(node)
        except NoValue:
            return Outcome(False, "integer.no_value")
        if not isinstance(value, Fraction):
            return Outcome(False, "integer.inexact")
        values.append(value)
    return Outcome(values[0] == values[1], "integer")


def _other_readings(gold_text: str, gold: Node, answer_text: str, answer: Node) -> list[tuple[Node, Node]]:
    """Readings of a comma other than the usual one: ``0,5`` as a decimal, ``101,202`` as a list."""
    readings: list[tuple[Node, Node]] = []
    for text, other, first in ((gold_text, answer, True), (answer_text, gold, False)):
        reading: Node | None = None
        if _DECIMAL_COMMA.fullmatch(text) and not isinstance(other, Sequence):
            reading = parse(text.replace(",", "."))
        elif "," in text and isinstance(other, Sequence):
            try:
                reading = parse(text, thousands=False)
            except Unreadable:
                continue
        elif isinstance(other, Quantity) and (trailing := _TRAILING_UNIT.fullmatch(text)):
            # "5 m" is five metres where the other side says so, not five times m.
            if canonical_unit(trailing[2]) == canonical_unit(other.unit):
                try:
                    reading = Quantity(parse(trailing[1]), other.unit)
                except Unreadable:
                    continue
        if reading is not None:
            readings.append((reading, answer) if first else (gold, reading))
    return readings


class _Comparison:
    """One comparison under one policy, bounded by a budget of steps."""

    def __init__(self, policy: GradingPolicy) -> None:
        self.policy = policy
        self.budget = Budget()

    def equal(self, gold: Node, answer: Node) -> Outcome:
        try:
            self.budget.spend(10)
        except NoValue:
            return Outcome(None, "too_much_work")
        gold, answer = _settle(gold, trusted=True), _settle(answer, trusted=False)
        if isinstance(gold, Relation) or isinstance(answer, Relation):
            return self.relations(gold, answer)
        expanded_gold, expanded_answer = _expand(gold), _expand(answer)
        if self.policy.inequality_as_interval and _is_sets(gold) != _is_sets(answer):
            gold, answer = _solution_set(gold), _solution_set(answer)
        if isinstance(gold, SetOperation) or isinstance(answer, SetOperation):
            return self.set_operations(gold, answer)
        if isinstance(expanded_gold, Sequence) or isinstance(expanded_answer, Sequence):
            return self.sequences(expanded_gold, expanded_answer)
        if _has_parts(gold) or _has_parts(answer):
            gold, answer = carry_out(gold), carry_out(answer)
        if isinstance(gold, Matrix) or isinstance(answer, Matrix):
            return self.matrices(gold, answer)
        if isinstance(gold, Quantity) or isinstance(answer, Quantity):
            return self.quantities(gold, answer)
        if isinstance(gold, Text) or isinstance(answer, Text):
            return Outcome(False, "text")
        if _unevaluated(answer) and not _unevaluated(gold):
            return Outcome(False, "unevaluated")
        infinities = _infinity(gold), _infinity(answer)
        if infinities != (0, 0):
            return Outcome(infinities[0] == infinities[1], "infinity")
        return compare_scalars(gold, answer, self.policy, self.budget)

    # -- relations
    # --------------------------------------------------------------------------------------------

    def relations(self, gold: Node, answer: Node) -> Outcome:
        optional = self.policy.assignment == "optional"
        left, right = _assignment(gold), _assignment(answer)
        if isinstance(gold, Relation) and isinstance(answer, Relation):
            if left and right:
                if self.equal(left[0], right[0]).equal:
                    return _named("assignment", self.equal(left[1], right[1]))
                if optional and _is_graph(left[0]) and _is_graph(right[0]):
                    return _named("assignment.graph", self.equal(left[1], right[1]))
            return self.two_relations(gold, answer)
        if left and optional and not isinstance(answer, Relation):
            return _named("assignment", self.equal(left[1], answer))
        if right and optional and not isinstance(gold, Relation):
            return _named("assignment", self.equal(gold, right[1]))
        if self.policy.inequality_as_interval:
            as_sets = _membership(gold), _membership(answer)
            if as_sets[0] is not None and as_sets[1] is not None:
                return _named("interval", self.equal(as_sets[0][1], as_sets[1][1]))
        return Outcome(False, "relation.kind")

    def two_relations(self, gold: Relation, answer: Relation) -> Outcome:
        first, second = _membership(gold), _membership(answer)
        if first and second and first[0] is not None and second[0] is not None:
            if not self.equal(first[0], second[0]).equal:
                return Outcome(False, "relation.variable")
            return _named("interval", self.equal(first[1], second[1]))
        if len(gold.operators) == len(answer.operators) == 1:
            return self.scaled(gold, answer)
        if len(gold.operators) != len(answer.operators):
            return Outcome(False, "relation.length")
        for flipped in (False, True):
            members = answer.members[::-1] if flipped else answer.members
            operators = [_FLIPPED.get(op, op) for op in answer.operators[::-1]] if flipped else answer.operators
            if operators == gold.operators:
                outcomes = [self.equal(a, b) for a, b in zip(gold.members, members, strict=True)]
                return _all("relation.chain", outcomes)
        return Outcome(False, "relation.operators")

    def scaled(self, gold: Relation, answer: Relation) -> Outcome:
        """Compare ``left - right`` of both up to a constant factor, positive for an inequality."""
        operator, other = gold.operators[0], answer.operators[0]
        scalars = (Num, Sym, Add, Mul, Pow, Call)
        if not all(isinstance(member, scalars) for member in (*gold.members, *answer.members)):
            if operator != other:
                return Outcome(False, "relation.operators")
            return _all("relation", [self.equal(a, b) for a, b in zip(gold.members, answer.members, strict=True)])
        first, second = _difference(gold), _difference(answer)
        for flip in (False, True):
            if (_FLIPPED.get(other, other) if flip else other) != operator:
                continue
            sign = -1 if flip else 1
            ratio = self.ratio(first, second)
            if ratio is None:
                return Outcome(None, "relation.undecided")
            if not self.policy.scale_equations and abs(ratio - 1) > 1e-9 and abs(ratio + 1) > 1e-9:
                return Outcome(False, "relation")
            if operator in ("=", "!="):
                return Outcome(ratio != 0, "relation.equation")
            if ratio * sign > 0:
                return Outcome(True, "relation.inequality")
        return Outcome(False, "relation")

    def ratio(self, first: Node, second: Node) -> float:
        """Return the constant c with ``first = c * second``, or 0 if there is none."""
        ratio: complex | None = None
        for point in range(POINTS):
            try:
                a = Evaluator(self.budget, point, positive=True).value(first)
                b = Evaluator(self.budget, point, positive=True).value(second)
                quotient = complex(a) / complex(b)
            except (NoValue, ZeroDivisionError, OverflowError):
                return 0.0
            if ratio is not None and abs(quotient - ratio) > 1e-9 * abs(ratio):
                return 0.0
            ratio = quotient
        return ratio.real if ratio is not None and abs(ratio.imag) < 1e-12 else 0.0

    # -- lists, tuples, intervals, sets
    # -----------------------------------------------------------------------

    def sequences(self, gold: Node, answer: Node) -> Outcome:
        if not (isinstance(gold, Sequence) and isinstance(answer, Sequence)):
            return self.sequence_and_other(gold, answer)
        if len(gold.items) > MAX_ITEMS or len(answer.items) > MAX_ITEMS:
            return Outcome(False, "sequence.too_long")
        kinds = gold.opening + gold.closing, answer.opening + answer.closing
        if len(gold.items) != len(answer.items) and all(kind in ("", "{}") for kind in kinds):
            gold, answer = self.distinct(gold), self.distinct(answer)
        if len(gold.items) != len(answer.items):
            flat = _flatten(gold), _flatten(answer)
            if (len(flat[0].items), len(flat[1].items)) == (len(gold.items), len(answer.items)):
                return Outcome(False, "sequence.length")
            return self.sequences(*flat) if len(flat[0].items) == len(flat[1].items) else Outcome(False, "list.length")
        if "" not in kinds and kinds[0] != kinds[1] and self.policy.bracket_kind == "strict":
            return Outcome(False, "sequence.brackets")
        if "{}" in kinds or (
            kinds == ("", "") and self.policy.list_order == "any" and not _one_side_named(gold, answer)
        ):
            return self.unordered(gold.items, answer.items, "set" if "{}" in kinds else "list")
        rule = "list" if kinds == ("", "") else "tuple" if "()" in kinds else "interval"
        return _all(rule, [self.equal(a, b) for a, b in zip(gold.items, answer.items, strict=True)])

    def sequence_and_other(self, gold: Node, answer: Node) -> Outcome:
        sequence, other = (gold, answer) if isinstance(gold, Sequence) else (answer, gold)
        if not isinstance(sequence, Sequence):
            return Outcome(False, "sequence.kind")
        if isinstance(other, Matrix):
            vector = _vector(other)
            if not self.policy.vectors_as_tuples or vector is None or sequence.opening == "{":
                return Outcome(False, "matrix.shape")
            plain = Sequence("", "", sequence.items) if len(sequence.items) == len(vector) else sequence
            bare = Sequence("(", ")", vector)
            return _named("vector", self.sequences(plain, bare) if sequence is gold else self.sequences(bare, plain))
        if len(sequence.items) == 1:
            item = sequence.items[0]
            return _named("set.single", self.equal(item, other) if sequence is gold else self.equal(other, item))
        if sequence.opening == "" and sequence.separator == "or" and not isinstance(gold, Sequence):
            # "15 39/40 or 639/40" is one value in two spellings; two values are a hedge.
            outcomes = [self.equal(gold, item) for item in sequence.items]
            if all(outcome.equal for outcome in outcomes):
                return _named("said_twice", outcomes[0])
        # Sums and multiples of vectors have no value here.
        return Outcome(None if _has_parts(other) else False, "sequence.kind")

    def distinct(self, sequence: Sequence) -> Sequence:
        """Drop repetitions from a set and from a list of points; a repeated number may mean something."""
        points = all(isinstance(item, Sequence) for item in sequence.items)
        if sequence.opening != "{" and not points:
            return sequence
        items: list[Node] = []
        for item in sequence.items:
            if not any(self.equal(kept, item).equal for kept in items):
                items.append(item)
        return Sequence(sequence.opening, sequence.closing, items)

    def unordered(self, gold: list[Node], answer: list[Node], rule: str) -> Outcome:
        left = list(answer)
        undecided = False
        for item in gold:
            for index, candidate in enumerate(left):
                outcome = self.equal(item, candidate)
                if outcome.equal:
                    del left[index]
                    break
                undecided = undecided or outcome.equal is None
            else:
                return Outcome(None if undecided else False, rule)
        return Outcome(True, rule)

    def set_operations(self, gold: Node, answer: Node) -> Outcome:
        if not all(isinstance(node, SetOperation | Sequence | Sym) for node in (gold, answer)):
            return Outcome(False, "set.kind")
        same = equal_sets(gold, answer)
        if same is not None:
            return Outcome(same, "set.members")
        if isinstance(gold, SetOperation) and isinstance(answer, SetOperation) and gold.operator == answer.operator:
            if gold.operator in ("cup", "cap"):
                outcome = self.unordered(gold.operands, answer.operands, "set.operands")
            else:
                pairs = zip(gold.operands, answer.operands, strict=False)
                outcome = _all("set.operands", [self.equal(a, b) for a, b in pairs])
            if outcome.equal and len(gold.operands) == len(answer.operands):
                return outcome
        return Outcome(None, "set.undecided")

    # -- matrices, quantities
    # ---------------------------------------------------------------------------------

    def matrices(self, gold: Node, answer: Node) -> Outcome:
        if isinstance(gold, Matrix) and isinstance(answer, Matrix):
            if [len(row) for row in gold.rows] != [len(row) for row in answer.rows]:
                return Outcome(False, "matrix.shape")
            pairs = [
                self.equal(a, b)
                for rows in zip(gold.rows, answer.rows, strict=True)
                for a, b in zip(*rows, strict=True)
            ]
            return _all(gold.kind, pairs)
        other = answer if isinstance(gold, Matrix) else gold
        return Outcome(None if _has_parts(other) else False, "matrix.kind")

    def quantities(self, gold: Node, answer: Node) -> Outcome:
        if "deg" in (_split_unit(gold)[1], _split_unit(answer)[1]):
            if compare_scalars(gold, answer, self.policy, self.budget).equal:
                return Outcome(True, "unit.degrees")
        left, left_unit = _split_unit(gold)
        right, right_unit = _split_unit(answer)
        if "%" in (left_unit, right_unit) and left_unit != right_unit:
            if left_unit and right_unit:
                return Outcome(False, "unit.differs")
            if self.policy.percent == "either":
                outcome = self.equal(left, right)
                if outcome.equal:
                    return Outcome(True, "percent.sign_dropped")
            return _named("percent.factor", compare_scalars(gold, answer, self.policy, self.budget))
        if left_unit and right_unit and left_unit != right_unit:
            return Outcome(False, "unit.differs")
        if (left_unit != right_unit) and self.policy.units == "required":
            return Outcome(False, "unit.missing")
        rule = "unit" if left_unit == right_unit else "unit.one_side"
        return _named(rule, self.equal(left, right))


# -- helpers that look at one tree
# ----------------------------------------------------------------------------


def _named(rule: str, outcome: Outcome) -> Outcome:
    return Outcome(outcome.equal, f"{rule}/{outcome.rule}")


def _all(rule: str, outcomes: list[Outcome]) -> Outcome:
    for outcome in outcomes:
        if outcome.equal is False:
            return Outcome(False, f"{rule}/{outcome.rule}")
    return Outcome(None if any(o.equal is None for o in outcomes) else True, rule)


def _settle(node: Node, *, trusted: bool) -> Node:
    """Reduce a chain such as ``x = 5 + 6 = 11`` to what it finally says."""
    if not isinstance(node, Relation):
        return node
    members, operators = node.members, node.operators
    if "~" in operators:
        first = operators.index("~")
        if first > 0 or not _is_name(members[0]):
            members, operators = members[: first + 1], operators[:first]  # the exact form counts
        else:
            members, operators = members[:2], ["="]
        if not operators:
            return members[0]
    if all(operator == "=" for operator in operators):
        if _is_name(members[0]):
            return Relation([members[0], members[-1]], ["="])
        if trusted and len(members) > 2:
            return members[-1]
        if len(members) == 2 and _is_name(members[1]) and not has_variables(members[0]):
            return Relation(members[::-1], ["="])  # 5 = x
        constant = not any(has_variables(member) for member in members)
        if constant and all(_same_constant(members[0], member) for member in members[1:]):
            return members[-1]
    return Relation(members, operators)


def _same_constant(first: Node, second: Node) -> bool:
    return compare_scalars(first, second, _EXACT_POLICY).equal is True


_EXACT_POLICY = GradingPolicy(gold_decimal_digits=99, answer_decimal_digits=99)


def _is_name(node: Node) -> bool:
    """Whether a tree names a thing: ``x``, ``f(x)``, ``(p, q)``, ``A : B``, ``f'(x)``."""
    if isinstance(node, Sym):
        return node.name not in ("\\pi", "e", "i", "\\infty")
    if isinstance(node, Call):
        if node.name in ("ratio", "vec", "overline"):
            return all(_is_name(arg) for arg in node.args)
        return node.name.rstrip("'").split("_")[0] in _LETTERS and all(isinstance(arg, Sym | Num) for arg in node.args)
    if isinstance(node, Sequence):
        return bool(node.items) and all(_is_name(item) for item in node.items)
    if isinstance(node, Text):
        return True
    return isinstance(node, Mul) and _is_figure_name(node)


_LETTERS = frozenset("abcdfghjklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _is_figure_name(node: Mul) -> bool:
    r"""Whether a product is the name of a segment, an angle or a figure, such as ``AB`` or ``m\angle
    ABC``.
    """
    names = [factor.name if isinstance(factor, Sym) else "" for factor in node.factors]
    marks = ("\\angle", "\\triangle", "\\square")
    if names[0] == "m" and names[1] == "\\angle":
        names = names[1:]
    return all(name in marks or (len(name) == 1 and name.isupper()) for name in names)


def _is_graph(node: Node) -> bool:
    """Whether a name is that of a function's value: ``y`` or ``f(x)``."""
    return node == Sym("y") or (isinstance(node, Call) and len(node.args) == 1 and isinstance(node.args[0], Sym))


def _assignment(node: Node) -> tuple[Node, Node] | None:
    if isinstance(node, Relation) and node.operators == ["="] and _is_name(node.members[0]):
        return node.members[0], node.members[1]
    return None


def _is_sets(node: Node) -> bool:
    return isinstance(node, SetOperation) or (isinstance(node, Sequence) and node.opening != "")


def _solution_set(node: Node) -> Node:
    """Read inequalities joined by "or" as a union and by "and" as an intersection."""
    if not isinstance(node, Sequence) or node.opening or node.separator not in ("or", "and"):
        return node
    sets = [_membership(item) for item in node.items if isinstance(item, Relation)]
    if len(sets) < len(node.items) or any(found is None or found[0] != (sets[0] or "?")[0] for found in sets):
        return node
    return SetOperation("cup" if node.separator == "or" else "cap", [found[1] for found in sets if found])


def _membership(node: Node) -> tuple[Node | None, Node] | None:
    r"""Read ``x \in S``, ``a < x \le b`` and ``x > a`` as (x, set); a set stands for itself."""
    if isinstance(node, Sequence | SetOperation):
        return None, node
    if not isinstance(node, Relation):
        return None
    members, operators = node.members, node.operators
    if operators == ["!="] and isinstance(members[0], Sym) and not has_variables(members[1]):
        return members[0], SetOperation("setminus", [Sym("\\mathbb R"), Sequence("{", "}", [members[1]])])
    if operators == ["in"]:
        return members[0], members[1]
    if len(operators) == 1 and operators[0] in "<=>=":
        if operators[0] == "=":
            return (members[0], members[1]) if isinstance(members[1], Sequence) and _is_name(members[0]) else None
        if has_variables(members[0]) and not has_variables(members[1]):
            variable, bound, operator = members[0], members[1], operators[0]
        elif has_variables(members[1]) and not has_variables(members[0]):
            variable, bound, operator = members[1], members[0], _FLIPPED[operators[0]]
        else:
            return None
        if not isinstance(variable, Sym):
            return None
        infinity = Sym("\\infty")
        if operator.startswith(">"):
            return variable, Sequence("[" if operator == ">=" else "(", ")", [bound, infinity])
        low = Mul([Num(Fraction(-1)), infinity])
        return variable, Sequence("(", "]" if operator == "<=" else ")", [low, bound])
    if len(operators) == 2 and isinstance(members[1], Sym) and {op[0] for op in operators} in ({"<"}, {">"}):
        low, high = (members[0], members[2]) if operators[0][0] == "<" else (members[2], members[0])
        opening, closing = operators if operators[0][0] == "<" else operators[::-1]
        return members[1], Sequence("[" if "=" in opening else "(", "]" if "=" in closing else ")", [low, high])
    return None


def _difference(relation: Relation) -> Node:
    left, right = relation.members
    return Add([left, Mul([Num(Fraction(-1)), right])])


def _has_plus_minus(node: Node) -> bool:
    return _any_node(node, lambda part: isinstance(part, PlusMinus))


def _with_sign(node: Node, sign: int) -> Node:
    if isinstance(node, PlusMinus):
        return Mul([Num(Fraction(sign * node.sign)), _with_sign(node.operand, sign)])
    if isinstance(node, Add):
        return Add([_with_sign(term, sign) for term in node.terms])
    if isinstance(node, Mul):
        return Mul([_with_sign(factor, sign) for factor in node.factors])
    if isinstance(node, Pow):
        return Pow(_with_sign(node.base, sign), _with_sign(node.exponent, sign))
    if isinstance(node, Call):
        return Call(node.name, [_with_sign(arg, sign) for arg in node.args])
    if isinstance(node, Quantity):
        return Quantity(_with_sign(node.value, sign), node.unit)
    return node


def _expand(node: Node) -> Node:
    r"""Write ``a \pm b`` as the two values it stands for."""
    if isinstance(node, Sequence):
        items: list[Node] = []
        for item in node.items:
            expanded = _expand(item) if not isinstance(item, Sequence) else item
            if isinstance(expanded, Sequence) and not isinstance(item, Sequence):
                items.extend(expanded.items)
            else:
                items.append(expanded)
        return Sequence(node.opening, node.closing, items, node.separator)
    if _has_plus_minus(node):
        return Sequence("", "", [_with_sign(node, 1), _with_sign(node, -1)])
    return node


def _flatten(sequence: Sequence) -> Sequence:
    """Join bare lists within a bare list."""
    items: list[Node] = []
    for item in sequence.items:
        if isinstance(item, Sequence) and item.opening == "":
            items.extend(item.items)
        else:
            items.append(item)
    return Sequence(sequence.opening, sequence.closing, items)


def _one_side_named(gold: Sequence, answer: Sequence) -> bool:
    """Whether one list names each value (``x = 1, y = 2``) and the other does not: then order counts."""
    named = [[_assignment(item) for item in sequence.items] for sequence in (gold, answer)]
    full = [all(side) and len(side) > 1 for side in named]
    if full[0] == full[1] or (any(named[0]) and any(named[1])):
        return False
    names = [str(pair[0]) for pair in named[0 if full[0] else 1] if pair]
    return len(set(names)) > 1


def _vector(matrix: Matrix) -> list[Node] | None:
    if matrix.kind != "matrix":
        return None
    if all(len(row) == 1 for row in matrix.rows):
        return [row[0] for row in matrix.rows]
    return matrix.rows[0] if len(matrix.rows) == 1 else None


def _split_unit(node: Node) -> tuple[Node, str]:
    if isinstance(node, Quantity):
        inner, unit = _split_unit(node.value)
        return inner, canonical_unit(node.unit) or unit
    if isinstance(node, Mul) and len(node.factors) == 2 and node.factors[0] == Num(Fraction(-1)):
        minus, quantity = node.factors
        inner, unit = _split_unit(quantity)
        return Mul([minus, inner]), unit
    return node, ""


def _any_node(node: Node, wanted: Callable[[Node], bool]) -> bool:
    """Whether any part of an expression is wanted."""
    if wanted(node):
        return True
    if isinstance(node, Add):
        return any(_any_node(term, wanted) for term in node.terms)
    if isinstance(node, Mul):
        return any(_any_node(factor, wanted) for factor in node.factors)
    if isinstance(node, Pow):
        return _any_node(node.base, wanted) or _any_node(node.exponent, wanted)
    if isinstance(node, Call):
        return any(_any_node(arg, wanted) for arg in node.args)
    if isinstance(node, PlusMinus):
        return _any_node(node.operand, wanted)
    return isinstance(node, Quantity) and _any_node(node.value, wanted)


def _has_parts(node: Node) -> bool:
    return _any_node(node, lambda part: isinstance(part, Sequence | Matrix))


def _unevaluated(node: Node) -> bool:
    """Whether an integral, a limit or an infinite series is left to do: that restates a question."""
    return _any_node(node, _is_unfinished)


def _is_unfinished(node: Node) -> bool:
    if not isinstance(node, Call):
        return False
    return node.name in ("int", "iint", "oint", "lim") or (
        node.name in ("sum", "prod") and node.args[3] == Sym("\\infty")
    )


def _infinity(node: Node) -> int:
    """Return 1 or -1 for a signed infinity, 0 for anything else."""
    if node == Sym("\\infty"):
        return 1
    if isinstance(node, Mul) and len(node.factors) == 2 and node.factors[1] == Sym("\\infty"):
        factor = node.factors[0]
        return (1 if factor.value > 0 else -1) if isinstance(factor, Num) and factor.value else 0
    return 0
