from __future__ import annotations

from aipo_agents.backends.tokenizing import Tokenizing, stop_position
from algorithms.codec import TransformersCodec
from tests.algorithms.tiny import tokenizer


def test_the_stop_string_that_is_complete_first_counts() -> None:
    assert stop_position("abcdef", ()) is None
    assert stop_position("abcdef", ("x", "fe")) is None
    assert stop_position("abcdef", ("ef", "cd")) == (2, 4)
    # "bcde" begins first, "cd" is complete first: generation ended there.
    assert stop_position("abcdef", ("bcde", "cd")) == (2, 4)
    # Two that end together: the longer one begins the cut.
    assert stop_position("abcdef", ("d", "cd")) == (2, 4)
    assert stop_position("cdcd", ("cd",)) == (0, 2)


def test_decoding_drops_control_tokens_and_keeps_tags_that_are_one_token() -> None:
    ids = [1, *tokenizer().encode('a <consult agent="verify">x</consult>', add_special_tokens=False), 2, 0]
    text = Tokenizing(tokenizer()).decode(ids)
    assert text == 'a <consult agent="verify">x</consult>'
    # Episodes are decoded by the codec: both must agree.
    assert text == TransformersCodec(tokenizer()).decode(ids)
