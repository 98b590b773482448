"""Credit of each reply: what an episode would have earned had the question stayed without one."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import aipo_env
from aipo_env import EpisodeConfig, Reply, Source, Trajectory, to_training_sample
from aipo_env.consulting import ask_together, run_sync
from aipo_env.episode import Episode
from aipo_env.errors import ConfigurationError, DataFormatError, ServiceError
from aipo_env.game import ConsultGame
from aipo_env.playing import Player
from aipo_env.protocol import TextAction, TurnRequest
from aipo_env.replay import _due_replies, unanswered
from aipo_env.rollout import EpisodeSeeds, collect_rollouts
from algorithms.batch import micro_batches
from algorithms.config import ObjectiveConfig
from algorithms.multi_agent import MultiAgentTrainer
from algorithms.policies import load_policy
from algorithms.reply_credit import _Unanswering, credit_metrics, credit_replies
from algorithms.rollout import LocalSampler
from algorithms.train_config import HelperConfig, SamplingConfig, TrainConfig
from algorithms.trainer import Trainer
from tests.algorithms.test_trainer import equal, without_times
from tests.helpers import Recorder, SumTasks

ASKED = {
    "knowledge": '<consult agent="knowledge">how?</consult>',
    "verify": '<consult agent="verify">and now?</consult>',
}


class Scripted(LocalSampler):
    """A policy of a function of transcript and seed, and what plays on with it."""

    name = "scripted"

    def __init__(self, turn: Callable[[str, int], str]) -> None:
        self.turn, self.seeds = turn, list[int]()

    async def act(self, request: TurnRequest) -> TextAction:
        self.seeds.append(request.seed)
        return TextAction(self.turn(request.transcript, request.seed))

    def play_on(
        self, branches: Sequence[tuple[ConsultGame, Episode, Callable[[int], int]]]
    ) -> list[BaseException | None]:
        return run_sync(ask_together([Player(game, self).play(episode, seed) for game, episode, seed in branches]))


def game(replies: dict[str, str | Reply] | None = None, **rules: Any) -> ConsultGame:
    replies = replies or {"knowledge": "add them", "verify": "junk"}
    agents = {name: Recorder(reply, name) for name, reply in replies.items()}
    reward = rules.pop("reward_fn", None)
    config = EpisodeConfig(agents=tuple(agents), **rules)
    return ConsultGame(SumTasks(), agents, config, prompt="bare", env_id="sums-consult", reward_fn=reward)


def asks(*order: str, right: Callable[[str, int], bool]) -> Scripted:
    """Asks one after the other, whatever it is told; right or wrong as said."""

    def turn(transcript: str, seed: int) -> str:
        for name in order:
            if ASKED[name] not in transcript:
                return ASKED[name]
        return rf"\boxed{{{int(transcript.split('+')[0]) + 1 if right(transcript, seed) else 'wrong'}}}"

    return Scripted(turn)


def played(one: ConsultGame, policy: Scripted, tasks: Sequence[int] = (4,), **options: Any) -> list[Trajectory]:
    return collect_rollouts(one, policy, tasks, **options)


def credit(
    policy: Scripted, found: Sequence[Trajectory], one: ConsultGame, tasks: Sequence[int] = (4,), **options: Any
) -> tuple[list[dict[str, float]], int]:
    count = credit_replies(policy, one, found, tasks, 0, **options)
    return [{s.agent: s.credit for s in t.segments if s.source is Source.AGENT} for t in found], count


@pytest.mark.parametrize("order", [("knowledge", "verify"), ("verify", "knowledge")])
@pytest.mark.parametrize("continuations", [1, 3])
def test_junk_beside_a_right_reply_earns_nothing(order: tuple[str, str], continuations: int) -> None:
    one, policy = game(), asks(*order, right=lambda transcript, seed: "add them" in transcript)
    found = played(one, policy)
    assert found[0].reward == 1
    credits, count = credit(policy, found, one, continuations=continuations)
    assert credits == [{"knowledge": 1.0, "verify": 0.0}]
    assert count == 2 * continuations
    assert credit_metrics(found) == {"train/reply_credit_knowledge": 1.0, "train/reply_credit_verify": 0.0}


def test_a_helper_that_reads_hints_keeps_them_for_its_other_questions() -> None:
    one = game()
    one.agents["knowledge"].uses_hints = True  # type: ignore[attr-defined]
    assert _Unanswering(one.agents["knowledge"], "q").uses_hints
    assert not _Unanswering(one.agents["verify"], "q").uses_hints


def test_two_helpers_asked_in_one_turn() -> None:
    def turn(transcript: str, seed: int) -> str:
        if ASKED["verify"] not in transcript:
            return ASKED["verify"] + ASKED["knowledge"]
        return r"\boxed{5}" if "add them" in transcript else r"\boxed{9}"

    one, policy = game(fan_out=2), Scripted(turn)
    found = played(one, policy)
    assert credit(policy, found, one) == ([{"verify": 0.0, "knowledge": 1.0}], 2)
    assert [len(agent.requests) for agent in one.agents.values()] == [1, 1]  # type: ignore[attr-defined]


def test_each_reply_alone_may_suffice_or_both_be_needed() -> None:
    for right, wanted in (
        (lambda said, seed: "add them" in said and "junk" in said, {"knowledge": 1.0, "verify": 1.0}),
        (lambda said, seed: "add them" in said or "junk" in said, {"knowledge": 0.0, "verify": 0.0}),
        (lambda said, seed: True, {"knowledge": 0.0, "verify": 0.0}),
        (lambda said, seed: "could not answer" not in said, {"knowledge": 1.0, "verify": 1.0}),
    ):
        one, policy = game(), asks("knowledge", "verify", right=right)
        assert credit(policy, played(one, policy), one)[0] == [wanted]


def test_the_first_continuation_has_the_seeds_of_the_episode_and_the_others_their_own() -> None:
    one, policy = game({"knowledge": "add them"}), asks("knowledge", right=lambda said, seed: True)
    tasks = [4, 5, 4]
    found = played(one, policy, tasks, group_size=2)
    seeds = [t.seed for t in found]
    policy.seeds.clear()
    assert credit(policy, found, one, tasks)[1] == 6
    own = [EpisodeSeeds(0, task, sample, epoch) for task, epoch in ((4, 0), (5, 0), (4, 1)) for sample in (0, 1)]
    assert seeds == [seed.episode for seed in own]
    assert sorted(policy.seeds) == sorted(seed.turn(1) for seed in own)
    policy.seeds.clear()
    fresh = played(one, asks("knowledge", right=lambda said, seed: True), tasks, group_size=2)
    policy.seeds.clear()
    assert credit(policy, fresh, one, tasks, continuations=3)[1] == 18
    assert len(set(policy.seeds)) == 18
    assert {seed.turn(1) for seed in own} < set(policy.seeds)


def test_a_reply_gets_the_share_that_its_absence_loses() -> None:
    """Without the reply the policy is right in two continuations of four."""
    one = game({"knowledge": "add them"})
    turns = iter([True, False, True, False])
    policy = asks("knowledge", right=lambda said, seed: "add them" in said or next(turns))
    assert credit(policy, played(one, policy), one, continuations=4)[0] == [{"knowledge": 0.5}]


def test_a_question_that_is_asked_again_stays_without_a_reply_and_others_do_not() -> None:
    for again, wanted in (("how?", 1.0), ("how, please?", 0.0)):

        def turn(transcript: str, seed: int, again: str = again) -> str:
            if ASKED["knowledge"] not in transcript:
                return ASKED["knowledge"]
            if "add them" in transcript or transcript.count("</consult>") > 1:
                return r"\boxed{5}" if "add them" in transcript else r"\boxed{9}"
            return f'<consult agent="knowledge">{again}</consult>'

        one, policy = game({"knowledge": "add them"}), Scripted(turn)
        assert credit(policy, played(one, policy), one)[0] == [{"knowledge": wanted}]
        assert isinstance(one.agents["knowledge"], Recorder)


def test_what_earned_nothing_or_has_no_reply_costs_no_continuation() -> None:
    one = game({"knowledge": "add them"})
    wrong = asks("knowledge", right=lambda said, seed: False)
    assert credit(wrong, played(one, wrong), one) == ([{"knowledge": 1.0}], 0)
    right = asks("knowledge", right=lambda said, seed: True)
    assert credit(right, played(one, right, solo_share=1.0), one) == ([{}], 0)
    cut = [dataclasses.replace(t, stop_reason="error") for t in played(one, right)]
    assert credit(right, cut, one) == ([{"knowledge": 1.0}], 0)
    declined = game({"knowledge": Reply("", error="busy")})
    assert credit(right, played(declined, right), declined) == ([{}], 0)
    assert credit_metrics(cut[:0]) == {}


def test_a_notice_before_a_reply_shifts_nothing() -> None:
    one = game({"knowledge": "add them", "verify": Reply("", error="busy")})
    policy = asks("verify", "knowledge", right=lambda said, seed: "add them" in said)
    assert credit(policy, played(one, policy), one) == ([{"knowledge": 1.0}], 1)


def test_costs_of_help_are_no_loss_of_a_reply_and_a_negative_outcome_is() -> None:
    one = game(consult_cost=0.25)
    policy = asks("knowledge", "verify", right=lambda said, seed: True)
    found = played(one, policy)
    assert found[0].reward == 0.5
    assert credit(policy, found, one)[0] == [{"knowledge": 0.0, "verify": 0.0}]
    paid = game({"knowledge": "add them"}, reward_fn=lambda task, answer, grade: 2.0 if grade.correct else -1.0)
    policy = asks("knowledge", right=lambda said, seed: "add them" in said)
    found = played(paid, policy)
    assert credit(policy, found, paid)[0] == [{"knowledge": 1.5}]  # 2 - (-1), of 2
    assert found[0].outcome == 2.0
    harm = game({"knowledge": "add them"}, reward_fn=lambda task, answer, grade: 1.0 if grade.correct else 3.0)
    policy = asks("knowledge", right=lambda said, seed: "add them" in said)
    assert credit(policy, played(harm, policy), harm)[0] == [{"knowledge": 0.0}]  # not -2


def test_helpers_that_are_asked_later_have_the_seeds_of_the_continuation() -> None:
    one, policy = game(), asks("knowledge", "verify", right=lambda said, seed: True)
    found = played(one, policy)
    credit(policy, found, one, continuations=2)
    asked = [request.seed for request in one.agents["verify"].requests]  # type: ignore[attr-defined]
    # Of the episode, and of the two continuations without knowledge's reply: in the first all is as it was.
    assert len(asked) == 3
    assert asked[0] == asked[1] != asked[2]


def test_of_a_continuation_that_a_fault_cut_nothing_is_known() -> None:
    for fails, wanted in (({1, 2}, 1.0), ({1}, 0.0), ({2}, 0.0)):
        one, calls = game({"knowledge": "add them"}), list[int]()

        def turn(transcript: str, seed: int, fails: set[int] = fails, calls: list[int] = calls) -> str:
            if ASKED["knowledge"] not in transcript:
                return ASKED["knowledge"]
            calls += [1] if "could not answer" in transcript else []
            if "could not answer" in transcript and len(calls) in fails:
                raise ServiceError("down")
            return r"\boxed{5}"

        policy = Scripted(turn)
        assert credit(policy, played(one, policy), one, continuations=2) == ([{"knowledge": wanted}], 2)


def test_an_episode_that_comes_out_otherwise_is_refused() -> None:
    one, policy = game(), asks("knowledge", "verify", right=lambda said, seed: True)
    found = played(one, policy)[0]
    found.segments[1] = dataclasses.replace(found.segments[1], text=ASKED["verify"])
    with pytest.raises(DataFormatError, match="did not come out as it was recorded"):
        list(unanswered(found, one))


# -- through samples and batches ---------------------------------------------------------------------------------------


def helped(max_tokens: int = 48) -> tuple[LocalSampler, aipo_env.ConsultEnv, list[Trajectory]]:
    policy = load_policy("embedded")
    sampler = LocalSampler(policy, SamplingConfig(max_tokens=max_tokens))
    env = aipo_env.make("rulebook-consult", codec=policy.codec, level=2, style="terse", prompt="bare")
    return sampler, env, sampler.rollout(env, [3, 4, 3], group_size=4, seed=7)


def test_a_fork_played_as_the_original_is_the_original() -> None:
    sampler, env, found = helped()
    branches, originals = [], []
    for t in found:
        assert t.task_index is not None
        episode = env.game.make_episode(t.task_index, seed=t.seed or 0)
        for due in _due_replies(episode, t):
            fork = episode.fork()
            fork.reply(due[0])
            seeds = EpisodeSeeds(7, t.task_index, t.sample, int(t.group == 2))
            branches.append((env.game, fork, seeds.turn))
            originals.append(t)
    assert len(branches) > 6
    assert sampler.play_on(branches) == [None] * len(branches)
    for (_, fork, _), t in zip(branches, originals, strict=True):
        again = fork.trajectory(group=t.group, sample=t.sample)
        assert again.token_ids == t.token_ids
        assert (again.reward, again.stop_reason, again.verdict) == (t.reward, t.stop_reason, t.verdict)


@pytest.mark.parametrize(("max_tokens", "no_room"), [(160, False), (48, True)])
def test_an_expansion_is_credited_with_what_the_policy_could_not_do_without(
    max_tokens: int, no_room: bool, caplog: pytest.LogCaptureFixture
) -> None:
    sampler, env, found = helped(max_tokens)
    right = [t for t in found if t.reward and t.num_consults]
    assert len(right) > 3
    assert credit_replies(sampler, env.game, found, [3, 4, 3], 7) == len(right)
    assert {s.credit for t in right for s in t.segments if s.source is Source.AGENT} == {1.0}
    assert not any("no reply" in t.text for t in found)
    assert ("raise sampling.max_tokens" in caplog.text) == no_room


def test_the_credit_reaches_the_tokens_of_its_reply_alone() -> None:
    _, _, found = helped()
    samples = [to_training_sample(t) for t in found]
    own, reply = np.linspace(-1, 1, 12, dtype=np.float32), np.linspace(0.1, 2, 12, dtype=np.float32)

    def packed() -> list[torch.Tensor]:
        parts = micro_batches(samples, own, 5, pad_id=0, agent_advantages_S=reply)
        return [
            torch.cat([getattr(p, name) for p in parts]) for name in ("advantages_T", "sources_T", "sequence_ids_T")
        ]

    plain_T, sources_T, sequence_T = packed()
    wanted_T = torch.where(sources_T == Source.AGENT, torch.tensor(reply)[sequence_T], torch.tensor(own)[sequence_T])
    assert torch.equal(plain_T, wanted_T)  # whole credit: to the bit what it was
    chosen = next(k for k, t in enumerate(found) if t.num_consults)
    t = found[chosen]
    t.segments = [dataclasses.replace(s, credit=0.25) if s.source is Source.AGENT else s for s in t.segments]
    samples = [to_training_sample(t) for t in found]
    credited_T, _, _ = packed()
    changed_T = (sequence_T == chosen) & (sources_T == Source.AGENT)
    assert changed_T.any()
    assert torch.equal(credited_T, torch.where(changed_T, 0.25 * plain_T, plain_T))
    again = Trajectory.from_json(t.to_json())
    assert [s.credit for s in again.segments] == [s.credit for s in t.segments]
    assert to_training_sample(t, max_length=5).credit.shape == (5,)


# -- the trainer -------------------------------------------------------------------------------------------------------


def trainer(out: Path, **options: Any) -> Trainer:
    sizes: dict[str, Any] = {
        "steps": 3, "prompts_per_step": 3, "samples_per_prompt": 4, "eval_tasks": 1, "eval_samples": 1, "eval_every": 0,
        "checkpoint_every": 1, "trace_every": 1, "warmup_steps": 0, "learning_rate": 1e-3, "reply_credit": "branch",
        "env_options": {"level": 2, "style": "terse", "prompt": "bare"}, "sampling": SamplingConfig(max_tokens=48),
    }  # fmt: skip
    return Trainer(TrainConfig(out=out, **sizes | options), policy=load_policy("embedded"))


def test_a_resumed_run_is_bit_identical_and_counts_its_continuations(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    rows = whole.train(None, ())
    asked = [int(row["rollouts"]) for row in rows]
    assert all(after - before > 12 for before, after in itertools.pairwise(asked))
    assert all("train/reply_credit_knowledge" in row for row in rows[1:])
    trainer(tmp_path / "part").train(None, (), until=1)
    part = trainer(tmp_path / "part")
    assert without_times(part.train(None, ())) == without_times(rows)
    assert equal(part.model.state_dict(), whole.model.state_dict())
    traced = [t for t in aipo_env.read_traces(tmp_path / "whole" / "traces.jsonl") if t.metadata["step"] == 1]
    replies = sum(t.num_consults for t in traced if t.outcome > 0)
    assert asked[1] == 12 + replies
    twice = trainer(tmp_path / "twice", branch_continuations=2)
    twice.train_step()
    assert twice.num_rollouts == 12 + 2 * replies


def test_replies_without_credit_move_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the credit 0 everywhere, an update is that of masked replies."""
    objective = ObjectiveConfig(self_imitation=0.0)

    def nothing(
        sampler: LocalSampler, game: ConsultGame, found: list[Trajectory], *rest: object, continuations: int
    ) -> int:
        for t in found:
            t.segments = [dataclasses.replace(s, credit=0.0) for s in t.segments]
        return 5

    whole = trainer(tmp_path / "whole", objective=objective)
    whole.train_step()
    monkeypatch.setattr("algorithms.trainer.credit_replies", nothing)
    none, masked = (
        trainer(tmp_path / "none", objective=objective),
        trainer(tmp_path / "mask", reply_credit="trajectory", objective=ObjectiveConfig(agent_loss="mask")),
    )
    for one in (none, masked):
        one.train_step()
    assert none.num_rollouts == masked.num_rollouts + 5
    assert none.history[-1]["learning_rows"] == masked.history[-1]["learning_rows"]
    assert equal(none.model.state_dict(), masked.model.state_dict())
    assert not equal(whole.model.state_dict(), masked.model.state_dict())


def test_groups_that_dynamic_sampling_leaves_out_are_counted_with_their_continuations(tmp_path: Path) -> None:
    one, counted = trainer(tmp_path, dynamic_sampling=1, solo_share=0.0), list[int]()
    plain = one.sampler.play_on

    def play_on(branches: Sequence[tuple[ConsultGame, Episode, Callable[[int], int]]]) -> list[BaseException | None]:
        counted.append(len(branches))
        return plain(branches)

    one.sampler.play_on = play_on  # type: ignore[method-assign]
    _, kept = one.train_step()
    assert one.num_rollouts == 12 * len(counted) + sum(counted)
    assert len(kept) <= 12


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"solo_share": 1.0}, "none is"),
        ({"objective": ObjectiveConfig(agent_loss="mask")}, "none is"),
        ({"objective": ObjectiveConfig(agent_baseline="solo")}, "it is 'solo'"),
        ({"branch_continuations": 0}, "at least 1"),
        ({"reply_credit": "trajectory", "branch_continuations": 2}, "leave it out"),
    ],
)
def test_what_cannot_be_credited(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        TrainConfig(**{"reply_credit": "branch"} | options)


def test_beside_a_helper_that_is_trained_the_credit_is_the_policys(tmp_path: Path) -> None:
    config = trainer(tmp_path, branch_continuations=2).config
    both = MultiAgentTrainer(config, HelperConfig("knowledge", helper_phase="alternate:1"))
    assert both.trainer is not None
    assert both.trainer.config.reply_credit == "branch"
    assert both.helper.config.reply_credit == "trajectory"
