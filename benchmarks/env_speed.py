r"""Our environment beside those of skyrl-gym and gem-llm: steps per second on the same integer problems, in one run.

    python -m benchmarks.env_speed [--episodes N] [--repeats N] [--json FILE]

No model takes part: the texts of the policy are made before, so that what is timed is the environment alone. The problems are
sums, products and differences that this file writes; no data set is needed.

**Order.** One process and one thread. In each repeat every environment plays all episodes, one environment after the other;
the next repeat starts with another. Each repeat gives one ratio. The time of a step is the median of a repeat's steps.

**Equal:** problems, gold answers, number of right and of wrong answers (every fourth is wrong), and the reasoning in front of
the answer (about 1,100 characters; `--short` leaves it out). Before timing, each environment must give the reward that it owes
to every one of these texts.

**Not equal:**

- Each environment gets the answer in the form that it asks for: ours and gem `\boxed{42}`, skyrl-gym's gsm8k `#### 42`, its
  aime `Answer: 42`.
- skyrl-gym's environments hold one problem each: its reset is to construct one (and `init`), without its registry's `make`,
  which costs more. Ours and gem's are made once and reset to a given problem.
- What a step does differs. skyrl-gym's gsm8k searches for one pattern and compares two strings: no state, no
  observation, no record. gem's parses with a computer algebra system. Ours is a whole Gymnasium step: it reads the
  markup, grades exact integers, records segments, and returns an observation and an info. Gymnasium's own checks
  (`gymnasium.make`) are in none.
- gem's MathEnv by default grades in a second process; it is timed without (`use_mp=False`), which is faster here.

The **consult turn** (a question to a helper that replies at once, and its reply in the next observation) has no counterpart in
these peers; it is a row of its own and has no ratio.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tyro

import aipo_env
from aipo_env.installation import DISTRIBUTION, install_command
from aipo_env.protocol import ConsultRequest, Reply
from benchmarks import report

PACKAGES = (
    DISTRIBUTION,
    "gymnasium",
    "numpy",
    "math-verify",
    "sympy",
    "skyrl-gym",
    "gem-llm",
    "datasets",
    "pylatexenc",
)
TARGET_MICROSECONDS = 50.0
"""Of a step of ours with an integer answer."""
WRONG_EVERY = 4


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is timed."""

    episodes: int = 500
    """Episodes of each environment in a repeat; slow ones play a tenth."""
    repeats: int = 9
    """Each gives one ratio."""
    short: bool = False
    """Leaves the reasoning in front of the answers out."""
    peers: bool = True
    """Whether the peers take part."""
    json: Path | None = None
    """Also writes all samples and the summary here."""

    def __post_init__(self) -> None:
        """Refuses what cannot be timed."""
        if self.episodes < 1 or self.repeats < 1:
            raise ValueError(f"episodes and repeats are at least 1; got {self.episodes} and {self.repeats}.")


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """A word problem with an integer answer."""

    question: str
    gold: int


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One environment under test."""

    name: str
    play: Callable[[int, str], tuple[float, float]]
    """Resets to the problem with this index and takes one step with this text; returns the reward and the seconds of the
    step alone."""
    answer: Callable[[str, int], str]
    """The text of the policy: reasoning, then the answer in the form that the environment reads."""
    share: float = 1.0
    """Share of the episodes that it plays; less for slow ones."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What one environment did in one repeat."""

    episodes: int
    seconds: float
    """Resets included."""
    step_seconds: float
    """The median step alone: a step that the machine interrupts does not move it."""

    @property
    def per_second(self) -> float:
        """Episodes (a reset and a step) per second."""
        return self.episodes / self.seconds

    @property
    def microseconds_per_step(self) -> float:
        """Of the step alone."""
        return 1e6 * self.step_seconds


def problems() -> list[Problem]:
    """52 problems with answers from -40 to 9,801, each of them once."""
    made: dict[int, Problem] = {}
    for i in range(1, 14):
        a, b = 7 * i + 3, 11 * i - 4
        rows = [
            (f"A shelf holds {a} books and gets {b} more. How many books are on it?", a + b),
            (f"There are {a} rows with {b} seats each. How many seats are there?", a * b),
            (f"It is {a - b} degrees, then {2 * i} degrees warmer. What is the temperature?", a - b + 2 * i),
            (f"{i} boxes weigh {a * i} kg together and {b} kg more are added. What is the weight?", a * i + b),
        ]
        for question, gold in rows:
            while gold in made:
                question, gold = question + " Add 1000 to your result.", gold + 1000
            made[gold] = Problem(question, gold)
    return list(made.values())


def reasoning(short: bool) -> str:
    """What a policy writes before it answers: prose with numbers and a little mathematics."""
    if short:
        return ""
    step = "First we look at what is given: there are 12 of one kind and 30 of the other, so $12 + 30 = 42$ of them. "
    return 10 * step + "\n"


def boxed(before: str, answer: int) -> str:
    r"""As ours and gem's read it."""
    return f"{before}The answer is \\boxed{{{answer}}}."


def hashes(before: str, answer: int) -> str:
    """As skyrl-gym's gsm8k reads it."""
    return f"{before}#### {answer}"


def labelled(before: str, answer: int) -> str:
    """As skyrl-gym's aime reads it."""
    return f"{before}Answer: {answer}"


class Echo:
    """A helper that replies at once."""

    name = "verify"

    async def respond(self, request: ConsultRequest) -> Reply:
        """Says the same every time."""
        return Reply("correct")


def our_case(rows: Sequence[Problem], folder: Path) -> Case:
    """`gsm8k`, solo."""
    env = _make_ours("gsm8k", rows, folder)

    def play(index: int, text: str) -> tuple[float, float]:
        env.reset(options={"task_index": index})
        started = time.perf_counter()
        _, reward, *_ = env.step(text)
        return reward, time.perf_counter() - started

    return Case("AIPO gsm8k", play, boxed)


def consult_case(rows: Sequence[Problem], folder: Path, before: str) -> Case:
    """`gsm8k-consult`: the step is the consult; the answer follows untimed."""
    env = _make_ours("gsm8k-consult", rows, folder, agents={"verify": Echo()})
    question = f'{before}<consult agent="verify">12+30=42</consult>'

    def play(index: int, text: str) -> tuple[float, float]:
        env.reset(options={"task_index": index})
        started = time.perf_counter()
        env.step(question)
        seconds = time.perf_counter() - started
        _, reward, *_ = env.step(text)
        return reward, seconds

    return Case("AIPO consult turn", play, boxed)


def _make_ours(env_id: str, rows: Sequence[Problem], folder: Path, **options: object) -> aipo_env.ConsultEnv:
    path = folder / "test.jsonl"
    lines = (json.dumps({"question": row.question, "answer": f"Compute.\n#### {row.gold}"}) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return aipo_env.make(env_id, data=str(path), **options)  # type: ignore[arg-type]


def skyrl_case(rows: Sequence[Problem], name: str) -> Case:
    """skyrl-gym's `gsm8k` or `aime`."""
    module = importlib.import_module(f"skyrl_gym.envs.{name}.env")
    env_class = module.GSM8kEnv if name == "gsm8k" else module.AIMEEnv
    key = "reward_spec" if name == "gsm8k" else "reward_model"
    extras = [{key: {"ground_truth": str(row.gold)}} for row in rows]
    prompts = [[{"role": "user", "content": row.question}] for row in rows]

    def play(index: int, text: str) -> tuple[float, float]:
        env = env_class(extras=extras[index])
        env.init(prompts[index])
        started = time.perf_counter()
        output = env.step(text)
        return max(0.0, float(output["reward"])), time.perf_counter() - started

    return Case(f"skyrl-gym {name}", play, hashes if name == "gsm8k" else labelled)


def gem_case(rows: Sequence[Problem]) -> Case:
    """The MathEnv of gem."""
    from datasets import Dataset
    from gem.envs.math_env import MathEnv

    table = Dataset.from_dict({"problem": [r.question for r in rows], "answer": [str(r.gold) for r in rows]})
    env = MathEnv(dataset=table, use_mp=False, eval=True)

    def play(index: int, text: str) -> tuple[float, float]:
        env.reset(idx=index)
        started = time.perf_counter()
        _, reward, *_ = env.step(text)
        return float(reward), time.perf_counter() - started

    return Case("gem MathEnv", play, boxed, share=0.1)


def peer_cases(rows: Sequence[Problem]) -> tuple[list[Case], list[str]]:
    """The peers that can be imported, and a note for each that cannot."""
    makers: list[tuple[str, Callable[[], Case]]] = [
        ("skyrl-gym gsm8k", lambda: skyrl_case(rows, "gsm8k")),
        ("skyrl-gym aime", lambda: skyrl_case(rows, "aime")),
        ("gem MathEnv", lambda: gem_case(rows)),
    ]
    cases, notes = [], []
    for name, make in makers:
        try:
            cases.append(make())
        except ImportError as error:
            notes.append(f"{name} did not take part: {error} ({install_command('bench')})")
    return cases, notes


def schedule(case: Case, rows: Sequence[Problem], before: str, episodes: int) -> list[tuple[int, str, float]]:
    """(problem, text, reward that is owed) of each episode; every fourth answer is wrong."""
    made = []
    for number in range(max(1, round(episodes * case.share))):
        index = number % len(rows)
        wrong = number % WRONG_EVERY == WRONG_EVERY - 1
        made.append((index, case.answer(before, rows[index].gold + wrong), float(not wrong)))
    return made


def check(case: Case, plays: Sequence[tuple[int, str, float]]) -> None:
    """Raises ValueError unless the environment rewards right answers with 1 and wrong ones with 0."""
    for index, text, owed in plays:
        reward, _ = case.play(index, text)
        if reward != owed:
            raise ValueError(
                f"{case.name} gave {reward} for {text[-40:]!r}, where {owed} was expected; nothing was timed."
            )


def measure(case: Case, plays: Sequence[tuple[int, str, float]]) -> Sample:
    """Plays all episodes once."""
    started = time.perf_counter()
    steps = [case.play(index, text)[1] for index, text, _ in plays]
    return Sample(len(plays), time.perf_counter() - started, statistics.median(steps))


def summarise(samples: dict[str, list[Sample]], ours: str) -> dict[str, dict[str, report.Spread]]:
    """Speed of each environment and, for peers, the ratio of ours to theirs, repeat by repeat.

    Args:
        samples: of each environment, one per repeat.
        ours: the name of the environment that peers are compared with.
    """
    summary = {}
    for name, own in samples.items():
        summary[name] = {
            "episodes_per_second": report.spread([s.per_second for s in own]),
            "microseconds_per_step": report.spread([s.microseconds_per_step for s in own]),
        }
        if name != ours and not name.startswith("AIPO"):
            rates = [s.per_second for s in samples[ours]], [s.per_second for s in own]
            steps = [s.microseconds_per_step for s in own], [s.microseconds_per_step for s in samples[ours]]
            summary[name]["ratio"] = report.ratios(*rates)
            summary[name]["step_ratio"] = report.ratios(*steps)
    return summary


@contextmanager
def _quiet() -> Iterator[None]:
    """Peers warn, and log each reset; neither is to be timed."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def benchmark(settings: Settings) -> dict[str, object]:
    """Runs everything; returns the report."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    about = report.machine(PACKAGES, threads=1)
    rows, before = problems(), reasoning(settings.short)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        ours = our_case(rows, Path(folder))
        cases = [ours, consult_case(rows, Path(folder), before)]
        notes: list[str] = []
        if settings.peers:
            peers, notes = peer_cases(rows)
            cases += peers
        plays = {case.name: schedule(case, rows, before, settings.episodes) for case in cases}
        for case in cases:
            check(case, plays[case.name])
        samples: dict[str, list[Sample]] = {case.name: [] for case in cases}
        for repeat in range(settings.repeats):
            turn = repeat % len(cases)
            for case in cases[turn:] + cases[:turn]:
                samples[case.name].append(measure(case, plays[case.name]))
    summary = summarise(samples, ours.name)
    step = summary[ours.name]["microseconds_per_step"].median
    about["load_at_end"] = round(os.getloadavg()[0], 2)
    return {
        "machine": about,
        "settings": dataclasses.asdict(settings),
        "samples": samples,
        "summary": summary,
        "target": {"microseconds_per_step": TARGET_MICROSECONDS, "met": step <= TARGET_MICROSECONDS},
        "notes": notes,
    }


def print_speeds(result: dict[str, object]) -> None:
    """The report as a table."""
    summary: dict[str, dict[str, report.Spread]] = result["summary"]  # type: ignore[assignment]
    rows = []
    for name, values in summary.items():
        compared = [values[key].text(2, "x") if key in values else "" for key in ("ratio", "step_ratio")]
        speeds = [values["episodes_per_second"].text(), values["microseconds_per_step"].text(1)]
        rows.append([name, *speeds, *compared])
    target: dict[str, object] = result["target"]  # type: ignore[assignment]
    met = "met" if target["met"] else "not met"
    notes = [*result["notes"], f"Target of our step: at most {target['microseconds_per_step']} us: {met}."]  # type: ignore[misc]
    settings: dict[str, object] = result["settings"]  # type: ignore[assignment]
    notes.append(
        f"Medians of {settings['repeats']} repeats (least .. largest). A step is the median of a repeat's steps."
    )
    notes.append("A ratio above 1: ours is faster.")
    notes.append("What is equal and what is not: `python -c 'import benchmarks.env_speed as e; help(e)'`.")
    columns = ["", "reset + step, per s", "step alone, us", "ours / theirs, per s", "theirs / ours, us"]
    about: dict[str, object] = result["machine"]  # type: ignore[assignment]
    report.print_report("Environment speed, integer answers", about, columns, rows, notes)


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
