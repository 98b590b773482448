from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aipo_env.dialects.families import FAMILIES, SPELLED, UNFINISHED, find_family
from aipo_env.errors import ConfigurationError
from tests.dialects import templates

CASES = Path(__file__).parent / "cases"
ROWS = [
    (path.stem, json.loads(line))
    for path in sorted(CASES.glob("*.jsonl"))
    if path.stem not in ("thinking", "turns")
    for line in path.read_text("utf-8").splitlines()
]
IN_JSON = {"hermes", "mistral-v3", "mistral-v11", "mistral-v13", "harmony", "deepseek-v3", "deepseek-v31", "llama-json"}
"""Families whose syntax can say every text."""
DELIMITERS = {
    "qwen-xml": ("<tool_call>", "</tool_call>", "</parameter>"),
    "glm": ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    "gemma4": ("<|tool_call>", "<tool_call|>", '<|"|>'),
    "functiongemma": ("<start_function_call>", "<end_function_call>", "<escape>"),
    "lfm": ("<|tool_call_start|>", "<|tool_call_end|>"),
    "pythonic": (),
}
PIECES = [
    *(marker for family in FAMILIES.values() for marker in family.markers),
    "<function=verify>", "<parameter=query>", "\n```json\n", "```", "call:verify{", "query:", "to=functions.verify", '{"name": "verify"',
    "'", '"', "\\", "\n", "\r", "{", "}", "[", "]", "(", ")", ",", " ", "<", "|", SPELLED, "é", "x", "\\frac", "</function>",
]  # fmt: skip
QUERIES = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))


@pytest.mark.parametrize(("family", "row"), ROWS, ids=[f"{family}: {row['case']}" for family, row in ROWS])
def test_what_a_turn_holds(family: str, row: dict[str, Any]) -> None:
    calls = FAMILIES[family].calls(row["text"])
    assert [(call.name, call.query) for call in calls] == [(name, query) for name, query, _ in row["calls"]]
    for call, (_, _, problem) in zip(calls, row["calls"], strict=True):
        assert problem in call.problem
        assert bool(problem) == bool(call.problem)
    positions = [position for call in calls for position in (call.start, call.end)]
    assert positions == sorted(positions)


def test_there_are_enough_rows() -> None:
    assert len(ROWS) >= 80


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=150)
@given(query=QUERIES)
@example(query="\0")
@example(query="</tool_call>")
@example(query="\\[TOOL_CALLS]")
def test_what_is_written_is_read_again(name: str, query: str) -> None:
    family = FAMILIES[name]
    try:
        text = family.render([("verify", query)])
    except ConfigurationError:
        sayable = name in IN_JSON or not any(part in query for part in (*DELIMITERS[name], SPELLED))
        assert not query.strip() or not sayable
        return
    (call,) = family.calls(text)
    assert (call.name, call.query, call.start, call.end, call.problem) == ("verify", query, 0, len(text), "")


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=30)
@given(
    queries=st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=4),
    before=st.sampled_from(["", "Let me ask. "]),
)
def test_several_calls_are_read_one_by_one(name: str, queries: list[str], before: str) -> None:
    family = FAMILIES[name]
    calls = [(f"helper_{number}", query) for number, query in enumerate(queries)]
    if family.max_calls == 1:
        with pytest.raises(ConfigurationError, match="1 to 1"):
            family.render(calls)
        return
    try:
        text = family.render(calls)
    except ConfigurationError:
        assert name not in IN_JSON
        return
    before = before if family.markers else ""
    read = family.calls(before + text)
    assert [(call.name, call.query) for call in read] == calls
    assert (read[0].start, read[-1].end) == (len(before), len(before + text))


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=100)
@given(text=st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_no_text_breaks_a_reader(name: str, text: str) -> None:
    for call in FAMILIES[name].calls(text):
        assert 0 <= call.start < call.end <= len(text)
        assert bool(call.problem) != bool(call.query)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_call_that_is_cut_anywhere_is_no_call(name: str) -> None:
    family = FAMILIES[name]
    text = family.render([("verify", "is it so?")])
    for end in range(len(text)):
        usable = [call for call in family.calls(text[:end]) if not call.problem]
        # What closes a list or all calls of a turn may be missing.
        assert not usable or text[end:] == "<｜tool▁calls▁end｜>"[-len(text[end:]) :]
    opener = (family.markers or (text[:8],))[0]
    if name in ("hermes", "glm", "qwen-xml", "lfm", "gemma4", "functiongemma"):
        assert family.calls(text[: len(opener) + 3])[0].problem == UNFINISHED


@pytest.mark.parametrize("name", FAMILIES)
def test_hostile_turns_take_linear_time(name: str) -> None:
    family = FAMILIES[name]
    opener = (*family.markers, '{"name":', "[a(")[0]
    start = time.process_time()
    for piece in (*family.markers[:2], "{", "[", '"', "\\", "<parameter=x>", "a="):
        size = 200_000
        family.calls(opener + piece * (size // len(piece)))
        family.calls((opener + piece) * (size // len(opener + piece)))
    # Quadratic, one such text alone takes longer than this.
    assert time.process_time() - start < 30


@pytest.mark.parametrize("name", FAMILIES)
def test_a_blank_query_or_a_name_that_is_none_is_refused(name: str) -> None:
    for call in (("verify", " \n"), ("ver ify", "q"), ("", "q")):
        with pytest.raises(ConfigurationError, match="cannot say"):
            FAMILIES[name].render([call])


WRITES = {
    "hermes": ["qwen2_5", "qwen2_5_training", "qwen3", "qwen3_training", "qwen3_instruct_2507", "qwen3_vl"],
    "qwen-xml": ["qwen3_5_think", "qwen3_5_nothink", "qwen3_6", "qwen3_8", "nemotron_3_nano", "nemotron_3_super", "nemotron_3_5_lightning"],
    "glm": ["glm4moe", "glm4moe_training"],
    "harmony": ["gptoss", "gptoss_training"],
    "deepseek-v3": ["deepseekv3", "deepseekv3_training"],
    "gemma4": ["gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5", "diffusion_gemma"],
    "lfm": ["lfm2_v2", "lfm2_2_5", "lfm2_2_5_v2", "lfm2_2_5_vl"],
    "llama-json": ["llama3_1", "llama3_2"],
}  # fmt: skip


@pytest.mark.parametrize(("family", "name"), [(family, name) for family, names in WRITES.items() for name in names])
def test_a_template_s_family_is_found_and_writes_as_the_template_does(family: str, name: str) -> None:
    rendered = templates.render(templates.template(name), [("verify", "q7")])
    found = find_family(rendered, "verify", "q7")
    assert found is not None
    assert found.name == family
    assert found.render([("verify", "q7")]) in rendered


@pytest.mark.parametrize("query", ["is \"7\" <prime> & 'odd'?\n\\frac{1}{2}", "é 🙂  two  spaces"])
@pytest.mark.parametrize(("family", "name"), [(family, names[0]) for family, names in WRITES.items()])
def test_what_a_template_writes_is_read(family: str, name: str, query: str) -> None:
    rendered = templates.render(templates.template(name), [("verify", query)])
    start = rendered.rfind("\n{") + 1 if family == "llama-json" else 0
    read = [call for call in FAMILIES[family].calls(rendered[start:]) if not call.problem]
    assert [(call.name, call.query) for call in read] == [("verify", query)]


@pytest.mark.parametrize("name", ["qwen3", "qwen3_6", "glm4moe", "gemma4_v5", "lfm2_2_5_v2", "deepseekv3"])
def test_two_calls_as_a_template_writes_them(name: str) -> None:
    rendered = templates.render(templates.template(name), [("verify", "q7"), ("verify", "q8")])
    family = find_family(rendered, "verify", "q7")
    assert family is not None
    assert [call.query for call in family.calls(rendered) if not call.problem] == ["q7", "q8"]
    assert family.render([("verify", "q7"), ("verify", "q8")]) in rendered


def test_templates_that_drop_calls_have_no_family() -> None:
    for name in ("phi3", "llama3", "deepseek_r1_distill", "cohere2"):
        assert find_family(templates.render(templates.template(name), [("verify", "q7")]), "verify", "q7") is None


def test_every_template_that_shows_a_call_is_known() -> None:
    unknown = []
    for name in all_names():
        try:
            rendered = templates.render(templates.template(name), [("verify", "q7")])
        except Exception:  # roles that have to alternate, messages of images
            continue
        if "q7" in rendered and find_family(rendered, "verify", "q7") is None:
            unknown.append(name)
    assert unknown == ["muse_glimmer", "muse_glimmer_training"]


def all_names() -> list[str]:
    names = templates.all_templates()
    if not names:
        pytest.skip("the chat templates come with the package trl, which is not installed")
    return names


def test_mistral_s_versions_are_told_apart() -> None:
    arguments = '{"query": "q7"}'
    for name, rendered in {
        "mistral-v3": f'[INST] hi[/INST][TOOL_CALLS] [{{"name": "verify", "arguments": {arguments}, "id": "abcdefghi"}}]</s>',
        "mistral-v11": f"[INST]hi[/INST][TOOL_CALLS]verify[CALL_ID]abcdefghi[ARGS]{arguments}</s>",
        "mistral-v13": f"[INST]hi[/INST][TOOL_CALLS]verify[ARGS]{arguments}</s>",
    }.items():
        found = find_family(rendered, "verify", "q7")
        assert found is not None
        assert found.name == name


def test_deepseek_s_versions_are_told_apart() -> None:
    for name in ("deepseek-v3", "deepseek-v31"):
        rendered = "<｜User｜>hi<｜Assistant｜>" + FAMILIES[name].render([("verify", "q7")]) + "<｜end▁of▁sentence｜>"
        found = find_family(rendered, "verify", "q7")
        assert found is not None
        assert found.name == name
