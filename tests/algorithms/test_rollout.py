from __future__ import annotations

import asyncio
import dataclasses
import itertools
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import aipo_env
from aipo_env import ConsultEnv, Source
from aipo_env.errors import ConfigurationError, GradingError
from aipo_env.grading import Grade
from aipo_env.tasks.base import Task
from algorithms.batch import micro_batches
from algorithms.codec import TransformersCodec
from algorithms.decoder import BatchDecoder
from algorithms.logprobs import token_logprobs
from algorithms.policies import Policy
from algorithms.rollout import Roller, RolloutRequest
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


def requests(count: int) -> list[RolloutRequest]:
    # Prompts of one, two and three digits: rows of unequal length.
    return [RolloutRequest(i * 7 % 100, assisted=i % 3 != 0, seed=i, group=i // 4, sample=i % 4) for i in range(count)]


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
    roller = Roller(policy, make_env(policy), SamplingConfig(temperature=0.7, max_tokens=40, batch_size=24))
    trajectories = roller.rollout(requests(48), seed=5)
    kinds = {t.stop_reason for t in trajectories}
    assert {"answer", "no_answer", "length"} <= kinds
    assert sum(t.num_consults for t in trajectories) >= 5
    assert any(s.source is Source.TEMPLATE for t in trajectories for s in t.segments)
    for part in micro_batches(trajectories, torch.zeros(len(trajectories)), 7, pad_id=0):
        with torch.no_grad():
            found = token_logprobs(
                policy.model, part.input_ids_BL, part.attention_mask_BL, part.selected_BL, temperature=0.7
            ).logprobs_T
        own = part.sources_T == Source.POLICY
        torch.testing.assert_close(found[own], part.behaviour_logprobs_T[own], atol=2e-5, rtol=1e-4)


def record_what_is_fed(monkeypatch: pytest.MonkeyPatch) -> tuple[list[list[int]], list[int]]:
    """The ids of each row that a decoder sees, without holes; and, for each step, how many rows wait."""
    plain_init, plain_step, plain_keep = BatchDecoder.__init__, BatchDecoder.step, BatchDecoder.keep
    fed: list[list[int]] = []
    rows: list[list[int]] = []
    waiting: list[int] = []

    def init(self: BatchDecoder, model: nn.Module, prompts: list[list[int]]) -> None:
        rows[:] = [list(p) for p in prompts]
        fed.extend(rows)
        plain_init(self, model, prompts)

    def step(self: BatchDecoder, ids: Tensor, waits: Tensor | None = None) -> Tensor:
        holes = [False] * len(rows) if waits is None else waits.tolist()
        waiting.append(sum(holes))
        for row, new, hole in zip(rows, ids.tolist(), holes, strict=True):
            if not hole:
                row.extend(new)
        return plain_step(self, ids, waits)

    def keep(self: BatchDecoder, kept: Tensor) -> None:
        rows[:] = [rows[i] for i in kept.tolist()]
        plain_keep(self, kept)

    monkeypatch.setattr(BatchDecoder, "__init__", init)
    monkeypatch.setattr(BatchDecoder, "step", step)
    monkeypatch.setattr(BatchDecoder, "keep", keep)
    return fed, waiting


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_repair_16_the_ids_that_went_through_the_model_are_the_ids_of_the_trajectory(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed, waiting = record_what_is_fed(monkeypatch)
    policy = talkative(tiny_policy())
    env = make_env(policy, agents=slow_helpers(seconds))
    trajectories = Roller(policy, env, SamplingConfig(max_tokens=40)).rollout(requests(24), seed=2)
    assert any(waiting) is (seconds > 0)
    assert len(fed) == len(trajectories)
    # Each row that was fed is one trajectory, and no other's. The last token of an episode is sampled from what was fed, and
    # need not be fed itself; a reply that ends it is not.
    left = [t.token_ids for t in trajectories]
    for ids in sorted(fed, key=len, reverse=True):
        whole = next(w for w in left if w[: len(ids)] == ids and len(w) - len(ids) <= 1)
        left.remove(whole)
    assert not left


def test_a_rollout_is_a_function_of_its_seed() -> None:
    policy = talkative(tiny_policy())
    roller = Roller(policy, make_env(policy), SamplingConfig(max_tokens=24))

    def ids(seed: int) -> list[list[int]]:
        return [t.token_ids for t in roller.rollout(requests(16), seed)]

    state = torch.get_rng_state()
    assert ids(1) == ids(1)
    assert ids(1) != ids(2)
    assert torch.equal(state, torch.get_rng_state())


def test_helpers_are_asked_once_per_consult_and_their_tokens_are_forced() -> None:
    policy = talkative(tiny_policy())
    env = make_env(policy)
    trajectories = Roller(policy, env, SamplingConfig(max_tokens=40)).rollout(requests(24), seed=2)
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
    trajectories = Roller(policy, make_env(policy), SamplingConfig(max_tokens=30)).rollout(
        [RolloutRequest(i, assisted=False) for i in range(32)], seed=1
    )
    assert all([s.source for s in t.segments] == [Source.PROMPT, Source.POLICY] for t in trajectories)
    assert any("</consult>" in t.text for t in trajectories)


def test_the_token_budget_holds() -> None:
    policy = talkative(tiny_policy())
    for trajectory in Roller(policy, make_env(policy), SamplingConfig(max_tokens=10)).rollout(requests(16), seed=0):
        sampled = trajectory.count(Source.POLICY)
        assert sampled <= 10
        if trajectory.stop_reason == "length":
            assert len(trajectory.token_ids) - trajectory.segments[0].token_ids.__len__() >= 10


def test_results_do_not_depend_on_finished_neighbours() -> None:
    """Greedy rows are the same alone and in a batch in which others consult, finish and are dropped."""
    policy = talkative(tiny_policy())
    sampling = SamplingConfig(temperature=0.0, max_tokens=20)
    together = Roller(policy, make_env(policy), sampling).rollout(requests(12), seed=0)
    alone = [Roller(policy, make_env(policy), sampling).rollout([r], seed=9)[0] for r in requests(12)]
    assert [t.token_ids for t in together] == [t.token_ids for t in alone]


def test_policy_and_environment_must_share_the_tokenizer() -> None:
    policy = tiny_policy()
    for codec in (None, CharacterCodec()):
        with pytest.raises(ConfigurationError, match=r"codec=policy\.codec"):
            Roller(policy, make_env(policy, codec=codec), SamplingConfig())


def test_a_broken_helper_propagates_and_leaves_the_model_as_it_was() -> None:
    class Broken(Recorder):
        async def respond(self, request: aipo_env.ConsultRequest) -> aipo_env.Reply:
            raise ZeroDivisionError

    policy = talkative(tiny_policy())
    policy.model.train()
    env = make_env(policy, agents={"verify": Broken(), "knowledge": Broken()})
    with pytest.raises(ZeroDivisionError):
        Roller(policy, env, SamplingConfig(max_tokens=40)).rollout(requests(24), seed=2)
    assert policy.model.training


def test_repair_13_a_sample_does_not_depend_on_what_stands_beside_it() -> None:
    """Nor on the order of the requests; another sample, task or seed is another draw."""
    policy = talkative(tiny_policy())
    roller = Roller(policy, make_env(policy), SamplingConfig(max_tokens=30, batch_size=5))
    whole = roller.rollout(requests(14), seed=3)
    together = Roller(policy, make_env(policy), SamplingConfig(max_tokens=30, batch_size=14))
    backwards = together.rollout(requests(14)[::-1], seed=3)[::-1]
    assert [t.token_ids for t in whole] == [t.token_ids for t in backwards]
    assert [roller.rollout([r], seed=3)[0].token_ids for r in requests(14)] == [t.token_ids for t in whole]
    request = RolloutRequest(7, sample=1, seed=2)
    others = [request, *(dataclasses.replace(request, **{name: 5}) for name in ("sample", "seed"))]
    plain = tiny_policy()
    roller = Roller(plain, make_env(plain), SamplingConfig(max_tokens=12))
    drawn = [tuple(t.token_ids) for seed in (0, 1) for t in roller.rollout(others, seed)]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_repair_13_slow_helpers_change_no_sample(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that wait are holes in the step; a model with a sliding window waits as a whole."""
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
        roller = Roller(policy, env, SamplingConfig(max_tokens=40, batch_size=40))
        found.append(roller.rollout([RolloutRequest(i * 7 % 100, sample=i) for i in range(80)], seed=2))
    assert sum(t.num_consults for t in found[0]) >= 5
    for quick, slow in zip(*found, strict=True):
        assert quick.token_ids == slow.token_ids
        torch.testing.assert_close(torch.tensor(quick.logprobs), torch.tensor(slow.logprobs), atol=2e-5, rtol=1e-4)


def test_repair_13_a_row_that_waits_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper of one row answers only when the others have gone on for ten steps."""
    steps = threading.Semaphore(0)
    plain = BatchDecoder.step

    def step(self: BatchDecoder, ids: Tensor, waits: Tensor | None = None) -> Tensor:
        if waits is not None:
            steps.release()
        return plain(self, ids, waits)

    class Patient(Recorder):
        async def respond(self, request: aipo_env.ConsultRequest) -> aipo_env.Reply:
            for _ in range(10):
                while not steps.acquire(blocking=False):
                    await asyncio.sleep(0.001)
            return await super().respond(request)

    monkeypatch.setattr(BatchDecoder, "step", step)
    policy = tiny_policy()
    script(monkeypatch, policy, ['<consult agent="verify">1</consult>', "1" * 30, "2" * 30], behind="\\boxed{1}")
    helper = Patient(REPLY)
    env = make_env(policy, agents={"verify": helper}, consult_timeout=20.0)
    asked, *others = Roller(policy, env, SamplingConfig(max_tokens=100)).rollout([RolloutRequest(i) for i in range(3)])
    assert asked.num_consults == len(helper.requests) == 1
    assert [s.source for s in asked.segments] == [Source.PROMPT, Source.POLICY, Source.AGENT, Source.POLICY]
    assert [t.verdict for t in (asked, *others)].count("correct") == 1


def script(monkeypatch: pytest.MonkeyPatch, policy: Policy, texts: list[str], behind: str) -> None:
    """Makes each row write a text of its own, then `behind`, then end its turn, whatever the model thinks."""
    eos = policy.tokenizer.eos_token_id
    rows: dict[int, Iterator[int]] = {}

    def draw(
        logits: Tensor, temperatures: object, top_ps: object, generators: list[object]
    ) -> tuple[list[int], list[float]]:
        for generator in generators:
            if id(generator) not in rows:
                ids = policy.codec.encode_tag(texts[len(rows)])
                rows[id(generator)] = itertools.chain(ids, policy.codec.encode_tag(behind), itertools.repeat(eos))
        return [next(rows[id(generator)]) for generator in generators], [-1.0] * len(generators)

    monkeypatch.setattr("algorithms.rollout.draw", draw)


VERIFY, KNOWLEDGE, REASONING = (
    f'<consult agent="{name}">1+1</consult>' for name in ("verify", "knowledge", "reasoning")
)


@pytest.mark.parametrize(
    ("fan_out", "text", "asked", "behind"),
    [
        (1, VERIFY + KNOWLEDGE, ["verify"], []),
        (2, VERIFY + KNOWLEDGE, ["verify", "knowledge"], []),
        (2, f"{VERIFY} \n{KNOWLEDGE}{REASONING}", ["verify", "knowledge"], []),
        (3, f"{VERIFY}{KNOWLEDGE} 7{REASONING}", ["verify", "knowledge"], [" 7"]),
        (3, f"{VERIFY}{VERIFY}{KNOWLEDGE}", ["verify"], [VERIFY]),
        (3, f"{VERIFY} ", ["verify"], [" "]),
    ],
)
def test_repair_13_a_turn_carries_as_many_consults_as_the_rules_allow(
    fan_out: int, text: str, asked: list[str], behind: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ends where nothing more can belong to it; what was sampled past that is in the record, and nobody's doing."""
    policy = tiny_policy()
    script(monkeypatch, policy, [text], behind="")
    env = make_env(policy, fan_out=fan_out, max_turns=2)
    [trajectory] = Roller(policy, env, SamplingConfig(max_tokens=200)).rollout([RolloutRequest(1)])
    own, *rest = itertools.takewhile(lambda s: s.source is not Source.AGENT, trajectory.segments[1:])
    assert [s.agent for s in trajectory.segments if s.source is Source.AGENT] == asked
    assert own.source is Source.POLICY
    assert own.text.count("</consult>") == len(asked)
    assert [(s.source, s.text) for s in rest] == [(Source.TEMPLATE, text) for text in behind]


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
    [trajectory] = Roller(policy, env, SamplingConfig(max_tokens=200)).rollout([RolloutRequest(1)])
    assert trajectory.verdict == verdict
    assert [s.source for s in trajectory.segments[1 : 1 + len(kinds)]] == kinds


def test_repair_11_an_answer_that_cannot_be_graded_ends_its_episode_alone() -> None:
    class Broken(SumTasks):
        def grade(self, task: Task, answer: str) -> Grade:
            if task.id.endswith("/14"):
                raise GradingError("the worker died")
            return super().grade(task, answer)

    policy = talkative(tiny_policy())
    roller = Roller(policy, make_env(policy, tasks=Broken()), SamplingConfig(max_tokens=40))
    trajectories = roller.rollout([RolloutRequest(7 + 7 * (i % 2), assisted=False, sample=i) for i in range(48)])
    faults = [t for t in trajectories if t.stop_reason == "error"]
    assert faults
    assert {t.task_index for t in faults} == {14}
    assert {t.metadata["error"] for t in faults} == {"GradingError: the worker died"}
    assert any(t.stop_reason == "answer" for t in trajectories)
    assert not any("error" in t.metadata for t in trajectories if t not in faults)


@pytest.mark.parametrize("context", [3, 12, 26])
def test_no_episode_outgrows_the_context(context: int) -> None:
    policy = talkative(tiny_policy())
    sampling = SamplingConfig(max_tokens=60, batch_size=12)
    free = Roller(policy, make_env(policy), sampling).rollout(requests(12), seed=5)
    held = Roller(policy, make_env(policy), sampling, context=context).rollout(requests(12), seed=5)
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
