"""OpenRLHF's own driver from the command line to the saved model: rollouts, advantages, updates, weight sync, evaluation.

What is stood in for is in `without_gpu/replacements.py` and listed in `docs/cluster.md`.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from aipo_env import Source, Trajectory, sample_advantages, to_training_sample
from aipo_env.errors import ConfigurationError
from aipo_env.rollout import EpisodeSeeds
from algorithms.cluster import hooks
from algorithms.config import ObjectiveConfig
from tests.integration_openrlhf.checkpoint import EMBEDDED
from tests.integration_openrlhf.driver import Run, run_driver, trained_tokens
from tests.integration_openrlhf.flaky import DOWN

STEPS, GROUPS, SAMPLES, EVAL_TASKS, EVAL_SAMPLES = 4, 4, 4, 4, 2
MAX_LEN = 160
FLAGS = [
    *("--aipo.env", "rulebook-consult", "--aipo.env_options", "prompt", "bare", "style", "terse"),
    *("--aipo.agents", "verify", "knowledge=tests.integration_openrlhf.flaky:FlakyKnowledge", "reasoning"),
    *("--aipo.num_tasks", str(STEPS * GROUPS)),
    *("--aipo.eval_tasks", str(EVAL_TASKS), "--aipo.eval_options", "split", "test"),
    *("--eval.steps", "1", "--eval.n_samples_per_prompt", str(EVAL_SAMPLES), "--eval.temperature", "1"),
    *("--data.max_len", str(MAX_LEN), "--rollout.batch_size", str(GROUPS)),
    *("--rollout.n_samples_per_prompt", str(SAMPLES), "--rollout.micro_batch_size", "4"),
    *("--train.batch_size", str(GROUPS * SAMPLES), "--train.micro_batch_size", "4"),
    *("--actor.adam.lr", "5e-4", "--actor.lr_scheduler", "constant"),
    *("--ckpt.save_steps", "2", "--ckpt.best_metric_key", "none"),
]


@pytest.fixture(scope="session")
def run(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four optimizer steps; an evaluation on the engine behind each weight sync; a helper that is down for a while."""
    finished = run_driver(tmp_path_factory.mktemp("run"), checkpoint, FLAGS, timeout=800)
    assert finished.returncode == 0, finished.log[-6000:]
    print(f"the driver took {finished.seconds:.0f} s")
    return finished


def split(run: Run) -> tuple[list[Trajectory], list[Trajectory]]:
    """Rollouts of the training and of the evaluation, in the order in which they finished."""
    trajectories = run.trajectories()
    return (
        [t for t in trajectories if not t.metadata["evaluation"]],
        [t for t in trajectories if t.metadata["evaluation"]],
    )


def mean_difference(trajectories: list[Trajectory], model_path: Path) -> float:
    """Between the engine's log-probabilities of POLICY tokens, in bf16, and those of a model of transformers."""
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.bfloat16)
    differences = []
    for trajectory in trajectories:
        ids = torch.tensor([trajectory.token_ids])
        with torch.no_grad():
            logprobs_T = model(ids).logits[0, :-1].float().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        own_T = torch.tensor([s == Source.POLICY for s in trajectory.sources])[1:]
        differences.append((logprobs_T - torch.tensor(trajectory.logprobs)[1:])[own_T].abs())
    return float(torch.cat(differences).mean())


def test_the_checkpoint_is_the_embedded_policy(checkpoint: Path) -> None:
    ids = torch.randint(4, 109, (2, 60), generator=torch.Generator().manual_seed(0))
    models = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (EMBEDDED, checkpoint)]
    torch.testing.assert_close(models[0](ids).logits, models[1](ids).logits, rtol=0, atol=1e-4)


def test_installed_openrlhf_is_the_expected_one() -> None:
    hooks.check_openrlhf()


def test_a_changed_openrlhf_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from openrlhf.models.loss import PolicyLoss

    def forward(self: object, log_probs: object, old_log_probs: object, advantages: object, mask: object) -> None: ...

    monkeypatch.setattr(PolicyLoss, "forward", forward)
    with pytest.raises(ConfigurationError, match=r"PolicyLoss\.forward changed: expected .*action_mask.* found .*mask"):
        hooks.check_openrlhf()


def test_steps_were_made_and_logged(run: Run) -> None:
    loss = run.scalars("train/policy_loss")
    assert sorted(loss) == list(range(1, STEPS + 1))
    fraction = run.scalars("train/agent/token_fraction")
    assert set(fraction) == set(loss)
    # A step in which the helper was down all the time has no AGENT tokens.
    replied = {step for step, value in fraction.items() if value > 0}
    assert len(replied) >= 3
    for tag in ("agent/coefficient", "agent/probability"):
        assert set(run.scalars(f"train/{tag}")) == replied, tag
    assert sum(value > 0 for value in run.scalars("train/actor_grad_norm").values()) >= 3
    assert all(abs(value - 0.5) < 1e-6 for value in run.scalars("train/aipo/solo").values())
    assert {step for step, value in run.scalars("train/aipo/consults").items() if value > 0} == replied


def test_groups_hold_assisted_and_solo_samples(run: Run) -> None:
    training, _ = split(run)
    assert len(training) == STEPS * GROUPS * SAMPLES
    groups: dict[int, list[Trajectory]] = {}
    for trajectory in training:
        groups.setdefault(trajectory.group, []).append(trajectory)
    assert len(groups) == STEPS * GROUPS
    for members in groups.values():
        members.sort(key=lambda t: t.sample)
        assert [t.sample for t in members] == list(range(SAMPLES))
        assert [t.assisted for t in members] == [False, True] * (SAMPLES // 2)
    assert any(t.count(Source.AGENT) for t in training)
    assert not any(t.count(Source.AGENT) for t in training if not t.assisted)


def test_rewards_are_compared_as_on_one_machine(run: Run) -> None:
    """Step by step, from what was rolled out: as many tokens have an advantage as with the default baselines."""
    assert (ObjectiveConfig.policy_baseline, ObjectiveConfig.agent_baseline) == ("mode", "none")
    training = [to_training_sample(t, MAX_LEN) for t in split(run)[0]]
    size = GROUPS * SAMPLES
    steps = [training[start : start + size] for start in range(0, len(training), size)]
    logged, means = run.scalars("train/tokens/trained"), run.scalars("train/agent/advantage")
    assert [logged[step] for step in range(1, STEPS + 1)] == [trained_tokens(part, "mode") for part in steps]
    assert any(trained_tokens(part, "mode") != trained_tokens(part, "group") for part in steps)
    for step, part in enumerate(steps, 1):
        _, advantages_S = sample_advantages(part)
        counts_S = np.array([s.count(Source.AGENT) for s in part])
        if counts_S.any():
            expected = float((advantages_S * counts_S).sum() / counts_S.sum())
            assert means[step] == pytest.approx(expected, abs=1e-5)


def test_the_first_rollouts_are_the_start_policys(run: Run, checkpoint: Path) -> None:
    """Token by token: had anything been tokenised again on the way, the log-probabilities would not agree."""
    training, _ = split(run)
    first = training[: GROUPS * SAMPLES]
    assert mean_difference(first, checkpoint) < 0.02


def test_the_engine_has_the_trained_weights(run: Run, checkpoint: Path) -> None:
    """The evaluation behind the last update was sampled by vLLM; OpenRLHF then saved the model that it had trained."""
    _, evaluation = split(run)
    assert len(evaluation) == STEPS * EVAL_TASKS * EVAL_SAMPLES
    last = evaluation[-EVAL_TASKS * EVAL_SAMPLES :]
    now, then = mean_difference(last, run.final_model), mean_difference(last, checkpoint)
    print(f"the engine differs from the trained model by {now:.4f}, from the start policy by {then:.4f}")
    assert now < 0.03
    assert then > 5 * now


def test_evaluation_is_solo_and_on_its_own_tasks(run: Run) -> None:
    training, evaluation = split(run)
    assert not any(t.assisted for t in evaluation)
    assert {t.task_id for t in evaluation}.isdisjoint({t.task_id for t in training})
    assert all("/test/" in t.task_id for t in evaluation)
    assert len(run.scalars("eval/eval_solo_pass1")) == STEPS


def test_a_helper_that_was_down_for_a_while(run: Run) -> None:
    training, _ = split(run)
    failed = sum("could not answer" in s.text for t in training for s in t.segments if s.source is Source.TEMPLATE)
    assert failed == len(DOWN)
    logged = run.scalars("train/aipo/helper_errors")
    assert sum(logged.values()) * GROUPS * SAMPLES == pytest.approx(failed)
    # It came back, and the policy learnt from it again.
    assert sum(t.num_consults for t in itertools.islice(reversed(training), GROUPS * SAMPLES)) > 0


def test_a_run_that_was_cut_goes_on_from_its_checkpoint(
    run: Run, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Pre-emption leaves the checkpoints; the same command with --ckpt.load_enable goes on behind the last of them."""
    more = ["--ckpt.path", str(run.folder / "checkpoints"), "--ckpt.load_enable", "--train.num_episodes", "2"]
    resumed = run_driver(tmp_path_factory.mktemp("resumed"), checkpoint, [*FLAGS, *more], timeout=800)
    assert resumed.returncode == 0, resumed.log[-6000:]
    print(f"the driver took {resumed.seconds:.0f} s")
    assert sorted(resumed.scalars("train/agent/token_fraction")) == list(range(STEPS + 1, 2 * STEPS + 1))
    # The same tasks a second time: helpers have the seeds of the second epoch, as if the run had not been cut.
    for played, epoch in ((run, 0), (resumed, 1)):
        training, _ = split(played)
        assert len(training) == STEPS * GROUPS * SAMPLES
        assert all(t.seed == EpisodeSeeds(0, t.task_index or 0, t.sample, epoch).episode for t in training)
    # The first rollouts are the trained model's: OpenRLHF hands the loaded weights to the engine before it samples.
    first = [t for t in resumed.trajectories() if not t.metadata["evaluation"]][: GROUPS * SAMPLES]
    now, then = mean_difference(first, run.final_model), mean_difference(first, checkpoint)
    assert now < 0.03
    assert then > 5 * now
