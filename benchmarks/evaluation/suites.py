"""The evaluation suites: which environment, how it is sampled by default and where that custom comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from aipo_env.errors import ConfigurationError, unknown_id
from aipo_env.registry import env_spec
from aipo_env.training_split import training_sets

AnswerKind = Literal["value", "choice", "program"]

_OPEN_R1 = "responses per query of open-r1 (README, 'Reproducing Deepseek's evaluation results')"
_R1 = "temperature 0.6, top-p 0.95 and 32,768 tokens of the DeepSeek-R1 README ('Evaluation Results')"
_AIME = f"avg@32 as in DAPO (arXiv 2503.14476) and LUFFY (arXiv 2504.14945); {_R1}"

_ONCE = "one sample as in LUFFY (arXiv 2504.14945)"


@dataclasses.dataclass(frozen=True)
class Suite:
    """A benchmark as it is evaluated."""

    name: str
    """As on the command line: "math500"."""
    title: str
    """As in tables and figures: "MATH-500"."""
    env_id: str
    """The environment with helpers; alone, its tasks are played without them."""
    num_samples: int
    """Samples for each task."""
    temperature: float
    """0 is greedy."""
    top_p: float
    max_tokens: int
    """Tokens behind the prompt, helpers' replies included."""
    source: str
    """Where these defaults come from."""
    num_tasks: int | None = None
    """The first tasks that are played; None for all."""
    env_options: Mapping[str, str | int | float] = dataclasses.field(default_factory=dict)
    """Options of the environment that differ from its own defaults."""
    breakdowns: tuple[str, ...] = ()
    """Keys of the tasks' metadata by which results are split."""
    facts: tuple[str, ...] = ()
    """Further keys of the metadata that the results name for each task."""
    answers: AnswerKind = "value"
    """"value" and "choice" have a majority answer, "program" has none."""

    def __post_init__(self) -> None:
        """Refuses greedy sampling of several samples: they would all be the same."""
        check_sampling(self.name, self.num_samples, self.temperature)


def check_sampling(suite: str, num_samples: int, temperature: float) -> None:
    """Raises ConfigurationError for several samples without randomness."""
    if temperature == 0 and num_samples > 1:
        raise ConfigurationError(
            f"{suite}: temperature 0 is greedy, so {num_samples} samples of a task would be the same one, and pass@k and "
            "maj@n would say nothing. Take one sample (--samples 1), or a temperature above 0."
        )


SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            "math500", "MATH-500", "math500-consult", 4, 0.6, 0.95, 32_768, f"4 {_OPEN_R1}; {_R1}",
            breakdowns=("subject", "level"),
        ),
        Suite("aime24", "AIME 2024", "aime24-consult", 32, 0.6, 0.95, 32_768, _AIME, facts=("year",)),
        Suite("aime25", "AIME 2025", "aime25-consult", 32, 0.6, 0.95, 32_768, _AIME, facts=("year",)),
        Suite("aime26", "AIME 2026", "aime26-consult", 32, 0.6, 0.95, 32_768, _AIME, facts=("year",)),
        Suite("hmmt-feb26", "HMMT February 2026", "hmmt-feb26-consult", 32, 0.6, 0.95, 32_768, f"as AIME: {_AIME}"),
        Suite("beyondaime", "BeyondAIME", "beyondaime-consult", 32, 0.6, 0.95, 32_768, f"as AIME: {_AIME}"),
        Suite("amc23", "AMC 2023", "amc23-consult", 32, 0.6, 0.95, 32_768, f"avg@32 as in LUFFY (arXiv 2504.14945); {_R1}"),
        Suite("olympiadbench", "OlympiadBench", "olympiadbench-consult", 1, 0.6, 0.95, 32_768, f"{_ONCE}; {_R1}"),
        Suite("minerva", "Minerva", "minerva-consult", 1, 0.6, 0.95, 32_768, f"{_ONCE}; {_R1}"),
        Suite(
            "gpqa-diamond", "GPQA-Diamond", "gpqa-diamond-consult", 8, 0.6, 0.95, 32_768, f"8 {_OPEN_R1}; {_R1}",
            breakdowns=("domain", "subdomain"), answers="choice",
        ),
        Suite(
            "livecodebench", "LiveCodeBench", "livecodebench-consult", 16, 0.6, 0.95, 32_768, f"16 {_OPEN_R1}; {_R1}",
            breakdowns=("difficulty", "platform"), facts=("contest_date",), answers="program",
        ),
        Suite(
            "gsm8k", "GSM8K", "gsm8k-consult", 1, 0.0, 1.0, 1_024,
            "greedy, one sample: lm-evaluation-harness (gsm8k.yaml), there with five worked examples before the problem and "
            "here with none, hence more tokens",
        ),
        Suite(
            "rulebook", "Rulebook", "rulebook-consult", 16, 1.0, 1.0, 256,
            "this project's: temperature 1 as in training, the first 256 tasks of the test split",
            num_tasks=256, env_options={"split": "test", "level": 2}, breakdowns=("level",),
        ),
    )
}  # fmt: skip
"""The suites by name."""


def find_suite(name: str) -> Suite:
    """The suite of this name, or a training set or "module:TaskFamily"; UnknownIdError names the nearest."""
    if ":" in name:
        spec = env_spec(name)
        split = {"split": "test"} if "test" in spec.splits else {}
        return Suite(name, name, spec.id, 8, 1.0, 1.0, 512, "your own: as in training", env_options=split)
    if name not in SUITES and name in training_sets():
        return Suite(
            name, name, f"{name}-consult", 8, 1.0, 1.0, 4_096, "8 samples at temperature 1: open-r1 (compute_pass_rate.py)",
            env_options={"split": "train"}, answers="program" if name in ("leetcode", "deepcoder") else "value",
        )  # fmt: skip
    if name not in SUITES:
        raise unknown_id("suite", name, SUITES)
    return SUITES[name]
