"""Whether two answers are the same, by their structure; each rule has a name that the grade reports.

Lists, tuples, intervals, sets, matrices, equations, inequalities, quantities and words are taken apart
here; what remains is compared as scalars. ``equal=None`` means that our rules cannot tell.
"""

from __future__ import annotations

import re
from fractions import Fraction

from aipo_env.grading.arithmetic import Budget, NoValue
from aipo_env.grading.figures import figure_name, same_figure
from aipo_env.grading.intervals import equal_sets
from aipo_env.grading.matrices import carry_out
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
    Sequence,
    SetOperation,
    Sym,
    children,
)
from aipo_env.grading.numeric import POINTS, Evaluator
from aipo_env.grading.policy import GradingPolicy
from aipo_env.grading.readings import other_readings
from aipo_env.grading.relations import (
    FLIPPED,
    assignment,
    difference,
    is_graph,
    is_set,
    membership,
    settle,
    solution_set,
)
from aipo_env.grading.scalars import Outcome, compare_scalars
from aipo_env.grading.trees import (
    expand,
    flatten,
    has_parts,
    has_variables,
    is_unevaluated,
    mentions,
    needs_positive,
    split_unit,
    substitute,
    variables,
    vector_entries,
)
from aipo_env.grading.units import unit_size
from aipo_env.grading.words import compare_words

__all__ = ["Outcome", "compare", "compare_trees"]

MAX_ITEMS = 64
# Blanks that separate nothing, and braces around the whole text.
_SPACING = re.compile(r"^\{(?=[^{}]*\}$)|(?<=\w)\}$|(?<![A-Za-z0-9.])\s+|\s+(?![A-Za-z0-9.])")


def compare(
    gold_text: str, gold: Node | None, answer_text: str, answer: Node | None, policy: GradingPolicy, budget: Budget
) -> Outcome:
    """Compare a gold and an answer.

    Args:
        gold_text: the cleaned gold.
        gold: its tree, or None if it could not be parsed.
        answer_text: the cleaned answer.
        answer: its tree, or None.
        policy: the conventions.
        budget: bounds the whole comparison.

    Raises:
        OutOfBudget: if it takes too long.
    """
    words = compare_words(gold_text, gold, answer_text, answer, policy)
    if words is not None:
        return words
    if gold is None and answer is None and _SPACING.sub("", gold_text) == _SPACING.sub("", answer_text):
        return Outcome(True, "identical.spacing")
    if gold is None or answer is None:
        return Outcome(None, "unreadable")
    outcome = compare_trees(gold, answer, policy, budget)
    if outcome.equal is not True:
        for left, right in other_readings(gold_text, gold, answer_text, answer):
            other = compare_trees(left, right, policy, budget)
            if other.equal:
                return other
    return outcome


def compare_trees(gold: Node, answer: Node, policy: GradingPolicy, budget: Budget) -> Outcome:
    """Compare two trees; see `compare`."""
    return _Comparison(policy, budget).equal(gold, answer)


class _Comparison:
    """One comparison under one policy, bounded by a budget of steps."""

    def __init__(self, policy: GradingPolicy, budget: Budget) -> None:
        self.policy, self.budget = policy, budget

    def equal(self, gold: Node, answer: Node) -> Outcome:
        self.budget.spend(10)
        if isinstance(gold, Num) and isinstance(answer, Num):
            return compare_scalars(gold, answer, self.policy, self.budget)
        gold, answer = settle(gold, self.budget, trusted=True), settle(answer, self.budget, trusted=False)
        left, right = _conditions(gold), _conditions(answer)
        if left[1] or right[1]:
            return self.conditional(left, right)
        if isinstance(gold, Relation) or isinstance(answer, Relation):
            return self.relations(gold, answer)
        if isinstance(gold, Add | Mul | Pow) or isinstance(answer, Add | Mul | Pow):
            gold, answer = (carry_out(node, self.budget) if has_parts(node) else node for node in (gold, answer))
        expanded_gold, expanded_answer = expand(gold), expand(answer)
        if is_set(gold) != is_set(answer):
            gold, answer = solution_set(gold), solution_set(answer)
        parts = (gold, answer)
        line = Sym("\\mathbb R") in parts and any(isinstance(part, Sequence) and part.opening for part in parts)
        if line or isinstance(gold, SetOperation) or isinstance(answer, SetOperation):
            return self.set_operations(gold, answer)
        if isinstance(expanded_gold, Sequence) or isinstance(expanded_answer, Sequence):
            return self.sequences(expanded_gold, expanded_answer)
        if isinstance(gold, Matrix) or isinstance(answer, Matrix):
            return self.matrices(gold, answer)
        if isinstance(gold, Quantity) or isinstance(answer, Quantity):
            return self.quantities(gold, answer)
        if is_unevaluated(answer) and not is_unevaluated(gold):
            return Outcome(False, "unevaluated")
        figures = figure_name(gold), figure_name(answer)
        if figures[0] and figures[1] and (figures[0][0] or figures[1][0]):
            return Outcome(same_figure(figures[0], figures[1]), "figure")
        rest = _without_constant(gold), _without_constant(answer)
        if rest[0] is not None and rest[1] is not None:
            return self.antiderivatives(rest[0], rest[1])
        return compare_scalars(gold, answer, self.policy, self.budget)

    def antiderivatives(self, gold: Node, answer: Node) -> Outcome:
        """Compare two functions up to a constant, where both sides add an arbitrary one: ``+ C``."""
        gap = Add([gold, Mul([Num(Fraction(-1)), answer])])
        names = sorted(variables(gap))
        # The gap is a constant if it is the same after all variables have moved.
        moved = substitute(gap, {name: Add([Sym(name), Num(Fraction(1, 3))]) for name in names})
        return _named("constant_of_integration", compare_scalars(gap, moved, self.policy, self.budget))

    def conditional(self, left: tuple[Node, list[Node]], right: tuple[Node, list[Node]]) -> Outcome:
        """Compare what holds for a range of its variables; one side need not say which, if it is a set or all values."""
        outcome = self.equal(left[0], right[0])
        if left[1] and right[1] and outcome.equal:
            return _named("where", self.equal(Sequence("", "", left[1]), Sequence("", "", right[1])))
        plain = all(isinstance(part, Sym) or _is_member(part) for part in left[1] or right[1])
        return _named("where", outcome) if plain else Outcome(False, "where.restricted")

    # -- relations
    # --------------------------------------------------------------------------------------------

    def relations(self, gold: Node, answer: Node) -> Outcome:
        optional = self.policy.assignment == "optional"
        left, right = assignment(gold), assignment(answer)
        if isinstance(gold, Relation) and isinstance(answer, Relation):
            if left and right:
                if self.equal(left[0], right[0]).equal:
                    return _named("assignment", self.equal(left[1], right[1]))
                if optional and is_graph(left[0]) and is_graph(right[0]):
                    return _named("assignment.graph", self.equal(left[1], right[1]))
            return self.two_relations(gold, answer)
        if left and optional and not isinstance(answer, Relation):
            return _named("assignment", self.equal(left[1], answer))
        if right and optional and not isinstance(gold, Relation):
            return _named("assignment", self.equal(gold, right[1]))
        as_sets = membership(solution_set(gold)), membership(solution_set(answer))
        if as_sets[0] is not None and as_sets[1] is not None:
            return _named("interval", self.equal(as_sets[0][1], as_sets[1][1]))
        return Outcome(False, "relation.kind")

    def two_relations(self, gold: Relation, answer: Relation) -> Outcome:
        first, second = membership(gold), membership(answer)
        if first and second and first[0] is not None and second[0] is not None:
            if not self.equal(first[0], second[0]).equal:
                return Outcome(False, "relation.variable")
            return _named("interval", self.equal(first[1], second[1]))
        if len(gold.operators) == len(answer.operators) == 1:
            return self.scaled(gold, answer)
        if gold.operators != answer.operators:
            return Outcome(False, "relation.operators")
        return _all("relation.chain", [self.equal(a, b) for a, b in zip(gold.members, answer.members, strict=True)])

    def scaled(self, gold: Relation, answer: Relation) -> Outcome:
        """Compare ``left - right`` of both up to a constant factor, positive for an inequality."""
        operator, other = gold.operators[0], answer.operators[0]
        scalars = (Num, Sym, Add, Mul, Pow, Call)
        if not all(isinstance(member, scalars) for member in (*gold.members, *answer.members)):
            if operator != other:
                return Outcome(False, "relation.operators")
            return _all("relation", [self.equal(a, b) for a, b in zip(gold.members, answer.members, strict=True)])
        ratio = self.ratio(difference(gold), difference(answer))
        if operator == other and operator in ("=", "!="):
            return Outcome(ratio != 0, "relation.equation")
        # Turned round, an inequality holds for the negated difference.
        same = (operator == other and ratio > 0) or (operator == FLIPPED.get(other) and ratio < 0)
        return Outcome(same, "relation.inequality")

    def ratio(self, first: Node, second: Node) -> float:
        """Return the constant c with ``first = c * second``, or 0 if there is none."""
        ratio: complex | None = None
        positive = needs_positive(first) or needs_positive(second)
        for point in range(POINTS):
            try:
                a = Evaluator(self.budget, point, positive=positive).value(first)
                b = Evaluator(self.budget, point, positive=positive).value(second)
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
            flat = flatten(gold), flatten(answer)
            if (len(flat[0].items), len(flat[1].items)) == (len(gold.items), len(answer.items)):
                return Outcome(False, "sequence.length")
            return self.sequences(*flat) if len(flat[0].items) == len(flat[1].items) else Outcome(False, "list.length")
        if "" not in kinds and kinds[0] != kinds[1] and self.policy.bracket_kind == "strict":
            return Outcome(False, "sequence.brackets")
        if _alternatives_for_a_tuple(gold, answer) or _alternatives_for_a_tuple(answer, gold):
            return Outcome(False, "sequence.kind")
        if {gold.separator, answer.separator} == {"and", "or"} and _has_inequality(gold):
            return Outcome(False, "relation.connective")
        any_order = kinds == ("", "") and self.policy.list_order == "any" and _names(gold) == _names(answer)
        if "{}" in kinds or any_order:
            return self.unordered(gold.items, answer.items, "set" if "{}" in kinds else "list")
        rule = "list" if kinds == ("", "") else "tuple" if "()" in kinds else "interval"
        return _all(rule, [self.equal(a, b) for a, b in zip(gold.items, answer.items, strict=True)])

    def sequence_and_other(self, gold: Node, answer: Node) -> Outcome:
        sequence, other = (gold, answer) if isinstance(gold, Sequence) else (answer, gold)
        if not isinstance(sequence, Sequence):
            return Outcome(False, "sequence.kind")
        if isinstance(other, Matrix):
            table = _as_matrix(sequence)
            if table is not None and self.policy.vectors_as_tuples:
                return self.matrices(table, other) if sequence is gold else self.matrices(other, table)
            vector = vector_entries(other)
            tuple_like = sequence.opening + sequence.closing in ("", "()", "[]")
            if not self.policy.vectors_as_tuples or vector is None or not tuple_like:
                return Outcome(False, "matrix.shape")
            plain = (
                Sequence("", "", sequence.items, sequence.separator) if len(sequence.items) == len(vector) else sequence
            )
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
        return Outcome(None if has_parts(other) else False, "sequence.kind")

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
        same = equal_sets(gold, answer, self.budget)
        if same is not None:
            return Outcome(same, "set.members")
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
        matrix, other = (gold, answer) if isinstance(gold, Matrix) else (answer, gold)
        assert isinstance(matrix, Matrix)
        return Outcome(None if has_parts(other) else False, "matrix.kind")

    def quantities(self, gold: Node, answer: Node) -> Outcome:
        left, left_unit = split_unit(gold)
        right, right_unit = split_unit(answer)
        degrees = "deg" in (left_unit, right_unit)
        if degrees and compare_scalars(gold, answer, self.policy, self.budget).equal:
            return Outcome(True, "unit.degrees")
        if "%" in (left_unit, right_unit) and left_unit != right_unit:
            if left_unit and right_unit:
                return Outcome(False, "unit.differs")
            if self.policy.percent == "either":
                outcome = self.equal(left, right)
                if outcome.equal:
                    return Outcome(True, "percent.sign_dropped")
            return _named("percent.factor", compare_scalars(gold, answer, self.policy, self.budget))
        if left_unit and right_unit and left_unit != right_unit:
            return self.converted((left, left_unit), (right, right_unit))
        if left_unit != right_unit and (self.policy.units == "required" or _is_compound(gold) or _is_compound(answer)):
            return Outcome(False, "unit.missing")
        rule = "unit" if left_unit == right_unit else "unit.one_side"
        return _named(rule, self.equal(left, right))

    def converted(self, gold: tuple[Node, str], answer: tuple[Node, str]) -> Outcome:
        """Compare two quantities in different units of the same thing."""
        sizes = unit_size(gold[1]), unit_size(answer[1])
        if sizes[0] is None or sizes[1] is None or sizes[0][1] != sizes[1][1]:
            return Outcome(False, "unit.differs")
        scaled = [Mul([Num(size[0]), value]) for size, (value, _) in zip(sizes, (gold, answer), strict=True) if size]
        return _named("unit.converted", compare_scalars(scaled[0], scaled[1], self.policy, self.budget))


# -- helpers that look at one tree
# ----------------------------------------------------------------------------


def _named(rule: str, outcome: Outcome) -> Outcome:
    return Outcome(outcome.equal, f"{rule}/{outcome.rule}")


def _all(rule: str, outcomes: list[Outcome]) -> Outcome:
    for outcome in outcomes:
        if outcome.equal is False:
            return Outcome(False, f"{rule}/{outcome.rule}")
    return Outcome(None if any(o.equal is None for o in outcomes) else True, rule)


def _without_constant(node: Node) -> Node | None:
    """Return a sum without its term C, c, K or k; None if it has no such term, or uses the letter elsewhere too."""
    if not isinstance(node, Add):
        return None
    constants = [term for term in node.terms if isinstance(term, Sym) and term.name in ("C", "c", "K", "k")]
    rest = [term for term in node.terms if term not in constants]
    if len(constants) != 1 or not rest or any(mentions(term, constants[0]) for term in rest):
        return None
    return Add(rest) if any(map(has_variables, rest)) else None


def _is_member(node: Node) -> bool:
    return isinstance(node, Relation) and node.operators == ["in"]


def _is_range(node: Node) -> bool:
    return isinstance(node, Relation) and _is_member(node) and node.members[1] in _WHOLE


_WHOLE: list[Node] = [Sym("\\mathbb Z"), Sym("\\mathbb N")]


def _conditions(node: Node) -> tuple[Node, list[Node]]:
    r"""Return what holds and for which values: behind "where", or ``k \in \mathbb{Z}`` behind a comma."""
    if isinstance(node, Sequence) and not node.opening and len(node.items) > 1 and _is_range(node.items[-1]):
        rest = node.items[:-1]
        if any(mentions(item, children(node.items[-1])[0]) for item in rest):
            return rest[0] if len(rest) == 1 else Sequence("", "", rest, node.separator), [node.items[-1]]
    if not (isinstance(node, Call) and node.name == "where"):
        return node, []
    inner, outer = _conditions(node.args[0])
    return inner, [*outer, *children(node.args[1])]


def _alternatives_for_a_tuple(bare: Sequence, other: Sequence) -> bool:
    """Whether alternative values face a tuple, or a bare list an interval that is half open."""
    if bare.opening or not other.opening or other.opening == "{":
        return False
    named = [assignment(item) for item in bare.items]
    if len(named) > 1 and all(pair is not None and named[0] is not None and pair[0] == named[0][0] for pair in named):
        return True  # x = 1, x = 2
    return bare.separator in ("and", "or") or other.opening + other.closing not in ("()", "[]")


def _names(sequence: Sequence) -> int:
    """How many different names the values of a list have: facing bare values, ``x = 1, y = 2`` has an order."""
    named = [assignment(item) for item in sequence.items]
    names = len({repr(pair[0]) for pair in named if pair})
    return names if all(named) and names > 1 else 0


def _has_inequality(sequence: Sequence) -> bool:
    """Whether an item of a list is a relation other than an equation: then "and" and "or" differ."""
    return any(isinstance(item, Relation) and item.operators != ["="] for item in sequence.items)


def _as_matrix(sequence: Sequence) -> Matrix | None:
    """Read ``[[1, 2], [3, 4]]`` as a matrix."""
    rows = [item.items for item in sequence.items if isinstance(item, Sequence) and item.opening == "["]
    nested = sequence.opening == "[" and len(rows) == len(sequence.items) > 1
    return Matrix(rows) if nested and min(map(len, rows)) > 1 else None


def _is_compound(node: Node) -> bool:
    """Whether a quantity was written in two units."""
    return isinstance(node, Quantity) and node.compound
