"""What `aipo_env.make` and its siblings can be told: typed, so that editors complete it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from aipo_env.dialects import DialectLike
from aipo_env.dialects.base import TokenCodec
from aipo_env.episode import RewardFunction
from aipo_env.markup import Extraction
from aipo_env.protocol import Agent
from aipo_env.tasks.base import TaskSet

AgentLike = Agent | Callable[..., object] | str
"""An agent, a function `str -> str`, a registered name, an import path "package.module:Class", or a trained helper's folder."""


class GameOptions(TypedDict, total=False):
    """What `make` and its siblings can be told about the game; an editor completes it."""

    agents: Mapping[str, AgentLike | None] | Sequence[str] | None
    """The helpers: names of registered ones, or a mapping from name to agent, function or import path. The default is verify,
    knowledge and reasoning, embedded, without model or network. None stands for a helper that the caller plays (`make_aec`,
    `make_parallel`)."""
    max_consults: int | None
    """Consults that are answered (4)."""
    max_turns: int | None
    """Turns of the policy (8)."""
    max_chars: int | None
    """Characters behind the prompt (100,000)."""
    max_reply_chars: int | None
    """Characters of one reply of a helper; longer ones are cut (8,000)."""
    consult_cost: float | None
    """Subtracted from the reward for each consult (0)."""
    consult_timeout: float | None
    """Seconds a helper has to answer (60); None for no limit."""
    helper_view: Literal["transcript", "query"] | None
    """Whether a helper sees the "transcript" beside the query, or the "query" alone ("transcript")."""
    leak_filter: bool | None
    """Whether a helper's reply that states the gold answer is held back, and a notice takes its place (False)."""
    fan_out: int | None
    """Consults, of different helpers, that one turn may carry (1)."""
    extraction: Extraction | None
    """What marks a value as the answer: "boxed" for a box or an answer tag alone, "lenient" for phrases too."""
    consults_in_thought: bool | None
    """Whether a consult counts that stands in the policy's `<think>` (True)."""
    solo: Literal["plain", "self-help"] | None
    """What an episode without help is: "plain", or "self-help", in which the policy writes the helpers' replies itself in their
    places."""
    dialect: DialectLike
    """How actions and replies look: "tags", the model's own "tools" calls, "auto" for the latter where the tokenizer's chat
    template allows it, one of the entry points `aipo.dialects`, or a class like these."""
    observation: Literal["text", "messages"]
    """"messages" gives the policy a chat beside the text: role and content of each message."""
    split: str | None
    """Of the task family."""
    prompt: str | None
    """"consult", "plain", "bare", or a text of your own with {problem} and {agents}."""
    solo_prompt: str | None
    """The prompt of episodes without help (the same)."""
    reward_fn: RewardFunction | str | None
    """`(task, answer, grade) -> float or {part: float}`, or its import path, instead of 1 for a correct answer."""
    codec: TokenCodec | None
    """A tokenizer adapter; makes the record token-exact and `TokenAction` possible."""
    tasks: TaskSet | None
    """A task family of your own, in place of the one of the id."""


class Options(GameOptions, total=False):
    """`GameOptions`, and those of the task families here; another family's own ones pass as well."""

    data: str | os.PathLike[str] | None
    """Of data sets: a local copy."""
    revision: str | None
    """Of data sets: the hub's."""
    keep: str
    """Of data sets: the rows that are used."""
    rates: str | os.PathLike[str] | None
    """Of data sets: measured pass rates, for `keep`."""
    decontaminate: Any
    """Of training sets: what copies of test problems are looked for."""
    problem: str | None
    """Of `dataset`: the field of the problem; so `answer`."""
    answer: str | None
    answer_type: str
    """Of `dataset`: how answers are compared: math, integer, choice, exact, code."""
    parts: str | Mapping[str, Any]
    """Of `mix`: ids and weights."""
    choice_seed: int
    """Of gpqa-diamond: the order of the choices."""
    keep_texts: bool
    """Of gpqa-diamond: whether its texts may be written down."""
    version: str | None
    """Of livecodebench, as the dates between which contests count, `start_date` and `end_date`."""
    start_date: str | None
    end_date: str | None
    time_limit_s: float
    """Of livecodebench: seconds a program has for a test."""
    level: int
    """Of rulebook: how hard, 1 to 4; with `digits`, `operators` and `style`, "words" or "terse"."""
    digits: int
    operators: Sequence[str] | None
    style: Literal["words", "terse"]
    config: Mapping[str, Any] | None
    """Of rg/...: what reasoning-gym's data set takes."""


RULES = frozenset(GameOptions.__annotations__)
"""The names of the options that every environment takes."""
HELPER_RULES = (
    "agents", "max_consults", "max_reply_chars", "consult_cost", "helper_view", "leak_filter", "fan_out",
    "consults_in_thought",
)  # fmt: skip
"""Options that say something about helpers, and so nothing where nobody is asked."""
