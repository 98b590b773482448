"""The conventions under which two answers count as the same, in one explicit object.

Mathematicians disagree on these (is ``10`` the same as ``10%``?), and so do public graders: each is a field here, each
preset states its choice, and `Grade.rule` names the rule that decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from aipo_env.errors import ConfigurationError

Kind = Literal["math", "integer", "choice"]


@dataclass(frozen=True, slots=True)
class GradingPolicy:
    """Conventions of one task family.

    Raises:
        ConfigurationError: if a field has a value that is not offered.
    """

    name: str = "math500"
    """Shown in reports; has no effect on a verdict."""
    kind: Kind = "math"
    """``integer`` rounds nothing and takes no gold with a variable, ``choice`` compares letters only."""
    percent: Literal["either", "strict"] = "either"
    """``either``: a percent sign on one side only may be a unit (10% = 10) or a factor (10% = 0.1).
    ``strict``: a percent sign always means a division by 100. Without a sign, a factor of 100 is an error."""
    units: Literal["optional", "required"] = "optional"
    """``optional``: a unit may be missing on one side. Two units of different things never match, in either
    setting."""
    list_order: Literal["any", "same"] = "any"
    """Order of a bare list such as ``1, 2``. Tuples and intervals are always ordered, sets never."""
    bracket_kind: Literal["strict", "ignore"] = "strict"
    r"""``strict``: ``(1,2)``, ``[1,2]`` and ``\{1,2\}`` are three things. A bare list matches each of
    them."""
    vectors_as_tuples: bool = True
    """A matrix with one row or one column matches a tuple or bracketed list of the same entries."""
    assignment: Literal["optional", "strict"] = "optional"
    """``optional``: ``x = 5`` matches ``5`` and ``f(x) = 2x`` matches ``y = 2x``."""
    clock: bool = True
    """``8:34 p.m.`` matches ``20:34``."""
    letters: str = "ABCD"
    """The letters on offer, for ``kind="choice"``."""
    extraction: Literal["any", "marked"] = "any"
    r"""``marked``: a text without ``\boxed``, ``<answer>``, ``Answer:`` or ``####`` has no answer.
    ``any``: then its last formula or number is taken."""

    def __post_init__(self) -> None:
        for field, hint in get_type_hints(GradingPolicy).items():
            got, offered = getattr(self, field), get_args(hint)
            if get_origin(hint) is Literal and got not in offered:
                raise ConfigurationError(
                    f"GradingPolicy.{field} must be one of {', '.join(map(repr, offered))}; got {got!r}. "
                    f"Choose one of them."
                )
        if not self.letters or not self.letters.isascii() or not self.letters.isalpha():
            raise ConfigurationError(
                f"GradingPolicy.letters must be ASCII letters such as 'ABCD'; got {self.letters!r}. "
                "List each letter once."
            )


MATH500 = GradingPolicy()
"""MATH-500 and other free-form answers: the default."""

INTEGER = GradingPolicy(name="integer", kind="integer")
"""GSM8K and other tasks whose answers are integers: exact comparison."""

GSM8K = INTEGER
"""GSM8K: the same as `INTEGER`."""

AIME = GradingPolicy(name="aime", kind="integer", extraction="marked")
"""AIME: integers, zero-padded or not, from a marked answer."""

CHOICE = GradingPolicy(name="choice", kind="choice")
"""GPQA and other multiple-choice tasks with the letters A to D."""

PRESETS: dict[str, GradingPolicy] = {
    "math500": MATH500,
    "integer": INTEGER,
    "gsm8k": GSM8K,
    "aime": AIME,
    "choice": CHOICE,
}
"""The presets by name."""
