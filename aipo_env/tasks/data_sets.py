"""The public data sets of questions with short answers, as declarations: where they live, what their rows hold, how to grade.

To add one is to add an entry. `aipo_env.tasks.questions` reads them all; nothing of any data set ships with this project.
Fields that a declaration names must be there: a changed schema is refused by name when it is loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from aipo_env.tasks.hub import HubSource, Kind
from aipo_env.tasks.selection import conditions

AnswerType = Literal["math", "integer", "aime", "choice", "exact", "code"]
"""How answers are graded: as mathematics, whole numbers, marked whole numbers from 0 to 999, letters, texts; or run."""
AnswerFrom = Literal["field", "boxed", "####"]
Decontamination = Literal["containment", "equal", "none"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet(HubSource):
    """One data set. Fields are named by paths (`aipo_env.tasks.hub.at`)."""

    config: str | None = None
    fields: Mapping[str, Kind] = dataclasses.field(default_factory=dict)
    """Derived from the other fields."""
    description: str
    problem: str = "problem"
    answer: str = "answer"
    answer_type: AnswerType = "math"
    answer_from: AnswerFrom = "field"
    """Whether the field is the answer, or a text with the answer in its last box or behind its last ####."""
    several: Literal["no", "any", "all"] = "no"
    """What a list of answers means: a fault, that any of them is right, or that all of them are the answer."""
    choices: str | None = None
    """The list of choices; the answer is then the letter, the number (from 0) or the text of the right one."""
    letters: str = "ABCDEFGHIJ"
    """For choices."""
    starter: str | None = None
    """Code that a program completes. A path that ends in "?" need not be there."""
    function: str | None = None
    """What the tests of a program call, where they do not say it themselves; "?" as above."""
    id: str | None = None
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Metadata of tasks: name and path."""
    optional_facts: tuple[str, ...] = ()
    """Metadata that not every copy has."""
    constants: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Metadata that every task has."""
    keep: str = ""
    """Conditions (`aipo_env.tasks.selection`); rows that do not fulfil them are left out."""
    cut: tuple[str, ...] = ()
    """The problem ends where the first of these stands; one of them must."""
    hints: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Helper and the paths of the lists of hints that it may give, in order."""
    filtered: bool = False
    """Whether rows are left out of an evaluation split too, copies of test problems excepted."""
    without: tuple[str, ...] = ()
    """Test sets that are a part of it: loading it needs them, to leave them out."""
    decontaminate: Decontamination = "containment"
    """How rows that stand in test sets are told; see `aipo_env.tasks.decontamination`."""

    def __post_init__(self) -> None:
        """Derives what rows must have."""
        paths: dict[str, Kind] = {self.problem: "text"}
        paths[self.answer] = "text" if self.answer_from != "field" else "value" if self.several == "no" else "values"
        kept = [condition.path for condition in conditions(self.keep)]
        if self.answer_type == "code":
            paths[self.answer] = "any"
        also = [path for path in (self.choices, self.starter, self.function) if path and not path.endswith("?")]
        paths |= dict.fromkeys([*self.facts.values(), *kept, *also], "any")
        paths |= dict.fromkeys([path for some in self.hints.values() for path in some], "any")
        object.__setattr__(self, "fields", paths)


_TEST, _TRAIN, _BOTH = ("test",), ("train",), ("train", "test")
_CALLED_TRAIN = {"test": "train"}
# Copies of AIME differ in the case of their columns.
_AIME = {"Problem": "problem", "Answer": "answer", "ID": "id", "Year": "year", "URL": "url"}
_MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)

_ALL = (
    # -- for evaluation -------------------------------------------------------------------------------------------------
    DataSet(
        family="math500", repository="HuggingFaceH4/MATH-500", splits=_TEST,
        description="MATH-500 competition problems", id="unique_id", optional_facts=("subject", "level"),
    ),
    DataSet(
        family="aime24", repository="HuggingFaceH4/aime_2024", splits=_TEST, hub_splits=_CALLED_TRAIN,
        description="AIME 2024 competition problems", answer_type="aime", spellings=_AIME, id="id", optional_facts=("url",),
        constants={"year": 2024},
    ),
    DataSet(
        family="aime25", repository="math-ai/aime25", splits=_TEST, description="AIME 2025 competition problems",
        answer_type="aime", spellings=_AIME, id="id", constants={"year": 2025},
    ),
    DataSet(
        family="aime26", repository="MathArena/aime_2026", splits=_TEST, hub_splits=_CALLED_TRAIN,
        description="AIME 2026 competition problems", answer_type="aime", id="problem_idx", constants={"year": 2026},
    ),
    DataSet(
        family="hmmt-feb26", repository="MathArena/hmmt_feb_2026", splits=_TEST, hub_splits=_CALLED_TRAIN,
        description="HMMT February 2026 competition problems", id="problem_idx", facts={"problem_type": "problem_type"},
    ),
    DataSet(
        family="beyondaime", repository="ByteDance-Seed/BeyondAIME", splits=_TEST,
        description="BeyondAIME competition problems", answer_type="integer",
    ),
    DataSet(
        family="amc23", repository="math-ai/amc23", splits=_TEST, description="AMC 2023 competition problems",
        problem="question", answer_type="integer", spellings={"problem": "question"},
    ),
    DataSet(
        family="olympiadbench", repository="Hothan/OlympiadBench", config="OE_TO_maths_en_COMP", splits=_TEST,
        hub_splits=_CALLED_TRAIN, description="OlympiadBench open-ended mathematics", problem="question",
        answer="final_answer", several="all", optional_facts=("answer_type", "is_multiple_answer"),
    ),
    DataSet(
        family="minerva", repository="math-ai/minervamath", splits=_TEST,
        description="Minerva's undergraduate questions", problem="question", several="any",
    ),
    # -- with a split for training --------------------------------------------------------------------------------------
    DataSet(
        family="math", repository="EleutherAI/hendrycks_math", configs=_MATH_SUBJECTS, splits=_TRAIN,
        hub_splits={"train": "train+test"}, description="MATH without MATH-500", answer="solution", answer_from="boxed",
        facts={"level": "level", "subject": "type"}, without=("math500",),
        # Its look-alikes of MATH-500 have other numbers: the customary 12,000 problems hold them.
        decontaminate="equal",
    ),
    DataSet(
        family="gsm8k", repository="openai/gsm8k", config="main", splits=_BOTH, description="GSM8K word problems",
        problem="question", answer_type="integer", answer_from="####",
    ),
    DataSet(
        family="dapo-math", repository="open-r1/DAPO-Math-17k-Processed", config="en", splits=_TRAIN,
        description="DAPO-Math-17k, English", problem="prompt", answer="solution", answer_type="integer",
    ),
    DataSet(
        family="deepscaler", repository="agentica-org/DeepScaleR-Preview-Dataset", splits=_TRAIN,
        description="DeepScaleR competition problems",
    ),
    DataSet(
        family="acereason-math", repository="nvidia/AceReason-Math", splits=_TRAIN,
        description="AceReason mathematics",
    ),
    DataSet(
        family="big-math", repository="SynthLabsAI/Big-Math-RL-Verified", splits=_TRAIN, gated=True,
        description="Big-Math with solve rates of Llama-3.1-8B",
        facts={"source": "source", "domain": "domain", "llama8b_solve_rate": "llama8b_solve_rate"},
    ),
    DataSet(
        family="skywork-or1", repository="PrimeIntellect/Skywork-OR1-RL-Data", config="math", splits=_TRAIN,
        description="Skywork-OR1 mathematics with difficulties of three models", problem="question", several="any",
        facts={"info": "info"},
    ),
    DataSet(
        family="polaris", repository="POLARIS-Project/Polaris-Dataset-53K", splits=_TRAIN,
        description="Polaris mathematics with difficulties", facts={"difficulty": "difficulty"},
    ),
    DataSet(
        family="deepmath", repository="zwhe99/DeepMath-103K", splits=_TRAIN,
        description="DeepMath-103K, hard mathematics", problem="question", answer="final_answer",
        facts={"difficulty": "difficulty", "topic": "topic"},
        # The traces beside them are most of 5 GB.
        reading={"columns": ["question", "final_answer", "difficulty", "topic"]},
    ),
    DataSet(
        family="webinstruct", repository="TIGER-Lab/WebInstruct-verified", splits=_TRAIN,
        description="WebInstruct-verified, answers that rules can grade", problem="question",
        facts={"category": "category", "difficulty": "difficulty"},
        keep="answer_type = Integer|Float|Fraction|Percentage|Expression",
    ),
    DataSet(
        family="scaf-grpo", repository="hkuzxc/scaf-grpo-dataset", splits=_TRAIN, file="train.parquet",
        description="Scaf-GRPO competition problems with hints", problem="question", answer="reward_model.ground_truth",
        several="any",
        hints={
            "knowledge": ("knowledge_components_parts",),
            "reasoning": ("planning_skeleton_parts", "solution_breakdown_parts"),
        },
    ),
    DataSet(
        family="knowrl", repository="HasuerYu/KnowRL-Train-Data", splits=_TRAIN,
        description="KnowRL competition problems with points of knowledge", problem="prompt[0].content",
        answer="reward_model.ground_truth", several="any", cut=("## Hint", "Please reason step by step"),
        hints={"knowledge": ("kp_list",)},
    ),
    # -- programs; cut off where the window begins in which LiveCodeBench is reported ------------------------------------
    DataSet(
        family="leetcode", repository="newfacade/LeetCodeDataset", splits=_TRAIN,
        description="LeetCode problems of before August 2024", problem="problem_description", answer="input_output",
        answer_type="code", starter="starter_code", function="entry_point", id="task_id",
        facts={"difficulty": "difficulty"}, keep="estimated_date < 2024-08-01",
    ),
    DataSet(
        family="deepcoder", repository="agentica-org/DeepCoder-Preview-Dataset", configs=("primeintellect", "taco", "lcbv5"),
        splits=_TRAIN, description="DeepCoder's verified contest problems, up to July 2024", answer="tests", answer_type="code",
        starter="starter_code?", function="metadata.func_name?", large=True,
    ),
)  # fmt: skip
DATA_SETS: Mapping[str, DataSet] = {data_set.family: data_set for data_set in _ALL}
"""The data sets by their family's name."""
