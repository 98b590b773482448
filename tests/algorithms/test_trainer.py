from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aipo_env import ConsultEnv, ConsultRequest, Reply, Source, Trajectory, read_traces, to_training_sample
from aipo_env.cli import main
from aipo_env.errors import ConfigurationError, DataFormatError, StorageError
from algorithms.apps.report import read_run
from algorithms.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from algorithms.config import ObjectiveConfig
from algorithms.run_health import find_problems
from algorithms.token_facts import LOGPROBS_KEY
from algorithms.train_config import SamplingConfig, TrainConfig
from algorithms.trainer import Trainer, rollout_metrics
from benchmarks.evaluation import EvaluationConfig, evaluate_policy
from tests.algorithms.test_rollout import talkative
from tests.algorithms.tiny import tiny_policy
from tests.helpers import Recorder, SumTasks

ROOT = Path(__file__).parents[2]
HELPERS = {"knowledge": Recorder("4+4+1;7+7+2;3+3+8", "knowledge")}


def config(out: Path, **fields: Any) -> TrainConfig:
    defaults: dict[str, Any] = {
        "out": out, "steps": 4, "prompts_per_step": 3, "samples_per_prompt": 4, "checkpoint_every": 2, "trace_every": 1,
        "eval_tasks": 3, "eval_samples": 2, "warmup_steps": 2, "learning_rate": 1e-2, "micro_batch_size": 5,
        "final_learning_rate": 1.0,
        "env_options": {"style": "terse", "prompt": "bare"}, "sampling": SamplingConfig(max_tokens=16),
    }  # fmt: skip
    return TrainConfig(**{**defaults, **fields})


def make(out: Path, reward: Callable[[Trajectory], float] | None = None, **fields: Any) -> Trainer:
    """A trainer whose rewards differ within most groups of a random policy: the parity of the tokens it sampled."""
    trainer = Trainer(config(out, **fields), policy=talkative(tiny_policy()), agents=HELPERS)
    plain = trainer.sampler.rollout

    def rollout(env: ConsultEnv, tasks: Sequence[int], **options: Any) -> list[Trajectory]:
        trajectories = plain(env, tasks, **options)
        for t in trajectories:
            t.reward = reward(t) if reward is not None else float(t.count(Source.POLICY) % 2)
        return trajectories

    trainer.sampler.rollout = rollout  # type: ignore[method-assign,assignment]
    return trainer


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def without_times(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows]


@pytest.mark.parametrize("updates", [1, 2])
def test_a_resumed_run_is_bit_identical(tmp_path: Path, updates: int) -> None:
    whole = make(tmp_path / "whole", updates_per_batch=updates)
    history = whole.train()
    part = make(tmp_path / "part", updates_per_batch=updates, steps=2)
    part.train()
    assert not equal(weights(part), weights(whole))
    resumed = make(tmp_path / "part", updates_per_batch=updates)
    again = resumed.train()
    assert equal(weights(resumed), weights(whole))
    for key in ("exp_avg", "exp_avg_sq"):
        for first, second in zip(
            whole.optimizer.state_dict()["state"].values(),
            resumed.optimizer.state_dict()["state"].values(),
            strict=True,
        ):
            assert torch.equal(first[key], second[key])
    assert without_times(again)[3:] == without_times(history)[3:]
    ids = [[t.token_ids for t in read_traces(tmp_path / name / "traces.jsonl")] for name in ("whole", "part")]
    assert ids[0] == ids[1]
    rows = [(tmp_path / name / "metrics.jsonl").read_text().count("\n") for name in ("whole", "part")]
    assert rows == [5, 5]


@pytest.mark.parametrize("name", ["hard", "frontier"])
def test_a_curriculum_is_part_of_the_checkpoint(tmp_path: Path, name: str) -> None:
    def trainer(out: Path, **fields: Any) -> tuple[Trainer, list[list[int]]]:
        """With outcomes that tell tasks apart, so that what is drawn depends on what was seen."""
        made, drawn = make(out, curriculum=name, checkpoint_every=3, eval_every=3, **fields), []
        made.curriculum.tasks = SumTasks()  # few enough to meet one again
        plain = made.sampler.rollout

        def rollout(env: ConsultEnv, tasks: Sequence[int], **options: Any) -> list[Trajectory]:
            trajectories = plain(env, tasks, **options)
            if env is not made.env:  # of an evaluation
                return trajectories
            drawn.append(list(tasks))
            for t in trajectories:
                assert t.task_index == tasks[t.group]
                t.verdict = "correct" if t.assisted and name == "frontier" else "wrong"
                t.verdict = "correct" if name == "hard" and tasks[t.group] % 4 else t.verdict
            return trajectories

        made.sampler.rollout = rollout  # type: ignore[method-assign,assignment]
        return made, drawn

    whole, drawn = trainer(tmp_path / "whole", steps=6, prompts_per_step=4)
    history = whole.train()
    trainer(tmp_path / "part", steps=3, prompts_per_step=4)[0].train()
    part, rest = trainer(tmp_path / "part", steps=6, prompts_per_step=4)
    assert without_times(part.train()) == without_times(history)
    assert drawn[3:] == rest
    assert equal(weights(whole), weights(part))
    assert whole.curriculum.state_dict() == part.curriculum.state_dict()
    known = history[-1]["curriculum/known"]
    if name == "frontier":  # half of each batch after the first is of what was seen before
        assert history[-1]["curriculum/frontier"] == known < 24 - 4
    else:
        assert not {i for batch in drawn[:-1] for i in batch if i % 4} & set(drawn[-1])
        assert history[-1]["curriculum/hard"] < known


def test_a_run_cut_behind_its_checkpoint_writes_each_row_once(tmp_path: Path) -> None:
    trainer = make(tmp_path, checkpoint_every=2, steps=3)
    trainer.train()
    shutil.rmtree(list_checkpoints(tmp_path / "checkpoints")[-1])
    assert [p.name for p in list_checkpoints(tmp_path / "checkpoints")] == ["step-0000002"]
    make(tmp_path, checkpoint_every=2, steps=4).train()
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 4]
    traced = {t.metadata["step"] for t in read_traces(tmp_path / "traces.jsonl")}
    assert traced == {1, 2, 3, 4}
    assert len(list(read_traces(tmp_path / "traces.jsonl"))) == 4 * 12


def test_a_killed_run_resumes(tmp_path: Path) -> None:
    """A real kill -9 in the middle of a run, then the command again."""
    command = [
        sys.executable, "-m", "aipo_env.cli", "train", "--out", str(tmp_path), "--steps", "30", "--prompts-per-step", "2",
        "--samples-per-prompt", "4", "--checkpoint-every", "1", "--eval-tasks", "1", "--eval-samples", "1",
        "--env-options", "style", "terse", "prompt", "bare", "max_reply_chars", "40", "--sampling.max-tokens", "8",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while len(list_checkpoints(tmp_path / "checkpoints")) < 2 and time.time() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    cut = int(list_checkpoints(tmp_path / "checkpoints")[-1].name.removeprefix("step-"))
    assert 2 <= cut < 30
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(31))


def test_micro_batches_and_skipped_rows_change_nothing(tmp_path: Path) -> None:
    found = []
    for size in (1, 5, 64):
        objective = ObjectiveConfig(agent_baseline="solo", self_imitation=0.0)
        trainer = make(tmp_path / str(size), micro_batch_size=size, updates_per_batch=1, objective=objective)
        trainer.train_step()
        found.append((weights(trainer), trainer.history[-1]))
    for other, metrics in found[1:]:
        for name, value in found[0][0].items():
            torch.testing.assert_close(other[name], value, atol=1e-5, rtol=1e-4)
        assert metrics["grad_norm"] == pytest.approx(found[0][1]["grad_norm"], rel=1e-4)
    assert 0 < found[0][1]["learning_rows"] <= 1


def test_a_batch_without_signal_has_a_zero_gradient(tmp_path: Path) -> None:
    trainer = make(tmp_path, reward=lambda t: 0.0)
    before = weights(trainer)
    metrics, _ = trainer.train_step()
    assert metrics["grad_norm"] == 0.0
    assert metrics["learning_rows"] == 0.0
    assert equal(before, weights(trainer))


def test_groups_mix_solo_and_assisted_rollouts_of_one_task(tmp_path: Path) -> None:
    for share, solo in ((0.5, 2), (1.0, 4), (0.0, 0)):
        _, trajectories = make(tmp_path, solo_share=share).train_step()
        for group in range(3):
            members = [t for t in trajectories if t.group == group]
            assert len({t.task_id for t in members}) == 1
            assert len({t.segments[0].token_ids for t in members}) == 1
            assert sum(not t.assisted for t in members) == solo
        assert len({t.task_id for t in trajectories}) == 3


def test_baselines_by_mode_and_of_solo_rollouts(tmp_path: Path) -> None:
    """Rewards 1 for every assisted rollout and for the first solo one of a group of 2 + 2."""
    objective = ObjectiveConfig(policy_baseline="mode", agent_baseline="solo", self_imitation=0.0)
    trainer = make(tmp_path, lambda t: float(t.assisted or t.sample == 0), objective=objective)
    trajectories = trainer.collect()
    samples = [to_training_sample(t) for t in trajectories]
    policy_S, agent_S = trainer._advantages(samples)
    for trajectory, policy, agent in zip(trajectories, policy_S.tolist(), agent_S.tolist(), strict=True):
        if trajectory.assisted:
            assert (policy, agent) == (0.0, 0.5)
        else:
            assert policy == (0.5 if trajectory.sample == 0 else -0.5)
    shared = make(
        tmp_path,
        lambda t: float(t.assisted or t.sample == 0),
        objective=ObjectiveConfig(policy_baseline="group", agent_baseline="group", self_imitation=0.0),
    )
    policy_S, agent_S = shared._advantages(samples)
    assert policy_S.tolist() == agent_S.tolist()
    assert policy_S.reshape(3, 4).tolist() == [[0.25, -0.75, 0.25, 0.25]] * 3
    policy_S, agent_S = make(tmp_path, lambda t: float(t.assisted or t.sample == 0))._advantages(samples)
    assert policy_S.reshape(3, 4).tolist() == [[0.5, -0.5, 1.0, 1.0]] * 3  # by default, self-imitation on top
    assert agent_S.reshape(3, 4).tolist() == [[1.0, 0.0, 1.0, 1.0]] * 3


def test_replies_learn_where_the_rollouts_of_their_mode_all_succeed(tmp_path: Path) -> None:
    """With baselines by mode no POLICY token has an advantage here; the replies do, and the tokens that bore loss are counted."""
    objective = ObjectiveConfig(policy_baseline="mode", agent_baseline="solo", self_imitation=0.0)
    trainer = make(tmp_path, lambda t: float(t.assisted), objective=objective, samples_per_prompt=16)
    metrics, trajectories = trainer.train_step()
    replies = sum(t.count(Source.AGENT) for t in trajectories)
    assert replies > 0
    assert metrics["tokens/trained"] == replies
    assert metrics["grad_norm"] > 0
    masked = make(
        tmp_path, lambda t: float(t.assisted), objective=ObjectiveConfig(agent_loss="mask", policy_baseline="group")
    )
    metrics, trajectories = masked.train_step()
    assert metrics["tokens/trained"] == sum(t.count(Source.POLICY) for t in trajectories)


def test_help_can_be_taken_away_by_and_by(tmp_path: Path) -> None:
    trainer = make(tmp_path, steps=3, solo_share=0.0, final_solo_share=1.0)
    shares = []
    for _ in range(3):
        _, trajectories = trainer.train_step()
        shares.append(sum(not t.assisted for t in trajectories) / len(trajectories))
    assert shares == [0.0, 0.5, 1.0]


def test_every_algorithm_and_every_agent_loss_learns_something(tmp_path: Path) -> None:
    def helped(trajectory: Trajectory) -> float:
        return float(trajectory.num_consults > 0) + 0.25 * (trajectory.count(Source.POLICY) % 2)

    start = weights(make(tmp_path))
    results = []
    for fields in (
        {"agent_loss": "aipo"}, {"agent_loss": "mask"}, {"agent_loss": "clone"}, {"agent_loss": "is"}, {"agent_loss": "luffy"},
        {"algorithm": "grpo"}, {"algorithm": "dr_grpo", "constant_length": 16}, {"algorithm": "dapo"}, {"algorithm": "rloo"},
        {"algorithm": "reinforce_baseline"}, {"algorithm": "gspo"}, {"algorithm": "cispo"}, {"kl_coef": 0.1},
    ):  # fmt: skip
        trainer = make(tmp_path, helped, objective=ObjectiveConfig(**fields), samples_per_prompt=16)  # type: ignore[arg-type]
        metrics, _ = trainer.train_step()
        assert metrics["grad_norm"] > 0
        assert not equal(start, weights(trainer))
        results.append(weights(trainer))
    # Five losses on the helpers' tokens, five different updates (`clone` and `aipo` agree where pi is below the floor).
    assert not any(equal(results[1], other) for other in (results[0], *results[2:5]))
    assert not equal(results[2], results[3])


def test_help_that_works_is_learnt(tmp_path: Path) -> None:
    """The claim of the method at its smallest: with the AIPO term the reply's tokens become likelier, masked they do not."""

    def reply_logprob(agent_loss: str) -> tuple[float, float]:
        trainer = make(
            tmp_path / agent_loss,
            # Only episodes with help pay.
            reward=lambda t: float(t.num_consults > 0),
            objective=ObjectiveConfig(agent_loss=agent_loss),
            samples_per_prompt=16,
        )

        def probability() -> float:
            ids = trainer.policy.codec.encode_tag('473@128=<feedback agent="knowledge">4+4+1;7+7+2;3+3+8</feedback>')
            with torch.no_grad():
                logits = trainer.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            return float(logits[7:-1].gather(1, torch.tensor(ids[8:])[:, None]).mean())

        before = probability()
        for _ in range(10):
            trainer.train_step()
        return before, probability()

    before, after = reply_logprob("aipo")
    assert after > before + 1.0
    before, after = reply_logprob("mask")
    assert after < before + 0.5


def test_global_random_state_is_left_alone(tmp_path: Path) -> None:
    """In a process of its own: here the run-time type checks draw from Python's global generator."""
    code = f"""
import random, numpy, torch
from pathlib import Path
from tests.algorithms.test_trainer import make
def states():
    return [random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
trainer = make(Path({str(tmp_path)!r}))
before = states()
trainer.train_step()
trainer.evaluate()
assert states() == before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_dynamic_sampling_keeps_groups_with_signal(tmp_path: Path) -> None:
    plain = make(tmp_path / "a", dynamic_sampling=0, prompts_per_step=4, seed=3)
    dynamic = make(tmp_path / "b", dynamic_sampling=6, prompts_per_step=4, seed=3)

    def informative(trajectories: list[Trajectory]) -> list[bool]:
        groups = sorted({t.group for t in trajectories})
        return [len({t.reward for t in trajectories if t.group == g}) > 1 for g in groups]

    assert not all(informative(plain.collect()))
    kept = dynamic.collect()
    assert all(informative(kept))
    assert sorted({t.group for t in kept}) == list(range(len(kept) // 4))


def test_the_overlong_penalty_reaches_the_advantages(tmp_path: Path) -> None:
    trainer = make(tmp_path, reward=lambda t: 0.0, overlong_buffer=16)
    metrics, _ = trainer.train_step()
    assert metrics["grad_norm"] > 0


def test_metrics_and_tensorboard(tmp_path: Path) -> None:
    trainer = make(tmp_path, eval_every=2)
    trainer.train()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {
        "reward", "grad_norm", "learning_rate", "tokens/policy", "tokens/agent", "tokens/prompt", "train/consult_rate",
        "train/solo_accuracy", "train/assisted_accuracy", "seconds/rollout", "seconds/update",
    } <= rows[1].keys()  # fmt: skip
    assert {
        "agent/coefficient",
        "agent/floor_fraction",
        "agent/cap_fraction",
        "agent/trust_region_fraction",
    } <= set().union(*rows)
    assert [("eval/solo_pass1" in row) for row in rows] == [True, False, True, False, True]
    assert rows[-1]["rollouts"] == 4 * 12
    traces = [t for t in read_traces(tmp_path / "traces.jsonl") if t.metadata["step"] == 1]
    expected = rollout_metrics(traces)
    assert {k: rows[1][k] for k in expected} == expected
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [e.step for e in board.Scalars("reward")] == [1, 2, 3, 4]
    assert board.Scalars("reward")[0].value == pytest.approx(rows[1]["reward"])
    assert board.Scalars("eval/solo_pass1")[0].step == 0


def test_learning_rate_schedule(tmp_path: Path) -> None:
    trainer = make(tmp_path, steps=4, warmup_steps=2, learning_rate=0.01, final_learning_rate=0.5)
    rates = [trainer.train_step()[0]["learning_rate"] for _ in range(4)]
    assert rates == pytest.approx([0.005, 0.01 * 0.875, 0.01 * 0.75, 0.01 * 0.625])


def test_the_trained_policy_can_be_loaded(tmp_path: Path) -> None:
    from algorithms.policies import load_policy

    trainer = make(tmp_path, steps=1)
    trainer.train()
    loaded = load_policy(str(tmp_path / "policy"))
    assert equal(weights(trainer), dict(loaded.model.state_dict()))
    assert loaded.codec.fingerprint == trainer.policy.codec.fingerprint


def test_a_run_and_its_policies_say_what_they_were_trained_on(tmp_path: Path) -> None:
    rows = [{"problem": f"{i}+1=", "answer": str(i + 1)} for i in range(30)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"prompt": "bare", "data": str(data), "problem": "problem", "answer": "answer", "keep": "answer > 3"}
    first = config(tmp_path / "first", steps=1, env="dataset-consult", env_options=options, eval_env="rulebook-consult")
    Trainer(first, policy=talkative(tiny_policy()), agents=HELPERS).train()
    second = config(tmp_path / "second", steps=1, policy=str(tmp_path / "first" / "policy"))
    Trainer(second, agents=HELPERS).train()
    for folder in ("", "best", "policy"):
        noted = json.loads((tmp_path / "second" / folder / "training_data.json").read_text())
        assert noted["trained_on"] == {
            "env": "rulebook-consult", "options": {"style": "terse", "prompt": "bare", "curriculum": "uniform"},
            "purpose": "train", "source": "generated", "family": "rulebook",
        }  # fmt: skip
        before = noted["before"]["trained_on"]
        assert (before["rows"], before["dropped"], before["keep"]) == (27, {"not answer > 3": 3}, "answer > 3")
        assert len(before["files"]["rows.jsonl"]) == 64
        assert str(tmp_path) not in json.dumps(noted)
        assert noted["before"]["before"] is None
    shown = read_run("second", tmp_path / "second").config
    assert shown["trained_on.family"] == "rulebook"
    assert shown["before.trained_on.rows"] == "27"
    evaluate_policy(
        EvaluationConfig(
            "rulebook", str(tmp_path / "second" / "policy"), mode="solo", num_tasks=1, samples=1, max_tokens=4,
            out=tmp_path / "eval", env_options={"prompt": "bare", "style": "terse"},
        )
    )  # fmt: skip
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert results["trained_on"] == noted
    assert "Trained on rulebook-consult" in (tmp_path / "eval" / "results.md").read_text()


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    make(tmp_path, steps=2).train()
    with pytest.raises(ConfigurationError, match="learning_rate"):
        make(tmp_path, steps=2, learning_rate=0.5).train()


def test_checkpoints_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 1, {"x": torch.ones(3)})

    def full_disk(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match="No space"):
            save_checkpoint(tmp_path, 2, {"x": torch.ones(3)})
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-0000001"]
    for step in (3, 4, 5):
        save_checkpoint(tmp_path, step, {"x": torch.full((3,), float(step))})
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-0000004", "step-0000005"]
    assert not list(tmp_path.glob(".*"))
    assert load_checkpoint(tmp_path / "step-0000005")["x"].tolist() == [5, 5, 5]
    (tmp_path / "step-0000005" / "state.pt").write_bytes(b"damaged")
    with pytest.raises(DataFormatError, match="one before"):
        load_checkpoint(tmp_path / "step-0000005")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples_per_prompt": 1}, "at least 2"),
        ({"solo_share": 1.5}, "between 0 and 1"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"sampling": SamplingConfig(temperature=0.0)}, "temperature must be above 0"),
        ({"sampling": SamplingConfig(top_p=0.9)}, "top_p=1"),
        ({"overlong_buffer": 17}, "max_tokens"),
        ({"rates": Path("results.json")}, "are for curriculum="),
        ({"max_solo_rate": 0.1}, "are for curriculum="),
        ({"curriculum": "hard", "max_solo_rate": 1.0}, "below 1"),
        ({"curriculum": "hard", "solo_share": 0.0}, "curriculum='hard' goes by rollouts alone, and solo_share=0.0"),
        ({"curriculum": "frontier", "solo_share": 1.0}, "alone and with help, and solo_share=1.0"),
    ],
)
def test_configs_that_cannot_work(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        config(tmp_path, **fields)


def test_a_solo_environment_has_no_assisted_rollouts(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="-consult"):
        Trainer(config(tmp_path, env="rulebook"), policy=tiny_policy())
    trainer = Trainer(config(tmp_path, env="rulebook", solo_share=1.0), policy=tiny_policy())
    _, trajectories = trainer.train_step()
    assert not any(t.assisted for t in trajectories)


def test_repair_02_a_test_split_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    options = {"style": "terse", "prompt": "bare", "split": "test"}
    with pytest.raises(ConfigurationError, match=r"its split 'train'.*allow_test_split"):
        make(tmp_path, env_options=options)
    make(tmp_path, env_options=options, allow_test_split=True)


def test_repair_02_the_command_refuses_a_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "test.jsonl"
    data.write_text(json.dumps({"problem": "What is $1+1$?", "answer": "2"}) + "\n")
    flags = ["--env", "math500-consult", "--env-options", "data", str(data), "--out", str(tmp_path / "run")]
    assert main(["train", *flags, "--quiet"]) == 2
    assert "gsm8k" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_run_is_evaluated_on_another_environment(tmp_path: Path) -> None:
    data = tmp_path / "test.jsonl"
    data.write_text(json.dumps({"problem": "1+1=", "answer": "2", "unique_id": "own/1"}) + "\n")
    trainer = make(tmp_path, eval_env="math500-consult", eval_options={"data": str(data)}, eval_tasks=5)
    env, indices = trainer._eval_env(5)
    assert indices == [0]
    assert env.tasks.task(0).id == "own/1"
    assert trainer.evaluate().keys() >= {"eval/solo_pass1", "eval/assisted_pass1"}


def test_a_file_that_is_trained_on_is_no_evaluation(tmp_path: Path) -> None:
    own, other = tmp_path / "own.jsonl", tmp_path / "other.jsonl"
    for number, path in enumerate((own, other)):
        path.write_text(json.dumps({"problem": f"{number}+1=", "answer": "2"}) + "\n")
    options = {"data": str(own), "prompt": "bare"}
    with pytest.raises(ConfigurationError, match="would read the rows that are trained on"):
        make(tmp_path, env="dataset-consult", env_options=options).evaluate()
    make(tmp_path, env="dataset-consult", env_options=options, eval_options={"data": str(other)}).evaluate()


def test_the_config_needs_no_torch() -> None:
    code = (
        "import sys, algorithms.config, algorithms.train_config, algorithms.commands; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert dataclasses.is_dataclass(TrainConfig)


def test_traces_tell_what_the_policy_thought_of_replies(tmp_path: Path) -> None:
    """log pi of the AGENT tokens that were learnt from, of traced steps alone."""
    make(tmp_path, steps=2, trace_every=2).train()
    rows = list(read_traces(tmp_path / "traces.jsonl"))
    asked = [t for t in rows if t.count(Source.AGENT) and LOGPROBS_KEY in t.metadata]
    assert asked
    for trajectory in asked:
        values = trajectory.metadata[LOGPROBS_KEY]
        assert isinstance(values, list)
        assert len(values) == trajectory.count(Source.AGENT)
        assert all(value < 0 for value in values)
    assert not any(LOGPROBS_KEY in t.metadata for t in rows if not t.count(Source.AGENT))


def test_repair_10_rollouts_that_dynamic_sampling_leaves_out_are_counted(tmp_path: Path) -> None:
    trainer = make(tmp_path, dynamic_sampling=3, prompts_per_step=4, seed=3)
    made: list[int] = []
    plain = trainer.sampler.rollout

    def rollout(env: ConsultEnv, tasks: Sequence[int], **options: Any) -> list[Trajectory]:
        made.append(len(tasks) * options["group_size"])
        return plain(env, tasks, **options)

    trainer.sampler.rollout = rollout  # type: ignore[method-assign,assignment]
    for _ in range(2):
        metrics, trajectories = trainer.train_step()
    assert len(made) > 2, "no batch was drawn again"
    assert metrics["rollouts"] == trainer.num_rollouts == sum(made)
    assert len(trajectories) < sum(made)


def scripted_evaluations(monkeypatch: pytest.MonkeyPatch, solo: dict[int, float]) -> None:
    """Evaluations find these solo accuracies by step."""

    def evaluate(trainer: Trainer, **ignored: object) -> dict[str, float]:
        return {"eval/solo_pass1": solo[trainer.step], "eval/assisted_pass1": 0.5}

    monkeypatch.setattr(Trainer, "evaluate", evaluate)


def test_repair_01_the_best_policy_stays_beside_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from algorithms.policies import load_policy

    scripted_evaluations(monkeypatch, {0: 0.9, 1: 0.1, 2: 0.6, 3: 0.6, 4: 0.2, 5: 0.2, 6: 0.3})
    at: dict[int, dict[str, torch.Tensor]] = {}
    trainer = make(tmp_path, steps=6, eval_every=1, checkpoint_every=1)
    history = trainer.train(lambda metrics: at.update({int(metrics["step"]): weights(trainer)}))
    assert [row["step"] for row in history] == [0, 1, 2, 3, 4, 5, 6]
    assert "loss" not in history[0]
    assert history[0]["eval/solo_pass1"] == 0.9
    names = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert names == ["step-0000002", "step-0000005", "step-0000006"]
    for folder, step in (("best", 2), ("policy", 6)):
        assert equal(at[step], dict(load_policy(str(tmp_path / folder)).model.state_dict()))
    assert not list(tmp_path.glob(".*.partial"))
    assert not list(tmp_path.glob(".*.old"))
    # The best one can be gone on from: its checkpoint is a whole one.
    shutil.rmtree(tmp_path / "checkpoints" / "step-0000006")
    shutil.rmtree(tmp_path / "checkpoints" / "step-0000005")
    again = make(tmp_path, steps=6, eval_every=1, checkpoint_every=1)
    assert without_times(again.train()) == without_times(history)
    assert equal(weights(again), at[6])


def test_repair_01_a_best_policy_between_checkpoints_has_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted_evaluations(monkeypatch, {0: 0.0, 3: 0.5, 6: 0.4})
    make(tmp_path, steps=6, eval_every=3, checkpoint_every=0).train()
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-0000003", "step-0000006"]


def test_repair_01_the_policy_is_evaluated_before_it_is_trained(tmp_path: Path) -> None:
    start = make(tmp_path / "start", steps=0)
    history = start.train()
    assert [row["step"] for row in history] == [0]
    whole = make(tmp_path / "whole", steps=2).train()
    names = [name for name in whole[0] if name.startswith("eval/")]
    assert names
    assert {name: whole[0][name] for name in names} == {name: history[0][name] for name in names}
    assert not list_checkpoints(tmp_path / "start" / "checkpoints")
    # Once begun, the run is not evaluated at step 0 again.
    assert [row["step"] for row in make(tmp_path / "whole", steps=3).train()] == [0, 1, 2, 3]


def test_repair_01_a_run_that_goes_wrong_says_so_once_and_notes_it(tmp_path: Path) -> None:
    said: list[str] = []
    trainer = make(tmp_path, reward=lambda t: 0.0, steps=12)
    history = trainer.train(on_problem=said.append)
    signalless = [sentence for sentence in said if "nothing was learnt" in sentence]
    assert len(signalless) == 1
    assert signalless[0].startswith("step 10: ")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == history
    assert [row["step"] for row in rows if "problem/no_signal" in row] == [10, 11, 12]


def test_repair_01_failed_replies_and_cut_rollouts_are_measured(tmp_path: Path) -> None:
    class Silent:
        name = "knowledge"

        async def respond(self, request: ConsultRequest) -> Reply:
            return Reply("", error="its service failed")

    # So many tokens that a random policy asks.
    many: dict[str, Any] = {"prompts_per_step": 64, "sampling": SamplingConfig(max_tokens=48)}
    working = make(tmp_path / "working", **many)
    assert working.train_step()[0]["train/reply_errors"] == 0
    policy = talkative(tiny_policy())
    silent = Trainer(config(tmp_path / "silent", **many), policy=policy, agents={"knowledge": Silent()})
    metrics, trajectories = silent.train_step()
    assert metrics["train/reply_errors"] == 1
    assert set(find_problems(silent.history)) >= {"all_replies_failed"}
    assert not any(t.num_consults for t in trajectories)
    alone = Trainer(config(tmp_path / "alone", env="rulebook", solo_share=1.0), policy=tiny_policy())
    assert "train/reply_errors" not in alone.train_step()[0]


@pytest.mark.parametrize(("hidden", "rate"), [(32, 3e-4), (1024, 1e-6)])
def test_repair_01_the_learning_rate_fits_the_policy_and_is_recorded(tmp_path: Path, hidden: int, rate: float) -> None:
    trainer = Trainer(config(tmp_path, steps=0, learning_rate=None), policy=tiny_policy(hidden=hidden), agents=HELPERS)
    assert trainer.config.learning_rate == trainer.optimizer.param_groups[0]["lr"] == rate
    trainer.train()
    assert json.loads((tmp_path / "config.json").read_text())["learning_rate"] == rate


def test_repair_01_the_decay_ends_where_the_run_ends(tmp_path: Path) -> None:
    """Steps beyond the last one, as one asks for them by hand, learn at the final rate and not at a negative one."""
    trainer = make(tmp_path, steps=2, warmup_steps=0, learning_rate=0.01, final_learning_rate=0.5)
    rates = [trainer.train_step()[0]["learning_rate"] for _ in range(6)]
    assert rates == pytest.approx([0.01, 0.0075, 0.005, 0.005, 0.005, 0.005])


@pytest.mark.parametrize("at", ["start", "end"])
def test_repair_34_a_run_stops_within_an_evaluation_and_goes_on(tmp_path: Path, at: str) -> None:
    whole = make(tmp_path / "whole", steps=3).train()
    cut = make(tmp_path / "cut", steps=3)
    stopping = False

    def on_evaluation(done: int, total: int) -> None:
        nonlocal stopping
        stopping = (cut.step == (0 if at == "start" else 3)) and done == 2
        assert total == 2 * 3 * 2  # solo and assisted, tasks, samples

    cut.train(on_evaluation=on_evaluation, stop=lambda: stopping)
    assert not cut.finished
    assert [path.name for path in list_checkpoints(tmp_path / "cut" / "checkpoints")] == (
        [] if at == "start" else ["step-0000002", "step-0000003"]
    )
    assert not (tmp_path / "cut" / "policy").exists()
    resumed = make(tmp_path / "cut", steps=3)
    assert without_times(resumed.train()) == without_times(whole)
    assert resumed.finished
    rows = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert without_times(rows) == without_times(whole)


def test_repair_34_a_run_stops_between_steps(tmp_path: Path) -> None:
    trainer = make(tmp_path, steps=9, checkpoint_every=0)
    trainer.train(stop=lambda: trainer.step == 3)
    assert (trainer.finished, trainer.step) == (False, 3)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-0000003"]


def test_repair_34_one_run_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    first = make(tmp_path)
    refused = []

    def on_step(metrics: dict[str, float]) -> None:
        before = {
            path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "tensorboard" not in str(path)
        }
        with pytest.raises(ConfigurationError, match="being written by another run") as error:
            make(tmp_path, steps=9).train()
        refused.append(error)
        assert all(path.read_bytes() == content for path, content in before.items())

    first.train(on_step)
    assert len(refused) == 5
    make(tmp_path, steps=5).train()


def test_repair_34_a_file_system_without_locks_is_told_of_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*ignored: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with pytest.warns(UserWarning, match="file system without locks"):
        assert len(make(tmp_path, steps=1).train()) == 2


@pytest.mark.parametrize("damaged", ["", "{", "[]", "3"])
def test_repair_34_damaged_settings_are_told_and_nothing_is_lost(tmp_path: Path, damaged: str) -> None:
    make(tmp_path, steps=2).train()
    metrics = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "config.json").write_text(damaged)
    with pytest.raises(DataFormatError, match=r"config\.json must hold the settings.*remove this file"):
        make(tmp_path, steps=3).train()
    assert (tmp_path / "config.json").read_text() == damaged
    assert (tmp_path / "metrics.jsonl").read_text() == metrics
    (tmp_path / "config.json").unlink()
    assert len(make(tmp_path, steps=3).train()) == 4


def test_repair_34_damaged_metrics_are_written_anew_from_the_checkpoint(tmp_path: Path) -> None:
    make(tmp_path, steps=2).train()
    metrics = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text("not JSON\n" + metrics[:50])
    make(tmp_path, steps=2).train()
    assert (tmp_path / "metrics.jsonl").read_text() == metrics


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files")
@pytest.mark.parametrize(
    ("limit", "fails_at"), [(100, "config.json"), (2_500, "metrics.jsonl"), (20_000, "checkpoint")]
)
def test_repair_34_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path, limit: int, fails_at: str) -> None:
    """The system's own limit on the size of files, which fails as a full disk does."""
    import resource

    whole = make(tmp_path / "whole", steps=5, checkpoint_every=2, trace_every=0).train()
    out = tmp_path / "cut"
    make(out, steps=2, checkpoint_every=2, trace_every=0).train()
    before, rows = ((out / name).read_text() for name in ("config.json", "metrics.jsonl"))
    kept = list_checkpoints(out / "checkpoints")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StorageError, match=r"that failed: File too large.*goes on from the last checkpoint"):
            make(out, steps=5, checkpoint_every=2, trace_every=0).train(trackers=())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list_checkpoints(out / "checkpoints") == kept
    assert not list((out / "checkpoints").glob(".*"))
    assert json.loads((out / "config.json").read_text())["steps"] == (2 if fails_at == "config.json" else 5)
    assert fails_at != "config.json" or (out / "config.json").read_text() == before
    assert (out / "metrics.jsonl").read_text().startswith(rows)
    again = make(out, steps=5, checkpoint_every=2, trace_every=0).train()
    assert without_times(again)[3:] == without_times(whole)[3:]
    assert not list(out.glob(".*.partial"))


def test_repair_34_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"must be written to .*file/run, and that failed: Not a directory"):
        make(tmp_path / "file" / "run").train()


def test_parts_of_a_reward_are_logged_where_there_are_several() -> None:
    def episode(**parts: float) -> Trajectory:
        return Trajectory("e", "t/1", [], reward=sum(parts.values()), reward_parts=parts)

    both = rollout_metrics([episode(correct=1.0, length=0.1), episode(correct=0.0)])
    assert {n: v for n, v in both.items() if n.startswith("reward")} == {
        "reward": pytest.approx(0.55), "reward/correct": 0.5, "reward/length": 0.05,
    }  # fmt: skip
    assert "reward/correct" not in rollout_metrics([episode(correct=1.0), episode()])
    wrong = rollout_metrics([episode(consult_cost=-0.25), episode()])  # all answers wrong: no part of them
    assert (wrong["reward/correct"], wrong["reward/consult_cost"]) == (0.0, -0.125)
