"""An environment for TRL's own tool loop: its helpers are tools, and what they say is masked. Nothing here needs TRL.

    factory = environment_factory("rulebook-consult")
    GRPOTrainer(model, grade_answers, args, Dataset.from_list(task_rows(range(1000))), environment_factory=factory)

The model needs a chat template with tool calls, which TRL checks. To learn from the replies, use `algorithms.adapters.trl`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from aipo_env import Consult
from aipo_env.episode import Episode
from aipo_env.errors import GradingError
from aipo_env.game import ConsultGame, describe
from aipo_env.registry import make_game
from aipo_env.rollout import EpisodeSeeds

_OVER = "The episode is over: nobody can be asked any more. Give the final answer."


class HelperTools:
    """One task at a time; `environment_factory` makes a class of it that has a method for each helper."""

    _game: ConsultGame
    _resets: Counter[int]
    """How often this process has begun each task: another time is another sample, with other seeds of the helpers."""

    def reset(self, task: int, **row: object) -> str:
        """Begins a task; returns its prompt, which TRL appends to the user's message."""
        self._game.task(task)  # checks the index
        seeds = EpisodeSeeds(int(os.environ.get("RANK", "0")), task, self._resets[task])
        self._resets[task] += 1
        self._episode = self._game.make_episode(task, seed=seeds.episode)
        return self._episode.transcript

    def _consult(self, helper: str, query: str) -> str:
        replies = {} if self._episode.done else self._game.play_sync([self._episode], [Consult(helper, query)])[0]
        if (reply := replies.get(helper)) is not None:
            return reply.text if reply.error is None else f"{helper} could not answer: {reply.error}"
        return _OVER if self._episode.done else self._episode.segments[-1].text  # a notice, why there is none

    def _grade(self, text: str) -> float | None:
        """The reward of a final message, with what help cost; None if the grader failed."""
        answered: Episode = self._game.make_episode(self._episode.task, assisted=False)
        try:
            self._game.play_sync([answered], [text])
        except GradingError:  # its message may state the gold answer; TRL warns of a row without a reward
            return None
        return answered.reward + self._episode.reward_parts.get("consult_cost", 0.0)


def environment_factory(env: str, **options: Any) -> type[HelperTools]:
    """What `GRPOTrainer(environment_factory=...)` takes.

    Args:
        env: id of an environment with helpers.
        options: of `aipo_env.make`; the prompt is "plain" unless another is named, since TRL's template names the tools.
    """
    game = make_game(env, **{"prompt": "plain", **options})
    tools = {name: _tool(name, describe(name, game.agents.get(name))) for name in game.agent_names}
    return type("HelperTools", (HelperTools,), {"_game": game, "_resets": Counter(), **tools})


def grade_answers(
    completions: Sequence[Sequence[dict[str, Any]]], environments: Sequence[HelperTools], **_: object
) -> list[float | None]:
    """The reward function that belongs to it: the last message of a conversation is what is graded, None if that failed."""
    return [
        env._grade(str(turns[-1].get("content") or "")) for turns, env in zip(completions, environments, strict=True)
    ]


def task_rows(tasks: Iterable[int]) -> list[dict[str, Any]]:
    """Rows of the data set: a task each, whose text the environment gives."""
    return [{"prompt": [{"role": "user", "content": ""}], "task": task} for task in tasks]


def _tool(name: str, does: str) -> Callable[[HelperTools, str], str]:
    def ask(self: HelperTools, query: str) -> str:
        return self._consult(name, query)

    ask.__name__ = ask.__qualname__ = name
    ask.__doc__ = f"Asks {name}, who {does or 'helps'}.\n\nArgs:\n    query: what to ask.\n\nReturns:\n    the reply."
    ask.__annotations__ = {"query": str, "return": str}
    return ask
