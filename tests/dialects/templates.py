"""Chat templates of real models, from the wheel of TRL, which carries them as files; TRL itself is not imported."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

TOOL = {
    "type": "function",
    "function": {
        "name": "verify",
        "description": "Checks a claim.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "The claim."}},
            "required": ["query"],
        },
    },
}


def template(name: str) -> str:
    """The text of a template; the test is skipped where TRL is not installed."""
    spec = importlib.util.find_spec("trl")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the chat templates come with the package trl, which is not installed")
    return (Path(next(iter(spec.submodule_search_locations))) / "chat_templates" / f"{name}.jinja").read_text("utf-8")


def all_templates() -> list[str]:
    """The names of all of them; none where TRL is not installed."""
    spec = importlib.util.find_spec("trl")
    folders = [] if spec is None else spec.submodule_search_locations or []
    return sorted(path.stem for folder in folders for path in Path(folder).glob("chat_templates/*.jinja"))


def render(chat_template: str, calls: Sequence[tuple[str, str]], *, prompt: bool = False) -> str:
    """What a template makes of a turn that calls functions, and of their replies."""
    for as_text in (False, True):
        made = [
            {
                "type": "function",
                "id": f"abcdefgh{number}",
                "function": {
                    "name": name,
                    "arguments": json.dumps({"query": query}, ensure_ascii=False) if as_text else {"query": query},
                },
            }
            for number, (name, query) in enumerate(calls)
        ]
        messages = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "", "tool_calls": made},
            *({"role": "tool", "content": "REPLY", "tool_call_id": call["id"], "name": "verify"} for call in made),
        ]
        try:
            rendered, _ = render_jinja_template(
                [messages],
                tools=[TOOL],
                chat_template=chat_template,
                add_generation_prompt=prompt,
                bos_token="",
                eos_token="",
            )
        except TypeError:
            continue  # arguments as an object; some take them as JSON only
        return str(rendered[0])
    raise AssertionError("neither form of the arguments was taken")
