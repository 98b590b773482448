"""Sums, multiples, products and transposes of matrices, carried out entry by entry."""

from __future__ import annotations

from aipo_env.grading.nodes import Add, Matrix, Mul, Node, Num, Pow, Sym

MAX_ENTRIES = 100


def carry_out(node: Node) -> Node:
    """Return the matrix that an expression of matrices comes to, or the expression itself."""
    result = _matrix(node)
    return result if result is not None else node


def _matrix(node: Node) -> Matrix | None:
    if isinstance(node, Matrix):
        small = sum(map(len, node.rows)) <= MAX_ENTRIES and len({len(row) for row in node.rows}) == 1
        return node if node.kind == "matrix" and small else None
    if isinstance(node, Add):
        return _sum([_matrix(term) for term in node.terms])
    if isinstance(node, Mul):
        return _product(node.factors)
    if isinstance(node, Pow):
        base = _matrix(node.base)
        if base is None:
            return None
        if node.exponent in (Sym("T"), Sym("\\top"), Sym("\\intercal")):
            return Matrix([list(column) for column in zip(*base.rows, strict=True)])
        if isinstance(node.exponent, Num) and node.exponent.value in (2, 3):
            return _product([base] * int(node.exponent.value))
    return None


def _sum(terms: list[Matrix | None]) -> Matrix | None:
    matrices = [term for term in terms if term is not None]
    shapes = {(len(matrix.rows), len(matrix.rows[0])) for matrix in matrices}
    if len(matrices) < len(terms) or len(shapes) != 1:
        return None
    rows, columns = shapes.pop()
    return Matrix([[Add([m.rows[i][j] for m in matrices]) for j in range(columns)] for i in range(rows)])


def _product(factors: list[Node]) -> Matrix | None:
    product: Matrix | None = None
    scalars: list[Node] = []
    for factor in factors:
        matrix = _matrix(factor)
        if matrix is None:
            scalars.append(factor)
        elif product is None:
            product = matrix
        elif len(product.rows[0]) != len(matrix.rows):
            return None
        else:
            columns = list(zip(*matrix.rows, strict=True))
            product = Matrix(
                [
                    [Add([Mul([a, b]) for a, b in zip(row, column, strict=True)]) for column in columns]
                    for row in product.rows
                ]
            )
    if product is None or not scalars:
        return product
    return Matrix([[Mul([*scalars, entry]) for entry in row] for row in product.rows])
