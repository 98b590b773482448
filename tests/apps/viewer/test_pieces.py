"""Cutting a text into the pieces of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from algorithms.apps.viewer.pieces import TextCutter
from tests.apps.viewer.scripted import WordCodec

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60)


def utf16(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def bytes_of(text: str) -> list[int]:
    return list(text.encode())


def decode_bytes(ids: Sequence[int]) -> str:
    return bytes(ids).decode(errors="replace")


@given(texts)
def test_characters_of_several_tokens_belong_to_their_last_one(text: str) -> None:
    lengths = TextCutter(decode_bytes).lengths(text, bytes_of(text))
    if "\ufffd" in text:  # what broken bytes decode to cannot be told from the character itself
        assert lengths is None or sum(lengths) == utf16(text)
        return
    assert lengths is not None
    assert lengths == [n for c in text for n in [0] * (len(c.encode()) - 1) + [utf16(c)]]


@given(texts)
def test_pieces_of_a_tokenizer_that_drops_a_leading_space(text: str) -> None:
    ids = [ord(c) for c in text.lstrip(" ")]
    decode = lambda ids: "".join(map(chr, ids)).removeprefix(" ")  # noqa: E731
    lengths = TextCutter(decode).lengths(decode(ids), ids)
    assert lengths == [utf16(chr(i)) for i in ids]


@given(texts)
def test_control_tokens_have_no_text(text: str) -> None:
    codec = WordCodec()
    ids = [*codec.encode(text), codec.EOS]
    lengths = TextCutter(codec.decode).lengths(text, ids)
    assert lengths is not None
    assert lengths[-1] == 0
    assert sum(lengths) == utf16(text)


def test_a_text_that_the_ids_do_not_decode_to_is_not_cut() -> None:
    assert TextCutter(decode_bytes).lengths("hello", bytes_of("hullo")) is None
    assert TextCutter(decode_bytes).lengths("hello", []) is None
    assert TextCutter(decode_bytes).lengths("", []) == []


def test_broken_bytes_do_not_take_the_rest_of_the_text() -> None:
    ids = [0xFF] * 40 + bytes_of("end")
    lengths = TextCutter(decode_bytes).lengths(decode_bytes(ids), ids)
    assert lengths is not None
    assert lengths[-3:] == [1, 1, 1]
    assert sum(lengths) == 43
