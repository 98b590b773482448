"""What an in-process engine needs of a `transformers` tokenizer: a chat to ids, and sampled ids to text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from aipo_agents.backends.base import ChatSampling, CompletionSampling, Generation, Message
from aipo_agents.thoughts import count_reasoning
from aipo_env.dialects import harmony
from aipo_env.dialects.thinking import HARMONY, THOUGHTS, opened_by
from aipo_env.errors import ConfigurationError
from aipo_env.protocol import FinishReason, Usage

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

_MARKUP_STARTS = ("<consult", "</consult", "<feedback", "</feedback", "<notice", "</notice", "\\boxed")


class Tokenizing:
    """Adapts a tokenizer.

    Args:
        tokenizer: of `transformers`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        special = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        self._added_ids = frozenset({*added, *special})
        # A tokenizer may hold the markup's tags as single tokens; they are text, not control tokens.
        tags = {i for i in self._added_ids if str(tokenizer.convert_ids_to_tokens(i)).startswith(_MARKUP_STARTS)}
        # So are the marks of thoughts: what is thought must be told from what is said.
        marks = {mark for style, pair in THOUGHTS.items() if style != HARMONY for mark in pair}
        contents = {token.content for token in added.values()}
        marks |= set(harmony.MARKERS) if {"<|channel|>", "<|message|>"} <= contents else set()
        kept = tags | {i for i, token in added.items() if token.content in marks}
        self._tag_ids, self._control_ids = frozenset(tags), frozenset(special - kept)

    def chat_ids(self, messages: Sequence[Message], sampling: ChatSampling) -> list[int]:
        """The ids of a chat with the assistant's next message opened, as the options for its template say.

        Raises:
            ConfigurationError: when the tokenizer has no chat template.
        """
        if not self.tokenizer.chat_template:
            raise ConfigurationError(
                f"a chat needs a tokenizer with a chat template; that of {self.tokenizer.name_or_path or 'this model'!r} "
                "has none. Use an instruction-tuned model, or set tokenizer.chat_template."
            )
        chat = [{"role": message.role, "content": message.content} for message in messages]
        effort = {} if sampling.reasoning_effort is None else {"reasoning_effort": sampling.reasoning_effort}
        ids = self.tokenizer.apply_chat_template(
            chat,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **effort,
            **sampling.chat_template_kwargs,
        )
        return [int(i) for i in ids]

    def generation(
        self,
        prompt: Sequence[int],
        ids: tuple[int, ...],
        logprobs: tuple[float, ...] | None,
        sampling: ChatSampling | CompletionSampling,
        finish_reason: FinishReason,
    ) -> Generation:
        """What was sampled behind a prompt; a stop string is no part of a chat's text, and belongs to a completion's."""
        text, chat = self.decode(ids), isinstance(sampling, ChatSampling)
        if (found := stop_position(text, sampling.stop)) is not None:
            text = text[: found[0 if chat else 1]]
        opened = opened_by(self.decode(prompt[-16:])) or "" if chat else ""
        usage = Usage(len(prompt), len(ids), 0.0, count_reasoning(ids, self.decode, opened) if chat else 0)
        shown = (None if chat and not sampling.logprobs else ids), (logprobs if sampling.logprobs else None)
        return Generation(text, *shown, finish_reason, usage, opened=opened)

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text, without control tokens such as end-of-sequence."""
        kept = [i for i in ids if i not in self._control_ids]
        text = self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text if isinstance(text, str) else "".join(text)


def stop_ids(settings: GenerationConfig | None) -> frozenset[int]:
    """The ids with which a model's generation settings end a turn."""
    configured = getattr(settings, "eos_token_id", None)
    return frozenset(int(i) for i in (configured if isinstance(configured, list) else [configured]) if i is not None)


def stop_position(text: str, stop: Sequence[str]) -> tuple[int, int] | None:
    """Where the stop string that is complete first begins and ends; None when there is none."""
    found = [(start, start + len(s)) for s in stop if (start := text.find(s)) >= 0]
    return min(found, key=lambda span: (span[1], span[0])) if found else None
