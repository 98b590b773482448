from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo_env.dialects.thinking import THOUGHTS, find_thought, hide_thought, opened_by
from tests.dialects import templates
from tests.dialects.test_families import CASES

ROWS = [json.loads(line) for line in (CASES / "thinking.jsonl").read_text("utf-8").splitlines()]
MARKERS = sorted({marker for pair in THOUGHTS.values() for marker in pair})


@pytest.mark.parametrize("row", ROWS, ids=[row["case"] for row in ROWS])
def test_what_is_thought(row: dict[str, Any]) -> None:
    text, options = row["text"], {key: row[key] for key in ("styles", "until") if key in row}
    thought = find_thought(text, row.get("opened", False), **options)
    if row["drafted"] is None:
        assert thought is None
        assert hide_thought(text, thought) == text
        return
    assert thought is not None
    assert (text[thought.start : thought.end], thought.closed) == (row["drafted"], row["closed"])
    hidden = hide_thought(text, thought)
    assert len(hidden) == len(text)
    # gpt-oss may think on behind a message of another kind.
    rest = text[thought.end :].partition("<|channel|>analysis")[0]
    assert hidden[thought.end :].startswith(rest)
    assert len(rest) == len(text) - thought.end or not hidden.endswith(text[-1])
    assert not hidden[: thought.end].strip()
    assert hidden.count("\n") == text.count("\n")


def test_true_means_think() -> None:
    thought = find_thought("a</think>b", True)
    assert thought is not None
    assert (thought.end, thought.closed, thought.style) == (9, True, "think")


@given(
    st.lists(
        st.sampled_from([*MARKERS, "<|start|>assistant", "<|channel|>final<|message|>", "a", "\n", "<"]), max_size=20
    ).map("".join)
)
def test_no_text_breaks_it(text: str) -> None:
    for opened in (False, *THOUGHTS):
        thought = find_thought(text, opened)
        assert not opened or opened == "harmony" or thought is not None
        if thought is not None:
            assert 0 <= thought.start <= thought.end <= len(text)
            assert thought.closed or opened == "harmony" or thought.style == "harmony" or thought.end == len(text)
        assert len(hide_thought(text, thought)) == len(text)


def test_hostile_turns_take_linear_time() -> None:
    start = time.process_time()
    for piece in [*MARKERS, "<|start|>", "<|channel|>", " to=x", " "]:
        text = piece * (200_000 // len(piece))
        for opened in (False, *THOUGHTS):
            hide_thought(text, find_thought(text, opened, until=["<tool_call>"]))
    assert time.process_time() - start < 60


@pytest.mark.parametrize(
    ("name", "style"),
    [
        ("qwen3_5_think", "think"), ("qwen3_6", "think"), ("nemotron_3_super", "think"), ("deepseek_r1_distill", "think"),
        ("deepseekv3", "think"), ("qwen3_5_nothink", None), ("qwen3", None), ("qwen2_5", None), ("glm4moe", None), ("gptoss", None),
    ],
)  # fmt: skip
def test_what_a_template_s_prompt_opens(name: str, style: str | None) -> None:
    rendered, _ = templates.render_jinja_template(
        [[{"role": "user", "content": "what does <think> do?"}]], chat_template=templates.template(name), add_generation_prompt=True,
        bos_token="", eos_token="",
    )  # fmt: skip
    assert opened_by(rendered[0]) == style


def test_prompts_that_open_and_close_a_thought_open_none() -> None:
    assert opened_by("<|im_start|>assistant\n<think>\n\n</think>\n\n") is None
    assert opened_by("<|start|>assistant<|channel|>analysis<|message|>") == "harmony"
    assert opened_by("[/INST][THINK]") == "mistral"
