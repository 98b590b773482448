"""The study of trained helpers and of a reply's credit at toy size: its tables, and that it goes on."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'train' is not installed")

from aipo_agents.verdicts import leading_verdict
from aipo_agents.verify import VerifyAgent
from aipo_env.consulting import run_sync
from aipo_env.errors import ConfigurationError, UnknownIdError
from aipo_env.protocol import ConsultRequest
from algorithms.multi_agent import TrainedHelper
from algorithms.policies import load_policy
from benchmarks.roles.__main__ import PARTS, main
from benchmarks.roles.credit import JUNK, Junk, make_sequence
from benchmarks.roles.forms import ANSWER, EXPLAIN, Choosing
from benchmarks.roles.knowledge import expand, right_share, start_helper
from benchmarks.roles.setting import Settings
from benchmarks.roles.verdicts import claim

TOY: dict[str, Any] = {
    "steps": 1,
    "policy_steps": 1,
    "credit_steps": 1,
    "choice_steps": 1,
    "tuning_steps": 2,
    "warmup_steps": 1,
    "copying_steps": 1,
    "start_steps": 1,
}


def test_it_runs_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(out=tmp_path, seeds=(1,), problems=2, **TOY)
    assert main(dataclasses.replace(settings, only=("knowledge",))) == 0
    before = (tmp_path / "knowledge-team-1" / "measured.json").read_bytes()
    assert list(json.loads((tmp_path / "roles.json").read_text())["measured"]) == ["knowledge"]
    assert main(settings) == 0
    assert (tmp_path / "knowledge-team-1" / "measured.json").read_bytes() == before
    runs = [f"{part}, {arm}, seed 1" for part, (arms, _, _) in PARTS.items() for arm in arms]
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == [*runs[:3], *runs]
    found = json.loads((tmp_path / "roles.json").read_text())["measured"]
    assert {part: list(rows) for part, rows in found.items()} == {
        part: [f"{arm}, seed 1" for arm in arms] for part, (arms, _, _) in PARTS.items()
    }
    page = (tmp_path / "roles.md").read_text()
    assert len(re.findall("^## ", page, re.MULTILINE)) == len(PARTS)
    for arms, _, _ in PARTS.values():
        assert all(f"\n| {arm} | " in page for arm in arms)
    branch, trajectory = (found["credit"][f"{arm}, seed 1"] for arm in ("branch", "trajectory"))
    assert trajectory["rollouts"] >= branch["rollouts"] > trajectory["rollouts"] - 64
    with pytest.raises(ConfigurationError, match="steps was 1 and is 2"):
        main(dataclasses.replace(settings, steps=2))
    with pytest.raises(UnknownIdError, match="verdict"):
        main(dataclasses.replace(settings, only=("verdict",)))


def test_the_start_helper_knows_the_rule_in_part() -> None:
    assert expand("473@128", "@") == "4+4+1;7+7+2;3+3+8"
    helper = TrainedHelper("knowledge", start_helper(Settings(right_share=1.0, tuning_steps=40), 0))
    assert right_share(helper, 32) > 0.5


def test_claims_are_right_or_wrong_as_wanted_and_held_out_ones_are_others() -> None:
    rng, verify = np.random.default_rng(0), VerifyAgent()
    operands: dict[bool, set[str]] = {}
    for number in range(200):
        right, held_out = number % 2 == 0, number % 4 < 2
        query = claim(rng, right=right, held_out=held_out)
        said = leading_verdict(run_sync(verify.respond(ConsultRequest(query))).text)
        assert said == ("correct" if right else "incorrect"), query
        operands.setdefault(held_out, set()).add(query.split("=")[0])
    assert not operands[True] & operands[False]


def test_a_chosen_form_is_right_in_both() -> None:
    helper = Choosing("knowledge", load_policy("embedded"))
    generation = run_sync(helper.sample(ConsultRequest("473@128", seed=1)))
    said = {}
    for choice in (EXPLAIN, ANSWER, "C"):
        ids = tuple(helper.policy.codec.encode(choice))
        said[choice] = helper.as_reply(dataclasses.replace(generation, token_ids=ids, logprobs=None))
    assert (said[EXPLAIN].text, said[ANSWER].text) == ("4+4+1;7+7+2;3+3+8", "091614")
    assert said["C"].error is not None


def test_a_start_policys_sequences_bear_loss_on_what_it_says_itself() -> None:
    codec, rng = load_policy("embedded").codec, np.random.default_rng(0)
    rows = [make_sequence(rng, codec) for _ in range(60)]
    texts = [codec.decode(ids) for ids, _ in rows]
    assert {t.count("could not answer") for t in texts} == {0, 1}
    for ids, loss in rows:
        learnt = codec.decode([i for i, bears in zip(ids, loss, strict=True) if bears])
        assert re.fullmatch(rf'(<consult agent="(knowledge|{JUNK})">[^<]*</consult>){{2}}\\boxed{{\d{{4}}}}', learnt), (
            learnt
        )
    first, second = (run_sync(Junk().respond(ConsultRequest("q", seed=seed))).text for seed in (1, 2))
    assert re.fullmatch(r"\d{6}", first)
    assert first != second
