from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from aipo_env.errors import ConfigurationError
from algorithms.codec import TransformersCodec
from tests.algorithms.tiny import tokenizer

CODEC = TransformersCodec(tokenizer())
TRANSCRIPT = '47@12=<consult agent="knowledge">47@12</consult><feedback agent="knowledge">4+4+1</feedback>\\boxed{09}'
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)


def test_tags_are_single_tokens_only_where_the_episode_writes_them() -> None:
    as_markup, as_text = CODEC.encode_tag(TRANSCRIPT), CODEC.encode(TRANSCRIPT)
    assert len(as_text) == len(TRANSCRIPT)
    assert len(as_markup) == len("47@12=") + 1 + 5 + 1 + 1 + 5 + 1 + 1 + 2 + 1
    assert CODEC.decode(as_markup) == CODEC.decode(as_text) == TRANSCRIPT


@given(PRINTABLE)
def test_decode_undoes_encode(text: str) -> None:
    assert CODEC.decode(CODEC.encode(text)) == text
    assert CODEC.decode(CODEC.encode_tag(text)) == text


@pytest.mark.parametrize("text", ["<eos>", "a<pad>b", "<bos></consult>", "<unk>"])
def test_no_text_makes_a_control_token(text: str) -> None:
    for ids in (CODEC.encode(text), CODEC.encode_tag(text)):
        assert not {0, 1, 2, 3} & set(ids)
        assert CODEC.decode(ids) == text


def test_prompts_start_with_the_start_token_or_the_chat_template() -> None:
    assert CODEC.encode_prompt("ab") == [1, *CODEC.encode("ab")]
    chat = AutoTokenizer.from_pretrained(Path("algorithms/policies/embedded"))
    chat.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    codec = TransformersCodec(chat)
    assert codec.decode(codec.encode_prompt("hi")) == "[user]hi[assistant]"


def test_the_next_turn_follows_the_chat_template() -> None:
    assert CODEC.encode_next_turn("hi") == CODEC.encode("hi")
    chat = AutoTokenizer.from_pretrained(Path("algorithms/policies/embedded"))
    chat.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}<eos>{% endif %}|{% endfor %}[assistant]"
    codec = TransformersCodec(chat)
    assert codec.decode(codec.encode_next_turn("<eos>no")) == "|[user]<eos>no|[assistant]"
    assert codec.encode_next_turn("<eos>no").count(2) == 0


def test_fingerprints_tell_tokenizers_apart(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    again.padding_side = "left"
    again("a", padding="max_length", max_length=4, truncation=True)
    assert TransformersCodec(again).fingerprint == CODEC.fingerprint
    again.add_tokens(["new"])
    assert TransformersCodec(again).fingerprint != CODEC.fingerprint


def test_slow_tokenizers_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="fast tokenizer"):
        TransformersCodec(object())  # type: ignore[arg-type]


def test_closing_tokens() -> None:
    texts = {CODEC.decode([i]) for i in CODEC.tokens_that_may_close_a_tag()}
    assert {">", "</consult>", "</feedback>", '<consult agent="verify">'} <= texts
    assert "a" not in texts
