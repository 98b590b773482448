"""The checks for other people's parts: each rule catches a part that breaks it, and our own parts pass."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

import aipo_env
from aipo_env import AipoError, ConsultEnv, ConsultRequest, Reply
from aipo_env.errors import ServiceError
from aipo_env.grading import Grade, Verdict
from aipo_env.tasks.base import Task
from aipo_env.tasks.rulebook import RulebookTasks
from aipo_env.testing import ConformanceError, check_agent, check_consult_env, check_taskset
from tests.helpers import SumTasks


def numpy_state() -> bytes:
    return bytes(np.random.get_state()[1].tobytes())  # type: ignore[union-attr]  # noqa: NPY002


# Agents


class Echo:
    """Keeps every rule; the broken ones below change one thing each."""

    name = "echo"

    async def respond(self, request: ConsultRequest) -> Reply:
        return self.reply(request)

    def reply(self, request: ConsultRequest) -> Reply:
        return Reply(request.query[:100])


class BadName(Echo):
    name = "my helper"


class NoName(Echo):
    name = None  # type: ignore[assignment]


class BadDescription(Echo):
    description = 7


class NotAsync:
    name = "sync"

    def respond(self, request: ConsultRequest) -> Reply:
        return Reply("")


class SyncClose(Echo):
    def aclose(self) -> None: ...


class NeedsArguments(Echo):
    def __init__(self, model: str) -> None:
        self.model = model


class ReturnsText(Echo):
    def reply(self, request: ConsultRequest) -> Reply:
        return "hello"  # type: ignore[return-value]


class TextIsNone(Echo):
    def reply(self, request: ConsultRequest) -> Reply:
        return Reply(None)  # type: ignore[arg-type]


class EmptyError(Echo):
    def reply(self, request: ConsultRequest) -> Reply:
        return Reply("", error="")


class Raises(Echo):
    def reply(self, request: ConsultRequest) -> Reply:
        return Reply(str(request.query.encode("utf-8"))[:9])  # not with a lone surrogate


class NoTokenizer(Echo):
    def reply(self, request: ConsultRequest) -> Reply:
        return Reply("a", token_ids=(1,))


class NegativeIds(Echo):
    def reply(self, request: ConsultRequest) -> Reply:
        return Reply("a", token_ids=(-1,), tokenizer="t")


class PositiveLogprobs(Echo):
    def reply(self, request: ConsultRequest) -> Reply:
        return Reply("a", token_ids=(1,), tokenizer="t", logprobs=(0.5,))


class TooFewLogprobs(Echo):
    def reply(self, request: ConsultRequest) -> Reply:
        reply = Reply("a", token_ids=(1, 2), tokenizer="t", logprobs=(-0.5, -0.5))
        object.__setattr__(reply, "logprobs", (-0.5,))
        return reply


class Counts(Echo):
    def __init__(self) -> None:
        self.count = 0

    def reply(self, request: ConsultRequest) -> Reply:
        self.count += 1
        return Reply(str(self.count))


class DrawsGlobally(Echo):
    def reply(self, request: ConsultRequest) -> Reply:
        return Reply("x" if random.random() < 2 else "y")


class SeedsNumpy(Echo):
    def reply(self, request: ConsultRequest) -> Reply:
        np.random.seed(0)  # noqa: NPY002
        return Reply("x")


class SharesState(Echo):
    query = ""

    async def respond(self, request: ConsultRequest) -> Reply:
        self.query = request.query[:50]
        await asyncio.sleep(0)
        return Reply(self.query)


class Blocks(Echo):
    def reply(self, request: ConsultRequest) -> Reply:
        time.sleep(0.01)
        return Reply("x")


class Hangs(Echo):
    async def respond(self, request: ConsultRequest) -> Reply:
        await asyncio.sleep(0 if request.query else 60)
        return Reply("x")


class BoundToALoop(Echo):
    lock: asyncio.Event | None = None

    async def respond(self, request: ConsultRequest) -> Reply:
        loop = asyncio.get_running_loop()
        self.loop = getattr(self, "loop", loop)
        if self.loop is not loop:
            raise RuntimeError("attached to a different loop")
        return Reply("x")


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        (BadName, "cannot be addressed"),
        (NoName, "name must be a text"),
        (BadDescription, "description"),
        (NotAsync(), "async def respond"),
        (SyncClose, "aclose must be"),
        (NeedsArguments, "called without arguments"),
        ("nobody-knows", "unknown agent"),
        (ReturnsText, "must return an aipo_env.Reply"),
        (TextIsNone, "Reply.text must be a text"),
        (EmptyError, "Reply.error is None or says why"),
        (Raises, r"UnicodeEncodeError on the query 'lone surrogate"),
        (NoTokenizer, "without Reply.tokenizer"),
        (NegativeIds, "integers from 0"),
        (PositiveLogprobs, "at most 0"),
        (TooFewLogprobs, "one value for each"),
        (Counts, "gave two replies"),
        (DrawsGlobally, "global state of `random`"),
        (SeedsNumpy, r"global state of `numpy\.random`"),
        (SharesState, "asked together with others"),
        (BoundToALoop, "different loop"),
    ],
)
def test_a_broken_agent_is_caught(agent: Any, message: str) -> None:
    with pytest.raises(ConformanceError, match=message) as caught:
        check_agent(agent)
    assert isinstance(caught.value, AipoError)
    assert isinstance(caught.value, AssertionError)
    assert len(caught.value.findings) <= 3  # one rule is broken, and a message that says it ten times helps nobody


def test_slow_agents_are_caught() -> None:
    with pytest.raises(ConformanceError, match="kept the event loop"):
        check_agent(Blocks, max_block=0.005)
    with pytest.raises(ConformanceError, match=r"no reply within 0\.05 s to the query ''"):
        check_agent(Hangs, timeout=0.05)


def test_everything_wrong_is_listed_at_once() -> None:
    class Two(BadName):
        def reply(self, request: ConsultRequest) -> Reply:
            return 5  # type: ignore[return-value]

    with pytest.raises(ConformanceError, match=r"(?s)1\. .*cannot be addressed.*2\. respond must return") as caught:
        check_agent(Two)
    assert str(caught.value).startswith("the agent Two breaks its contract in")


def test_a_sampling_agent_may_say_so() -> None:
    check_agent(Counts, deterministic=False)

    class Declares(Counts):
        def request_key(self, request: ConsultRequest) -> object:
            return type("Key", (), {"deterministic": False})()

    check_agent(Declares)


def test_a_service_that_is_down_is_a_remark() -> None:
    class Down(Echo):
        def reply(self, request: ConsultRequest) -> Reply:
            raise ServiceError("the server is down")

    assert any("the server is down" in remark for remark in check_agent(Down))


@pytest.mark.parametrize(
    "agent", [Echo, Echo(), str.upper, "verify", "knowledge", "reasoning", "aipo_agents:KnowledgeAgent"]
)
def test_our_agents_pass(agent: Any) -> None:
    state = random.getstate(), numpy_state()
    assert check_agent(agent) == []
    assert state == (random.getstate(), numpy_state())


def test_it_runs_inside_an_event_loop() -> None:
    async def run() -> list[str]:
        return check_agent(Echo)

    assert asyncio.run(run()) == []


# Task families


class ConstantGold(SumTasks):
    def task(self, index: int) -> Task:
        return Task("sums/always", super().task(index).problem, str(index + 1))


class Unstable(SumTasks):
    calls = 0

    def task(self, index: int) -> Task:
        self.calls += 1
        task = super().task(index)
        return Task(task.id, f"{task.problem} ({self.calls})", task.gold)


class OtherInstance(SumTasks):
    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.number = self.made

    def task(self, index: int) -> Task:
        task = super().task(index)
        return Task(task.id, f"{task.problem} ({self.number})", task.gold)


class TaskIsText(SumTasks):
    def task(self, index: int) -> Task:
        super().task(index)
        return "2+2"  # type: ignore[return-value]


class TaskRaises(SumTasks):
    def task(self, index: int) -> Task:
        if index == 99:
            raise KeyError(index)
        return super().task(index)


class NumberGold(SumTasks):
    def task(self, index: int) -> Task:
        return Task(f"sums/{index}", super().task(index).problem, index + 1)  # type: ignore[arg-type]

    def grade(self, task: Task, answer: str) -> Grade:
        return super().grade(Task("", "", str(task.gold)), str(answer))


class EmptyProblem(SumTasks):
    def task(self, index: int) -> Task:
        return Task(super().task(index).id, "", str(index + 1))


class SetMetadata(SumTasks):
    def task(self, index: int) -> Task:
        task = super().task(index)
        return Task(task.id, task.problem, task.gold, {"parts": {1, 2}})


class TupleMetadata(SumTasks):
    def task(self, index: int) -> Task:
        task = super().task(index)
        return Task(task.id, task.problem, task.gold, {"parts": (1, 2)})


class WrongGold(SumTasks):
    def grade(self, task: Task, answer: str) -> Grade:
        return Grade(False, Verdict.WRONG, "none", answer)


class GradeRaises(SumTasks):
    def grade(self, task: Task, answer: str) -> Grade:
        answer.encode()
        return super().grade(task, answer)


class GradesAll(SumTasks):
    def grade(self, task: Task, answer: str) -> Grade:
        return Grade(True, Verdict.CORRECT, "generous", answer)


class GradeIsBool(SumTasks):
    def grade(self, task: Task, answer: str) -> Grade:
        return answer == task.gold  # type: ignore[return-value]


class VerdictContradicts(SumTasks):
    def grade(self, task: Task, answer: str) -> Grade:
        return Grade(answer == task.gold, Verdict.WRONG, "odd", answer)


class GradeChanges(SumTasks):
    def __init__(self) -> None:
        self.seen: set[str] = set()

    def grade(self, task: Task, answer: str) -> Grade:
        first = answer not in self.seen
        self.seen.add(answer)
        correct = answer == task.gold or not first
        return Grade(correct, Verdict.CORRECT if correct else Verdict.WRONG, "odd", answer)


class SlowGrade(SumTasks):
    def grade(self, task: Task, answer: str) -> Grade:
        time.sleep(0.02 * answer.startswith("9**"))
        return super().grade(task, answer)


class NoRange(SumTasks):
    def task(self, index: int) -> Task:
        return super().task(index % 100)


class SamplesOutside(SumTasks):
    def sample_index(self, rng: np.random.Generator) -> int:
        return int(rng.integers(1000))


class SamplesElsewhere(SumTasks):
    def sample_index(self, rng: np.random.Generator) -> int:
        return int(np.random.default_rng().integers(100))


class SamplesGlobally(SumTasks):
    def sample_index(self, rng: np.random.Generator) -> int:
        random.random()
        return super().sample_index(rng)


class SamplesOne(SumTasks):
    def sample_index(self, rng: np.random.Generator) -> int:
        return 3


class SampleRaises(SumTasks):
    def sample_index(self, rng: np.random.Generator) -> int:
        raise RuntimeError("no")


class NoNumTasks(SumTasks):
    num_tasks = 0


class EmptyName(SumTasks):
    name = ""


class WithoutGrade:
    name, num_tasks = "half", 1


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (ConstantGold, "ids must be unique"),
        (Unstable, "a second call gave the problem"),
        (OtherInstance, "another instance gave the problem"),
        (TaskIsText, "must be an aipo_env.tasks.base.Task"),
        (TaskRaises, r"task\(99\) raised KeyError"),
        (NumberGold, "gold must be a text"),
        (EmptyProblem, "empty id or problem"),
        (SetMetadata, "must be JSON-serialisable"),
        (TupleMetadata, "does not survive JSON"),
        (WrongGold, "must be graded correct"),
        (GradeRaises, "raised UnicodeEncodeError"),
        (GradesAll, "was graded correct; the gold answer is"),
        (GradeIsBool, "must return an aipo_env.grading.Grade"),
        (VerdictContradicts, "exactly when the verdict is CORRECT"),
        (GradeChanges, "twice gave"),
        (NoRange, "must raise IndexError"),
        (SamplesOutside, "from 0 to 99"),
        (SamplesElsewhere, "equal generators gave"),
        (SamplesGlobally, "global state of `random`"),
        (SamplesOne, "forty times"),
        (SampleRaises, "sample_index\\(rng\\) raised RuntimeError"),
        (NoNumTasks, "num_tasks is a positive integer"),
        (EmptyName, "name is the family's name"),
        (WithoutGrade, "lacks task, sample_index, grade"),
        (lambda: RulebookTasks("nosuch"), "making it without arguments raised UnknownIdError"),
    ],
)
def test_a_broken_family_is_caught(family: Any, message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_taskset(family)


def test_a_slow_grader_is_caught() -> None:
    with pytest.raises(ConformanceError, match=r"grading '9\*\*9\*\*9\*\*9' took"):
        check_taskset(SlowGrade, max_seconds=0.01)


def test_what_is_rarely_meant_is_a_remark() -> None:
    class Telling(SumTasks):
        def task(self, index: int) -> Task:
            task = super().task(index)
            return Task(task.id, f"{task.problem}{task.gold}", task.gold, {"solution": task.gold})

    class Goldless(SumTasks):
        def task(self, index: int) -> Task:
            return Task(f"sums/{index}", super().task(index).problem, "")

        def grade(self, task: Task, answer: str) -> Grade:
            return Grade(False, Verdict.WRONG, "never", answer)

    remarks = check_taskset(Telling)
    assert any("stands in its problem" in remark for remark in remarks)
    assert any("metadata may be shown" in remark for remark in remarks)
    assert any("no gold answer" in remark for remark in check_taskset(Goldless))


@pytest.mark.parametrize(
    "family", [RulebookTasks, RulebookTasks("test", level=4), SumTasks, lambda: RulebookTasks(style="terse")]
)
def test_our_families_pass(family: Any) -> None:
    check_taskset(family)


# Environments


def patched(**methods: Callable[..., Any]) -> type[ConsultEnv]:
    return type("Broken", (ConsultEnv,), methods)


def after_step(change: Callable[[ConsultEnv, list[Any]], None]) -> type[ConsultEnv]:
    def step(self: ConsultEnv, action: Any) -> Any:
        result = list(ConsultEnv.step(self, action))
        change(self, result)
        return tuple(result)

    return patched(step=step)


def leak_into_prompt(env: ConsultEnv, result: list[Any]) -> None:
    result[0]["prompt"] += env.episode.task.gold


def leak_into_info(env: ConsultEnv, result: list[Any]) -> None:
    result[4]["gold"] = env.episode.task.gold


def clock(env: ConsultEnv, result: list[Any]) -> None:
    result[4]["time"] = time.perf_counter_ns()


def array_in_info(env: ConsultEnv, result: list[Any]) -> None:
    result[4]["mask"] = np.zeros(2)


def numpy_reward(env: ConsultEnv, result: list[Any]) -> None:
    result[1] = np.float64(result[1])


def numpy_flag(env: ConsultEnv, result: list[Any]) -> None:
    result[2] = np.bool_(result[2])


def outside(env: ConsultEnv, result: list[Any]) -> None:
    result[0]["turn"] = -1


def truncates(env: ConsultEnv, result: list[Any]) -> None:
    result[2], result[3] = False, result[2] or result[3]


def pays_double(env: ConsultEnv, result: list[Any]) -> None:
    result[1] *= 2.0


def draws_globally(env: ConsultEnv, result: list[Any]) -> None:
    random.random()


def unescaped(env: ConsultEnv, result: list[Any]) -> None:
    result[0]["prompt"] = result[0]["prompt"].replace("&lt;", "<")


def structured_differs(env: ConsultEnv, result: list[Any]) -> None:
    if env.action_mode == "structured":
        result[0]["prompt"] += " "


def tokens_differ(env: ConsultEnv, result: list[Any]) -> None:
    if env.codec is not None and any(-0.5 in segment.logprobs for segment in env.episode.segments):
        result[0]["prompt"] += " "


def forgetful_ids(env: ConsultEnv, result: list[Any]) -> None:
    if env.codec is not None:
        env.episode.segments.pop(0)


def trusting(env: ConsultEnv, result: list[Any]) -> None:
    r"""Takes a helper's \boxed for the policy's."""
    if "boxed" in result[0]["prompt"].rsplit("<feedback", 1)[-1] and env.episode.num_consults:
        result[1], result[2] = 1.0, True


def lenient_step(self: ConsultEnv, action: Any) -> Any:
    if self._episode is None or self.episode.done:
        self.reset()
    return ConsultEnv.step(self, action if not isinstance(action, float) else str(action))


def counting_reset(self: ConsultEnv, *, seed: int | None = None, options: Any = None) -> Any:
    self.count = getattr(self, "count", 0) + 1  # type: ignore[attr-defined]
    observation, info = ConsultEnv.reset(self, seed=seed, options=options)
    observation["prompt"] += f"(episode {self.count})"  # type: ignore[attr-defined]
    return observation, info


def reset_without_options(self: ConsultEnv, *, seed: int | None = None) -> Any:
    return ConsultEnv.reset(self, seed=seed)


def token_blind_step(self: ConsultEnv, action: Any) -> Any:
    if isinstance(action, aipo_env.TokenAction) and self.codec is None:
        action = "text"
    return ConsultEnv.step(self, action)


def tells_helpers(self: ConsultEnv, action: Any) -> Any:
    episode = self.episode
    for name, agent in self.agents.items():
        hint = ConsultRequest("hint", f"the answer is {episode.task.gold}")
        asyncio.run(agent.respond(hint)) if name else None
    return ConsultEnv.step(self, action)


class GoldInTrace(ConsultEnv):
    @property
    def trajectory(self) -> Any:
        trajectory = super().trajectory
        trajectory.metadata["gold"] = self.episode.task.gold
        return trajectory


class WrongSpace(ConsultEnv):
    """Its rules break PettingZoo: what the action space holds is no action."""

    def __init__(self, game: Any, **options: Any) -> None:
        super().__init__(game, **options)
        game.action_space = lambda mode: gymnasium.spaces.Discrete(3)


def sums_env(kind: type[ConsultEnv] = ConsultEnv, env_id: str = "rulebook-consult", **options: Any) -> ConsultEnv:
    made = aipo_env.make(env_id, tasks=options.pop("tasks", SumTasks()), **options)
    env = kind(made.game)
    return env


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (after_step(leak_into_prompt), "the gold answer stands in the observation of step"),
        (after_step(leak_into_info), "the gold answer stands in the info of step"),
        (patched(step=tells_helpers), "the gold answer stands in what verify is asked"),
        (GoldInTrace, "the gold answer stands in the trajectory"),
        (after_step(clock), "same seed and the same actions"),
        (patched(reset=counting_reset), "a second time must give the same episode"),
        (after_step(array_in_info), "info must hold plain JSON values"),
        (after_step(numpy_reward), "a float is expected"),
        (after_step(numpy_flag), "bools are expected"),
        (after_step(outside), "outside observation_space"),
        (patched(reset=reset_without_options), "check_env refuses it"),
        (after_step(truncates), "as terminated, not truncated"),
        (after_step(pays_double), r"rewarded with 1\.0; got 2\.0"),
        (after_step(draws_globally), "an episode changed the global state of `random`"),
        (after_step(unescaped), "must be made inert"),
        (after_step(trusting), "what a helper says must not act"),
        (after_step(structured_differs), "as text and as structured"),
        (after_step(tokens_differ), "as text and as TokenAction"),
        (after_step(forgetful_ids), "ids of the trajectory's segments"),
        (patched(step=lenient_step), "step before reset must raise"),
        (patched(step=lenient_step), "step after the end must raise"),
        (patched(step=lenient_step), r"step\(3.5\) must raise InvalidActionError"),
        (patched(step=token_blind_step), "without a codec must raise"),
        (WrongSpace, r"pettingzoo\.test\.api_test refuses it"),
        (WrongSpace, r"pettingzoo\.test\.parallel_api_test refuses it"),
    ],
)
def test_a_broken_environment_is_caught(kind: type[ConsultEnv], message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_consult_env(sums_env(kind))


def test_a_family_that_refuses_its_gold_answer_is_caught() -> None:
    with pytest.raises(ConformanceError, match="given as an answer, must be graded correct"):
        check_consult_env(sums_env(tasks=WrongGold()))


def test_what_is_no_environment_of_ours_is_said() -> None:
    with pytest.raises(ConformanceError, match="unknown environment id 'rulebok'"):
        check_consult_env("rulebok")
    with pytest.raises(ConformanceError, match=r"expected an aipo_env.ConsultEnv or its id, got"):
        check_consult_env(gymnasium.make("CartPole-v1"))


@pytest.mark.parametrize("env_id", ["rulebook", "rulebook-consult"])
def test_our_environments_pass(env_id: str) -> None:
    check_consult_env(env_id)
    check_consult_env(gymnasium.make(f"aipo/{env_id}-v0", level=3, prompt="plain"))
    check_consult_env(sums_env(env_id=env_id))
    if env_id.endswith("-consult"):
        check_consult_env(aipo_env.make(env_id, agents=["verify"], max_consults=1, max_turns=2, consult_cost=0.1))


def test_the_checks_need_no_pytest() -> None:
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from aipo_env.testing import check_agent, check_consult_env\n"
        "check_agent('verify'); check_consult_env('rulebook-consult')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
