from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from aipo_env import Segment, Source, Trajectory
from aipo_env.errors import ConfigurationError, DataFormatError, UnknownIdError
from aipo_env.tasks.rulebook import evaluate
from algorithms.policies import load_policy
from algorithms.policies.loading import EMBEDDED
from benchmarks.boundary import start_policies, study
from benchmarks.boundary.design import METHODS, RunSpec, full_design, quick_design, words_design
from benchmarks.boundary.rivals import (
    HintTrainer,
    ImitationTrainer,
    MixedGroupTrainer,
    SelfDistillationTrainer,
    solution,
)
from benchmarks.boundary.runs import count_correct, make_trainer, measure_beyond, run, steps_until, train_config
from benchmarks.boundary.start_policies import measure_start, start_folder

SMALL = {"prompts_per_step": 2, "samples_per_prompt": 4, "solo_share": 0.5}


def spec(method: str, **fields: object) -> RunSpec:
    train = SMALL | {"solo_share": METHODS[method].solo_share if METHODS[method].solo_share == 1 else 0.5}
    settings = {"architecture": "llama", "eval_samples": 2, "train": train} | fields
    return RunSpec("methods", method, method=method, steps=1, **settings)  # type: ignore[arg-type]


def test_ids_name_a_run_and_nothing_else() -> None:
    ids = [s.id for s in full_design()]
    assert len(set(ids)) == len(ids)
    assert {s.seed for s in full_design() if s.table != "tuning"} == {0, 1, 2}
    assert {s.seed for s in full_design() if s.table == "tuning"} == {100}
    assert spec("aipo").id == spec("aipo").id != spec("aipo", noise=0.3).id
    assert {s.method for s in full_design()} == set(METHODS)
    assert {s.method for s in quick_design()} <= set(METHODS)


def test_every_run_of_the_design_has_a_valid_objective() -> None:
    for s in full_design():
        config = s.objective_config()
        assert config.algorithm == s.algorithm
        assert s.objective_config().agent_loss == {**METHODS[s.method].objective, **s.objective}.get(
            "agent_loss", "aipo"
        )
        train_config(s, "cpu")


def test_smollm2_is_asked_the_same_by_four_methods_at_three_seeds() -> None:
    asked = words_design()
    assert len({s.id for s in asked}) == 12
    assert {(s.architecture, s.task, s.noise) for s in asked} == {("smollm2", "words", 0.6)}
    for s in asked:
        assert train_config(s, "cpu").env_options["style"] == "words"


def test_every_method_that_has_settings_was_tuned_as_often() -> None:
    assert {len(m.tried) for m in METHODS.values()} == {0, 4}
    untuned = {name for name, m in METHODS.items() if not m.tried}
    # Their gradient is 0 but for lucky guesses; two are at their paper's settings and at AIPO's.
    assert untuned == {"grpo", "mask", "mask_mode", "decay", "luffy_mixed", "filtered"}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"method": "magic"}, UnknownIdError),
        ({"noise": 1.0}, ConfigurationError),
        ({"task": "words"}, ConfigurationError),
        ({"architecture": "smollm2"}, ConfigurationError),
    ],
)
def test_runs_that_cannot_be(fields: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        RunSpec("methods", "x", **fields)  # type: ignore[arg-type]


def test_a_demonstration_is_the_full_solution_and_no_policy_token() -> None:
    policy = load_policy("embedded")
    trainer = make_trainer(spec("sft"), policy)
    assert isinstance(trainer, ImitationTrainer)
    trajectories = trainer.collect()
    assert len({t.task_id for t in trajectories}) == len(trajectories) == 8
    for t in trajectories:
        expression = t.segments[0].text.removesuffix("=")
        assert t.segments[1].source is Source.AGENT
        assert f"\\boxed{{{evaluate(expression)}}}" in t.segments[1].text
        assert t.token_ids[-1] in policy.eos_ids
        assert (t.reward, t.verdict, t.count(Source.POLICY)) == (1.0, "correct", 0)
        assert policy.codec.decode(t.segments[1].token_ids) == t.segments[1].text


def test_imitation_is_maximum_likelihood() -> None:
    """The loss is the mean negative log-probability of the demonstrations' tokens: its gradient, by hand."""
    from torch.nn import functional

    policy = load_policy("embedded")
    trainer = make_trainer(spec("sft", train={**SMALL, "solo_share": 1.0, "updates_per_batch": 1}), policy)
    trajectories = trainer.collect()
    total, count = torch.zeros(()), 0
    for t in trajectories:
        ids = torch.tensor(t.token_ids)
        start = len(t.segments[0].token_ids)
        logits = policy.model(input_ids=ids[None, :-1]).logits[0]
        total = total + functional.cross_entropy(logits[start - 1 :], ids[start:], reduction="sum")
        count += len(ids) - start
    expected = torch.autograd.grad(total / count, list(policy.model.parameters()))
    captured: list[torch.Tensor] = []
    trainer.optimizer.step = lambda: captured.extend(p.grad.clone() for p in policy.model.parameters())  # type: ignore[assignment,method-assign,misc,union-attr]
    norm = trainer.update(trajectories)["grad_norm"]
    scale = max(1.0, norm / trainer.config.max_grad_norm)
    for got, wanted in zip(captured, expected, strict=True):
        torch.testing.assert_close(got * scale, wanted, rtol=1e-3, atol=1e-5)


def test_a_teacher_that_errs_earns_nothing() -> None:
    policy = load_policy("embedded")
    trainer = make_trainer(spec("luffy_mixed", noise=0.999999), policy)
    assert isinstance(trainer, MixedGroupTrainer)
    trajectories = trainer.collect()
    shown = [t for t in trajectories if t.segments[-1].agent == "teacher"]
    assert [t.sample for t in trajectories] == [0, 1, 2, 3] * 2
    assert [t.sample for t in shown] == [3] * 2
    assert all(t.reward == 0.0 and t.verdict == "wrong" for t in shown)
    assert all(not t.assisted for t in trajectories)
    right = "".join(solution("473@128"))
    assert right.endswith("4+4+1;7+7+2;3+3+8</feedback>\\boxed{091614}")


def test_a_run_measures_what_it_says() -> None:
    result = run(spec("aipo"), EMBEDDED, [0, 1, 2])
    assert [p["step"] for p in result.curve] == [0, 1]
    assert result.curve[-1]["rollouts"] == 8
    assert result.curve[-1]["trained_tokens"] > 0
    assert 1 <= result.curve[-1]["consults"] <= 4
    assert result.curve[-1]["helper_tokens"] == 19 * result.curve[-1]["consults"]  # 4+4+1;7+7+2;3+3+8 and its two tags
    assert len(result.num_correct) == 3
    assert result.cooler.keys() == {"0.6", "0"}
    assert result.beyond.keys() == {"known at the start", "known", "digits 2", "digits 4"}
    assert 0 < result.beyond["known at the start"] != result.beyond["known"] < 1
    assert result.curve[0]["solo"] < 0.05
    assert result.curve[1]["cpu_seconds"] > 0
    again = run(spec("aipo"), EMBEDDED, [0, 1, 2])
    for one in (again, result):
        for point in one.curve:
            point["cpu_seconds"] = 0.0
    assert dataclasses.replace(again, seconds=0.0) == dataclasses.replace(result, seconds=0.0)


def test_what_a_policy_calls_correct_itself_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    wrote = '<consult agent="verify">{}</consult><feedback agent="verify">{}</feedback>'
    said = [
        ("1+2+3=06", "correct"),
        ("9+9+9=17", "correct"),
        ("9+9+9=17", "incorrect: 9+9+9 is 27"),
        ("4+4+1=09", "correct"),
    ]
    text = "".join(wrote.format(*pair) for pair in said)
    played = [Trajectory("e", "t", [Segment(Source.POLICY, text, (1,))], 0.0, {})]
    monkeypatch.setattr("benchmarks.boundary.runs.LocalSampler.rollout", lambda *args, **options: played)
    found = measure_beyond(load_policy("embedded"), spec("aipo", task="chain"), [0])
    assert found["false correct"] == pytest.approx(1 / 3)


def test_a_run_out_of_time_is_measured_as_it_is() -> None:
    result = run(spec("aipo"), EMBEDDED, [0, 1], deadline=0.0)
    assert [p["step"] for p in result.curve] == [0]
    assert result.num_correct == [0, 0]


def test_a_solution_that_the_grader_refuses_is_not_learnt_by_rft() -> None:
    for noise, rows in ((0.0, 1.0), (0.999999, 0.0)):
        trainer = make_trainer(spec("rft", noise=noise), load_policy("embedded"))
        assert trainer.update(trainer.collect())["learning_rows"] == rows


def test_echo_learns_every_reply_whatever_came_of_it() -> None:
    policy = load_policy("embedded")
    learnt = {}
    for method in ("echo", "aipo"):
        trainer = make_trainer(spec(method, noise=0.999999), policy)
        learnt[method] = trainer.update(trainer.collect())["learning_rows"]
    assert learnt["echo"] >= 0.25 > learnt["aipo"] == 0.0


def test_hints_leave_no_trace_in_what_is_learnt() -> None:
    trainer = make_trainer(spec("hint"), load_policy("embedded"))
    assert isinstance(trainer, HintTrainer)
    trajectories = trainer.collect()
    assert any(t.assisted and t.num_consults for t in trajectories)
    assert all(s.source in (Source.PROMPT, Source.POLICY) for t in trajectories for s in t.segments)
    metrics = trainer.update(trajectories)
    assert metrics["policy/rollout_ratio"] < 1  # the answer is less likely where the reply is not seen


def test_a_teacher_that_saw_the_reply_is_approached() -> None:
    trainer = make_trainer(spec("sdpo"), load_policy("embedded"))
    assert isinstance(trainer, SelfDistillationTrainer)
    prompt, hint, own = [5, 6, 7], [8, 9], [10, 11, 12]
    assert trainer._divergence([(prompt, [], own)], 1).item() == pytest.approx(0.0, abs=1e-6)
    student = trainer.model(input_ids=torch.tensor([prompt + own])).logits[0, 2:5].log_softmax(-1)
    teacher = trainer.model(input_ids=torch.tensor([prompt + hint + own])).logits[0, 4:7].log_softmax(-1)
    expected = (student.exp() * (student - teacher)).sum(-1).mean()
    both = trainer._divergence([(prompt, hint, own), (prompt, [], own)], 1)
    assert both.item() == pytest.approx(expected.item(), rel=1e-4)
    before = [p.clone() for p in trainer.model.parameters()]
    trainer.update(trainer.collect())  # nothing is right, so that GRPO's own gradient is 0
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


def test_helpers_that_are_left_out_cannot_tell() -> None:
    trainer = make_trainer(spec("aipo", task="chain", helpers=("knowledge",)), load_policy("embedded"))
    env = trainer.env
    env.reset(seed=0)
    replies = [
        env.step(f'<consult agent="{name}">47@12</consult>')[0]["prompt"].rpartition("<feedback")[2]
        for name in ("verify", "knowledge", "reasoning")
    ]
    assert ["cannot tell" in reply for reply in replies] == [True, False, True]


def test_counting_agrees_with_the_trainers_own_evaluation() -> None:
    policy = load_policy("embedded")
    counts = count_correct(policy, range(20), 4, seed=3, assisted=True)
    assert sum(counts) / 80 == pytest.approx(0.77, abs=0.17)
    assert sum(count_correct(policy, range(20), 4, seed=3)) == 0


def test_interpolation_of_the_transition() -> None:
    curve = [{"step": 0, "solo": 0.0}, {"step": 10, "solo": 0.4}, {"step": 20, "solo": 0.8}, {"step": 30, "solo": 0.3}]
    assert steps_until(curve, 0.5) == pytest.approx(12.5)
    assert steps_until(curve, 0.9) is None
    assert steps_until(curve, 0.0) == 0


def test_start_policies_keep_unsolved_problems_alone(tmp_path: Path) -> None:
    start = measure_start("llama", tmp_path, 8, attempts=4)
    assert start.candidates == 10
    assert len(start.indices) == 8
    assert sum(count_correct(load_policy("embedded"), start.indices, 4, seed=11)) == 0
    assert measure_start("llama", tmp_path, 8, attempts=4) == start


def test_a_start_policy_that_solves_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_policies, "count_correct", lambda *args, **options: [1] * 10)
    with pytest.raises(ConfigurationError, match="8 unsolved ones are needed"):
        measure_start("llama", tmp_path, 8, attempts=3)


def test_other_architectures_are_warmed_up_once(tmp_path: Path) -> None:
    for task in ("operator", "chain"):
        folder = start_folder("gpt_neox", tmp_path, task, steps=1)
        before = (folder / "model.safetensors").stat().st_mtime_ns
        assert start_folder("gpt_neox", tmp_path, task, steps=1) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert load_policy(str(folder)).model.config.model_type == "gpt_neox"


def test_a_cut_study_goes_on(tmp_path: Path) -> None:
    specs = [spec("aipo"), spec("mask")]
    first = study.run_study(specs[:1], tmp_path, processes=1, num_problems=4, attempts=2)
    with (tmp_path / study.ROWS).open("a") as file:
        file.write('{"id": "cut')
    both = study.run_study(specs, tmp_path, processes=1, num_problems=4, attempts=2)
    assert [r.id for r in both] == [s.id for s in specs]
    assert both[0] == first[0]
    lines = (tmp_path / study.ROWS).read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [s.id for s in specs]
    (tmp_path / study.ROWS).write_text("nonsense\n")
    with pytest.raises(DataFormatError, match="line 1"):
        study.read_results(tmp_path)


def test_a_study_out_of_time_keeps_what_is_finished(tmp_path: Path) -> None:
    assert study.run_study([spec("aipo")], tmp_path, processes=1, num_problems=4, attempts=2, minutes=0.0) == []
    assert study.read_results(tmp_path) == []
