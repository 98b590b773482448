"""The warm-up on asking: what it shows a policy, where loss falls, and that it is fitted as cross-entropy says."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import aipo_env
from aipo_env import ConsultEnv
from aipo_env.errors import AipoError, ConfigurationError
from aipo_env.protocol import Answer, Consult
from algorithms.codec import TransformersCodec
from algorithms.commands import warmup
from algorithms.policies import load_policy
from algorithms.warmup import fit
from algorithms.warmup_episodes import Exercise, Exercises, Row, row_maker, script
from tests.algorithms.tiny import tiny_policy, tokenizer
from tests.dialects import codecs


def make(**options: object) -> ConsultEnv:
    codec = TransformersCodec(tokenizer())
    return aipo_env.make("dataset-consult", tasks=Exercises(), codec=codec, prompt="bare", **options)


def rows(count: int, **options: object) -> list[tuple[str, str]]:
    """Texts of episodes: the whole, and the part that is learnt."""
    env = make(**options)
    assert isinstance(env.codec, TransformersCodec)
    make_row, found = row_maker(env, env.codec, 0), []
    for _ in range(count):
        ids, loss = make_row()
        assert (ids[-1], loss[-1]) == (env.codec.tokenizer.eos_token_id, True)
        learnt = [i for i, bears in zip(ids, loss, strict=True) if bears]
        found.append((env.codec.decode(ids), env.codec.decode(learnt)))
    return found


def test_exercises_are_a_function_of_their_index_and_solved_by_their_steps() -> None:
    family = Exercises()
    assert Exercise.of(7) == Exercise.of(7)
    assert len({Exercise.of(index).problem for index in range(200)}) > 190
    for index in range(200):
        exercise, task = Exercise.of(index), family.task(index)
        for step, value in exercise.steps:
            assert eval(step) == value  # noqa: S307
        assert task.gold == str(exercise.steps[-1][1])
        assert int(task.gold) > 0
        assert family.grade(task, task.gold).correct
        assert not family.grade(task, task.gold + "1").correct
        assert "{" not in task.problem
    assert 0 <= family.sample_index(np.random.default_rng(0)) < 2**31


def test_the_script_asks_in_the_words_of_the_role() -> None:
    exercise = next(e for e in map(Exercise.of, range(99)) if len(e.steps) == 2)
    (step, value), (_, gold) = exercise.steps
    assert script(exercise, None, random.Random(0))[0][0] == Answer(
        str(gold), f"{step} = {value}. {exercise.steps[1][0]} = {gold}. "
    )
    assert script(exercise, "knowledge", random.Random(0))[0][0] == Consult("knowledge", exercise.fact)
    assert script(exercise, "solver", random.Random(0))[0][0] == Consult("solver", exercise.problem)
    judged = [script(exercise, "verify", random.Random(seed)) for seed in range(40)]
    for (asked, learns), (answer, answered) in judged:
        assert isinstance(asked, Consult)
        right = asked.query == f"{step}={value}"
        # Who was right goes on, who was wrong begins again; the slip is not learnt.
        assert (learns, answered) == (right, True)
        assert (f"{step} = {value}" in answer.prefix) is not right
    assert 4 < sum(not turns[0][1] for turns in judged) < 22


def test_every_helper_is_asked_and_loss_falls_on_what_the_policy_says_alone() -> None:
    found = rows(60)
    for name in ("verify", "knowledge", "reasoning"):
        asked = [(whole, learnt) for whole, learnt in found if f'<feedback agent="{name}">' in whole]
        assert 6 < len(asked) < 25
        assert all("<feedback" not in learnt for _, learnt in asked)
    assert 6 < sum("<feedback" not in whole for whole, _ in found) < 25
    for whole, learnt in found:
        assert whole.endswith(learnt[learnt.index("\\boxed{") :])
        assert not learnt.startswith(whole[:20])
        assert ("incorrect" in whole) == ("<feedback" in whole and "<consult" not in learnt)
    assert any("incorrect" in whole for whole, _ in found)


@pytest.mark.parametrize("template", ["qwen2_5", "llama3_1", "gptoss"])
def test_in_a_models_own_calls_a_turn_that_asks_ends_with_its_end_token(template: str) -> None:
    codec = codecs.codec(template)
    env = aipo_env.make("dataset-consult", tasks=Exercises(), codec=codec, dialect="tools")
    make_row, asked = row_maker(env, codec, 0), 0
    end = codec.tokenizer.eos_token_id
    for _ in range(12):
        ids, loss = make_row()
        learnt = [i for i, bears in zip(ids, loss, strict=True) if bears]
        assert (ids[-1], learnt[-1], "<consult" in codec.decode(ids)) == (end, end, False)
        asked += learnt.count(end) == 2
    assert asked > 4


def test_own_helpers_are_asked_too() -> None:
    found = rows(12, agents={"solver": lambda query: "look closer"})
    assert sum('<feedback agent="solver">look closer' in whole for whole, _ in found) > 5


def one_step(batch: list[Row], micro: int | None) -> tuple[float, list[torch.Tensor]]:
    policy, losses, queue = tiny_policy(), list[float](), iter(batch)
    fit(
        policy, lambda: next(queue), steps=1, batch_size=len(batch), learning_rate=1e-2, rise=1, micro_batch_size=micro,
        on_step=lambda step, loss: losses.append(loss),
    )  # fmt: skip
    return losses[0], [p.detach().clone() for p in policy.model.parameters()]


def test_the_loss_is_the_cross_entropy_of_a_token_whatever_the_micro_batch() -> None:
    env = make()
    assert isinstance(env.codec, TransformersCodec)
    make_row = row_maker(env, env.codec, 1)
    batch = [make_row() for _ in range(5)]
    model, losses = tiny_policy().model, []
    with torch.no_grad():
        for ids, bears in batch:
            logits = model(torch.tensor([ids])).logits[0, :-1]
            each = functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
            losses += each[torch.tensor(bears[1:])].tolist()
    expected = sum(losses) / len(losses)
    whole, parts = one_step(batch, None), one_step(batch, 2)
    assert whole[0] == pytest.approx(expected, rel=1e-5)
    assert parts[0] == pytest.approx(expected, rel=1e-5)
    for one, other in zip(whole[1], parts[1], strict=True):
        # Adam's first step is the sign of the gradient: where that is nearly 0, rounding may decide.
        assert (one - other).abs().gt(1e-3).float().mean() < 0.01


def test_a_policy_learns_to_ask() -> None:
    policy, env, losses = tiny_policy(), make(), list[float]()
    fit(
        policy, row_maker(env, policy.codec, 0), steps=30, batch_size=8, learning_rate=1e-2, rise=3,
        on_step=lambda step, loss: losses.append(loss),
    )  # fmt: skip
    assert losses[-1] < 0.75 * losses[0]


def test_the_command_warms_up_what_does_not_ask_and_leaves_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = load_policy("embedded")
    options = {
        "env_options": {"prompt": "bare", "max_turns": 2},
        "steps": 1,
        "batch_size": 2,
    }
    assert warmup(policy="embedded", out=tmp_path / "left", unless_asks=0.0, **options) == 0  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert ("before: asked in " in out, "after:" in out) == (True, False)
    assert warmup(policy="embedded", out=tmp_path / "taught", micro_batch_size=1, **options) == 0  # type: ignore[arg-type]
    assert "after: asked in" in capsys.readouterr().out
    same = {
        name: all(torch.equal(a, b) for a, b in zip(start.model.parameters(), load_policy(str(tmp_path / name)).model.parameters(), strict=True))
        for name in ("left", "taught")
    }  # fmt: skip
    assert same == {"left": True, "taught": False}


def test_rules_that_leave_no_room_are_told() -> None:
    with pytest.raises(ConfigurationError, match="two short turns, and one ended otherwise here: max_chars"):
        rows(20, max_chars=60)


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--steps is how many"):
        warmup(policy="embedded", out=tmp_path, steps=0)
    with pytest.raises(ConfigurationError, match="--unless-asks is a share"):
        warmup(policy="embedded", out=tmp_path, unless_asks=5.0)
    with pytest.raises(AipoError, match="no policy"):
        warmup(policy=str(tmp_path / "nothing"), out=tmp_path)
    assert list(tmp_path.iterdir()) == []
