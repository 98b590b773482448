"""vLLM in the trainer's process: the weights of each step reach it, and each way to keep old ones is caught."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aipo_agents.backends import CompletionSampling, TrainableServer, VLLMInProcess
from aipo_env import Source, Trajectory
from aipo_env.errors import ConfigurationError, EpisodeStateError, ServiceError
from aipo_env.trace_files import FAULTS
from algorithms import vllm_sampler
from algorithms.policies import Policy
from algorithms.train_config import LoraConfig, SamplingConfig, TrainConfig
from algorithms.trainer import Trainer
from algorithms.vllm_sampler import VLLMSampler
from tests.integration_vllm.reference import largest_difference, reference_logprobs
from tests.integration_vllm.server import MAX_MODEL_LEN, VLLMServer

# vLLM's own, and torch's.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
TOLERANCE = 1e-3
ENGINE: dict[str, Any] = {"max_model_len": 256}
RULES = {"style": "terse", "prompt": "bare", "level": 2}


def tiny_policy(architecture: str = "llama", seed: int = 0) -> Policy:
    """Of a shape that vLLM's CPU attention takes (32 dimensions a head), and of weights that mean nothing."""
    import torch

    from algorithms.codec import TransformersCodec
    from algorithms.policies.embedded_model import build_model, build_tokenizer

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, architecture=architecture, layers=2, hidden=64, heads=2, seed=seed)  # type: ignore[arg-type]
    return Policy("tiny", model, TransformersCodec(tokenizer))


def trainer(out: Path, policy: Policy, **options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "env": "rulebook-consult", "env_options": RULES, "prompts_per_step": 4, "samples_per_prompt": 4, "steps": 3,
        "sampling": SamplingConfig(max_tokens=48, batch_size=16), "sampler": "vllm", "engine_args": ENGINE, "eval_tasks": 2,
        "eval_samples": 1, "learning_rate": 1e-2, "warmup_steps": 0,
    }  # fmt: skip
    return Trainer(TrainConfig(out=out, **settings | options), policy=policy)


def step(one: Trainer) -> list[Trajectory]:
    """Rolls out and updates; a coin decides the rewards, since such a policy gets none."""
    trajectories = [dataclasses.replace(t, reward=float(t.sample % 2)) for t in one.collect()]
    one.update(trajectories)
    one.step += 1
    return trajectories


def mismatch(policy: Policy, trajectories: list[Trajectory]) -> float:
    """The largest difference of what the sampler said of its tokens to a plain pass over each episode."""
    largest = 0.0
    for trajectory in trajectories:
        ids: list[int] = []
        for segment in trajectory.segments:
            if segment.source is Source.POLICY:
                assert segment.logprobs is not None
                again = reference_logprobs(policy, [*ids, *segment.token_ids], len(ids))
                largest = max(largest, largest_difference(segment.logprobs, again))
            ids += segment.token_ids
    return largest


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    """A trainer with all weights, whose engine the tests share: starting one takes ten seconds."""
    one = trainer(tmp_path_factory.mktemp("full"), tiny_policy())
    yield one
    one.close()


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    """The same with an adapter."""
    pytest.importorskip("peft")
    one = trainer(tmp_path_factory.mktemp("lora"), tiny_policy(seed=1), lora=LoraConfig(rank=4))
    yield one
    one.close()


@pytest.fixture(params=["full", "adapted"])
def each(request: pytest.FixtureRequest) -> Trainer:
    found: Trainer = request.getfixturevalue(request.param)
    return found


def sampler_of(one: Trainer) -> VLLMSampler:
    assert isinstance(one.sampler, VLLMSampler)
    return one.sampler


def engine_of(one: Trainer) -> VLLMInProcess:
    engine = sampler_of(one).engine
    assert isinstance(engine, VLLMInProcess)
    return engine


def test_the_weights_of_each_step_reach_the_engine(each: Trainer) -> None:
    seen = []
    for _ in range(3):
        trajectories = each.collect()
        assert not [t for t in trajectories if t.stop_reason in FAULTS]
        assert mismatch(each.policy, trajectories) < TOLERANCE
        assert sampler_of(each).mismatch < TOLERANCE
        seen.append(mismatch(each.policy, step(each)))
    # What was sampled before an update is no longer what the policy would say: the updates are no small ones.
    assert min(seen) > 10 * TOLERANCE


def test_what_the_learner_does_about_the_engine_s_rounding(full: Trainer) -> None:
    assert full.objective.rollout_clip == (0.0, 2.0)
    metrics = full.update([dataclasses.replace(t, reward=float(t.sample % 2)) for t in full.collect()])
    assert metrics["policy/rollout_ratio"] == pytest.approx(1.0, abs=1e-3)


def test_a_sample_is_a_function_of_its_seed_whatever_runs_beside(full: Trainer) -> None:
    sampler = sampler_of(full)
    together = sampler.rollout(full.env, range(6), group_size=4, seed=7, solo_share=0.5)
    alone = sampler.rollout(full.env, [2], group_size=4, seed=7, solo_share=0.5)
    ids = lambda found: [[s.token_ids for s in t.segments] for t in found if t.task_index == 2]  # noqa: E731
    assert ids(alone) == ids(together)
    assert len({str(row) for row in ids(alone)}) > 1


def keeps_the_tied_layer(sampler: VLLMSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    named = vllm_sampler._named_weights
    without = lambda model: {n: w for n, w in named(model).items() if n != "lm_head.weight"}  # noqa: E731
    monkeypatch.setattr(vllm_sampler, "_named_weights", without)


def keeps_its_cache(sampler: VLLMSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler.engine._engine, "reset_prefix_cache", lambda: True)


def takes_no_weights(sampler: VLLMSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VLLMInProcess, "load_weights", lambda self, named: None)
    monkeypatch.setattr(VLLMInProcess, "load_adapter", lambda self, folder: None)


@pytest.mark.parametrize(
    ("which", "fault"),
    [
        ("full", keeps_the_tied_layer),
        ("full", keeps_its_cache),
        ("full", takes_no_weights),
        ("adapted", keeps_its_cache),
        ("adapted", takes_no_weights),
    ],
)
def test_a_silent_fault_stops_the_run(
    which: str, fault: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    one: Trainer = request.getfixturevalue(which)
    sampler = sampler_of(one)
    step(one)
    with monkeypatch.context() as broken:
        fault(sampler, broken)
        with pytest.raises(ServiceError, match=r"not those of the policy in training.* last checkpoint is intact"):
            one.collect()
    # It is tried again, and then all is well.
    assert mismatch(one.policy, one.collect()) < TOLERANCE


def test_a_cache_that_says_it_was_not_reset_stops_the_run(full: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    step(full)
    with monkeypatch.context() as broken:
        broken.setattr(engine_of(full)._engine, "reset_prefix_cache", lambda: False)
        with pytest.raises(ServiceError, match=r"reset_prefix_cache\(\) returned False"):
            full.collect()
    assert mismatch(full.policy, full.collect()) < TOLERANCE


def test_weights_do_not_change_while_requests_run(full: Trainer) -> None:
    engine = engine_of(full)

    async def two_things() -> None:
        running = asyncio.create_task(engine.complete([5, 6, 7], CompletionSampling(max_tokens=200, stop_ids=())))
        while not engine.unfinished_requests:
            await asyncio.sleep(0)
        with pytest.raises(EpisodeStateError, match="1 requests for tiny are unfinished"):
            await asyncio.to_thread(engine.load_weights, [])
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        while engine.unfinished_requests:
            await asyncio.sleep(0.01)

    asyncio.run(two_things())
    # The request that was cancelled is gone from the engine too.
    assert not engine._engine.has_unfinished_requests()
    full.sampler.weights_changed()
    assert len(full.collect()) == 16


def test_prompts_longer_than_the_context_end_their_episodes_alone(full: Trainer) -> None:
    engine = engine_of(full)
    with pytest.raises(ServiceError, match="refused 300 prompt tokens"):
        asyncio.run(engine.complete([5] * 300, CompletionSampling(max_tokens=4)))
    assert asyncio.run(engine.complete([5] * 20, CompletionSampling(max_tokens=4))).token_ids


@pytest.mark.parametrize("architecture", ["gpt_neox", "qwen3"])
def test_other_architectures(architecture: str, tmp_path: Path) -> None:
    one = trainer(tmp_path, tiny_policy(architecture))
    try:
        step(one)
        assert mismatch(one.policy, one.collect()) < TOLERANCE
    finally:
        one.close()


def test_a_run_and_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = trainer(tmp_path, tiny_policy(), steps=2, checkpoint_every=1)
    history = one.train(trackers=())
    assert [row["step"] for row in history] == [0, 1, 2]
    assert (tmp_path / "policy" / "model.safetensors").exists()

    # A dead engine ends a run; what was learnt before is on the disk.
    def dies(*args: object) -> None:
        raise RuntimeError("no memory for another block")

    engine = engine_of(one)
    monkeypatch.setattr(engine._engine, "step", dies)
    with pytest.raises(ServiceError, match=r"died|failed .* no memory for another block"):
        one.collect()
    with pytest.raises(ServiceError, match="the engine of tiny died"):
        engine.check()
    one.close()
    one.close()
    with pytest.raises(ServiceError, match="was closed"):
        engine.load_weights([])
    # Resumed with another engine, it goes on.
    again = trainer(tmp_path, tiny_policy(), steps=2, checkpoint_every=1)
    assert again.resume(tmp_path)
    assert again.step == 2
    again.close()


def test_arguments_that_fit_no_engine(tmp_path: Path) -> None:
    one = trainer(tmp_path, tiny_policy(), engine_args={"max_modle_len": 256})
    with pytest.raises(ConfigurationError, match="max_modle_len"):
        one.collect()


def test_starting_an_engine_leaves_random_states_alone(tmp_path: Path) -> None:
    import random

    import numpy as np
    import torch

    def draw() -> tuple[float, ...]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    expected = draw()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    one = trainer(tmp_path, tiny_policy())
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    assert engine_of(one).context_length == 256
    assert draw() == expected
    one.close()


def test_that_the_probe_sees_a_full_block(policy: Policy) -> None:
    """A stale cache shows in whole blocks alone; they are of 128 tokens on a CPU, and of 528 for some hybrids."""
    assert len(policy.codec.encode(vllm_sampler._PROBE)) > 528


def test_another_engine_may_be_closed_while_one_goes_on(full: Trainer, tmp_path: Path) -> None:
    other = trainer(tmp_path, tiny_policy())
    other.collect()
    other.close()
    assert mismatch(full.policy, full.collect()) < TOLERANCE


# -- a server ----------------------------------------------------------------------------------------------------------


def test_a_server_gets_the_weights_too(
    server: VLLMServer, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import copy

    mine = dataclasses.replace(policy, model=copy.deepcopy(policy.model))
    one = trainer(
        tmp_path, mine, sampler=server.base_url, engine_args={}, env_options={}, learning_rate=1e-4, prompts_per_step=1,
        sampling=SamplingConfig(max_tokens=12, batch_size=8),
    )  # fmt: skip
    try:
        step(one)
        after = one.collect()
        assert mismatch(mine, after) < TOLERANCE
        assert mismatch(policy, after) > 10 * TOLERANCE
        assert list((tmp_path / "served").iterdir()) == []
        engine = sampler_of(one).engine
        assert isinstance(engine, TrainableServer)
        with monkeypatch.context() as broken:
            # As where somebody else uses it.
            broken.setattr(TrainableServer, "_call", lambda self, method, path, body=None: {"success": False})
            one.sampler.weights_changed()
            with pytest.raises(ServiceError, match="kept what it had computed with old weights"):
                one.collect()
    finally:
        TrainableServer(server.base_url, tmp_path).load_weights(vllm_sampler._named_weights(policy.model).items())
        one.close()


def test_servers_that_do_not_fit(server: VLLMServer, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="cannot be reached"):
        TrainableServer("http://127.0.0.1:9/v1", tmp_path)
    there = TrainableServer(server.base_url, tmp_path)
    assert (there.model, there.context_length) == (server.name, MAX_MODEL_LEN)
    with pytest.raises(ServiceError, match="answered 404"):
        there._call("POST", "/nothing/here", {})
