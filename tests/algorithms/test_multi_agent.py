"""Helpers that are trained: what a reply earns, whom it is compared with, phases, resuming; and that it works."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import aipo_env
from aipo_agents.backends import Generation
from aipo_env import Reply, Source
from aipo_env.cli import main
from aipo_env.episode import Episode
from aipo_env.errors import ConfigurationError, ServiceError, UnknownIdError
from aipo_env.playing import Player, as_policy, turn_request
from aipo_env.protocol import ConsultRequest
from aipo_env.rollout import EpisodeSeeds
from aipo_env.training_sample import to_training_sample
from algorithms.batch import micro_batches
from algorithms.checkpoint import PREFIX, list_checkpoints
from algorithms.multi_agent import TEMPERATURE, Branch, HelperTrainer, MultiAgentTrainer, TrainedHelper
from algorithms.policies import Policy, load_policy
from algorithms.rollout import local_policy
from algorithms.train_config import HelperConfig, SamplingConfig, TrainConfig
from benchmarks.roles.knowledge import Shuffled, expand, right_share, start_helper
from benchmarks.roles.setting import RULES, Settings
from tests.algorithms.tiny import tiny_policy
from tests.helpers import SumTasks


def config(out: Path, **options: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "env_options": RULES, "out": out, "steps": 4, "prompts_per_step": 6, "samples_per_prompt": 4, "eval_tasks": 4,
        "eval_samples": 1, "eval_every": 0, "checkpoint_every": 2, "trace_every": 1, "learning_rate": 1e-3, "warmup_steps": 0,
        "sampling": SamplingConfig(max_tokens=48),
    }  # fmt: skip
    return TrainConfig(**settings | options)


def helper_trainer(out: Path, policy: Policy | None = None, **options: Any) -> HelperTrainer:
    kinds = {k: options.pop(k) for k in ("reward", "may_answer", "role") if k in options}
    return HelperTrainer(
        config(out, solo_share=1.0, **options), kinds.pop("role", "knowledge"), load_policy("embedded"),
        policy=policy or load_policy("embedded"), **kinds,
    )  # fmt: skip


@pytest.fixture(scope="module")
def start() -> Policy:
    return start_helper(Settings(tuning_steps=25), 0)


def fresh(start: Policy) -> Policy:
    """Its weights, in a model of its own."""
    policy = load_policy("embedded")
    policy.model.load_state_dict(start.model.state_dict())
    return policy


# -- replies -----------------------------------------------------------------------------------------------------------


def test_a_reply_carries_the_helpers_own_log_probabilities(start: Policy) -> None:
    helper = TrainedHelper("knowledge", start, max_tokens=30)
    request = ConsultRequest("473@128", seed=5)
    generation = asyncio.run(helper.sample(request))
    reply = helper.as_reply(generation)
    assert generation.token_ids is not None
    assert generation.token_ids[-1] in start.eos_ids
    assert reply.token_ids == tuple(generation.token_ids[:-1])
    assert start.codec.decode(reply.token_ids) == reply.text
    assert reply.tokenizer == start.codec.fingerprint
    text, view = helper.view(request)
    assert (text, view) == ("473@128", start.codec.encode_prompt("473@128"))
    with torch.no_grad():
        logits = start.model(torch.tensor([[*view, *generation.token_ids]])).logits[0].log_softmax(-1)
    again = [float(logits[len(view) - 1 + k, i]) for k, i in enumerate(generation.token_ids)]
    assert generation.logprobs == pytest.approx(again, abs=1e-4)
    assert asyncio.run(helper.respond(request)) == reply
    assert asyncio.run(helper.respond(dataclasses.replace(request, seed=6))).logprobs != reply.logprobs


def test_what_a_helper_with_a_chat_template_reads() -> None:
    policy = tiny_policy("llama")
    policy.tokenizer.chat_template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
    try:
        helper = TrainedHelper("verify", Policy("chat", policy.model, type(policy.codec)(policy.tokenizer)))
        text, ids = helper.view(ConsultRequest("2+2=5?", "the problem"))
    finally:
        policy.tokenizer.chat_template = None
    assert "2+2=5?" in text
    assert "the problem" in text
    assert helper.policy.codec.decode(ids).startswith("<user>")


def test_an_empty_reply_is_an_error(start: Policy) -> None:
    end = min(start.eos_ids)
    reply = TrainedHelper("knowledge", start).as_reply(Generation("", (end,), (-0.1,)))
    assert (reply.text, reply.error, reply.declined) == ("", "the model wrote nothing", True)


# -- what a reply earns ------------------------------------------------------------------------------------------------


def branch(reward: float, logprob: float = math.nan, *, text: str = "x", leaks: bool = False) -> Branch:
    reply = Reply(text) if text else Reply("", error="nothing")
    episode = Episode(SumTasks().task(0), "1+1")
    return Branch(ConsultRequest("q"), Generation(text), reply, episode, leaks, reward, (0, 1), logprob)


def test_leaks_and_errors_earn_nothing(tmp_path: Path) -> None:
    strict, lax = helper_trainer(tmp_path), helper_trainer(tmp_path, may_answer=True)
    for one, wanted in ((strict, [1.0, 0.0, 0.0, 0.0]), (lax, [1.0, 1.0, 0.0, 0.0])):
        branches = [branch(1.0), branch(1.0, leaks=True), branch(1.0, text=""), branch(0.0)]
        one._pay(branches)
        assert [b.reward for b in branches] == wanted


def test_learnable_pays_less_for_what_the_policy_would_not_write(tmp_path: Path) -> None:
    one = helper_trainer(tmp_path, reward="learnable")
    branches = [
        branch(1.0, -0.5),
        branch(1.0, -1.5),
        branch(0.0, -0.1),
        branch(1.0, -0.1, leaks=True),
        branch(0.0, text=""),
    ]
    one._pay(branches)
    # The likeliest of those that are paid is the measure: neither a wrong reply nor a leak. An empty one is not scored.
    assert [b.reward for b in branches] == pytest.approx([1.0, math.exp(-1.0 / TEMPERATURE), 0.0, 0.0, 0.0])
    nothing = [branch(0.0, -0.5), branch(0.0, -2.0)]
    one._pay(nothing)
    assert [b.reward for b in nothing] == [0.0, 0.0]
    held_back = [branch(1.0), branch(1.0, -1.0)]  # one that the game replaced has no tokens there
    one._pay(held_back)
    assert [b.reward for b in held_back] == [1.0, 1.0]


def test_marginal_is_what_the_policy_does_not_earn_alone(tmp_path: Path) -> None:
    one = helper_trainer(tmp_path, reward="marginal")
    for solo, wanted in ((0.5, [0.5, -0.5, -0.5, -0.5]), (0.0, [1.0, 0.0, 0.0, 0.0]), (1.0, [0.0] * 4)):
        branches = [branch(1.0), branch(0.0), branch(1.0, leaks=True), branch(0.0, text="")]
        branches = [dataclasses.replace(b, solo=solo) for b in branches]
        one._pay(branches)
        assert [b.reward for b in branches] == wanted


def test_what_the_policy_does_alone_is_played_logged_and_counted(tmp_path: Path, start: Policy) -> None:
    one, verify = helper_trainer(tmp_path, fresh(start)), helper_trainer(tmp_path, reward="verdict", role="verify")
    alone: list[tuple[int, int]] = []

    async def alone_once(player: Player, seed: int, slot: int, task: int, attempt: int) -> float:
        alone.append((slot, attempt))
        return float(attempt)

    one._alone = alone_once  # type: ignore[method-assign]
    found = one.collect()
    prefixes = len(one._branches)
    assert len(alone) == len(set(alone)) == one.num_rollouts == 2 * prefixes
    metrics = one.metrics_of(found)
    assert metrics["helper/knowledge/solo"] == 0.5
    earned = np.mean([b.episode.reward for part in one._branches for b in part])
    assert metrics["helper/knowledge/marginal"] == pytest.approx(earned - 0.5)
    verify.collect()
    assert verify.num_rollouts == 0


def test_an_attempt_alone_gets_no_help(tmp_path: Path, start: Policy) -> None:
    one = helper_trainer(tmp_path, fresh(start))
    for right, wanted in ((True, 1.0), (False, 0.0)):
        said: list[str] = []

        def turn(transcript: str, right: bool = right, said: list[str] = said) -> str:
            said.append(transcript)
            return rf"\boxed{{{one.env.game.task(3).gold if right else 'no'}}}"

        player = Player(one.env.game, as_policy(turn))
        assert asyncio.run(one._alone(player, 0, 0, 3, 0)) == wanted
        assert len(said) == 1

    def fails(transcript: str) -> str:
        raise ServiceError("down")

    assert asyncio.run(one._alone(Player(one.env.game, as_policy(fails)), 0, 0, 3, 0)) == 0.0


def test_lookahead_pays_a_right_reply_by_what_it_makes_likelier(tmp_path: Path) -> None:
    one = helper_trainer(tmp_path, reward="lookahead")
    branches = [branch(1.0), branch(2.0), branch(1.0), branch(0.0), branch(-0.5), branch(1.0, leaks=True)]
    for b, growth in zip(branches, (0.5, 0.25, -1.0, 9.0, 9.0, 9.0), strict=True):
        b.growth = growth
    one._pay(branches)
    assert [b.reward for b in branches] == [0.5, 0.5, -1.0, 0.0, -0.5, -1.0]


def test_growth_is_the_derivative_towards_the_right_episodes_of_other_tasks(tmp_path: Path, start: Policy) -> None:
    one = helper_trainer(tmp_path, fresh(start), samples_per_prompt=2, prompts_per_step=4)
    one.collect()
    assert len(one._branches) > 1
    for part in one._branches:
        part[0].reward, part[1].reward = 0.5, 0.0
    before = {name: weight.clone() for name, weight in one.team.model.state_dict().items()}
    one._score_by_policy()
    scores = [[b.policy_logprob for b in part] for part in one._branches]
    one._look_ahead()
    assert all(torch.equal(weight, before[name]) for name, weight in one.team.model.state_dict().items())
    assert [[b.policy_logprob for b in part] for part in one._branches] == scores
    weights = list(one.team.model.parameters())

    def gradient(branches: list[Branch], *, reply: bool = False) -> torch.Tensor:
        total = torch.zeros(sum(weight.numel() for weight in weights))
        for b in branches:
            (part,) = micro_batches([to_training_sample(b.episode.trajectory())], np.zeros(1), 1, pad_id=0)
            logprobs_T = one._token_logprobs(one.team.model, part)
            said_T = logprobs_T[part.sources_T == Source.AGENT][slice(*b.tokens)].mean() if reply else logprobs_T.sum()
            found = torch.autograd.grad(said_T, weights)
            total += torch.cat([g.flatten() for g in found])
        return total

    for half in range(2):
        towards = gradient([part[0] for part in one._branches[1 - half :: 2]])
        for b in [part[0] for part in one._branches[half::2]]:
            assert b.growth == pytest.approx(
                float(gradient([b], reply=True) @ towards / towards.norm()), rel=0.1, abs=0.05
            )


def test_without_a_right_episode_nothing_grows(tmp_path: Path, start: Policy) -> None:
    one = helper_trainer(tmp_path, fresh(start), samples_per_prompt=2, prompts_per_step=3)
    one.collect()
    for part in one._branches:
        for b in part:
            b.reward = 0.0
    one._score_by_policy()
    one._look_ahead()
    assert all(b.growth == 0.0 for part in one._branches for b in part)


def test_nothing_is_not_worth_more_than_a_wrong_reply(tmp_path: Path) -> None:
    one = helper_trainer(tmp_path)
    branches = [branch(-0.1), branch(0.9), branch(0.9, leaks=True), branch(-0.1, text="")]
    one._pay(branches)
    assert [b.reward for b in branches] == [-0.1, 0.9, -0.1, -0.1]


def test_what_the_policy_makes_of_a_reply_is_scored_on_its_own_tokens(tmp_path: Path, start: Policy) -> None:
    one = helper_trainer(tmp_path, fresh(start), reward="learnable")
    one.collect()
    for b in [b for branches in one._branches for b in branches][:6]:
        trajectory = b.episode.trajectory()
        place = next(k for k, s in enumerate(trajectory.segments) if s.source is Source.AGENT)
        last = next(k for k, s in enumerate(trajectory.segments) if k > place and s.source is Source.POLICY)
        ids = [i for s in trajectory.segments[:last] for i in s.token_ids]
        replied = [s.source is Source.AGENT for s in trajectory.segments[:last] for _ in s.token_ids]
        with torch.no_grad():
            logits = one.team.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        wanted = [float(logits[k - 1, i]) for k, (i, yes) in enumerate(zip(ids, replied, strict=True)) if yes]
        assert b.tokens == (0, len(wanted))
        assert b.policy_logprob == pytest.approx(np.mean(wanted), abs=1e-4)


def test_an_earlier_helpers_reply_is_not_taken_for_it(tmp_path: Path, start: Policy) -> None:
    """The policy asks verify, then knowledge: what is scored, and paid, is knowledge's reply."""
    one = helper_trainer(tmp_path, fresh(start), reward="learnable", samples_per_prompt=2, prompts_per_step=1)
    turns = iter(['<consult agent="verify">1+1=2</consult>', '<consult agent="knowledge">473@128</consult>'])
    player = Player(one.env.game, as_policy(lambda transcript: next(turns, r"\boxed{1}")))
    branches = asyncio.run(one._branch(player, 0, one._tasks(0)[0]))
    assert len(branches) == 2
    one._branches = [branches]
    one._score_by_policy()
    for b in branches:
        assert b.request.query == "473@128"
        sources = [(s.agent, len(s.token_ids)) for s in b.episode.segments if s.source is Source.AGENT]
        verify, knowledge = (sum(n for agent, n in sources if agent == name) for name in ("verify", "knowledge"))
        assert b.tokens == (verify, verify + knowledge)
        assert not math.isnan(b.policy_logprob)


@pytest.mark.parametrize(("said", "earned"), [("{gold}", 0.0), ("the answer is {gold}.", 0.0), ("add the digits", 1.0)])
def test_a_reply_that_states_the_answer(said: str, earned: float, tmp_path: Path, start: Policy) -> None:
    one = helper_trainer(tmp_path, fresh(start))
    episode = one.env.game.make_episode(0)
    gold = episode.task.gold

    class Says(TrainedHelper):
        async def sample(self, request: ConsultRequest) -> Generation:
            return Generation("", tuple(self.policy.codec.encode(said.format(gold=gold))))

    one.helper = Says("knowledge", one.policy)
    episode.act('<consult agent="knowledge">rule</consult>')
    player = Player(one.env.game, as_policy(lambda transcript: rf"\boxed{{{gold}}}"))
    found = asyncio.run(one._play_on(player, episode, EpisodeSeeds(0, 0, 0)))
    assert found.leaks == (earned == 0)
    one._pay([found])
    assert found.reward == earned


def test_a_fault_behind_a_reply_says_nothing_of_it(tmp_path: Path, start: Policy) -> None:
    one = helper_trainer(tmp_path, fresh(start))

    def fails(transcript: str) -> str:
        raise ServiceError("down")

    episode = one.env.game.make_episode(0)
    episode.act('<consult agent="knowledge">473@128</consult>')
    found = asyncio.run(one._play_on(Player(one.env.game, as_policy(fails)), episode, EpisodeSeeds(0, 0, 0)))
    assert one._trajectory(found, 0, 0).stop_reason == "error"  # which no learner counts


def test_the_learner_scores_replies_at_the_temperature_of_the_sampling(tmp_path: Path, start: Policy) -> None:
    one = helper_trainer(tmp_path, fresh(start), sampling=SamplingConfig(temperature=0.6, max_tokens=48))
    samples = [to_training_sample(t) for t in one.collect()]
    for part in micro_batches(samples, np.zeros(len(samples)), 64, pad_id=0):
        with torch.no_grad():
            again_T = one._token_logprobs(one.model, part)
        torch.testing.assert_close(again_T, part.behaviour_logprobs_T, atol=1e-4, rtol=0)


def test_a_query_that_is_too_long_is_left_out(tmp_path: Path, start: Policy) -> None:
    one = helper_trainer(tmp_path, fresh(start))
    player = Player(one.env.game, as_policy(lambda transcript: f'<consult agent="knowledge">{"1" * 600}</consult>'))
    assert asyncio.run(one._branch(player, 0, one._tasks(0)[0])) == []


def test_a_verdict_is_paid_where_it_is_the_embedded_helpers(tmp_path: Path) -> None:
    one = helper_trainer(tmp_path, reward="verdict", role="verify")

    class Said(TrainedHelper):
        async def sample(self, request: ConsultRequest) -> Generation:
            return Generation("", tuple(self.policy.codec.encode(next(said))))

    env, paid = one.env, []
    player = Player(env.game, as_policy(lambda transcript: "never asked"))
    for query, text in (("4+4=8", "correct"), ("4+4=9", "correct"), ("4+4=9", "incorrect: 8"), ("4+4=8", "who knows")):
        said = iter([text])
        one.helper = Said("verify", one.policy)
        episode = env.game.make_episode(0)
        episode.act(f'<consult agent="verify">{query}</consult>')
        paid.append(asyncio.run(one._play_on(player, episode, EpisodeSeeds(0, 0, 0))).reward)
    assert paid == [1.0, 0.0, 1.0, 0.0]


# -- groups ------------------------------------------------------------------------------------------------------------


def test_replies_to_one_query_are_compared_and_played_on(tmp_path: Path, start: Policy) -> None:
    one = helper_trainer(tmp_path, fresh(start))
    found = one.collect()
    groups = {t.group: [u for u in found if u.group == t.group] for t in found}
    assert set(groups) == set(range(len(groups)))
    assert 3 <= len(groups) <= 6
    for group in groups.values():
        assert [t.sample for t in group] == [0, 1, 2, 3]
        assert len({t.segments[0].token_ids for t in group}) == len({t.task_id for t in group}) == 1
        assert len({t.segments[1].token_ids for t in group}) > 1
        for t in group:
            assert [s.source for s in t.segments] == [Source.PROMPT, Source.POLICY]
            assert t.reward_parts == {"team": t.reward}
            assert t.reward == float(t.verdict == "correct")
    # A right expansion mostly leads to the right answer, a wrong one hardly ever.
    played = [(b.reply.text == expand(b.request.query, "@"), b.reward) for part in one._branches for b in part]
    assert np.mean([reward for right, reward in played if not right]) < 0.2
    metrics = one.metrics_of(found)
    assert metrics["helper/knowledge/prefixes"] == len(groups)
    assert metrics["helper/knowledge/reward"] == pytest.approx(np.mean([t.reward for t in found]))
    assert metrics["helper/knowledge/distinct_replies"] > 1


def test_a_driver_over_the_parallel_face_gets_the_same(tmp_path: Path, start: Policy) -> None:
    """Who plays all roles by hand, forks the environment at the query, and plays on, has the same samples and rewards."""
    one = helper_trainer(tmp_path, fresh(start), prompts_per_step=3, samples_per_prompt=2)
    found = {(t.group, t.sample): t for t in one.collect()}
    queries = [part[0].episode.task.id for part in one._branches]
    env = aipo_env.make_parallel("rulebook-consult", controlled=None, codec=one.team.codec, **RULES)
    turns, helper = local_policy(one.team, one.config.sampling), TrainedHelper("knowledge", one.policy)
    seed = one.sampling_seed(0)
    for slot, task in enumerate(one._tasks(0)):

        async def turn(at: aipo_env.ParallelConsultEnv, seeds: EpisodeSeeds) -> None:
            left = 48 - sum(len(s.token_ids) for s in at.episode.segments[1:])
            request = turn_request(at.episode, seed=seeds.turn(at.episode.num_acts), max_tokens=left)
            at.step({"policy_0": await turns.act(request)})

        seeds = EpisodeSeeds(seed, task, 0, slot)
        env.reset(options={"task_index": task})
        env.episode.seed = seeds.episode
        asyncio.run(turn(env, seeds))
        if env.episode.turn_of != "knowledge":
            assert env.episode.task.id not in queries
            continue
        group = queries.index(env.episode.task.id)
        for sample in range(2):
            fork, place = env.fork(), EpisodeSeeds(seed, task, 1 + sample, slot)
            request = dataclasses.replace(fork.episode.request, seed=place.episode)
            reply = asyncio.run(helper.respond(request))
            fork.step({"knowledge_0": reply})
            while not fork.episode.done:
                asyncio.run(turn(fork, place))
            mine = found[group, sample]
            said = reply.token_ids or ()
            assert mine.segments[1].token_ids[: len(said)] == said
            assert mine.reward == fork.episode.reward


def test_a_step_in_which_nobody_asks_is_legal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = helper_trainer(tmp_path)
    monkeypatch.setattr(one, "role", "reasoning")  # whom the embedded policy never asks
    before = {name: weight.clone() for name, weight in one.weights.state().items()}
    metrics, trajectories = one.train_step()
    assert trajectories == []
    assert metrics["helper/reasoning/prefixes"] == 0
    assert metrics["grad_norm"] == 0
    assert all(torch.equal(weight, before[name]) for name, weight in one.weights.state().items())


def test_the_other_helpers_are_the_environments(tmp_path: Path) -> None:
    one = helper_trainer(tmp_path, role="verify", env_options={**RULES, "variant": "steps"})
    plain = aipo_env.make("rulebook-consult", **{**RULES, "variant": "steps"})
    assert vars(one.env.agents["knowledge"]).get("expand") == vars(plain.agents["knowledge"]).get("expand")
    assert one.env.agents["verify"] is one.helper


def test_weights_that_are_the_policys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="fan_out"):
        helper_trainer(tmp_path, env_options={**RULES, "fan_out": 2})
    team = load_policy("embedded")
    with pytest.raises(ConfigurationError, match="needs weights of its own"):
        HelperTrainer(config(tmp_path), "knowledge", team, policy=team)


# -- it learns ---------------------------------------------------------------------------------------------------------


def test_a_helper_learns_from_the_policys_success_alone(tmp_path: Path) -> None:
    start = start_helper(Settings(), 0)
    shares = {}
    for kind in (HelperTrainer, Shuffled):
        settings = config(
            tmp_path / kind.__name__, steps=10, prompts_per_step=16, samples_per_prompt=8, solo_share=1.0, trace_every=0,
            learning_rate=3e-4,
        )  # fmt: skip
        one = kind(settings, "knowledge", load_policy("embedded"), policy=fresh(start))
        shares["start"] = right_share(one.helper, 64)
        for _ in range(10):
            one.train_step()
        shares[kind.__name__] = right_share(one.helper, 64)
    assert shares["HelperTrainer"] > shares["start"] + 0.2
    assert shares["Shuffled"] < shares["start"] + 0.15


# -- runs --------------------------------------------------------------------------------------------------------------


def team(out: Path, start: Path, **options: Any) -> MultiAgentTrainer:
    helper = HelperConfig(
        "knowledge", str(start), helper_queries=8, helper_replies=8, **{"helper_phase": "alternate:2"} | options
    )
    return MultiAgentTrainer(
        config(out, prompts_per_step=8, samples_per_prompt=8, eval_every=2, learning_rate=3e-4), helper
    )


@pytest.fixture(scope="module")
def start_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that is right often enough that something is learnt at once."""
    folder = tmp_path_factory.mktemp("start")
    start_helper(Settings(), 0).save(folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "policy" / "model.safetensors")


def test_phases_take_turns_and_a_cut_run_goes_on_to_the_same_end(tmp_path: Path, start_folder: Path) -> None:
    order: list[str] = []
    whole = team(tmp_path / "whole", start_folder)
    for name, one in (("helper", whole.helper), ("policy", whole.trainer)):
        assert one is not None
        step = one.train_step
        one.train_step = lambda name=name, step=step: (order.append(name), step())[1]  # type: ignore[method-assign]
    assert not whole.finished
    history = whole.train(None, ())
    assert whole.finished
    assert history[-1]["step"] == whole.step == 4
    assert order == ["helper"] * 2 + ["policy"] * 2 + ["helper"] * 2 + ["policy"] * 2
    for one in (whole.helper, whole.trainer):
        assert one is not None
        # Something is learnt, and each is evaluated at the end of its phase with the other as it is then.
        assert max(row.get("grad_norm", 0.0) for row in one.history) > 0
        assert ["eval/assisted_pass1" in row for row in one.history] == [True, False, True, False, True]
    for cut in (1, 3, 6):  # in the helper's first phase, in the policy's, in the helper's second
        out, done = tmp_path / f"cut{cut}", list[int]()
        part = team(out, start_folder)
        for one in (part.helper, part.trainer):
            assert one is not None
            one.train_step = lambda step=one.train_step, done=done: (done.append(1), step())[1]  # type: ignore[method-assign]
        part.train(None, (), stop=lambda cut=cut, done=done: len(done) >= cut)  # type: ignore[misc]
        assert not part.finished
        again = team(out, start_folder)
        again.train(None, ())
        assert again.finished
        for folder in ("", "helpers/knowledge"):
            mine, other = weights(tmp_path / "whole" / folder), weights(out / folder)
            assert all(torch.allclose(mine[name], other[name], atol=1e-5) for name in mine), (cut, folder)
    for changed in ({"helper_reward": "learnable"}, {"helper_max_tokens": 9}, {"helper_phase": "alternate:1"}):
        with pytest.raises(ConfigurationError, match="other settings"):
            team(tmp_path / "whole", start_folder, **changed).train(None, ())


def test_the_policy_learns_from_the_helper_with_its_mu(tmp_path: Path, start_folder: Path) -> None:
    one = team(tmp_path, start_folder)
    assert one.trainer is not None
    _, trajectories = one.trainer.train_step()
    assert one.trainer.env.agents["knowledge"].policy.model is one.helper.model  # type: ignore[attr-defined]
    assert any(s.mu_known for t in trajectories for s in t.segments)


def test_the_command_line(tmp_path: Path, start_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*("--env-options", "level", "2", "operators", "@", "style", "terse", "prompt", "bare")]
    sizes = [
        "--steps",
        "2",
        "--prompts-per-step",
        "2",
        "--samples-per-prompt",
        "4",
        "--eval-tasks",
        "2",
        "--eval-samples",
        "1",
    ]
    helper = [
        "--train-helper",
        "knowledge",
        "--helper-policy",
        str(start_folder),
        "--helper-queries",
        "2",
        "--helper-replies",
        "2",
    ]
    for phase, role in (("alternate:1", ""), ("frozen", "helpers/knowledge")):
        out = tmp_path / phase.partition(":")[0]
        command = ["train", *options, *sizes, *helper, "--helper-phase", phase, "--out", str(out), "--quiet", "--json"]
        assert main(command) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["out"], said["step"]) == (str(out / role), 2)
        assert (out / "helpers" / "knowledge" / "policy" / "model.safetensors").exists()
        assert (out / "policy").exists() == (phase != "frozen")
    trained = TrainedHelper.load("knowledge", tmp_path / "frozen" / "helpers" / "knowledge" / "policy", temperature=0.0)
    assert asyncio.run(trained.respond(ConsultRequest("473@128"))).text
    rows = [json.loads(row) for row in (out / role / "metrics.jsonl").read_text().splitlines()]
    assert {"helper/knowledge/reward", "helper/knowledge/leak_rate", "eval/assisted_pass1"} <= rows[-1].keys()


def test_repair_34_a_killed_run_goes_on(tmp_path: Path, start_folder: Path) -> None:
    """kill -9 in a phase of the helper: the same command ends it."""
    command = lambda steps: [  # noqa: E731
        sys.executable, "-m", "aipo_env.cli", "train", "--env-options", "level", "2", "operators", "@", "style", "terse", "prompt",
        "bare", "--steps", str(steps), "--prompts-per-step", "2", "--samples-per-prompt", "4", "--eval-tasks", "1", "--eval-samples", "1",
        "--train-helper", "knowledge", "--helper-policy", str(start_folder), "--helper-queries", "2", "--helper-replies", "2",
        "--helper-phase", "alternate:2", "--checkpoint-every", "1", "--out", str(tmp_path), "--quiet",
    ]  # fmt: skip
    # So many that it does not come to its end before, however slow this process is.
    process = subprocess.Popen(command(10_000), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = tmp_path / "helpers" / "knowledge" / "checkpoints"
    while process.poll() is None and not list_checkpoints(folder):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "policy").exists()
    reached = int(list_checkpoints(folder)[-1].name.removeprefix(PREFIX))
    assert subprocess.run(command(reached + 2), capture_output=True, check=False).returncode == 0
    assert (tmp_path / "policy" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: HelperConfig("verify", helper_phase="alternate"), ConfigurationError, "alternate:20"),
        (lambda: HelperConfig("verify", helper_phase="joint"), ConfigurationError, "got 'joint'"),
        (lambda: HelperConfig("verify", helper_phase="alternate:0"), ConfigurationError, "got 'alternate:0'"),
        (lambda: HelperConfig("knowledge", helper_reward="verdict"), ConfigurationError, "'knowledge' is trained"),
        (lambda: HelperConfig(helper_replies=4), ConfigurationError, "helper_replies is for a helper that is trained"),
        (lambda: HelperConfig("verify", helper_replies=1), ConfigurationError, "at least 2, got 1"),
        (lambda: HelperConfig("verify", helper_steps=-1), ConfigurationError, "helper_steps must be at least 0"),
        (lambda: MultiAgentTrainer(TrainConfig(), HelperConfig()), ConfigurationError, "is None"),
        (lambda: MultiAgentTrainer(TrainConfig(), HelperConfig("coach")), UnknownIdError, "coach"),
    ],
)
def test_what_cannot_be_trained(make: Callable[[], object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make()
