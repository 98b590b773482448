"""Alone with the helpers' places: the policy asks, and writes the reply itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import aipo_env
from aipo_env import Answer, Consult, ConsultEnv, Source, TokenAction, TurnRequest, read_traces
from aipo_env.errors import ConfigurationError
from aipo_env.playing import turn_request
from aipo_env.protocol import TextAction
from aipo_env.replay import replay
from algorithms.evaluation import evaluate
from algorithms.policies import load_policy
from algorithms.rollout import LocalSampler
from algorithms.train_config import SamplingConfig
from algorithms.trainer import rollout_metrics
from benchmarks.evaluation import EvaluationConfig, evaluate_policy
from tests.dialects import codecs
from tests.helpers import CharacterCodec, Recorder, SumTasks

FAMILIES = ("qwen3_instruct_2507", "qwen3_5_nothink", "llama3_1", "gptoss", "glm4moe", "gemma4_v5", "nemotron_3_nano")
CASES = [("tags", None), ("tags", "characters"), ("tools", None), *(("tools", name) for name in FAMILIES)]
Played = tuple[ConsultEnv, Any]


def make(dialect: str, name: str | None, env: str = "rulebook", **options: Any) -> Played:
    codec: Any = CharacterCodec() if name == "characters" else None if name is None else codecs.codec(name)
    helpers = {"agents": {n: Recorder(f"{n} says", n) for n in ("verify", "reasoning")}}
    rules = {"tasks": SumTasks(), "dialect": dialect, "solo": "self-help", "codec": codec, **helpers, **options}
    return aipo_env.make(env, **rules), codec


def reset(env: ConsultEnv) -> None:
    env.reset(seed=1, options={"task_index": 4})


def write(env: ConsultEnv, text: str, finish: Any = "stop") -> None:
    """The policy's turn, as ids where there is a tokenizer."""
    ids = env.game.dialect.ids(text)
    env.step(TokenAction(ids, [-0.25] * len(ids), finish) if ids else TextAction(text, finish))


def closing(env: ConsultEnv) -> str:
    """All that the policy has to write to close its reply."""
    dialect: Any = env.game.dialect
    lead = dialect._frames["verify"].behind.lead if dialect.name == "tools" else ""
    return str(lead + dialect.closer("verify"))


@pytest.mark.parametrize(("dialect", "name"), CASES)
def test_alone_the_record_is_that_of_help_but_for_who_wrote_the_reply(dialect: str, name: str | None) -> None:
    (alone, codec), (helped, _) = make(dialect, name), make(dialect, name, "rulebook-consult", solo="self-help")
    for env in (alone, helped):
        reset(env)
        write(env, env.game.dialect.render(Consult("verify", "4+1=6?"), env.config, env.episode.segments))
        if env is alone:
            assert (env.episode.replying, env.episode.turn_of, env.episode.requests) == ("verify", "policy", {})
            assert env.episode.consult_mask == [0, 0]
            request = turn_request(env.episode, seed=0)
            closer = env.game.dialect.closer("verify")
            assert (request.replying, request.assisted) == ("verify", False)
            # It stops at the marker: on its id where it has one.
            one_id = codec is not None and len(env.game.dialect.ids(closer)) == 1
            assert request.stop == (() if one_id else (closer,))
            ends = set() if codec is None else codec.eos_ids
            assert set(request.stop_ids) == ends | set(env.game.dialect.ids(closer) if one_id else ())
            said = next(s.text for s in helped_reply(dialect, name))
            write(env, said.removeprefix('<feedback agent="verify">') if dialect == "tags" else said)
            assert (env.episode.replying, env.episode.num_consults, env.episode.turn) == ("", 1, 1)
        write(env, env.game.dialect.render(Answer("5"), env.config, env.episode.segments))
        assert (env.episode.reward, env.episode.stop_reason) == (1.0, "answer")
        assert replay([env.trajectory], env).mismatches == []
    assert alone.trajectory.text == helped.trajectory.text
    assert alone.trajectory.token_ids == helped.trajectory.token_ids
    assert (alone.trajectory.self_help, alone.trajectory.assisted) == (True, False)
    assert (helped.trajectory.self_help, helped.trajectory.assisted) == (False, True)
    # What closes the reply is learnt: as its own word when alone, as a part of the reply with help.
    own = next(s for s in alone.trajectory.segments if s.agent and s.source is Source.POLICY)
    reply = next(s for s in helped.trajectory.segments if s.source is Source.AGENT)
    assert own.text.endswith(closing(alone))
    assert reply.text.endswith(closing(helped))
    assert own.logprobs == (-0.25,) * len(own.token_ids)
    assert not any(s.source is Source.AGENT for s in alone.trajectory.segments)


def helped_reply(dialect: str, name: str | None) -> list[Any]:
    env, _ = make(dialect, name, "rulebook-consult", solo="self-help")
    reset(env)
    env.step(Consult("verify", "4+1=6?"))
    return [s for s in env.trajectory.segments if s.source is Source.AGENT]


@pytest.mark.parametrize(("dialect", "name"), CASES)
def test_a_reply_that_is_cut_is_no_reply_and_one_that_only_ends_is_closed_for_it(
    dialect: str, name: str | None
) -> None:
    for finish, reason in (("length", "length"), ("stop", "")):
        env, _ = make(dialect, name)
        reset(env)
        env.step(Consult("verify", "q"))
        write(env, "It is", finish)
        assert env.episode.stop_reason == reason
        assert env.episode.segments[-1].source is (Source.POLICY if reason else Source.TEMPLATE)
        assert replay([env.trajectory], env).mismatches == []
    assert closing(env) in env.episode.segments[-1].text
    # An answer in it is none: it is another's word.
    env, _ = make(dialect, name)
    reset(env)
    env.step(Consult("verify", "q"))
    write(env, r"\boxed{5}" + closing(env) + " and more")
    assert not env.episode.done
    assert [s.text for s in env.trajectory.segments if s.agent and s.source is Source.POLICY] == [
        r"\boxed{5}" + closing(env)
    ]
    assert replay([env.trajectory], env).mismatches == []


@pytest.mark.parametrize(("dialect", "name"), [c for c in CASES if c[1] not in ("llama3_1", "gptoss")])
def test_of_two_calls_each_gets_its_place(dialect: str, name: str | None) -> None:
    env, _ = make(dialect, name, fan_out=2)
    reset(env)
    env.step([Consult("verify", "a"), Consult("reasoning", "b")])
    write(env, "one" + closing(env))
    assert (env.episode.replying, env.episode.turn) == ("reasoning", 1)
    write(env, "two" + closing(env))
    write(env, r"\boxed{5}")
    text = env.trajectory.text
    assert [s.agent for s in env.trajectory.segments if s.agent and s.source is Source.POLICY] == [
        "verify",
        "reasoning",
    ]
    helped, _ = make(
        dialect,
        name,
        "rulebook-consult",
        fan_out=2,
        solo="plain",
        agents={n: Recorder(t, n) for n, t in (("verify", "one"), ("reasoning", "two"))},
    )
    reset(helped)
    helped.step([Consult("verify", "a"), Consult("reasoning", "b")])
    helped.step(r"\boxed{5}")
    prompts = (len(e.trajectory.segments[0].text) for e in (env, helped))
    assert text[next(prompts) :] == helped.trajectory.text[next(prompts) :]
    assert replay([env.trajectory], env).mismatches == []


def test_budgets_hold_and_a_long_reply_ends_the_episode() -> None:
    env, _ = make("tools", None, max_consults=1)
    reset(env)
    env.step(Consult("verify", "q"))
    env.step("no\n</tool_response>")
    env.step(Consult("verify", "q"))
    assert (env.episode.num_consults, env.episode.replying) == (1, "")
    assert "no consults are left" in env.episode.transcript
    env, _ = make("tags", None, max_chars=200)
    reset(env)
    env.step(Consult("verify", "q"))
    env.step("x" * 300)
    assert env.episode.stop_reason == "max_chars"
    assert replay([env.trajectory], env).mismatches == []
    with pytest.raises(ConfigurationError, match="solo is"):
        make("tags", None, "rulebook-consult", solo="alone")


class Scripted:
    """Asks, replies to itself, answers; keeps what it was asked."""

    name = "scripted"

    def __init__(self, env: ConsultEnv, end: str) -> None:
        self._dialect, self._config, self._end = env.game.dialect, env.config, end
        self.requests: list[TurnRequest] = []

    async def act(self, request: TurnRequest) -> TokenAction:
        self.requests.append(request)
        if request.replying:
            text = "It is 5." + self._end
        elif request.turn == 0:
            text = self._dialect.render(Consult("reasoning", "4+1?"), self._config, ())
        else:
            text = r"\boxed{5}"
        ids = self._dialect.ids(text)
        return TokenAction(ids, [-0.5] * len(ids))


def test_a_group_has_members_with_help_and_members_with_their_own(tmp_path: Path) -> None:
    env, codec = make("tools", "qwen3_instruct_2507", "rulebook-consult")
    policy = Scripted(env, closing(env))
    path = tmp_path / "t.jsonl"

    async def play() -> list[Any]:
        return await aipo_env.rollout(env, policy, [4], group_size=2, solo_share=0.5, seed=3, traces=path).collect()

    alone, helped = asyncio.run(play())
    assert [(t.self_help, t.assisted, t.num_consults, t.reward) for t in (alone, helped)] == [
        (True, False, 1, 1.0),
        (False, True, 1, 1.0),
    ]
    # Three acts with three seeds; ids are appended once.
    mine = [r for r in policy.requests if not r.assisted]
    assert len({r.seed for r in mine}) == 3
    assert all(tuple(alone.token_ids[: len(r.token_ids)]) == r.token_ids for r in mine)
    assert sorted(read_traces(path), key=lambda t: t.sample) == [alone, helped]
    assert replay(path, env).mismatches == []
    assert codec.encode_markup(alone.text) == alone.token_ids


def test_the_local_policy_writes_in_the_helpers_place_and_training_reports_it_apart() -> None:
    policy = load_policy("embedded")
    options = {"prompt": "bare", "style": "terse", "max_consults": 1, "solo": "self-help"}
    env = aipo_env.make("rulebook-consult", codec=policy.codec, **options)
    sampler = LocalSampler(policy, SamplingConfig(batch_size=16, max_tokens=120))
    found = sampler.rollout(env, [0, 1], group_size=6, seed=2, solo_share=0.5)
    own = [t for t in found if t.self_help]
    assert len(own) == 6
    assert all(t.self_help != t.assisted for t in found)
    # The embedded policy asks often, and closes what it was taught to read.
    wrote = [s for t in own for s in t.segments if s.source is Source.POLICY and s.agent]
    assert wrote
    assert all(len(s.logprobs) == len(s.token_ids) for s in wrote)
    assert any(s.text.endswith("</feedback>") for s in wrote)
    assert replay(found, env).mismatches == []
    metrics = rollout_metrics(found)
    assert {"train/self_help_accuracy", "train/assisted_accuracy"} <= metrics.keys()
    assert "train/solo_accuracy" not in metrics
    measured = evaluate(sampler, env, [0], num_samples=1, seed=0)
    assert {f"eval/{mode}_pass1" for mode in ("solo", "self_help", "assisted")} <= measured.keys()


def test_an_evaluation_has_a_run_of_it_beside_the_others(tmp_path: Path) -> None:
    common: dict[str, Any] = {"out": tmp_path, "num_tasks": 2, "samples": 2}
    evaluate_policy(EvaluationConfig("rulebook", mode="solo", **common))
    found = evaluate_policy(EvaluationConfig("rulebook", mode="self-help", **common))
    assert found.complete
    assert [run["mode"] for run in found.results["runs"]] == ["solo", "self-help"]
    assert all(t.self_help for t in read_traces(tmp_path / "traces" / "rulebook.self-help.jsonl"))
    assert "| self-help |" in (tmp_path / "results.md").read_text("utf-8")
    with pytest.raises(ConfigurationError, match="no chat can"):
        EvaluationConfig("rulebook", mode="self-help", chat=True, server="http://x/v1", model="m")
