"""Between text and token ids: what token-exact episodes need of a `transformers` tokenizer.

Text that somebody wrote is never read as anything but text: not as a control token, and not as any other token that was
added to the vocabulary, flagged special or not (`<think>`, `<tool_call>`, DeepSeek's `<｜User｜>` are not). It is encoded by
a copy of the tokenizer that knows no added tokens, so that the text stays and such an id cannot come out. In a chat
template a placeholder stands where the text will be; the template's own tokens come from the rendering, and the text, with
the plain characters that touch it there, from that copy. For a text without added tokens these are the ids of the whole
rendering.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aipo_agents.backends.tokenizing import Tokenizing, stop_ids
from aipo_env.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_ENDS = (
    "<|eot_id|>", "<|eom_id|>", "<|observation|>", "<|call|>", "<|return|>", "<end_of_turn>", "<turn|>", "<|tool_response>",
)  # fmt: skip
"""What ends a turn where a chat template names it, besides what it ends turns with: Llama's, GLM's, harmony's, Gemma's."""
_ROLES = ("user", "assistant", "user")
_TEXTS = ("placeholder-of-a-user", "placeholder-of-an-assistant", "placeholder-of-the-next-user")

_Frame = tuple[list[int], str, str, list[int]]
"""What stands around a text in a chat: ids, the plain characters that touch the text, the same behind it, ids."""


class TransformersCodec(Tokenizing):
    """Adapts a fast `transformers` tokenizer; implements `TokenCodec` and `Chat` of `aipo_env.dialects`.

    Args:
        tokenizer: a fast tokenizer (one with a Rust backend).
        stops: ids that end a turn, besides the tokenizer's own and those of the chat template: see `load_stop_ids`.

    Raises:
        ConfigurationError: for a slow tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stops: Iterable[int] = ()) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ConfigurationError(
                f"a fast tokenizer is needed, got {type(tokenizer).__name__}. Load it with "
                "AutoTokenizer.from_pretrained(..., use_fast=True)."
            )
        super().__init__(tokenizer)
        self._template = str(tokenizer.chat_template or "")
        # The rollouts of a group share their prompt.
        self._prompt_ids = functools.lru_cache(maxsize=1024)(self._encode_prompt)
        state = json.loads(backend.to_str())
        # Callers switch padding and truncation; they do not decide how text and ids map.
        del state["padding"], state["truncation"]
        self.fingerprint = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:32]
        contents = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
        # Runs of blanks, which some vocabularies add, open nothing.
        blanks = {i for i, content in contents.items() if not content.strip()}
        self._added_ids -= blanks
        self.reserved_ids = self._added_ids - self._tag_ids
        self._plain = _reader(state, blanks)
        self._tags = _reader(state, blanks | self._tag_ids) if self._tag_ids else self._plain
        named = {i for i, content in contents.items() if content in _ENDS and content in self._template}
        self._contents = {i: content for i, content in contents.items() if i in self._added_ids}
        self.markers = tuple(self._contents.values())
        self._marker = re.compile("|".join(map(re.escape, sorted(self.markers, key=len, reverse=True))) or "(?!)")
        self._num_closing, ends = self._closing() if self._template else (0, set())
        self.eos_ids = frozenset(int(i) for i in {tokenizer.eos_token_id, *stops, *named, *ends} if i is not None)
        self.end_texts = tuple(self._contents[i] for i in sorted(self.eos_ids) if i in self._contents)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.tokenizer, self.eos_ids)

    def encode(self, text: str) -> list[int]:
        """Plain text to ids; added tokens that the text spells out are read as plain characters."""
        return self._spell(self._plain, text, self._added_ids)

    def encode_tag(self, tag: str) -> list[int]:
        """Text of the episode's own markup to ids; tags that are single tokens become so, other added tokens never."""
        return self._spell(self._tags, tag, self.reserved_ids)

    def _spell(self, backend: Any, text: str, avoided: frozenset[int]) -> list[int]:
        found = backend.encode(text, add_special_tokens=False)
        # The unknown token is all that a vocabulary has for some characters.
        wrong = avoided.intersection(found.ids) - {self.tokenizer.unk_token_id}
        # Some vocabularies can put an added token's text together from its parts: those are cut apart, and encoded alone.
        places = zip(found.ids, found.offsets, strict=True) if wrong else ()
        cuts = [start + 1 for i, (start, end) in places if i in wrong and end - start > 1]
        if not cuts:
            return list(found.ids)
        edges = zip([0, *cuts], [*cuts, len(text)], strict=True)
        return [i for start, end in edges for i in self._spell(backend, text[start:end], avoided)]

    def encode_markup(self, text: str) -> list[int]:
        """The template's or the policy's own text to ids: every added token in it is read as such."""
        return [i for i, _, _ in self._tokens(text)] if text else []

    def spell(self, ids: Iterable[int], spelled: str = "") -> str:
        """Ids to text with all added tokens; `spelled` is put into those that plain tokens spell out."""
        pieces = []
        for plain, run in itertools.groupby(ids, lambda i: i not in self._contents):
            if not plain:
                pieces += [self._contents[i] for i in run]
                continue
            text = self.decode(run)
            pieces.append(
                self._marker.sub(lambda match: match[0][:1] + spelled + match[0][1:], text) if spelled else text
            )
        return "".join(pieces)

    def foreign(self, text: str) -> str:
        """The text: ids tell it from markers."""
        return text

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = (), *, open_turn: bool = False
    ) -> str:
        """A chat as text, in the tokenizer's chat template.

        Raises:
            ConfigurationError: for a chat that the template does not take, and where there is no template.
        """
        from jinja2 import TemplateError

        if not self._template:
            raise ConfigurationError(
                "this tokenizer has no chat template. Use an instruction-tuned model's, or dialect='tags'."
            )
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages), tools=list(tools) or None, add_generation_prompt=open_turn, tokenize=False
                )
            )
        except (TemplateError, TypeError, KeyError, AttributeError) as error:
            raise ConfigurationError(
                f"the chat template does not take a chat of {', '.join(str(m['role']) for m in messages)}"
                f"{' with functions' if tools else ''} ({type(error).__name__}: {error}). Use dialect='tags'."
            ) from error

    def encode_prompt(self, prompt: str) -> list[int]:
        """The prompt as the policy expects it: its chat template with the prompt as the user's turn, if it has one."""
        return list(self._prompt_ids(prompt))

    def _encode_prompt(self, prompt: str) -> tuple[int, ...]:
        if not self._template:
            bos = self.tokenizer.bos_token_id
            return (*([] if bos is None else [int(bos)]), *self.encode(prompt))
        return tuple(self._fill(self._first_turn, prompt))

    def encode_next_turn(self, text: str) -> list[int]:
        """`text` as a user's turn behind a finished one, with the policy's next turn opened; plain without a template."""
        return self._fill(self._next_turn, text) if self._template else self.encode(text)

    def _closing(self) -> tuple[int, set[int]]:
        """How many added tokens end a turn of the policy in the chat template, and with which id it ends."""
        with contextlib.suppress(ConfigurationError):
            last, middle = (self._leading(self._render(turns).split(_TEXTS[1])[1]) for turns in (2, 3))
            same = [one == other for (one, _), (other, _) in zip(last, middle, strict=False)]
            # The end of a conversation may follow that of its last turn, or stand in its place (harmony's `<|return|>`).
            count = max([*same, False].index(False), min(1, len(last)))
            # Where nothing ends a turn, the first token of the next turn does (GLM).
            return count, {i for i, _ in last[max(0, count - 1) : count] or middle[:1]}
        return 0, set()

    @functools.cached_property
    def _first_turn(self) -> _Frame:
        return self._frame(self._render(1, opened=True), _TEXTS[0])

    @functools.cached_property
    def _next_turn(self) -> _Frame:
        between = self._render(3, opened=True).split(_TEXTS[1])[1]
        if ended := self._leading(between)[: self._num_closing]:
            # The policy's turn has ended in the record, with whichever of the ends it took.
            between = between[ended[-1][1] :]
        return self._frame(between, _TEXTS[2])

    def _fill(self, frame: _Frame, text: str) -> list[int]:
        before, left, right, after = frame
        # A template that trims what a user says has trimmed the placeholder's tabs.
        text = text if left.endswith("\t") else text.lstrip()
        text = text if right.startswith("\t") else text.rstrip()
        return [*before, *self.encode(left.removesuffix("\t") + text + right.removeprefix("\t")), *after]

    def _render(self, turns: int, *, opened: bool = False) -> str:
        """A conversation of placeholders as text; `opened` for the policy's next turn."""
        said = [text if role == "assistant" else f"\t{text}\t" for role, text in zip(_ROLES, _TEXTS, strict=True)]
        chat = [{"role": role, "content": text} for role, text in zip(_ROLES, said, strict=True)][:turns]
        try:
            rendered = self.render(chat, open_turn=opened)
        except ConfigurationError as error:
            rendered = f"an error ({error})"
        if any(rendered.count(text) != 1 for text in _TEXTS[:turns]):
            raise ConfigurationError(
                f"a chat template must take {', '.join(_ROLES[:turns])} in turn and show what each says once, as it is; this "
                f"tokenizer's makes {rendered[:200]!r} of {chat}. Use the model's own template."
            )
        return rendered

    def _tokens(self, rendered: str) -> list[tuple[int, int, int]]:
        """The ids of a template's own text, and where each stands."""
        found = self.tokenizer(
            rendered, add_special_tokens=False, split_special_tokens=False, return_offsets_mapping=True
        )
        return [(i, *span) for i, span in zip(found["input_ids"], found["offset_mapping"], strict=True)]

    def _leading(self, rendered: str) -> list[tuple[int, int]]:
        """The added tokens that a text begins with, white space aside, and where each ends."""
        found: list[tuple[int, int]] = []
        for i, start, end in self._tokens(rendered):
            if i in self._added_ids and (found[-1][1] == start if found else not rendered[:start].strip()):
                found.append((i, end))
            elif found or rendered[start:end].strip():
                break
        return found

    def _frame(self, rendered: str, text: str) -> _Frame:
        start = rendered.index(text)
        end = start + len(text)
        tokens = [(-1, 0, 0), *self._tokens(rendered), (-1, len(rendered), len(rendered))]
        added = [n for n, (i, _, _) in enumerate(tokens) if i in self._added_ids or i < 0]
        before = max(n for n in added if tokens[n][2] <= start)
        after = min(n for n in added if tokens[n][1] >= end)
        ids = [i for i, _, _ in tokens]
        left, right = rendered[tokens[before][2] : start], rendered[end : tokens[after][1]]
        return ids[1 : before + 1], left, right, ids[after:-1]


def load_stop_ids(source: str | os.PathLike[str], *, local: bool = False) -> frozenset[int]:
    """`stop_ids` of a folder or hub id, of what is `local` alone; none where it has no generation settings."""
    from transformers import GenerationConfig

    try:
        return stop_ids(GenerationConfig.from_pretrained(source, local_files_only=local))
    except (OSError, ValueError):
        return frozenset()


def _reader(state: dict[str, Any], known: Collection[int]) -> Any:
    """The tokenizer of a serialised state that reads these of its added tokens, and takes the others for plain text."""
    from tokenizers import Tokenizer

    tokens = [{**token, "special": token["id"] not in known} for token in state["added_tokens"]]
    reader = Tokenizer.from_str(json.dumps({**state, "padding": None, "truncation": None, "added_tokens": tokens}))
    reader.encode_special_tokens = True
    return reader
