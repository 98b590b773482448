from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import aipo_env
from aipo_env import ConsultEnv, Source
from aipo_env.errors import ConfigurationError
from algorithms.batch import micro_batches
from algorithms.decoder import BatchDecoder
from algorithms.logprobs import token_logprobs
from algorithms.policies import Policy
from algorithms.rollout import Roller, RolloutRequest, sample
from algorithms.train_config import SamplingConfig
from tests.algorithms.tiny import ARCHITECTURES, tiny_policy
from tests.helpers import CharacterCodec, Recorder, SumTasks

REPLY = "4+4+1;7+7+2 and some more of it"


def make_env(policy: Policy, **options: object) -> ConsultEnv:
    helpers = {name: Recorder(REPLY, name) for name in ("verify", "knowledge", "reasoning")}
    return aipo_env.make(
        "rulebook-consult",
        **{"codec": policy.codec, "agents": helpers, "prompt": "bare", "tasks": SumTasks(), **options},  # type: ignore[arg-type]
    )


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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recorded_logprobs_are_those_of_the_recorded_ids(architecture: str) -> None:
    """Token-exactness, end to end: a plain forward pass over the concatenated ids gives the sampler's log-probabilities."""
    policy = talkative(tiny_policy(architecture))
    roller = Roller(policy, make_env(policy), SamplingConfig(temperature=0.7, max_tokens=40, batch_size=24))
    trajectories = roller.rollout(requests(60), seed=9)
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


def test_the_ids_that_went_through_the_model_are_the_ids_of_the_trajectory(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[list[int]]] = []
    plain_init, plain_step, plain_keep = BatchDecoder.__init__, BatchDecoder.step, BatchDecoder.keep
    finished: list[list[int]] = []
    rows: list[list[int]] = []

    def init(self: BatchDecoder, model: nn.Module, prompts: list[list[int]]) -> None:
        rows[:] = [list(p) for p in prompts]
        plain_init(self, model, prompts)

    def step(self: BatchDecoder, ids: Tensor) -> Tensor:
        for row, new in zip(rows, ids.tolist(), strict=True):
            row.extend(new)
        return plain_step(self, ids)

    def keep(self: BatchDecoder, kept: Tensor) -> None:
        finished.extend(row for i, row in enumerate(rows) if i not in kept.tolist())
        rows[:] = [rows[i] for i in kept.tolist()]
        plain_keep(self, kept)

    monkeypatch.setattr(BatchDecoder, "__init__", init)
    monkeypatch.setattr(BatchDecoder, "step", step)
    monkeypatch.setattr(BatchDecoder, "keep", keep)
    policy = talkative(tiny_policy())
    trajectories = Roller(policy, make_env(policy), SamplingConfig(max_tokens=40)).rollout(requests(24), seed=2)
    fed = [*finished, *rows]
    assert len(fed) == len(trajectories)
    # The last token of an episode is sampled from what was fed, and need not be fed itself.
    whole = sorted(tuple(t.token_ids) for t in trajectories)
    for ids in fed:
        matching = [w for w in whole if w[: len(ids)] == tuple(ids) and len(w) - len(ids) <= 1]
        assert matching, (ids, len(ids))
    assert not seen


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


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).repeat(20_000, 1)
    generator = torch.Generator().manual_seed(0)
    for sampling in (SamplingConfig(), SamplingConfig(temperature=0.5), SamplingConfig(top_p=0.8)):
        ids, logprobs = sample(logits, sampling, generator)
        wanted = (logits[0] / sampling.temperature).softmax(0)
        if sampling.top_p < 1:
            # The two likeliest (0.64 + 0.24) are the least that reach 0.8.
            wanted = torch.tensor([wanted[0], wanted[1], 0, 0]) / (wanted[0] + wanted[1])
        seen = torch.bincount(ids, minlength=4) / len(ids)
        torch.testing.assert_close(seen, wanted, atol=0.015, rtol=0)
        torch.testing.assert_close(logprobs, wanted.log()[ids], atol=1e-5, rtol=1e-5)
    ids, logprobs = sample(logits[:3], SamplingConfig(temperature=0.0), generator)
    assert ids.tolist() == [0, 0, 0]
    assert logprobs.tolist() == [0.0, 0.0, 0.0]


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


def test_a_wave_of_its_own_is_sampled_as_in_the_whole() -> None:
    policy = talkative(tiny_policy())
    roller = Roller(policy, make_env(policy), SamplingConfig(max_tokens=30, batch_size=5))
    whole = roller.rollout(requests(14), seed=3)
    for wave in range(3):
        part = dict(roller.iterate(requests(14)[5 * wave : 5 * wave + 5], 3, first_wave=wave))
        assert [part[i].to_json() for i in sorted(part)] == [t.to_json() for t in whole[5 * wave : 5 * wave + 5]]
    other = dict(roller.iterate(requests(14)[5:10], 3, first_wave=2))
    assert [other[i].to_json() for i in sorted(other)] != [t.to_json() for t in whole[5:10]]


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
