r"""What asking for help costs beside the helper itself: a consult turn, and many episodes in flight, beside aviary and gem.

    python -m benchmarks.rollout_speed [--episodes N] [--repeats N] [--in-flight N] [--json FILE]

No model takes part: the policy's texts are made before. Every episode is the same game: three questions to a helper, then an
integer answer; a wrong helper text or a wrong reward stops the benchmark.

**A turn.** The helper replies at once, so what is left is the framework: reading the action, asking, recording, grading,
observing. The time is that of whole episodes (start and end included) by the number of their turns, of which three of four
are consults. One process, one thread; in each repeat every case plays all episodes, the next repeat starts with another case.

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
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tyro

import aipo_env
from aipo_env import ConsultRequest, Reply, TurnRequest
from aipo_env.game import ConsultGame
from aipo_env.grading import Grade, grade_answer, grade_async
from aipo_env.installation import DISTRIBUTION, install_command
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
TARGET_TURN_MICROSECONDS = 100.0
TARGET_AEC_RATIO = 2.0
TARGET_IN_FLIGHT_RATIO = 1.25


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is timed."""

    episodes: int = 1000
    """Episodes of each case in a repeat."""
    repeats: int = 7
    """Each gives one ratio."""
    in_flight: int = 256
    """Episodes at the same time in the second part."""
    helper_seconds: float = 0.05
    """That a helper of the second part takes."""
    peers: bool = True
    """Whether the peers take part."""
    json: Path | None = None
    """Also writes all samples and the summary here."""

    def __post_init__(self) -> None:
        """Refuses what cannot be timed."""
        if min(self.episodes, self.repeats, self.in_flight) < 1 or self.helper_seconds < 0:
            raise ValueError(
                "episodes, repeats and in_flight are at least 1 and helper_seconds not negative; got "
                f"{self.episodes}, {self.repeats}, {self.in_flight} and {self.helper_seconds}."
            )


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One framework under test."""

    name: str
    play: Callable[[int], float]
    """Plays this many episodes; returns the sum of their rewards."""


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


def our_game(seconds: float = 0.0) -> ConsultGame:
    """Our rules with one helper."""
    return make_game("rulebook-consult", tasks=Sums(), agents={"verify": Helper(seconds)})


def state_machine() -> Case:
    """`Episode` itself."""
    game = our_game()

    def play(episodes: int) -> float:
        total = 0.0
        for index in range(episodes):
            episode = game.make_episode(index)
            for _ in range(NUM_CONSULTS):
                episode.act(CONSULT)
                episode.reply(Reply(REPLY))
            episode.act(answer(index))
            total += episode.reward
        return total

    return Case("AIPO state machine", play)


def aec(*, looking: bool = False) -> Case:
    """The PettingZoo face; every role is the caller's.

    Args:
        looking: whether the caller calls `last()` before each step.
    """
    env = aipo_env.make_aec("rulebook-consult", tasks=Sums(), agents={"verify": Helper()})
    look = env.last if looking else lambda: None

    def play(episodes: int) -> float:
        total = 0.0
        for index in range(episodes):
            env.reset(options={"task_index": index})
            for _ in range(NUM_CONSULTS):
                look()
                env.step(CONSULT)
                look()
                env.step(REPLY)
            look()
            env.step(answer(index))
            total += env.rewards["policy_0"]
        return total

    return Case("AIPO AEC with last()" if looking else "AIPO AEC", play)


def gymnasium_face() -> Case:
    """The Gymnasium face."""
    env = aipo_env.make("rulebook-consult", tasks=Sums(), agents={"verify": Helper()})

    def play(episodes: int) -> float:
        total = 0.0
        for index in range(episodes):
            env.reset(options={"task_index": index})
            for _ in range(NUM_CONSULTS):
                env.step(CONSULT)
            total += float(env.step(answer(index))[1])
        return total

    return Case("AIPO Gymnasium", play)


def rollout(in_flight: int, seconds: float = 0.0) -> Case:
    """`aipo_env.rollout`."""
    env = aipo_env.make("rulebook-consult", tasks=Sums(), agents={"verify": Helper(seconds)})

    async def play(episodes: int) -> float:
        total = 0.0
        async with aipo_env.rollout(env, Script(), episodes, max_in_flight=in_flight) as finished:
            async for trajectory in finished:
                total += trajectory.reward
        return total

    return Case("AIPO rollout", lambda episodes: asyncio.run(play(episodes)))


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
            given = re.search(r"\\boxed\{(.*?)\}", str(action.content))
            return [], float(given is not None and given[1] == str(self.index + 1)), True, False

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
                if observation[0].content != REPLY:
                    raise ValueError(f"aviary observed {observation[0].content!r} where {REPLY!r} was expected.")
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
            given = re.search(r"\\boxed\{(.*?)\}", action)
            return "", float(given is not None and given[1] == str(self.index + 1)), True, False, {}

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
            if observation != REPLY:
                raise ValueError(f"gem observed {observation!r} where {REPLY!r} was expected.")
        return float(env.step(answer(index))[1])

    def play(episodes: int) -> float:
        if in_flight == 1:
            return sum(episode(index) for index in range(episodes))
        with ThreadPoolExecutor(in_flight) as pool:
            return sum(pool.map(episode, range(episodes)))

    return Case("gem", play)


def peer_cases(makers: Sequence[tuple[str, Callable[[], Case]]]) -> tuple[list[Case], list[str]]:
    """The peers that can be imported, and a note for each that cannot."""
    cases, notes = [], []
    for name, make in makers:
        try:
            cases.append(make())
        except ImportError as error:
            notes.append(f"{name} did not take part: {error} ({install_command('bench')})")
    return cases, notes


def timed(case: Case, episodes: int) -> float:
    """Seconds for that many episodes; ValueError where one of them was not rewarded."""
    started = time.perf_counter()
    total = case.play(episodes)
    seconds = time.perf_counter() - started
    if total != episodes:
        raise ValueError(f"{case.name}: {total:g} of {episodes} episodes were rewarded; nothing of it counts.")
    return seconds


def interleaved(cases: Sequence[Case], episodes: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each case in each repeat; another case begins each repeat."""
    samples: dict[str, list[float]] = {case.name: [] for case in cases}
    for case in cases:
        timed(case, min(episodes, 20))
    for repeat in range(repeats):
        turn = repeat % len(cases)
        for case in [*cases[turn:], *cases[:turn]]:
            samples[case.name].append(timed(case, episodes))
    return samples


def benchmark(settings: Settings) -> dict[str, object]:
    """Runs everything; returns the report."""
    about = report.machine(PACKAGES, threads=1)
    turns = [state_machine(), aec(), aec(looking=True), gymnasium_face(), rollout(IN_FLIGHT_OF_TURNS)]
    flights = [rollout(settings.in_flight, settings.helper_seconds)]
    notes: list[str] = []
    if settings.peers:
        more, notes = peer_cases([("aviary", aviary), ("gem", gem)])
        turns += more
        wait = settings.in_flight, settings.helper_seconds
        flights += peer_cases([("aviary", lambda: aviary(*wait)), ("gem", lambda: gem(*wait))])[0]
    turn_seconds = interleaved(turns, settings.episodes, settings.repeats)
    flight_seconds = interleaved(flights, settings.episodes, settings.repeats)
    ideal = math.ceil(settings.episodes / settings.in_flight) * NUM_CONSULTS * settings.helper_seconds
    about["load_at_end"] = report.machine(PACKAGES, threads=1)["load_at_start"]
    micro = {
        name: report.spread([1e6 * s / (settings.episodes * NUM_TURNS) for s in own])
        for name, own in turn_seconds.items()
    }
    over_machine = {
        name: report.ratios(own, turn_seconds["AIPO state machine"])
        for name, own in turn_seconds.items()
        if name != "AIPO state machine"
    }
    over_ideal = (
        {name: report.spread([s / ideal for s in own]) for name, own in flight_seconds.items()} if ideal else {}
    )
    return {
        "machine": about,
        "settings": dataclasses.asdict(settings),
        "samples": {"turns": turn_seconds, "in_flight": flight_seconds},
        "microseconds_per_turn": micro,
        "over_state_machine": over_machine,
        "ideal_seconds": ideal,
        "over_ideal": over_ideal,
        "seconds_in_flight": {name: statistics.median(own) for name, own in flight_seconds.items()},
        "notes": notes,
    }


def print_speeds(result: dict[str, object]) -> None:
    """The report as two tables."""
    micro: dict[str, report.Spread] = result["microseconds_per_turn"]  # type: ignore[assignment]
    over: dict[str, report.Spread] = result["over_state_machine"]  # type: ignore[assignment]
    flights: dict[str, report.Spread] = result["over_ideal"]  # type: ignore[assignment]
    settings: dict[str, object] = result["settings"]  # type: ignore[assignment]
    about: dict[str, object] = result["machine"]  # type: ignore[assignment]
    rows = [[name, own.text(1), over[name].text(2, "x") if name in over else ""] for name, own in micro.items()]
    turn, face = micro["AIPO rollout"].median, over["AIPO AEC"].median
    notes = [
        *result["notes"],  # type: ignore[misc]
        f"Medians of {settings['repeats']} repeats (least .. largest) of {settings['episodes']} episodes.",
        f"Target of a turn in a rollout: at most {TARGET_TURN_MICROSECONDS:g} us: {_met(turn, TARGET_TURN_MICROSECONDS)}.",
        f"Target of the AEC step: at most {TARGET_AEC_RATIO:g}x the state machine: {_met(face, TARGET_AEC_RATIO)}.",
    ]
    report.print_report(
        "A turn, helper and policy instant", about, ["", "us a turn", "by the state machine's"], rows, notes
    )
    seconds: dict[str, float] = result["seconds_in_flight"]  # type: ignore[assignment]
    if flights:
        title = f"{settings['in_flight']} in flight, helpers of {settings['helper_seconds']} s"
        rows = [[name, f"{seconds[name]:.3f}", own.text(2, "x")] for name, own in flights.items()]
        own = flights["AIPO rollout"].median
        notes = [
            f"Ideal: {result['ideal_seconds']:g} s.",
            f"Target: at most {TARGET_IN_FLIGHT_RATIO:g}x: {_met(own, TARGET_IN_FLIGHT_RATIO)}.",
        ]
        report.print_report(title, {}, ["", "seconds", "by the ideal"], rows, notes)


def _met(value: float, target: float) -> str:
    return "met" if value <= target else "not met"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark from the command line."""
    settings = tyro.cli(Settings, args=arguments, description=(__doc__ or "").split("\n", 1)[0])
    result = benchmark(settings)
    print_speeds(result)
    if settings.json is not None:
        report.write_json(settings.json, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
