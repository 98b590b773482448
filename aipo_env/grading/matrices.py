"""Sums, multiples, products and transposes of matrices, carried out entry by entry."""

from __future__ import annotations

from fractions import Fraction

from aipo_env.grading.arithmetic import Budget, NoValue
from aipo_env.grading.nodes import Add, Matrix, Mul, Node, Num, Pow, Sequence, Sym, walk
from aipo_env.grading.numeric import Evaluator
from aipo_env.grading.trees import has_variables

MAX_ENTRIES = 100


def carry_out(node: Node, budget: Budget) -> Node:
    """Return the matrix that an expression of matrices comes to, or the expression itself.

    Raises:
        OutOfBudget: if there is too much to multiply, or the entries become too long.
    """
    result = _Matrices(budget).matrix(node)
    return result if result is not None else node


class _Matrices:
    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def matrix(self, node: Node) -> Matrix | None:
        if isinstance(node, Matrix):
            small = sum(map(len, node.rows)) <= MAX_ENTRIES and len({len(row) for row in node.rows}) == 1
            return node if node.kind == "matrix" and small else None
        if isinstance(node, Sequence) and node.opening + node.closing == "()" and len(node.items) <= MAX_ENTRIES:
            return Matrix([[item] for item in node.items])  # a vector
        if isinstance(node, Add):
            return self.sum([self.matrix(term) for term in node.terms])
        if isinstance(node, Mul):
            return self.product(node.factors)
        if isinstance(node, Pow):
            base = self.matrix(node.base)
            if base is None:
                return None
            if node.exponent in (Sym("T"), Sym("\\top"), Sym("\\intercal")):
                return Matrix([list(column) for column in zip(*base.rows, strict=True)])
            if isinstance(node.exponent, Num) and node.exponent.value in range(2, 25):
                return self.product([base] * int(node.exponent.value))
        return None

    def sum(self, terms: list[Matrix | None]) -> Matrix | None:
        matrices = [term for term in terms if term is not None]
        shapes = {(len(matrix.rows), len(matrix.rows[0])) for matrix in matrices}
        if len(matrices) < len(terms) or len(shapes) != 1:
            return None
        rows, columns = shapes.pop()
        return Matrix(
            [[self.entry(Add([m.rows[i][j] for m in matrices])) for j in range(columns)] for i in range(rows)]
        )

    def product(self, factors: list[Node]) -> Matrix | None:
        product: Matrix | None = None
        scalars: list[Node] = []
        for factor in factors:
            matrix = self.matrix(factor)
            if matrix is None:
                scalars.append(factor)
            elif product is None:
                product = matrix
            elif len(product.rows[0]) != len(matrix.rows):
                return None
            else:
                columns = list(zip(*matrix.rows, strict=True))
                product = Matrix([[self.dot(row, column) for column in columns] for row in product.rows])
        if product is None or not scalars:
            return product
        return Matrix([[self.entry(Mul([*scalars, entry])) for entry in row] for row in product.rows])

    def dot(self, row: list[Node], column: tuple[Node, ...]) -> Node:
        return self.entry(Add([Mul([a, b]) for a, b in zip(row, column, strict=True)]))

    def entry(self, node: Node) -> Node:
        """Return an entry, as one number if it is rational; its size is paid for, so no entry can grow for long."""
        try:
            if not has_variables(node):
                value = Evaluator(self.budget).value(node)
                if isinstance(value, Fraction):
                    return Num(value)
        except NoValue:
            pass
        self.budget.spend(sum(1 for _ in walk(node)))
        return node
