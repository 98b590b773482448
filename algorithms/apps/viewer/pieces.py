"""Cuts a segment's text into the pieces that its tokens stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_LONGEST_CHARACTER = 16
"""Tokens after which a character that is still incomplete is taken for broken bytes."""


class TextCutter:
    """Finds the piece of each token, for one tokenizer.

    Args:
        decode: ids to text, without control tokens.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._known: dict[int, str] = {}

    def lengths(self, text: str, ids: Sequence[int]) -> list[int] | None:
        """The length of each token's piece, in UTF-16 units as JavaScript counts; their sum is the text's length.

        A character of several tokens belongs to the last of them. None where the text is not what the ids decode to, as in a
        prompt that a chat template stands around.
        """
        for pieces in (self._one_by_one, self._in_context):
            found = pieces(ids)
            if "".join(found) == text:
                return [len(piece) + sum(c > "\uffff" for c in piece) for piece in found]
        return None

    def _one_by_one(self, ids: Sequence[int]) -> list[str]:
        known = self._known
        for token in ids:
            if token not in known:
                known[token] = self._decode([token])
        return [known[token] for token in ids]

    def _in_context(self, ids: Sequence[int]) -> list[str]:
        """What each token adds to the text before it: for characters of several tokens, and spaces that a first one loses."""
        pieces, start, done = [], 0, 0
        for end in range(1, len(ids) + 1):
            before, now = self._decode(ids[start:done]), self._decode(ids[start:end])
            if now.endswith("\ufffd") and end < len(ids) and end - done < _LONGEST_CHARACTER:
                pieces.append("")
                continue
            pieces.append(now.removeprefix(before))
            start, done = done, end
        return pieces
