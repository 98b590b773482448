"""What an in-process engine needs of a `transformers` tokenizer: a chat to ids, and sampled ids to text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from aipo_agents.backends.base import Message
from aipo_env.errors import ConfigurationError

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
        self._tag_ids, self._control_ids = frozenset(tags), frozenset(special - tags)

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a chat with the assistant's next message opened.

        Raises:
            ConfigurationError: when the tokenizer has no chat template.
        """
        if not self.tokenizer.chat_template:
            raise ConfigurationError(
                f"a chat needs a tokenizer with a chat template; that of {self.tokenizer.name_or_path or 'this model'!r} "
                "has none. Use an instruction-tuned model, or set tokenizer.chat_template."
            )
        chat = [{"role": message.role, "content": message.content} for message in messages]
        ids = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
        return [int(i) for i in ids]

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
