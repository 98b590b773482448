r"""What asking for help costs beside the helper itself: a consult turn, and many episodes in flight, beside aviary and gem.

    python -m benchmarks.rollout_speed [--episodes N] [--repeats N] [--in-flight N] [--json FILE]

No model takes part: the policy's texts are made before. Every episode is the same game: three questions to a helper, then an
integer answer; a wrong helper text or a wrong reward stops the benchmark.

**A turn.** The helper replies at once, so what is left is the framework: reading the action, asking, recording, grading,
observing. The time is that of whole episodes (start and end included) by the number of their turns, of which three of four
are consults. One process, one thread.

- *state machine*: `Episode.act` and `Episode.reply` called directly; nothing is observed.
- *AEC*: the PettingZoo face, the caller plays policy and helper with `step()`; *AEC with last()* also looks before each step.
- *Gymnasium*: `env.step`; a synchronous step hands each consult to the event loop of a second thread, and waits for it.
- *rollout*: `aipo_env.rollout`, 64 episodes in flight.

**In flight.** The helper takes 50 ms. Ideal is what the waiting alone takes: ceil(episodes / in flight) x 3 x 50 ms.

**Peers, not equal:** aviary's tool calls arrive as objects (nothing is parsed), validated with pydantic; its rollouts are
a loop of the user's own, here with a semaphore. gem reads the call with the tool's regular expression; it has no asynchronous
tools, so its episodes in flight are threads. Both leave grading to the environment; here it is a comparison of strings,
which is less than our grader does. verifiers (0.4.0) starts a program in a sandbox for every rollout and talks to it over HTTP:
it has no way to run such an episode in the process, and takes no part.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar

import numpy as np

import aipo_env
from aipo_env import ConsultRequest, Reply, TurnRequest
from aipo_env.grading import Grade, grade_answer, grade_async
from aipo_env.installation import DISTRIBUTION
from aipo_env.registry import make_game
from aipo_env.tasks.base import Task, check_index
from benchmarks import report

PACKAGES = (DISTRIBUTION, "gymnasium", "pettingzoo", "numpy", "fhaviary", "gem-llm")
NUM_CONSULTS = 3
NUM_TURNS = NUM_CONSULTS + 1
IN_FLIGHT_OF_TURNS = 64
QUESTION = "12+30=42"
REPLY = "correct"
CONSULT = f'Let me see. <consult agent="verify">{QUESTION}</consult>'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(report.Settings):
    """How much is timed."""

    episodes: int = 1000
    """Episodes of each case in a repeat."""
    repeats: int = 7
    """Each gives one ratio."""
    in_flight: int = 256
    """Episodes at the same time in the second part."""
    helper_seconds: float = 0.05
    """That a helper of the second part takes; more than 0."""

    least: ClassVar = {"episodes": 1, "repeats": 1, "in_flight": 1, "helper_seconds": 1e-6}


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One framework under test."""

    name: str
    play: Callable[[int], float]
    """Plays this many episodes; returns the sum of their rewards."""


def one_by_one(name: str, episode: Callable[[int], float]) -> Case:
    """A case whose episodes follow each other; `episode` plays the one with this index and returns its reward."""
    return Case(name, lambda episodes: sum(map(episode, range(episodes))))


class Sums:
    """`i + 1`, for every i."""

    name = "sums"
    num_tasks: int | None = None

    def task(self, index: int) -> Task:
        """The task with this index."""
        check_index(index, None, self.name)
        return Task(f"sums/{index}", f"What is {index} + 1?", str(index + 1))

    def sample_index(self, rng: np.random.Generator) -> int:
        """Any of the first million."""
        return int(rng.integers(1_000_000))

    def grade(self, task: Task, answer: str) -> Grade:
        """As a mathematical answer."""
        return grade_answer(task.gold, answer)

    async def grade_async(self, task: Task, answer: str) -> Grade:
        """The same, without blocking."""
        return await grade_async(task.gold, answer)


class Helper:
    """Replies after a while.

    Args:
        seconds: that it takes; 0 replies at once.
    """

    name = "verify"

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    async def respond(self, request: ConsultRequest) -> Reply:
        """Says the same every time."""
        if self.seconds:
            await asyncio.sleep(self.seconds)
        return Reply(REPLY)


class Script:
    """A policy that asks three times and then answers right."""

    name = "script"

    async def act(self, request: TurnRequest) -> str:
        """The text of this turn."""
        if request.turn < NUM_CONSULTS:
            return CONSULT
        return answer(int(request.task_id.rpartition("/")[2]))


def answer(index: int) -> str:
    """The policy's last turn on this task."""
    return f"So it is \\boxed{{{index + 1}}}."


def our_options(seconds: float = 0.0) -> dict[str, Any]:
    """The game, with one helper that takes this long."""
    return {"tasks": Sums(), "agents": {"verify": Helper(seconds)}}


def state_machine() -> Case:
    """`Episode` itself."""
    game = make_game("rulebook-consult", **our_options())

    def play(index: int) -> float:
        episode = game.make_episode(index)
        for _ in range(NUM_CONSULTS):
            episode.act(CONSULT)
            episode.reply(Reply(REPLY))
        episode.act(answer(index))
        game.grade(episode)
        return episode.reward

    return one_by_one("AIPO state machine", play)


def aec(*, looking: bool = False) -> Case:
    """The PettingZoo face; every role is the caller's.

    Args:
        looking: whether the caller calls `last()` before each step.
    """
    env = aipo_env.make_aec("rulebook-consult", **our_options())
    look = env.last if looking else lambda: None

    def play(index: int) -> float:
        env.reset(options={"task_index": index})
        for action in (*(CONSULT, REPLY) * NUM_CONSULTS, answer(index)):
            look()
            env.step(action)
        return env.rewards["policy_0"]

    return one_by_one("AIPO AEC with last()" if looking else "AIPO AEC", play)


def gymnasium_face() -> Case:
    """The Gymnasium face."""
    env = aipo_env.make("rulebook-consult", **our_options())

    def play(index: int) -> float:
        env.reset(options={"task_index": index})
        for _ in range(NUM_CONSULTS):
            env.step(CONSULT)
        return float(env.step(answer(index))[1])

    return one_by_one("AIPO Gymnasium", play)


def rollout(in_flight: int, seconds: float = 0.0) -> Case:
    """`aipo_env.rollout`."""
    env = aipo_env.make("rulebook-consult", **our_options(seconds))

    async def play(episodes: int) -> float:
        async with aipo_env.rollout(env, Script(), episodes, max_in_flight=in_flight) as finished:
            return sum([trajectory.reward async for trajectory in finished])

    return Case("AIPO rollout", lambda episodes: asyncio.run(play(episodes)))


def right(text: str, index: int) -> float:
    """The reward that peers leave to the environment: a comparison of strings."""
    given = re.search(r"\\boxed\{(.*?)\}", text)
    return float(given is not None and given[1] == str(index + 1))


def check_reply(name: str, observed: object) -> None:
    """Raises ValueError unless a peer observed the helper's reply."""
    if observed != REPLY:
        raise ValueError(f"{name} observed {observed!r} where {REPLY!r} was expected; nothing of it counts.")


def aviary(in_flight: int = 1, seconds: float = 0.0) -> Case:
    """An environment of aviary with one tool."""
    from aviary.core import Environment, Message, Tool, ToolCall, ToolRequestMessage

    class SumsEnvironment(Environment[object]):  # type: ignore[misc]
        def __init__(self, index: int) -> None:
            self.index = index
            self.state = None

        async def reset(self) -> tuple[list[Message], list[Tool]]:
            self.tools = TOOLS
            return [Message(content=f"What is {self.index} + 1?")], self.tools

        async def step(self, action: Message) -> tuple[list[Message], float, bool, bool]:
            if isinstance(action, ToolRequestMessage) and action.tool_calls:
                return await self.exec_tool_calls(action), 0.0, False, False
            return [], right(str(action.content), self.index), True, False

    async def verify(query: str) -> str:
        """Checks a claim.

        Args:
            query: the claim.
        """
        if seconds:
            await asyncio.sleep(seconds)
        return REPLY

    TOOLS = [Tool.from_function(verify)]

    async def episode(index: int, gate: asyncio.Semaphore) -> float:
        async with gate:
            env = SumsEnvironment(index)
            await env.reset()
            for _ in range(NUM_CONSULTS):
                call = ToolCall.from_name("verify", query=QUESTION)
                observation, *_ = await env.step(ToolRequestMessage(content="Let me see.", tool_calls=[call]))
                check_reply("aviary", observation[0].content)
            return (await env.step(Message(content=answer(index))))[1]

    async def play(episodes: int) -> float:
        gate = asyncio.Semaphore(in_flight)
        return sum(await asyncio.gather(*(episode(index, gate) for index in range(episodes))))

    return Case("aviary", lambda episodes: asyncio.run(play(episodes)))


def gem(in_flight: int = 1, seconds: float = 0.0) -> Case:
    """An environment of gem in its tool wrapper."""
    from gem.core import Env
    from gem.tools.base_tool import BaseTool
    from gem.tools.tool_env_wrapper import ToolEnvWrapper

    class SumsEnv(Env):  # type: ignore[misc]
        index = 0

        def reset(self, seed: int | None = None) -> tuple[str, dict[str, object]]:
            return f"What is {self.index} + 1?", {}

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, object]]:
            return "", right(action, self.index), True, False, {}

    class VerifyTool(BaseTool):  # type: ignore[misc]
        tool_type = "verify"
        pattern = re.compile(r'<consult agent="verify">(.*?)</consult>', re.DOTALL)

        def instruction_string(self) -> str:
            return "Ask with a consult tag."

        def execute_action(self, action: str) -> tuple[bool, bool, str, str]:
            match = self.pattern.search(action)
            if match is None:
                return False, True, "", ""
            if seconds:
                time.sleep(seconds)
            return True, False, REPLY, match[0]

    def episode(index: int) -> float:
        inner = SumsEnv()
        inner.index = index
        env = ToolEnvWrapper(inner, tools=[VerifyTool()])
        env.reset()
        for _ in range(NUM_CONSULTS):
            observation, *_ = env.step(CONSULT)
            check_reply("gem", observation)
        return float(env.step(answer(index))[1])

    def in_threads(episodes: int) -> float:
        with ThreadPoolExecutor(in_flight) as pool:
            return sum(pool.map(episode, range(episodes)))

    return one_by_one("gem", episode) if in_flight == 1 else Case("gem", in_threads)


def timed(case: Case, episodes: int) -> float:
    """Seconds for that many episodes; ValueError where one of them was not rewarded."""
    started = time.perf_counter()
    total = case.play(episodes)
    seconds = time.perf_counter() - started
    if total != episodes:
        raise ValueError(f"{case.name}: {total:g} of {episodes} episodes were rewarded; nothing of it counts.")
    return seconds


def interleaved(cases: Sequence[Case], settings: Settings) -> dict[str, list[float]]:
    """Seconds of each case in each repeat, after a few episodes that are not timed."""
    for case in cases:
        timed(case, min(settings.episodes, 20))
    return report.in_turns({case.name: partial(timed, case, settings.episodes) for case in cases}, settings.repeats)


def benchmark(settings: Settings) -> report.Result:
    """Times turns, then many episodes in flight."""
    wait = settings.in_flight, settings.helper_seconds
    turn_peers, notes = report.installed({"aviary": aviary, "gem": gem})
    flight_peers, _ = report.installed({"aviary": lambda: aviary(*wait), "gem": lambda: gem(*wait)})
    ours = [state_machine(), aec(), aec(looking=True), gymnasium_face(), rollout(IN_FLIGHT_OF_TURNS)]
    turns = interleaved([*ours, *turn_peers], settings)
    flights = interleaved([rollout(*wait), *flight_peers], settings)
    ideal = math.ceil(settings.episodes / settings.in_flight) * NUM_CONSULTS * settings.helper_seconds
    micro = {
        name: report.spread([1e6 * s / (settings.episodes * NUM_TURNS) for s in own]) for name, own in turns.items()
    }
    over_machine = {name: report.ratios(own, turns["AIPO state machine"]) for name, own in turns.items()}
    over_ideal = {name: report.spread([s / ideal for s in own]) for name, own in flights.items()}
    turn_table = report.Table(
        "A turn, helper and policy instant",
        ["", "us a turn", "by the state machine's"],
        [[name, own.text(1), over_machine[name].text(2, "x")] for name, own in micro.items()],
        [*notes, "Medians of the repeats (least .. largest)."],
    )
    flight_table = report.Table(
        f"{settings.in_flight} in flight, helpers of {settings.helper_seconds} s",
        ["", "seconds", "by the ideal"],
        [[name, report.spread(flights[name]).text(3), own.text(2, "x")] for name, own in over_ideal.items()],
        [f"Ideal: {ideal:g} s."],
    )
    data = {
        "samples": {"turns": turns, "in_flight": flights},
        "microseconds_per_turn": micro,
        "over_state_machine": over_machine,
        "ideal_seconds": ideal,
        "over_ideal": over_ideal,
    }
    return report.Result([turn_table, flight_table], data)


if __name__ == "__main__":
    raise SystemExit(report.run(Settings, benchmark, PACKAGES))
