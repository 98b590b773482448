"""A text space whose membership test costs nothing.

`gymnasium.spaces.Text` checks every character against a character set (milliseconds for a long transcript) and rejects
most of Unicode. A transcript may hold anything, so here membership is the type and the length.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from gymnasium import Space
from gymnasium.vector.utils import create_empty_array
from gymnasium.wrappers.utils import create_zero_array

from aipo_env.errors import ConfigurationError

T = TypeVar("T")

DEFAULT_CORPUS = (
    r"\boxed{42}",
    "<answer>B</answer>",
    '<consult agent="verify">17+25=43</consult>',
    '<consult agent="knowledge">@</consult>',
    "I am not sure yet.",
    "Größe ∑ 数",
    "",
)
PLAIN_CORPUS = tuple(text for text in DEFAULT_CORPUS if "<consult" not in text)
"""Those that may stand inside a structured action."""


class _Words(Space[T]):
    """A space whose members have no array form."""

    def __init__(self, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(shape=(), dtype=None, seed=seed)
        tell_torchrl()

    @property
    def is_np_flattenable(self) -> bool:
        """Never."""
        return False

    def to_jsonable(self, sample_n: Iterable[T]) -> list[Any]:
        """They are JSON already."""
        return list(sample_n)

    def from_jsonable(self, sample_n: list[Any]) -> list[T]:
        """The inverse of `to_jsonable`; chats are lists then."""
        return list(sample_n)


class Messages(_Words[tuple[dict[str, str], ...]]):
    """All chats: messages with `role` and `content`, and further fields, all of them strings."""

    def sample(self, mask: Any = None, probability: Any = None) -> tuple[dict[str, str], ...]:
        """A chat of one message. `mask` and `probability` are accepted, and unused."""
        texts = DEFAULT_CORPUS
        return ({"role": "user", "content": texts[int(self.np_random.integers(len(texts)))]},)

    def contains(self, x: Any) -> bool:
        """Whether `x` is a chat."""
        return isinstance(x, list | tuple) and all(
            isinstance(m, dict) and {"role", "content"} <= m.keys() and all(isinstance(v, str) for v in m.values())
            for m in x
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Messages)


class Unicode(_Words[str]):
    """All strings of at most `max_chars` characters.

    Args:
        max_chars: the longest string that belongs to the space, in characters.
        corpus: what `sample` draws from; the default is a handful of actions, those that fit.
        seed: seeds `sample`.
    """

    def __init__(
        self,
        max_chars: int = 1_000_000,
        corpus: Sequence[str] | None = None,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        if corpus is None:
            corpus = [text for text in DEFAULT_CORPUS if len(text) <= max_chars]
        if max_chars < 0 or not corpus or any(len(text) > max_chars for text in corpus):
            raise ConfigurationError(
                f"a Unicode space needs max_chars >= 0 and a corpus of strings that fit; got max_chars={max_chars} and "
                f"{len(corpus)} strings."
            )
        self.max_chars = max_chars
        self.corpus = tuple(corpus)
        super().__init__(seed)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Draws a string of the corpus. `mask` and `probability` are accepted, as PettingZoo's tests pass them, and unused."""
        return self.corpus[int(self.np_random.integers(len(self.corpus)))]

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string that is short enough."""
        return isinstance(x, str) and len(x) <= self.max_chars

    def __repr__(self) -> str:
        return f"Unicode(max_chars={self.max_chars})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unicode) and (self.max_chars, self.corpus) == (other.max_chars, other.corpus)


# What wrappers of Gymnasium fill up with, such as FrameStackObservation and DelayObservation.


@create_zero_array.register
def _no_text(space: Unicode) -> str:  # type: ignore[misc] # the first argument there is generic
    return ""


@create_zero_array.register
def _no_messages(space: Messages) -> tuple[dict[str, str], ...]:  # type: ignore[misc]
    return ()


@create_empty_array.register(Unicode)
@create_empty_array.register(Messages)
def _nothing(space: Space[Any], n: int | None = 1, fn: object = None) -> Any:
    zero = create_zero_array(space)
    return zero if n is None else (zero,) * n


def tell_torchrl() -> None:
    """Tells torchrl, where it has been imported, that these spaces are no tensors; done whenever one is made.

    Only an environment that was made before torchrl was imported needs the call.
    """
    gym = sys.modules.get("torchrl.envs.libs.gym")
    if gym is None:
        return
    from torchrl.data import NonTensor

    def convert(space: _Words[Any], device: object = None, **_: object) -> object:
        return NonTensor((), device=device, example_data=create_zero_array(space))

    for kind in (Unicode, Messages):
        gym.register_gym_spec_conversion(kind)(convert)
