"""Next steps for problems in words: what to define, what to compute first."""

from __future__ import annotations

import re
from typing import Final

_RULES: Final[tuple[tuple[str, str], ...]] = (
    (
        r"probability|chance|at random|dice|\b(?:coin|die)s? (?:is|are)|flip|toss",
        "count the equally likely outcomes, then those that are wanted; divide",
    ),
    (
        r"how many ways|arrange|permutation|combination|choose|select|committee|seated",
        "decide whether order counts, then make the choice step by step and multiply the numbers of options",
    ),
    (
        r"remainder|divisible|modulo|\bmod\b|units digit|last digit",
        "work modulo the divisor: reduce each number first, and look for a cycle of the powers",
    ),
    (
        r"prime|factor(?:s|ize|ization)?\b|divisors?\b|\bgcd\b|\blcm\b|greatest common|least common",
        "write each number as a product of prime powers, and compare the exponents",
    ),
    (
        r"percent|%|discount|interest|\btax",
        "write the percentage as a factor (p% more is times 1+p/100) and name the number that it is taken of",
    ),
    (
        r"average|arithmetic mean|the mean\b|median",
        "write the sum as average times count, for each group; medians need the sorted list",
    ),
    (
        r"speed|miles per hour|km/h|\bmph\b|travels?|distance|\btrain",
        "use distance = speed * time for each part; keep the units the same",
    ),
    (
        r"per hour|per day|work(?:s|ers)? together|pipe|fill",
        "write each rate as a share of the work per unit of time, and add rates",
    ),
    (
        r"arithmetic (?:sequence|progression|series)",
        "name the first term a and the difference d: the n-th term is a+(n-1)d",
    ),
    (
        r"geometric (?:sequence|progression|series)",
        "name the first term a and the ratio r: the n-th term is a*r^(n-1)",
    ),
    (r"sequence|series|recur", "write out the first few terms, and look at differences and ratios"),
    (r"right triangle|hypotenuse|pythag", "name the legs a, b and the hypotenuse c, and use a^2+b^2=c^2"),
    (r"similar|parallel", "find similar triangles and write the ratio of matching sides"),
    (
        r"triangle",
        "draw it, mark what is known, and choose between the law of sines, the law of cosines and the area",
    ),
    (
        r"circle|radius|diameter|chord|tangent",
        "mark the centre and the radii to the points of contact; radii are equal, a tangent is perpendicular",
    ),
    (
        r"\barea|perimeter|rectangle|square|polygon",
        "name the unknown lengths and write area and perimeter with them",
    ),
    (
        r"volume|surface|sphere|cylinder|cone|cube",
        "name the radius, the edges and the height, and write the volume formula with them",
    ),
    (
        r"\bsin\b|\bcos\b|\btan\b|trigonometric",
        "bring all angles to one argument with the addition formulas, then use sin^2+cos^2=1",
    ),
    (
        r"\blog(?:s|_|arithm)?\b|logarithm|\bln\b",
        "bring all logarithms to one base and join them: log a + log b = log(ab)",
    ),
    (
        r"derivative|differentiate|maximum|minimum|maximi[sz]e|minimi[sz]e|extrem",
        "name the quantity as a function of one variable, and look where its derivative is 0 and at the ends",
    ),
    (r"integral|integrate", "look for a substitution whose derivative is a factor; else for parts"),
    (r"limit|approaches", "put the value in; for 0/0 factor and cancel, or divide by the highest power"),
    (r"complex|imaginary", "write z=a+bi, and compare real and imaginary parts"),
    (r"vector|matrix|determinant", "write it in coordinates"),
    (r"polynomial|roots?\b|quadratic", "write the relations between roots and coefficients (Vieta)"),
    (r"function|f\(x\)", "put the given values into the definition, from the inside out"),
    (
        r"inequality|at least|at most|greatest|least|smallest|largest",
        "write the condition as an inequality, and try the border case",
    ),
    (r"\bage\b|years old|older|younger", "name the ages today; in n years everybody is n older"),
    (
        r"coins?|cents|dollars?|\$|cost|price|sell|buy|pay",
        "write each amount as number times price in one unit, and add them",
    ),
    (r"prove|show that", "write down what is given and what is wanted as formulas, and try a small case"),
)

_COMPILED: Final = tuple((re.compile(pattern, re.IGNORECASE), step) for pattern, step in _RULES)


def heuristic_step(problem: str) -> str | None:
    """The step of the first rule that fits, a general one for a problem with numbers in it, else None."""
    for pattern, step in _COMPILED:
        if pattern.search(problem):
            return step
    if re.search(r"[0-9]", problem) and re.search(r"[A-Za-z]{3}", problem):
        return "name what is asked x, and write each sentence that has a number as an equation"
    return None
