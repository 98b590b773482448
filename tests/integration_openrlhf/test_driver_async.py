"""The same driver, asynchronous: rollouts beside updates, a reference model, dynamic filtering, faulty helpers."""

from __future__ import annotations

from pathlib import Path

import pytest

from aipo_env import Source, Trajectory, to_training_sample
from algorithms.cluster.trajectories import counters
from tests.integration_openrlhf.driver import Run, run_driver, trained_tokens

GROUPS, SAMPLES, MAX_LENGTH = 4, 4, 96


@pytest.fixture(scope="session")
def run(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    flags = [
        *("--aipo.env", "rulebook-consult", "--aipo.env_options", "prompt", "bare", "style", "terse"),
        *("--aipo.agents", "knowledge=tests.integration_openrlhf.flaky:FaultyKnowledge", "verify", "reasoning"),
        *("--aipo.num_tasks", "32", "--aipo.consult_timeout", "0.5", "--aipo.agent_loss", "clone"),
        *("--data.max_len", str(MAX_LENGTH), "--rollout.max_new_tokens", "80", "--rollout.batch_size", str(GROUPS)),
        *("--rollout.n_samples_per_prompt", str(SAMPLES), "--rollout.micro_batch_size", "4"),
        *("--train.batch_size", str(GROUPS * SAMPLES), "--train.micro_batch_size", "4"),
        *("--train.async_enable", "--algo.dynamic_filtering_enable"),
        *("--algo.kl.init_coef", "0.01", "--algo.kl.use_loss", "--algo.kl.estimator", "k3"),
        *("--ref.num_gpus_per_node", "1", "--algo.advantage.is_correction_level", "token"),
        *("--actor.adam.lr", "1e-4", "--actor.lr_scheduler", "constant"),
    ]
    finished = run_driver(tmp_path_factory.mktemp("async_run"), checkpoint, flags, timeout=800)
    assert finished.returncode == 0, finished.log[-6000:]
    print(f"the driver took {finished.seconds:.0f} s")
    return finished


def learnt_from(run: Run) -> list[Trajectory]:
    """The samples of the groups with both outcomes: dynamic filtering keeps no others."""
    groups: dict[int, list[Trajectory]] = {}
    for trajectory in run.trajectories():
        groups.setdefault(trajectory.group, []).append(trajectory)
    mixed = [group for group in groups.values() if 0 < sum(t.verdict == "correct" for t in group) < SAMPLES]
    return [trajectory for group in mixed for trajectory in group]


def test_training_goes_on_and_the_counters_show_the_faults(run: Run) -> None:
    """Which samples meet a fault, and which of those are kept, is chance; that every one that is kept is counted is not."""
    played = run.trajectories()
    assert any("could not answer" in segment.text for t in played for segment in t.segments if segment.agent)
    samples = run.scalars("train/rollout/num_samples")
    assert len(samples) >= 2
    kept = learnt_from(run)
    learnt = [to_training_sample(t, MAX_LENGTH) for t in kept]
    owed = [counters(t, sample) for t, sample in zip(kept, learnt, strict=True)]
    for name in ("helper_errors", "cut_tokens", "consults", "solo", "assisted_correct", "truncated"):
        means = run.scalars(f"train/aipo/{name}")
        assert means.keys() == samples.keys()
        total = sum(mean * samples[step] for step, mean in means.items())
        assert total == pytest.approx(sum(row[f"aipo/{name}"] for row in owed), abs=0.01), name
    # As many tokens have an advantage as with the default baselines.
    assert sum(run.scalars("train/tokens/trained").values()) == trained_tokens(learnt, "mode")
    assert set(run.scalars("train/aipo/mu_known_share").values()) == {0.0}
    assert max(run.scalars("train/actor_grad_norm").values()) > 0


def test_no_sequence_is_longer_than_the_context(run: Run) -> None:
    assert max(run.scalars("train/total_length").values()) <= MAX_LENGTH
    assert any(len(t.token_ids) > MAX_LENGTH for t in run.trajectories())


def test_only_groups_with_both_outcomes_are_learnt_from(run: Run) -> None:
    groups: dict[int, list[float]] = {}
    for trajectory in run.trajectories():
        groups.setdefault(trajectory.group, []).append(float(trajectory.verdict == "correct"))
    mixed = sum(0 < sum(group) < SAMPLES for group in groups.values())
    assert 0 < mixed < len(groups)
    num_samples = run.scalars("train/rollout/num_samples")
    assert sum(num_samples.values()) == mixed * SAMPLES
    # OpenRLHF's rate is samples kept by prompts drawn, in percent.
    rates = run.scalars("train/dynamic_filtering_pass_rate").values()
    assert 0 < min(rates) < 100 * SAMPLES


def test_kl_and_correction_are_those_of_policy_tokens(run: Run) -> None:
    """AGENT tokens carry 1 - log mu in the channel: were they counted, rollout and trainer would differ by 1 and more."""
    assert all(abs(value) < 0.05 for value in run.scalars("train/vllm_kl").values())
    assert all(0 <= value < 1 for value in run.scalars("train/kl").values())
    assert any(t.count(Source.AGENT) for t in run.trajectories())
