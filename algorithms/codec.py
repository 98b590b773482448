"""Between text and token ids: what token-exact episodes need of a `transformers` tokenizer."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aipo_env.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_MARKUP_STARTS = ("<consult", "</consult", "<feedback", "</feedback", "<notice", "</notice", "\\boxed")


class TransformersCodec:
    """Adapts a fast `transformers` tokenizer; implements `aipo_env.episode.TokenCodec`.

    Args:
        tokenizer: a fast tokenizer (one with a Rust backend).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ConfigurationError(
                f"a fast tokenizer is needed, got {type(tokenizer).__name__}. Load it with "
                "AutoTokenizer.from_pretrained(..., use_fast=True)."
            )
        self.tokenizer = tokenizer
        # The rollouts of a group share their prompt.
        self._prompt_ids = functools.lru_cache(maxsize=1024)(self._encode_prompt)
        self.fingerprint = _fingerprint(backend.to_str())
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(
            tokenizer.all_special_ids
        )
        # A tokenizer may hold our tags as single tokens; they are text of the episode, not control tokens.
        markup = {i for i in special if str(tokenizer.convert_ids_to_tokens(i)).startswith(_MARKUP_STARTS)}
        self._control_ids = frozenset(special - markup)
        eos = tokenizer.eos_token_id
        self.eos_ids = frozenset() if eos is None else frozenset({int(eos)})

    def encode(self, text: str) -> list[int]:
        """Plain text to ids; special tokens that the text spells out are read as plain characters."""
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def encode_tag(self, tag: str) -> list[int]:
        """Text of the episode's own markup to ids; tags that are single tokens become so, control tokens never."""
        ids = list(self.tokenizer.encode(tag, add_special_tokens=False, split_special_tokens=False))
        return self.encode(tag) if self._control_ids.intersection(ids) else ids

    def encode_prompt(self, prompt: str) -> list[int]:
        """The prompt as the policy expects it: its chat template with the prompt as the user's turn, if it has one."""
        return list(self._prompt_ids(prompt))

    def _encode_prompt(self, prompt: str) -> tuple[int, ...]:
        if not self.tokenizer.chat_template:
            bos = self.tokenizer.bos_token_id
            return (*([] if bos is None else [int(bos)]), *self.encode(prompt))
        message = [{"role": "user", "content": prompt}]
        ids = self.tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=False)
        return tuple(int(i) for i in ids)

    def encode_next_turn(self, text: str) -> list[int]:
        """`text` as a user's turn behind a finished one, with the policy's next turn opened; plain without a template."""
        before, after = self._turn_markers
        return [*before, *self.encode(text), *after]

    @functools.cached_property
    def _turn_markers(self) -> tuple[list[int], list[int]]:
        """What the chat template puts between an end-of-turn token and the next user's text, and behind that text."""
        if not self.tokenizer.chat_template:
            return [], []
        marks = ("user-text", "assistant-text", "next-user-text")
        roles = ("user", "assistant", "user")
        conversation = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        rendered = self.tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        between = str(rendered).split(marks[1], 1)[1]
        before, after = between.split(marks[2], 1)
        # The policy's own end token is in the record already; what the template puts there is not repeated.
        before = before.removeprefix(str(self.tokenizer.eos_token))
        return tuple(list(self.tokenizer.encode(t, add_special_tokens=False)) for t in (before, after))  # type: ignore[return-value]

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text, without control tokens."""
        kept = [i for i in ids if i not in self._control_ids]
        text = self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text if isinstance(text, str) else "".join(text)

    def tokens_that_may_close_a_tag(self) -> frozenset[int]:
        """The ids whose text contains ">": only behind one of these can a consult be complete."""
        size = len(self.tokenizer)
        return frozenset(i for i in range(size) if ">" in self.decode([i]))


def _fingerprint(serialized: str) -> str:
    """A hash of all that decides how text and ids map: not of padding and truncation, which callers switch."""
    state = json.loads(serialized)
    for key in ("padding", "truncation"):
        state.pop(key, None)
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:32]
