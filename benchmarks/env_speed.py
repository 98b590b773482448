r"""Our environment beside those of skyrl-gym and gem-llm: steps per second on the same integer problems, in one run.

    python -m benchmarks.env_speed [--episodes N] [--repeats N] [--json FILE]

No model takes part: the texts of the policy are made before, so that what is timed is the environment alone. The problems are
sums, products and differences that this file writes. One process and one thread. In each repeat every environment plays all
episodes; each repeat gives one ratio.

**Equal:** problems, gold answers, number of right and of wrong answers (every fourth is wrong), and the reasoning in front of
the answer (about 1,100 characters; `--short` leaves it out). Before timing, each environment must give the reward that it owes
to every one of these texts.

**Not equal:**

- Each environment gets the answer in the form that it asks for.
- skyrl-gym's environments hold one problem each: its reset is to construct one (and `init`), without its registry's `make`,
  which costs more. Ours and gem's are made once and reset to a given problem.
- What a step does differs. skyrl-gym's gsm8k searches for one pattern and compares two strings: no state, no
  observation, no record. gem's parses with a computer algebra system. Ours is a whole Gymnasium step: it reads the
  markup, grades exact integers, records segments, and returns an observation and an info. Gymnasium's own checks
  (`gymnasium.make`) are in none.
- gem's MathEnv by default grades in a second process; it is timed without (`use_mp=False`), which is faster here.

A turn that asks a helper is timed by `benchmarks.rollout_speed`.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import aipo_env
from aipo_env.installation import DISTRIBUTION
from benchmarks import report

PACKAGES = (
    DISTRIBUTION,
    "gymnasium",
    "numpy",
    "skyrl-gym",
    "gem-llm",
    "math-verify",
    "sympy",
    "datasets",
    "pylatexenc",
)
OURS = "AIPO gsm8k"
WRONG_EVERY = 4
BOXED, HASHES, LABELLED = "The answer is \\boxed{%d}.", "#### %d", "Answer: %d"
"""How ours and gem's, skyrl-gym's gsm8k, and its aime read an answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(report.Settings):
    """How much is timed."""

    episodes: int = 500
    """Episodes of each environment in a repeat; slow ones play a tenth."""
    repeats: int = 9
    """Each gives one ratio."""
    short: bool = False
    """Leaves the reasoning in front of the answers out."""

    least: ClassVar = {"episodes": 1, "repeats": 1}


class Problem(NamedTuple):
    """A word problem with an integer answer."""

    question: str
    gold: int


class Steps(Protocol):
    """What all of these environments have."""

    def step(self, text: str, /) -> Any:
        """Takes an action."""


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One environment under test."""

    name: str
    reset: Callable[[int], Steps]
    """The environment at the start of the problem with this index."""
    reward: Callable[[Any], float]
    """The reward in what a step returns."""
    form: str
    """The answer as the environment reads it, the number being `%d`."""
    share: float = 1.0
    """Share of the episodes that it plays; less for slow ones."""

    def play(self, index: int, text: str) -> tuple[float, float]:
        """Plays an episode; returns the reward of this text and the seconds of the step alone."""
        env = self.reset(index)
        started = time.perf_counter()
        output = env.step(text)
        return self.reward(output), time.perf_counter() - started


def problems() -> list[Problem]:
    """52 problems with answers from -40 to 9,801, each of them once."""
    made: dict[int, Problem] = {}
    for i in range(1, 14):
        a, b = 7 * i + 3, 11 * i - 4
        for question, gold in (
            (f"A shelf holds {a} books and gets {b} more. How many books are on it?", a + b),
            (f"There are {a} rows with {b} seats each. How many seats are there?", a * b),
            (f"It is {a - b} degrees, then {2 * i} degrees warmer. What is the temperature?", a - b + 2 * i),
            (f"{i} boxes weigh {a * i} kg together and {b} kg more are added. What is the weight?", a * i + b),
        ):
            while gold in made:
                question, gold = question + " Add 1000 to your result.", gold + 1000
            made[gold] = Problem(question, gold)
    return list(made.values())


def reasoning(short: bool) -> str:
    """What a policy writes before it answers: prose with numbers and a little mathematics."""
    step = "First we look at what is given: there are 12 of one kind and 30 of the other, so $12 + 30 = 42$ of them. "
    return "" if short else 10 * step + "\n"


def our_case(rows: Sequence[Problem], folder: Path) -> Case:
    """`gsm8k` on these problems."""
    path = folder / "test.jsonl"
    lines = (json.dumps({"question": row.question, "answer": f"Compute.\n#### {row.gold}"}) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    env = aipo_env.make("gsm8k", data=str(path))

    def reset(index: int) -> Steps:
        env.reset(options={"task_index": index})
        return env

    return Case(OURS, reset, lambda output: output[1], BOXED)


def skyrl_case(name: str, class_name: str, key: str, form: str, rows: Sequence[Problem]) -> Case:
    """An environment of skyrl-gym, which is made anew for each problem."""
    env_class = getattr(importlib.import_module(f"skyrl_gym.envs.{name}.env"), class_name)
    extras = [{key: {"ground_truth": str(row.gold)}} for row in rows]
    prompts = [[{"role": "user", "content": row.question}] for row in rows]

    def reset(index: int) -> Steps:
        env: Steps = env_class(extras=extras[index])
        env.init(prompts[index])  # type: ignore[attr-defined]
        return env

    return Case(f"skyrl-gym {name}", reset, lambda output: max(0.0, float(output["reward"])), form)


def gem_case(rows: Sequence[Problem]) -> Case:
    """The MathEnv of gem."""
    from datasets import Dataset
    from gem.envs.math_env import MathEnv

    table = Dataset.from_dict({"problem": [r.question for r in rows], "answer": [str(r.gold) for r in rows]})
    env = MathEnv(dataset=table, use_mp=False, eval=True)

    def reset(index: int) -> Steps:
        env.reset(idx=index)
        return env  # type: ignore[no-any-return]

    return Case("gem MathEnv", reset, lambda output: float(output[1]), BOXED, share=0.1)


def peers(rows: Sequence[Problem]) -> dict[str, Callable[[], Case]]:
    """What makes each peer's case."""
    return {
        "skyrl-gym gsm8k": lambda: skyrl_case("gsm8k", "GSM8kEnv", "reward_spec", HASHES, rows),
        "skyrl-gym aime": lambda: skyrl_case("aime", "AIMEEnv", "reward_model", LABELLED, rows),
        "gem MathEnv": lambda: gem_case(rows),
    }


def schedule(case: Case, rows: Sequence[Problem], before: str, episodes: int) -> list[tuple[int, str, float]]:
    """(problem, text, reward that is owed) of each episode; every fourth answer is wrong."""
    made = []
    for number in range(max(1, round(episodes * case.share))):
        index = number % len(rows)
        wrong = number % WRONG_EVERY == WRONG_EVERY - 1
        made.append((index, before + case.form % (rows[index].gold + wrong), float(not wrong)))
    return made


def check(case: Case, plays: Sequence[tuple[int, str, float]]) -> None:
    """Raises ValueError unless the environment rewards right answers with 1 and wrong ones with 0."""
    for index, text, owed in plays:
        reward, _ = case.play(index, text)
        if reward != owed:
            raise ValueError(
                f"{case.name} gave {reward} for {text[-40:]!r}, where {owed} was expected; nothing was timed."
            )


def measure(case: Case, plays: Sequence[tuple[int, str, float]]) -> dict[str, float]:
    """Plays all episodes once. A step that the machine interrupts does not move the median one."""
    started = time.perf_counter()
    steps = [case.play(index, text)[1] for index, text, _ in plays]
    seconds = time.perf_counter() - started
    return {
        "episodes": len(plays),
        "episodes_per_second": len(plays) / seconds,
        "microseconds_per_step": 1e6 * statistics.median(steps),
    }


def summarise(samples: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, report.Spread]]:
    """Speed of each environment and, for peers, how many times faster ours is, repeat by repeat."""

    def figures(name: str, key: str) -> list[float]:
        return [sample[key] for sample in samples[name]]

    summary = {name: report.spreads(own) for name, own in samples.items()}
    for name in samples:
        if name != OURS:
            rates = [figures(side, "episodes_per_second") for side in (OURS, name)]
            steps = [figures(side, "microseconds_per_step") for side in (name, OURS)]
            summary[name] |= {"ratio": report.ratios(*rates), "step_ratio": report.ratios(*steps)}
    return summary


def benchmark(settings: Settings) -> report.Result:
    """Plays on all environments that are installed."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    rows, before = problems(), reasoning(settings.short)
    with tempfile.TemporaryDirectory() as folder, report.quiet():
        others, notes = report.installed(peers(rows))
        cases = [our_case(rows, Path(folder)), *others]
        plays = {case.name: schedule(case, rows, before, settings.episodes) for case in cases}
        for case in cases:
            check(case, plays[case.name])
        measures = {case.name: partial(measure, case, plays[case.name]) for case in cases}
        samples = report.in_turns(measures, settings.repeats)
    summary = summarise(samples)
    notes += [
        "Medians of the repeats (least .. largest). A step is the median of a repeat's steps.",
        "A ratio above 1: ours is faster.",
        "What is equal and what is not: `python -c 'import benchmarks.env_speed as e; help(e)'`.",
    ]
    return report.Result([speed_table(summary, notes)], {"samples": samples, "summary": summary})


def speed_table(summary: dict[str, dict[str, report.Spread]], notes: Sequence[str]) -> report.Table:
    """The summary, an environment a row."""
    rows = []
    for name, values in summary.items():
        speeds = [values["episodes_per_second"].text(), values["microseconds_per_step"].text(1)]
        rows.append([name, *speeds, *(values[key].text(2, "x") for key in ("ratio", "step_ratio") if key in values)])
    columns = ["", "reset + step, per s", "step alone, us", "ours / theirs, per s", "theirs / ours, us"]
    return report.Table("Environment speed, integer answers", columns, rows, notes)


if __name__ == "__main__":
    raise SystemExit(report.run(Settings, benchmark, PACKAGES))
