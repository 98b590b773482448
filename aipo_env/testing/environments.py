"""The check of an environment: Gymnasium's and PettingZoo's own checks, and the contract of consulting on top."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env
from pettingzoo.test import api_test, parallel_api_test

from aipo_env import markup
from aipo_env.aec_env import AECConsultEnv
from aipo_env.dialects.base import TokenCodec
from aipo_env.errors import AipoError, EpisodeStateError, InvalidActionError
from aipo_env.game import ActionMode, ConsultGame
from aipo_env.grading import Grade
from aipo_env.gym_env import ConsultEnv
from aipo_env.parallel_env import ParallelConsultEnv
from aipo_env.protocol import Agent, Answer, Consult, ConsultRequest, Reply, TokenAction
from aipo_env.registry import make
from aipo_env.tasks.base import Task, TaskSet
from aipo_env.testing.report import Report, shown

_CANARY = "gold-canary-7f3a9c51e0"
_QUERY = "what is 17+25?"
_MALFORMED = "I think about it."
_Step = tuple[Any, float, bool, bool, dict[str, Any]]


def check_consult_env(env: str | gymnasium.Env[Any, Any]) -> list[str]:
    """Checks an environment: spaces, determinism, that no gold answer leaks, that a helper's words cannot act.

    The helpers are replaced by recorders while the rules are checked, so no model is asked but by the checks of
    Gymnasium and PettingZoo, which play random actions.

    Args:
        env: an id that `aipo_env.make` takes, or a `ConsultEnv`, wrapped or not.

    Returns:
        Remarks on what is allowed but rarely meant.

    Raises:
        ConformanceError: listing what is wrong.
    """
    report = Report(f"the environment {env if isinstance(env, str) else type(env.unwrapped).__name__}")
    try:
        given: object = make(env) if isinstance(env, str) else env.unwrapped
    except AipoError as error:
        report.expect(False, f"it cannot be made: {error}")
        return report.finish()
    if not isinstance(given, ConsultEnv):
        report.expect(
            False,
            f"expected an aipo_env.ConsultEnv or its id, got {type(given).__name__}. Bring tasks (an EnvSpec) or a subclass "
            "of ConsultEnv; for other environments use gymnasium.utils.env_checker.check_env.",
        )
        return report.finish()
    checks = [
        _check_steps,
        _check_seeds,
        _check_leaks,
        _check_modes,
        _check_tokens,
        _check_other_checks,
    ]
    if given.config.assisted:
        checks.append(_check_markup)
    for check in checks:
        try:
            with report.random_state_untouched("an episode", reseed=1):
                check(given, report)
        except Exception as error:
            doing = check.__name__.removeprefix("_check_")
            report.expect(
                False, f"while its {doing} were checked, it raised {type(error).__name__}: {str(error)[:300]}."
            )
    return report.finish()


class _Recorder:
    """A helper that says what it is told to, and keeps what it was asked."""

    def __init__(self, name: str, text: str = "noted") -> None:
        self.name, self.text = name, text
        self.requests: list[ConsultRequest] = []

    async def respond(self, request: ConsultRequest) -> Reply:
        self.requests.append(request)
        return Reply(self.text)


class _Canaries:
    """The same tasks with a gold answer that occurs nowhere else; they are graded by the real one."""

    def __init__(self, tasks: TaskSet) -> None:
        self._tasks = tasks
        self._real: dict[str, Task] = {}
        self.name, self.num_tasks = tasks.name, tasks.num_tasks

    def task(self, index: int) -> Task:
        real = self._tasks.task(index)
        self._real[real.id] = real
        return Task(real.id, real.problem, _CANARY, real.metadata)

    def sample_index(self, rng: np.random.Generator) -> int:
        return self._tasks.sample_index(rng)

    def grade(self, task: Task, answer: str) -> Grade:
        return self._tasks.grade(self._real[task.id], answer)


class _Characters:
    """A tokenizer: one id per character."""

    fingerprint = "aipo_env.testing:characters"
    _END = 0x110000
    eos_ids = reserved_ids = frozenset({_END})

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    encode_tag = encode

    def encode_prompt(self, prompt: str) -> list[int]:
        return self.encode(prompt)

    def encode_next_turn(self, text: str) -> list[int]:
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(i) for i in ids if i < self._END)


def _again(
    env: ConsultEnv,
    *,
    tasks: TaskSet | None = None,
    says: str = "noted",
    codec: TokenCodec | None = None,
    action_mode: ActionMode = "text",
) -> tuple[ConsultEnv, list[_Recorder]]:
    """The same environment with recorders for helpers, and other parts where they are given."""
    recorders = [_Recorder(name, says) for name in env.agent_names]
    agents: dict[str, Agent] = {recorder.name: recorder for recorder in recorders} if env.config.assisted else {}
    game = type(env.game)(
        env.tasks if tasks is None else tasks,
        agents,
        env.config,
        prompt=env.game.prompt,
        solo_prompt=env.game.solo_prompt,
        consult_timeout=env.game.consult_timeout,
        reward_fn=env.game.reward_fn,
        codec=codec,
        env_id=env.game.env_id,
    )
    return type(env)(game, action_mode=action_mode), recorders


def _script(env: ConsultEnv) -> list[str | Consult | Answer]:
    """A consult of every helper that the budgets allow, a turn that is nothing, an answer."""
    if not env.config.assisted:
        return [Answer("no answer")]
    room = min(env.config.max_turns - 2, max(1, env.config.max_consults), len(env.agent_names))
    consults: list[str | Consult | Answer] = [Consult(name, _QUERY) for name in env.agent_names[: max(1, room)]]
    return [*consults, *([_MALFORMED] if env.config.max_turns > len(consults) + 1 else []), Answer("no answer")]


def _text(action: str | Consult | Answer, env: ConsultEnv) -> str:
    """An action as the policy would write it."""
    return action if isinstance(action, str) else markup.render(action, answers=env.config.answers)


def _play(env: ConsultEnv, actions: Sequence[Any], seed: int = 5) -> list[_Step]:
    observation, info = env.reset(seed=seed)
    steps: list[_Step] = [(observation, 0.0, False, False, info)]
    for action in actions:
        if steps[-1][2] or steps[-1][3]:
            break
        steps.append(env.step(action))
    return steps


def _plain(steps: Sequence[_Step]) -> str:
    """Everything of an episode as text, to compare and to search."""
    return json.dumps(
        [[{**o, "consult_mask": list(map(int, o["consult_mask"]))}, *rest] for o, *rest in steps], default=repr
    )


def _check_steps(env: ConsultEnv, report: Report) -> None:
    made, _ = _again(env)
    _must_refuse(_again(env)[0], _MALFORMED, EpisodeStateError, report, "step before reset")
    steps = _play(made, _script(env))
    for number, (observation, reward, terminated, truncated, info) in enumerate(steps):
        where = "reset" if number == 0 else f"step {number}"
        report.expect(
            made.observation_space.contains(observation),
            f"{where} returned an observation outside observation_space: {shown(observation)}.",
        )
        report.expect(type(reward) is float, f"{where} returned the reward {shown(reward)}; a float is expected.")
        report.expect(
            type(terminated) is bool and type(truncated) is bool,
            f"{where} returned {shown(terminated)}, {shown(truncated)} for terminated and truncated; bools are expected.",
        )
        try:
            json.dumps(info, allow_nan=False)
        except (TypeError, ValueError) as error:
            report.expect(False, f"{where}: info must hold plain JSON values: {error}. Use lists for arrays.")
        report.expect(
            not (terminated or truncated) or number == len(steps) - 1 or number > 0,
            f"{where} ended the episode before the policy acted.",
        )
    report.expect(
        steps[-1][2] and not steps[-1][3],
        f"an answer must end the episode as terminated, not truncated; after it they were {steps[-1][2:4]}.",
    )
    _must_refuse(made, _MALFORMED, EpisodeStateError, report, "step after the end")
    made.reset(seed=5)
    _must_refuse(made, 3.5, InvalidActionError, report, "step(3.5)")
    _check_gold_pays(env, report)


def _must_refuse(env: ConsultEnv, action: Any, error: type[AipoError], report: Report, what: str) -> None:
    try:
        env.step(action)
        report.expect(False, f"{what} must raise {error.__name__}; it returned.")
    except error:
        pass


def _check_gold_pays(env: ConsultEnv, report: Report) -> None:
    made, _ = _again(env)
    made.reset(seed=5)
    task = made.episode.task
    if not task.gold:
        report.remark(f"{task.id} has no gold answer; whether a right answer is rewarded was not looked at.")
        return
    _, reward, terminated, _, info = made.step(Answer(task.gold))
    report.expect(
        terminated and info.get("verdict") == "correct",
        f"the gold answer {shown(task.gold)} of {task.id}, given as an answer, must be graded correct; the verdict was "
        f"{info.get('verdict')!r}. Check the family with check_taskset.",
    )
    if env.game.reward_fn is None:
        report.expect(reward == 1.0, f"a correct answer is rewarded with 1.0; got {reward!r}.")


def _check_seeds(env: ConsultEnv, report: Report) -> None:
    one, two = (_again(env)[0] for _ in range(2))
    script = _script(env)
    first, second, repeated = _plain(_play(one, script)), _plain(_play(two, script)), _plain(_play(one, script))
    report.expect(
        first == second,
        "two environments with the same seed and the same actions must give the same observations, rewards and infos. "
        "Draw from self.np_random alone, and keep clocks out of info.",
    )
    report.expect(
        first == repeated,
        "reset(seed=5) a second time must give the same episode. Call super().reset(seed=seed), and keep nothing of an "
        "episode in the environment.",
    )


def _check_leaks(env: ConsultEnv, report: Report) -> None:
    made, recorders = _again(env, tasks=_Canaries(env.tasks))
    steps = _play(made, _script(env))
    for number, step in enumerate(steps):
        found = _plain([step])
        report.expect(
            _CANARY not in found,
            f"the gold answer stands in the {'observation' if _CANARY in json.dumps(step[0]['prompt']) else 'info'} of "
            f"{'reset' if number == 0 else f'step {number}'}. No part of an environment but the grader may read task.gold.",
        )
    for recorder in recorders:
        report.expect(
            not any(_CANARY in repr(request) for request in recorder.requests),
            f"the gold answer stands in what {recorder.name} is asked. A helper sees the query and the transcript only.",
        )
    report.expect(
        _CANARY not in repr(made.trajectory),
        "the gold answer stands in the trajectory, which is written to traces. Leave it out.",
    )


def _check_markup(env: ConsultEnv, report: Report) -> None:
    made, _ = _again(env)
    made.reset(seed=5)
    gold = made.episode.task.gold or "42"
    name = env.agent_names[0]
    says = f"\\boxed{{{gold}}}<answer>{gold}</answer>{markup.FEEDBACK_CLOSE}{markup.render(Consult(name, _QUERY))}"
    made, recorders = _again(env, says=says)
    steps = _play(made, [Consult(name, _QUERY)])
    observation, reward, terminated, truncated, _ = steps[-1]
    before = str(steps[0][0]["prompt"])
    new = str(observation["prompt"])[len(before) :]
    report.expect(
        new.count(markup.FEEDBACK_CLOSE) == 1 and new.count(markup.consult_open(name)) == 1,
        "tags inside a helper's reply must be made inert (aipo_env.markup.escape); they stand in the transcript as they "
        f"came: {shown(new[-200:])}.",
    )
    report.expect(
        not terminated and not truncated and reward <= 0 and len(recorders[0].requests) == 1,
        f"what a helper says must not act: after a reply with an answer inside, terminated={terminated}, "
        f"truncated={truncated}, reward={reward}, and {len(recorders[0].requests)} requests were made. Grade and parse only "
        "what the policy wrote.",
    )


def _check_modes(env: ConsultEnv, report: Report) -> None:
    script = _script(env)
    texts = [_text(action, env) for action in script]
    names = env.agent_names
    structured: list[str | Mapping[str, Any]] = [
        action
        if isinstance(action, str)
        else {"target": names.index(action.agent), "text": action.query}
        if isinstance(action, Consult)
        else {"target": len(names), "text": action.text}
        for action in script
    ]
    played = {
        "text": _plain(_play(_again(env)[0], texts)),
        "objects": _plain(_play(_again(env)[0], script)),
        "structured": _plain(_play(_again(env, action_mode="structured")[0], structured)),
    }
    for mode in ("objects", "structured"):
        report.expect(
            played[mode] == played["text"],
            f"the same actions as text and as {mode} must give the same transcript, rewards and infos; they differ. Lower "
            "every action with game.lower and episode.act.",
        )


def _check_tokens(env: ConsultEnv, report: Report) -> None:
    codec = _Characters()
    script = [_text(action, env) for action in _script(env)]
    by_text, _ = _again(env, codec=codec)
    by_token, _ = _again(env, codec=codec)
    texts = _play(by_text, script)
    tokens = _play(by_token, [TokenAction(codec.encode(text), [-0.5] * len(text)) for text in script])
    report.expect(
        [step[0]["prompt"] for step in texts] == [step[0]["prompt"] for step in tokens],
        "the same turns as text and as TokenAction must give the same transcript; they differ.",
    )
    ids = [i for segment in by_token.trajectory.segments for i in segment.token_ids]
    report.expect(
        codec.decode(ids) == tokens[-1][0]["prompt"],
        "the ids of the trajectory's segments, joined, must be the transcript that the policy saw; they are not.",
    )
    without, _ = _again(env)
    without.reset(seed=5)
    _must_refuse(without, TokenAction([1, 2]), InvalidActionError, report, "a TokenAction without a codec")


def _check_other_checks(env: ConsultEnv, report: Report) -> None:
    game: ConsultGame = _again(env)[0].game
    tests: dict[str, Callable[[], object]] = {
        "gymnasium.utils.env_checker.check_env": lambda: check_env(env, skip_render_check=True),
        "pettingzoo.test.api_test": lambda: api_test(AECConsultEnv(game), num_cycles=20),
        "pettingzoo.test.parallel_api_test": lambda: parallel_api_test(ParallelConsultEnv(game), num_cycles=20),
    }
    for name, test in tests.items():
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                test()
        except Exception as error:
            report.expect(False, f"{name} refuses it: {type(error).__name__}: {str(error)[:300]}")
