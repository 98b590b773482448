"""Our readers beside those of others: `parse_response` of transformers with TRL's response templates, and `renderers`."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import pytest

from aipo_env.dialects.families import FAMILIES
from aipo_env.dialects.thinking import find_thought
from tests.algorithms.vocabularies import carrier, qwen
from tests.dialects.templates import TOOL

QUERIES = ["is 17+25=43?", 'is "7" <prime>, really?', "one\n\ntwo", "\\frac{1}{2} é 🙂"]
RESPONSES = {
    "hermes": ("qwen3_template", "<|im_start|>assistant\n", "<|im_end|>"),
    "qwen-xml": ("qwen3_5_template", "<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_end|>"),
    "glm": ("glm4moe_template", "<|assistant|>", "<|observation|>"),
    "harmony": ("gptoss_template", "<|start|>assistant", ""),
    "llama-json": ("llama3_template", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    "gemma4": ("gemma4_template", "<|turn>model\n", "<|tool_response>"),
}


def parsed(template: str, prefix: str, text: str) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("trl")
        templates = importlib.import_module("trl.chat_template_utils")
        tokenizer = carrier("", ["<|im_end|>"], "<|im_end|>")
        return dict(tokenizer.parse_response(text, getattr(templates, template), prefix=prefix, tools=[TOOL]))


@pytest.mark.parametrize("family", RESPONSES)
@pytest.mark.parametrize("query", QUERIES)
def test_transformers_reads_what_we_write_as_we_do(family: str, query: str) -> None:
    template, prefix, end = RESPONSES[family]
    text = FAMILIES[family].render([("verify", query)]) + end
    calls = [call["function"] for call in parsed(template, prefix, text)["tool_calls"]]
    assert calls == [{"name": "verify", "arguments": {"query": query}}]
    assert [(call.name, call.query) for call in FAMILIES[family].calls(text)] == [("verify", query)]


@pytest.mark.parametrize("family", ["hermes", "qwen-xml", "glm", "gemma4"])
def test_transformers_reads_two_calls_as_we_do(family: str) -> None:
    template, prefix, end = RESPONSES[family]
    text = FAMILIES[family].render([("verify", "a"), ("reasoning", "b")]) + end
    calls = [call["function"] for call in parsed(template, prefix, text)["tool_calls"]]
    assert [(call["name"], call["arguments"]["query"]) for call in calls] == [("verify", "a"), ("reasoning", "b")]
    assert [(call.name, call.query) for call in FAMILIES[family].calls(text)] == [("verify", "a"), ("reasoning", "b")]


def test_transformers_tells_thoughts_from_content_as_we_do() -> None:
    for text in (
        "<think>\nmaybe \\boxed{7}\n</think>\n\n\\boxed{8}",
        "\\boxed{8}",
        "<think>a</think>b<think>c</think>d",
    ):
        message = parsed("qwen3_template", "<|im_start|>assistant\n", text + "<|im_end|>")
        thought = find_thought(text)
        end = 0 if thought is None else thought.end
        assert ("reasoning_content" in message) == (thought is not None)
        if "c</think>" not in text:  # transformers takes a second block for thoughts, too; models write it as text
            assert message["content"].strip() == text[end:].strip()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('<tool_call>\n{"name": "verify", "arguments": {"query": "a"}}\n</tool_call>', "OK"),
        ("<tool_call>\n{verify}\n</tool_call>", "INVALID_JSON"),
        ('<tool_call>\n{"arguments": {"query": "a"}}\n</tool_call>', "MISSING_NAME"),
        ('<tool_call>\n{"name": "verify", "arguments": {"query": "a"}}', "UNCLOSED_BLOCK"),
    ],
)
def test_renderers_finds_the_same_faults(body: str, status: str) -> None:
    renderers = pytest.importorskip("renderers")
    renderer = renderers.create_renderer(qwen(""), renderers.Qwen3RendererConfig())
    (theirs,) = renderer.parse_response(renderer._tokenizer.encode(body)).tool_calls
    (ours,) = FAMILIES["hermes"].calls(body)
    assert theirs.status.name == status
    assert bool(ours.problem) == (status != "OK")
