"""What the dialect of tool calls needs of a model's chat template, and a plain template for episodes that are text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Message = Mapping[str, Any]
"""A message of a chat, as the templates of `transformers` take it."""


class Chat(Protocol):
    """A chat template and, for token-exact episodes, its tokenizer."""

    end_texts: tuple[str, ...]
    """What the policy may end its turn with."""
    markers: tuple[str, ...]
    """The texts that open or close something: control tokens, and other added tokens."""

    def render(self, messages: Sequence[Message], tools: Sequence[Message] = (), *, open_turn: bool = False) -> str:
        """A chat as text; with `open_turn` the policy's turn is opened.

        Raises:
            ConfigurationError: for a chat that the template does not take.
        """
        ...

    def encode_markup(self, text: str) -> list[int]:
        """The template's or the policy's own text to ids: markers are read as such. Empty without a tokenizer."""
        ...

    def encode(self, text: str) -> list[int]:
        """Foreign text to ids: nothing in it is a marker. Empty without a tokenizer."""
        ...

    def spell(self, ids: Sequence[int], spelled: str = "") -> str:
        """Ids to text with all markers; `spelled` is put inside those that were only spelled out in plain tokens."""
        ...

    def foreign(self, text: str) -> str:
        """Foreign text as it may stand in a record: as it is where ids tell markers from text."""
        ...


def functions(tools: Sequence[Message]) -> str:
    """What `PlainChat` says of the functions."""
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return (
        f"# Tools\n\nYou may call functions. Their signatures:\n<tools>\n{listed}\n</tools>\n\nA call is a JSON object between "
        'tags:\n<tool_call>\n{"name": NAME, "arguments": {"query": QUESTION}}\n</tool_call>'
    )


class PlainChat:
    """ChatML with tools in the manner of Hermes, for policies that read and write text."""

    end_texts = ("<|im_end|>",)
    markers = (
        "<|im_start|>", "<|im_end|>", "<think>", "</think>",
        "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
    )  # fmt: skip

    def __init__(self) -> None:
        self._foreign = re.compile("|".join(rf"<(?={re.escape(marker[1:])})" for marker in self.markers))

    def render(self, messages: Sequence[Message], tools: Sequence[Message] = (), *, open_turn: bool = False) -> str:
        """One turn for each message; the functions are a system message in front."""
        turns = []
        if tools:
            turns.append(f"system\n{functions(tools)}")
        for number, message in enumerate(messages):
            said = str(message.get("content") or "")
            if message["role"] == "tool":
                said = f"<tool_response>\n{said}\n</tool_response>"
                if number and messages[number - 1]["role"] == "tool":
                    turns[-1] += f"\n{said}"
                    continue
            for call in (asked["function"] for asked in message.get("tool_calls", ())):
                told = json.dumps({"name": call["name"], "arguments": call["arguments"]}, ensure_ascii=False)
                said += ("\n" if said else "") + f"<tool_call>\n{told}\n</tool_call>"
            if thought := message.get("reasoning_content"):
                said = f"<think>\n{thought}\n</think>\n\n{said}"
            turns.append(f"{'user' if message['role'] == 'tool' else message['role']}\n{said}")
        text = "".join(f"<|im_start|>{turn}<|im_end|>\n" for turn in turns)
        return text + ("<|im_start|>assistant\n" if open_turn else "")

    def encode_markup(self, text: str) -> list[int]:
        """None: there is no tokenizer."""
        return []

    encode = encode_markup

    def spell(self, ids: Sequence[int], spelled: str = "") -> str:
        """Nothing: there are no ids."""
        return ""

    def foreign(self, text: str) -> str:
        """Markers in it are made harmless."""
        return self._foreign.sub("&lt;", text)
