from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import aipo_env
from aipo_agents.backends.base import CompletionSampling
from aipo_agents.backends.row_batch import RowBatch
from aipo_agents.backends.transformers_model import TransformersModel
from aipo_env import ConsultEnv, Source, Trajectory, to_training_sample
from aipo_env.errors import ConfigurationError, GradingError
from aipo_env.grading import Grade
from aipo_env.rollout import EpisodeSeeds, collect_rollouts
from aipo_env.tasks.base import Task
from algorithms.batch import micro_batches
from algorithms.codec import TransformersCodec
from algorithms.logprobs import token_logprobs
from algorithms.policies import Policy
from algorithms.rollout import LocalSampler, local_policy
from algorithms.train_config import SamplingConfig
from tests.algorithms.tiny import ARCHITECTURES, HYBRIDS, tiny_policy
from tests.helpers import CharacterCodec, Recorder, SumTasks

REPLY = "4+4+1;7+7+2 and some more of it"


def make_env(policy: Policy, **options: object) -> ConsultEnv:
    helpers = {name: Recorder(REPLY, name) for name in ("verify", "knowledge", "reasoning")}
    return aipo_env.make(
        "rulebook-consult",
        **{"codec": policy.codec, "agents": helpers, "prompt": "bare", "tasks": SumTasks(), **options},  # type: ignore[arg-type]
    )


class SlowRecorder(Recorder):
    """Answers later, and no two at the same time."""

    def __init__(self, reply: str, name: str, seconds: float) -> None:
        super().__init__(reply, name)
        self._seconds = seconds

    async def respond(self, request: aipo_env.ConsultRequest) -> aipo_env.Reply:
        await asyncio.sleep(self._seconds * (1 + len(self.requests) % 3))
        return await super().respond(request)


def slow_helpers(seconds: float) -> dict[str, Recorder]:
    kind = SlowRecorder if seconds else Recorder
    arguments = (seconds,) if seconds else ()
    return {name: kind(REPLY, name, *arguments) for name in ("verify", "knowledge", "reasoning")}


def talkative(policy: Policy) -> Policy:
    """Makes tags and the end token likely, so that random episodes consult, are malformed, answer and run out of tokens."""
    head = policy.model.get_output_embeddings()
    bias = torch.zeros(len(policy.tokenizer))
    likely = ['<consult agent="verify">', '<consult agent="knowledge">', "</consult>", "\\boxed{", "}", "<eos>"]
    bias[policy.tokenizer.convert_tokens_to_ids(likely)] = 3.0
    head.register_forward_hook(lambda module, args, output: output + bias)
    return policy


# Prompts of one, two and three digits: rows of unequal length.
TASKS = [i * 7 % 100 for i in range(12)]


def play(
    policy: Policy, env: ConsultEnv | None = None, tasks: Sequence[int] = TASKS, *, seed: int = 2, **options: Any
) -> list[Trajectory]:
    """Groups of three, the first of them solo."""
    sampling = SamplingConfig(**{"max_tokens": 100, **options})
    shares = {"group_size": 3, "solo_share": 1 / 3} if len(tasks) > 1 else {"group_size": 1}
    return LocalSampler(policy, sampling).rollout(env or make_env(policy), tasks, seed=seed, **shares)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma3"])
def test_recorded_logprobs_are_those_of_the_recorded_ids(architecture: str) -> None:
    check_recorded_logprobs(architecture)


@pytest.mark.filterwarnings("ignore:.*fast path is not available.*")
@pytest.mark.parametrize("architecture", HYBRIDS)
def test_repair_14_models_with_states_sample_what_a_plain_forward_says(architecture: str) -> None:
    check_recorded_logprobs(architecture)


def check_recorded_logprobs(architecture: str) -> None:
    """Token-exactness, end to end: a plain forward pass over the concatenated ids gives the sampler's log-probabilities."""
    policy = talkative(tiny_policy(architecture))
    trajectories = play(policy, tasks=[i * 7 % 100 for i in range(40)], seed=5, temperature=0.7, batch_size=24)
    kinds = {t.stop_reason for t in trajectories}
    assert {"answer", "no_answer", "length"} <= kinds
    assert sum(t.num_consults for t in trajectories) >= 5
    assert any(s.source is Source.TEMPLATE for t in trajectories for s in t.segments)
    samples = [to_training_sample(t) for t in trajectories]
    for part in micro_batches(samples, np.zeros(len(samples)), 7, pad_id=0):
        with torch.no_grad():
            found = token_logprobs(
                policy.model, part.input_ids_BL, part.attention_mask_BL, part.selected_BL, temperature=0.7
            ).logprobs_T
        own = part.sources_T == Source.POLICY
        torch.testing.assert_close(found[own], part.behaviour_logprobs_T[own], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_repair_16_the_ids_that_went_through_the_model_are_the_ids_of_the_trajectory(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each of them once, where everything that was computed is kept."""
    fed: list[int] = []
    policy = talkative(tiny_policy())
    policy.model.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(int(kwargs["attention_mask"][:, -kwargs["input_ids"].shape[1] :].sum())
        if kwargs["attention_mask"] is not None else kwargs["input_ids"].numel()),
        with_kwargs=True,
    )  # fmt: skip
    rows: list[list[int]] = []
    join, step, leave = RowBatch.join, RowBatch.step, RowBatch.leave
    left: list[list[int]] = []

    def joined(self: RowBatch, sequences: Sequence[Sequence[int]]) -> Tensor:
        rows.extend(map(list, sequences))
        return join(self, sequences)

    def stepped(self: RowBatch, ids: Sequence[int]) -> Tensor:
        for row, token in zip(rows, ids, strict=True):
            row.append(token)
        return step(self, ids)

    def gone(self: RowBatch, leaving: Iterable[int], *rest: Any) -> list[int]:
        order = leave(self, leaving := list(leaving), *rest)
        left.extend(rows[row] for row in leaving)
        rows[:] = [rows[row] for row in order]
        return order

    for name, function in (("join", joined), ("step", stepped), ("leave", gone)):
        monkeypatch.setattr(RowBatch, name, function)
    trajectories = play(policy, make_env(policy, agents=slow_helpers(seconds)))
    assert not rows
    assert [(t.group, t.sample) for t in trajectories] == list(itertools.product(range(len(TASKS)), range(3)))
    assert sum(t.num_consults for t in trajectories) >= 3
    pairs = [(a.source, b.source) for t in trajectories for a, b in itertools.pairwise(t.segments)]
    assert pairs.count((Source.AGENT, Source.POLICY)) >= 3
    # Each row that left is a turn of one trajectory, and no other's; the last token of a turn was sampled and not computed.
    turns = Counter(
        tuple(i for s in t.segments[: n + 1] for i in s.token_ids)[:-1]
        for t in trajectories
        for n, segment in enumerate(t.segments)
        if segment.source is Source.POLICY
    )
    assert Counter(map(tuple, left)) == turns
    new = 0
    prompts = set()
    for t in trajectories:
        own = [n for n, segment in enumerate(t.segments) if segment.source is Source.POLICY]
        new += sum(len(s.token_ids) for s in t.segments[1 : own[-1] + 1]) - 1
        prompts.add(tuple(t.segments[0].token_ids))
    assert sum(fed) == new + sum(map(len, prompts))


def test_a_rollout_is_a_function_of_its_seed() -> None:
    policy = talkative(tiny_policy())

    def ids(seed: int) -> list[list[int]]:
        return [t.token_ids for t in play(policy, seed=seed, max_tokens=24)]

    state = torch.get_rng_state()
    assert ids(1) == ids(1)
    assert ids(1) != ids(2)
    assert torch.equal(state, torch.get_rng_state())


def test_a_rollout_leaves_nothing_behind_and_is_played_in_evaluation_mode() -> None:
    """Another of the same sampler computes all of it again."""
    policy = tiny_policy()
    passes: list[tuple[int, bool]] = []
    policy.model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append((kwargs["input_ids"].shape[1], module.training)), with_kwargs=True
    )
    sampler, env = LocalSampler(policy, SamplingConfig(max_tokens=4)), make_env(policy)
    for _ in range(2):
        policy.model.train()
        passes.clear()
        [trajectory] = sampler.rollout(env, [7], group_size=1, seed=0)
        assert passes[0] == (len(trajectory.segments[0].token_ids), False)
        assert policy.model.training


def test_helpers_are_asked_once_per_consult_and_their_tokens_are_forced() -> None:
    policy = talkative(tiny_policy())
    env = make_env(policy)
    trajectories = play(policy, env)
    asked = sum(len(helper.requests) for helper in env.agents.values())  # type: ignore[attr-defined]
    assert asked == sum(t.num_consults for t in trajectories) > 0
    for trajectory in trajectories:
        for segment in trajectory.segments:
            if segment.source is Source.AGENT:
                assert trajectory.assisted
                expected = f'<feedback agent="{segment.agent}">{REPLY}</feedback>'
                assert segment.token_ids == tuple(policy.codec.encode_tag(expected))


def test_solo_rollouts_hold_nothing_but_the_prompt_and_the_policy() -> None:
    policy = talkative(tiny_policy())
    trajectories = LocalSampler(policy, SamplingConfig(max_tokens=30)).rollout(
        make_env(policy), range(32), group_size=1, seed=1, solo_share=1.0
    )
    assert all([s.source for s in t.segments] == [Source.PROMPT, Source.POLICY] for t in trajectories)
    assert any("</consult>" in t.text for t in trajectories)


def test_the_token_budget_holds() -> None:
    policy = talkative(tiny_policy())
    for trajectory in play(policy, seed=0, max_tokens=10):
        sampled = trajectory.count(Source.POLICY)
        assert sampled <= 10
        if trajectory.stop_reason == "length":
            assert len(trajectory.token_ids) - trajectory.segments[0].token_ids.__len__() >= 10


def test_results_do_not_depend_on_finished_neighbours() -> None:
    """Greedy rows are the same alone and in a batch in which others consult, finish and are dropped."""
    policy = talkative(tiny_policy())
    together = [t for t in play(policy, temperature=0.0, max_tokens=20) if t.sample == 1]
    alone = [play(policy, tasks=[index], seed=9, temperature=0.0, max_tokens=20)[0] for index in TASKS]
    assert [t.token_ids for t in together] == [t.token_ids for t in alone]


def test_episodes_are_played_on_each_with_its_own_seeds() -> None:
    policy = talkative(tiny_policy())
    env, seen = make_env(policy), list[Trajectory]()
    sampler = LocalSampler(policy, SamplingConfig(max_tokens=60))
    whole = sampler.rollout(env, TASKS[:4], group_size=2, seed=2, on_episode=seen.append)
    assert Counter(map(id, seen)) == Counter(map(id, whole))
    branches = [
        (env.game, env.game.make_episode(index, seed=t.seed or 0, assisted=True), EpisodeSeeds(2, index, t.sample).turn)
        for t in whole
        if (index := t.task_index) is not None
    ]
    assert sampler.play_on(branches) == [None] * 8
    assert [episode.trajectory().token_ids for _, episode, _ in branches] == [t.token_ids for t in whole]


def test_policy_and_environment_must_share_the_tokenizer() -> None:
    policy = tiny_policy()
    for codec in (None, CharacterCodec()):
        with pytest.raises(ConfigurationError, match=r"codec=policy\.codec"):
            play(policy, make_env(policy, codec=codec))


def test_a_broken_helper_propagates_and_leaves_the_model_as_it_was() -> None:
    class Broken(Recorder):
        async def respond(self, request: aipo_env.ConsultRequest) -> aipo_env.Reply:
            raise ZeroDivisionError

    policy = talkative(tiny_policy())
    policy.model.train()
    env = make_env(policy, agents={"verify": Broken(), "knowledge": Broken()})
    with pytest.raises(ZeroDivisionError):
        play(policy, env)
    assert policy.model.training


def test_repair_13_a_sample_does_not_depend_on_what_stands_beside_it() -> None:
    """Nor on the order of the tasks; another sample, task, seed or round over the tasks is another draw."""
    policy = talkative(tiny_policy())

    def ids(tasks: Sequence[int], batch_size: int) -> dict[tuple[int | None, int], list[int]]:
        found = play(policy, tasks=tasks, batch_size=batch_size)
        return {(t.task_index, t.sample): t.token_ids for t in found}

    whole = ids(TASKS, 36)
    assert ids(TASKS[::-1], 36) == whole
    assert ids(TASKS, 5) == whole
    assert ids(TASKS[3:5], 1) == {key: own for key, own in whole.items() if key[0] in TASKS[3:5]}
    plain = tiny_policy()
    drawn = [
        tuple(t.token_ids)
        for seed in (0, 1)
        for t in LocalSampler(plain, SamplingConfig(max_tokens=12)).rollout(
            make_env(plain), [7, 7], group_size=3, seed=seed
        )
    ]
    assert len(set(drawn)) == len(drawn) == 12


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_repair_13_slow_helpers_change_no_sample(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = talkative(tiny_policy(architecture))
    encode = TransformersCodec.encode

    def encode_here(self: TransformersCodec, text: str) -> list[int]:
        # A fast tokenizer switches a setting of its own while it encodes: two threads would see each other's.
        assert threading.current_thread() is threading.main_thread()
        return encode(self, text)

    monkeypatch.setattr(TransformersCodec, "encode", encode_here)
    found = []
    for seconds in (0.0, 0.05):
        env = make_env(policy, agents=slow_helpers(seconds))
        found.append(play(policy, env, [i * 7 % 100 for i in range(20)], batch_size=40))
    assert sum(t.num_consults for t in found[0]) >= 5
    for quick, slow in zip(*found, strict=True):
        assert quick.token_ids == slow.token_ids
        torch.testing.assert_close(torch.tensor(quick.logprobs), torch.tensor(slow.logprobs), atol=2e-5, rtol=1e-4)


def test_repair_13_a_row_that_waits_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper of one row answers only when the others have gone on for ten steps."""
    steps = threading.Semaphore(0)
    plain = RowBatch.step

    def step(self: RowBatch, ids: Sequence[int]) -> Tensor:
        if len(ids) == 2:
            steps.release()
        return plain(self, ids)

    class Patient(Recorder):
        async def respond(self, request: aipo_env.ConsultRequest) -> aipo_env.Reply:
            for _ in range(10):
                while not steps.acquire(blocking=False):
                    await asyncio.sleep(0.001)
            return await super().respond(request)

    monkeypatch.setattr(RowBatch, "step", step)
    policy = tiny_policy()
    script(monkeypatch, policy, ['<consult agent="verify">1</consult>', "1" * 30, "2" * 30], behind="\\boxed{1}")
    helper = Patient(REPLY)
    env = make_env(policy, agents={"verify": helper}, consult_timeout=20.0)
    asked, *others = LocalSampler(policy, SamplingConfig(max_tokens=100)).rollout(env, range(3), group_size=1, seed=0)
    assert asked.num_consults == len(helper.requests) == 1
    assert [s.source for s in asked.segments] == [Source.PROMPT, Source.POLICY, Source.AGENT, Source.POLICY]
    assert [t.verdict for t in (asked, *others)].count("correct") == 1


def script(monkeypatch: pytest.MonkeyPatch, policy: Policy, texts: list[str], behind: str) -> None:
    """Makes each first turn write a text of its own, then `behind`, and later ones `behind`, whatever the model thinks."""
    eos = policy.tokenizer.eos_token_id
    rows: dict[int, Iterator[int]] = {}
    seen: list[object] = []  # so that no other one gets the same id

    def draw(
        logits: Tensor, temperatures: object, top_ps: object, generators: list[object]
    ) -> tuple[list[int], list[float]]:
        for generator in generators:
            if id(generator) not in rows:
                ids = policy.codec.encode_tag(texts[len(rows)] if len(rows) < len(texts) else "")
                seen.append(generator)
                rows[id(generator)] = itertools.chain(ids, policy.codec.encode_tag(behind), itertools.repeat(eos))
        return [next(rows[id(generator)]) for generator in generators], [-1.0] * len(generators)

    monkeypatch.setattr("aipo_agents.backends.drawing.draw", draw)


VERIFY, KNOWLEDGE, REASONING = (
    f'<consult agent="{name}">1+1</consult>' for name in ("verify", "knowledge", "reasoning")
)


@pytest.mark.parametrize(
    ("fan_out", "text", "asked", "behind"),
    [
        (1, VERIFY + KNOWLEDGE, ["verify"], ""),
        (2, VERIFY + KNOWLEDGE, ["verify", "knowledge"], ""),
        (2, f"{VERIFY} \n{KNOWLEDGE}{REASONING}", ["verify", "knowledge"], f"{REASONING}<eos>"),
        (3, f"{VERIFY}{KNOWLEDGE} 7{REASONING}", ["verify", "knowledge"], f" 7{REASONING}<eos>"),
        (3, f"{VERIFY}{VERIFY}{KNOWLEDGE}", ["verify"], f"{VERIFY}{KNOWLEDGE}<eos>"),
    ],
)
def test_repair_13_a_turn_carries_as_many_consults_as_the_rules_allow(
    fan_out: int, text: str, asked: list[str], behind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sampled behind them is in the record, and nobody's doing; a turn of one consult ends with it."""
    policy = tiny_policy()
    script(monkeypatch, policy, [text], behind="")
    env = make_env(policy, fan_out=fan_out, max_turns=2)
    [trajectory] = play(policy, env, [1], max_tokens=200)
    own, *rest = itertools.takewhile(lambda s: s.source is not Source.AGENT, trajectory.segments[1:])
    assert [s.agent for s in trajectory.segments if s.source is Source.AGENT] == asked
    assert own.source is Source.POLICY
    assert own.text.count("</consult>") == len(asked)
    assert {s.source for s in rest} <= {Source.TEMPLATE}
    assert policy.tokenizer.decode([i for s in rest for i in s.token_ids]) == behind


class Programs(SumTasks):
    """Sums whose answer is a program."""

    answers = "program"


@pytest.mark.parametrize(
    ("text", "kinds", "verdict"),
    [
        ("```python\n1\n```", [Source.POLICY], "wrong"),
        (f"```python\n{VERIFY}\n```", [Source.POLICY, Source.AGENT], ""),
        ("<answer>```python\n1\n```</answer>" + VERIFY + "7", [Source.POLICY], "wrong"),
    ],
)
def test_repair_13_programs_end_a_turn_by_the_rules_of_the_episode(
    text: str, kinds: list[Source], verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tiny_policy()
    script(monkeypatch, policy, [text], behind="")
    env = make_env(policy, tasks=Programs(), max_turns=2)
    [trajectory] = play(policy, env, [1], max_tokens=200)
    assert trajectory.verdict == verdict
    assert [s.source for s in trajectory.segments[1 : 1 + len(kinds)]] == kinds


def test_repair_11_an_answer_that_cannot_be_graded_ends_its_episode_alone() -> None:
    class Broken(SumTasks):
        def grade(self, task: Task, answer: str) -> Grade:
            if task.id.endswith("/14"):
                raise GradingError("the worker died")
            return super().grade(task, answer)

    policy = talkative(tiny_policy())
    trajectories = LocalSampler(policy, SamplingConfig(max_tokens=40)).rollout(
        make_env(policy, tasks=Broken()), [7, 14], group_size=24, seed=0, solo_share=1.0
    )
    faults = [t for t in trajectories if t.stop_reason == "error"]
    assert faults
    assert {t.task_index for t in faults} == {14}
    assert {t.metadata["error"] for t in faults} == {"GradingError: the worker died"}
    assert any(t.stop_reason == "answer" for t in trajectories)
    assert not any("error" in t.metadata for t in trajectories if t not in faults)


def test_a_local_policy_samples_as_it_is_told() -> None:
    turns = local_policy(tiny_policy(), SamplingConfig(0.7, 0.9, 33, 5))
    assert turns.sampling == CompletionSampling(0.7, 0.9, 33)
    assert isinstance(turns.backend, TransformersModel)
    assert turns.backend.max_batch == 5


@pytest.mark.parametrize("context", [3, 12, 26])
def test_no_episode_outgrows_the_context(context: int) -> None:
    policy = talkative(tiny_policy())
    free = play(policy, seed=5, max_tokens=60)
    turns = local_policy(policy, SamplingConfig(max_tokens=60), context_length=context)
    held = collect_rollouts(make_env(policy), turns, TASKS, group_size=3, seed=5, max_tokens=60)
    assert max(len(t.token_ids) for t in free) > context + len(REPLY)
    for trajectory in held:
        sampled = [i for i, s in enumerate(trajectory.sources) if s is Source.POLICY]
        # A reply may stand beyond the end; nothing is sampled behind it, nor behind a prompt that fills the context.
        assert max(sampled, default=0) < context
        if len(trajectory.token_ids) >= context:
            assert trajectory.stop_reason in ("length", "answer", "no_answer")
    assert "length" in {t.stop_reason for t in held}
    prompts = {t.count(Source.PROMPT) for t in held}
    if context == 3:
        assert min(prompts) >= 3
        assert {t.stop_reason for t in held} == {"length"}


def test_sixteen_consults_are_waited_for_together() -> None:
    """Two rounds by eight episodes: all of a round wait at the same time, and take their steps together again."""
    policy = tiny_policy()
    waiting, most = 0, 0
    widths: list[int] = []

    class Counting(Recorder):
        async def respond(self, request: aipo_env.ConsultRequest) -> aipo_env.Reply:
            nonlocal waiting, most
            waiting += 1
            most = max(most, waiting)
            await asyncio.sleep(0.3)
            waiting -= 1
            return await super().respond(request)

    with pytest.MonkeyPatch.context() as patch:
        consult = '<consult agent="verify">1+1</consult>'
        script(patch, policy, [consult] * 16, behind="\\boxed{1}")
        step = RowBatch.step

        def counted(self: RowBatch, ids: Sequence[int]) -> Tensor:
            widths.append(len(ids))
            return step(self, ids)

        patch.setattr(RowBatch, "step", counted)
        env = make_env(policy, agents={"verify": Counting("4")})
        started = time.perf_counter()
        found = LocalSampler(policy, SamplingConfig(max_tokens=200)).rollout(env, range(8), group_size=1, seed=0)
        print(f"{(time.perf_counter() - started) / 0.6:.2f} times the helpers' time")
    assert sum(t.num_consults for t in found) == 16
    assert {t.stop_reason for t in found} == {"answer"}
    assert most == 8
    assert sum(widths) / len(widths) > 4
