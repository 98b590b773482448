"""What every face of an environment shares: the tasks, the helpers, the rules, and what each role sees."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NotRequired, TypedDict, TypeVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from aipo_env import leaks
from aipo_env.checks import check_number
from aipo_env.consulting import ask_together, consult, run_sync
from aipo_env.dialects import DialectLike, make_dialect
from aipo_env.dialects.base import Dialect, TokenCodec
from aipo_env.episode import GRADER, Episode, EpisodeConfig, RewardFunction, Turn
from aipo_env.errors import ConfigurationError, EpisodeStateError, GradingError, InvalidActionError
from aipo_env.grading import Grade
from aipo_env.prompts import DESCRIPTIONS, invites
from aipo_env.protocol import Action, Agent, Answer, Consult, ConsultRequest, Malformed, Reply
from aipo_env.spaces import PLAIN_CORPUS, Messages, Unicode
from aipo_env.tasks.base import AsyncGrading, Task, TaskSet, check_index, is_confidential
from aipo_env.threads import OnDemandThreads
from aipo_env.trajectory import Segment, Source, Trajectory

T = TypeVar("T")

ActionMode = Literal["text", "structured"]

_MOST_TASKS = 1024
_CODEC = ("fingerprint", "eos_ids", "encode", "encode_tag", "encode_prompt", "encode_next_turn", "decode")
_KINDS: dict[type, str] = {Consult: "consult", Answer: "answer", Malformed: "malformed", type(None): ""}


class Observation(TypedDict):
    """What the policy sees; with `observation="messages"` also `messages`, the same as a chat."""

    prompt: str
    """The whole transcript so far, prompt first."""
    turn: int
    """Turns taken."""
    consult_mask: NDArray[np.int8]
    """1 for each helper that may be consulted now, in the order of `agent_names`."""
    messages: NotRequired[tuple[dict[str, str], ...]]


class ConsultGame:
    """One environment id with its options, before anybody plays it.

    Args:
        tasks: the task family; its `answers`, if it has them, are those of the rules.
        agents: the helpers by name; empty where nobody answers.
        config: the rules.
        prompt: name or text of the prompt's template.
        solo_prompt: that of episodes without help; None for the same.
        consult_timeout: seconds a helper has; None for no limit.
        reward_fn: replaces the 0/1 reward for a correct answer.
        codec: makes episodes token-exact.
        dialect: how actions and replies look: a name, a dialect, or what makes one (`make_dialect`).
        observation: whether the policy gets the "text" alone, or "messages" beside it.
        env_id: recorded in trajectories.
        owned: the names of the helpers that are closed with the game; whoever passed the others closes them.
    """

    def __init__(
        self,
        tasks: TaskSet,
        agents: Mapping[str, Agent],
        config: EpisodeConfig,
        *,
        prompt: str = "consult",
        solo_prompt: str | None = None,
        consult_timeout: float | None = 60.0,
        reward_fn: RewardFunction | None = None,
        codec: TokenCodec | None = None,
        dialect: DialectLike = "tags",
        observation: Literal["text", "messages"] = "text",
        env_id: str = "",
        owned: Collection[str] = (),
    ) -> None:
        if consult_timeout is not None:
            check_number("consult_timeout", consult_timeout, what="seconds that a helper has, or None")
        if reward_fn is not None and not callable(reward_fn):
            raise ConfigurationError(
                f"reward_fn is a function (task, answer, grade) -> float, got {reward_fn!r}. Pass one, or leave it out."
            )
        if codec is not None and (missing := [name for name in _CODEC if not hasattr(codec, name)]):
            raise ConfigurationError(
                f"codec is a tokenizer's adapter (aipo_env.dialects.base.TokenCodec), got {type(codec).__name__} without "
                f"{', '.join(missing)}. Wrap a tokenizer of transformers in algorithms.codec.TransformersCodec."
            )
        if observation not in ("text", "messages"):
            raise ConfigurationError(f"observation is 'text' or 'messages', got {observation!r}.")
        if (answers := getattr(tasks, "answers", config.answers)) != config.answers:
            config = dataclasses.replace(config, answers=answers)
        self.tasks = tasks
        self.agents = dict(agents)
        self.agent_names = list(config.agents)
        self.config = config
        self.prompt, self.solo_prompt = prompt, solo_prompt
        self.consult_timeout = consult_timeout
        self.reward_fn = reward_fn
        self.finds_leaks = config.leak_filter
        """Whether replies are looked at for the gold answer."""
        self.env_id = env_id
        self.owned = tuple(owned)
        descriptions = {name: describe(name, self.agents.get(name)) for name in config.agents}
        self.dialect: Dialect = make_dialect(dialect, codec, descriptions, config.answers)
        for template in (prompt, self.prompt_of(False)):
            self.dialect.prompt(template, "")
        self._made: dict[int, Task] = {}
        # One after the other: a family need not be safe for several threads.
        self._making, self._grading = OnDemandThreads(limit=1), OnDemandThreads(limit=8)
        self.text_space = Unicode(max_chars=2 * config.max_chars)
        size = max(1, len(config.agents))
        self._masks = np.zeros(size, dtype=np.int8), np.ones(size, dtype=np.int8)
        self.observation = observation
        chat: dict[str, Any] = {"messages": Messages()} if observation == "messages" else {}
        self.observation_space = spaces.Dict(
            prompt=Unicode(max_chars=10_000_000),
            turn=spaces.Discrete(config.max_turns + 1),
            consult_mask=spaces.MultiBinary(size),
            **chat,
        )

    def action_space(self, mode: ActionMode) -> spaces.Space[Any]:
        """The policy's action space: text, or a target and a text."""
        if mode not in ("text", "structured"):
            raise ConfigurationError(f"action_mode is 'text' or 'structured', got {mode!r}.")
        if mode == "text":
            return self.text_space
        text = Unicode(
            self.text_space.max_chars, [said for said in PLAIN_CORPUS if len(said) <= self.text_space.max_chars]
        )
        return spaces.Dict(target=spaces.Discrete(len(self.agent_names) + 1), text=text)

    @property
    def codec(self) -> TokenCodec | None:
        """The tokenizer of token-exact episodes."""
        return self.dialect.codec

    def prompt_of(self, assisted: bool) -> str:
        """Name or text of the template of episodes with help, or without."""
        return self.prompt if assisted or self.solo_prompt is None else self.solo_prompt

    def task(self, index: int) -> Task:
        """The family's task with this index, made once for all samples of a group.

        Raises:
            TaskIndexError: there is none.
            ConfigurationError: the family returns something else.
        """
        index = check_index(index, self.tasks.num_tasks, self.tasks.name)
        task = self._made.get(index)
        if task is None:
            task = self.tasks.task(index)
            if not isinstance(task, Task):
                raise ConfigurationError(
                    f"task({index}) of the family {self.tasks.name!r} must return an aipo_env.tasks.base.Task, got "
                    f"{type(task).__name__}. aipo_env.testing.check_taskset(family) checks the rest of it too."
                )
            if len(self._made) >= _MOST_TASKS:
                self._made.clear()
            self._made[index] = task
        return task

    @property
    def tasks_at_hand(self) -> tuple[Task, ...]:
        """Those that were made so far and are kept."""
        return tuple(self._made.values())

    async def prepare(self, index: int) -> None:
        """Has a task made in a thread, for some take long; `task` then has it at hand."""
        if index not in self._made:
            await self.in_thread(partial(self.task, index))

    async def in_thread(self, make: Callable[[], T]) -> T:
        """Calls what makes a task in the one thread that tasks are made in."""
        return await asyncio.get_running_loop().run_in_executor(self._making, make)

    def make_episode(self, task: Task | int, *, seed: int = 0, assisted: bool | None = None) -> Episode:
        """An episode of these rules on one task; what every face and every rollout plays.

        Args:
            task: the index of one of `tasks`, or a task itself.
            seed: the helpers' seeds derive from it.
            assisted: overrides whether helpers answer; the prompt stays the same, unless there is a `solo_prompt`.
        """
        config = self.config
        if assisted is not None and assisted != config.assisted:
            config = dataclasses.replace(config, assisted=assisted)
        if config.assisted and not self.config.assisted:
            raise ConfigurationError(f"{self.env_id} is solo: it has no helpers. Make the id that ends in '-consult'.")
        chosen, index = (task, None) if isinstance(task, Task) else (self.task(task), int(task))
        if is_confidential(self.tasks) and not chosen.confidential:
            chosen = dataclasses.replace(chosen, confidential=True)
        template = self.prompt_of(config.assisted)
        return Episode(
            chosen,
            self.dialect.prompt(template, chosen.problem),
            config,
            seed=seed,
            dialect=self.dialect,
            invites=invites(template),
            reward_fn=self.reward_fn,
            env_id=self.env_id,
            task_index=index,
        )

    def begin(self, rng: np.random.Generator, options: Mapping[str, Any] | None) -> Episode:
        """The episode that a face's `reset` starts.

        Args:
            rng: draws the task, unless the options name one, and the episode's seed.
            options: `{"task_index": i}`, or nothing.
        """
        options = options or {}
        self.check_reset(options)
        index = options["task_index"] if "task_index" in options else self.tasks.sample_index(rng)
        self.task(index)  # a task that cannot be made is told before anything is drawn
        return self.make_episode(index, seed=int(rng.integers(2**31)))

    def check_reset(self, options: Mapping[str, Any]) -> None:
        """Refuses options that `begin` does not know, and an index that is none."""
        if unknown := options.keys() - {"task_index"}:
            raise ConfigurationError(f"reset knows the option 'task_index', got {sorted(unknown)}.")
        if "task_index" in options:
            check_index(options["task_index"], self.tasks.num_tasks, self.tasks.name)

    def lower(self, action: Any) -> Action | Turn:
        """A structured action `{"target": int, "text": str}` as a consult or an answer; anything else as it is."""
        if not isinstance(action, Mapping):
            return action  # type: ignore[no-any-return]
        try:
            target, text = int(action["target"]), action["text"]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidActionError(
                f"a structured action is {{'target': int, 'text': str}}, got {str(dict(action))[:120]}."
            ) from error
        if not isinstance(text, str) or not 0 <= target <= len(self.agent_names):
            raise InvalidActionError(
                f"'target' is 0 to {len(self.agent_names)} ({', '.join(self.agent_names)}, answer) and 'text' a str; got "
                f"{target!r} and {type(text).__name__}."
            )
        return Answer(text) if target == len(self.agent_names) else Consult(self.agent_names[target], text)

    async def play(self, episode: Episode, action: Any) -> dict[str, Reply]:
        """Plays a turn of the policy, and what it makes due; returns the replies by helper, in the order of the requests."""
        episode.act(self.lower(action))
        return await self.serve(episode)

    async def serve(self, episode: Episode) -> dict[str, Reply]:
        """Does what a turn of the policy made due: helpers reply, all at the same time, or the answer is graded."""
        if episode.turn_of == GRADER:
            episode.graded(await self._grade(episode.task, episode.answer.text))
        return await self._ask(episode) if episode.requests else {}

    def play_sync(self, episodes: Sequence[Episode], actions: Sequence[Any]) -> list[dict[str, Reply]]:
        """`play` for synchronous callers, a turn in each of several episodes; an event loop runs only where helpers do."""
        for episode, action in zip(episodes, actions, strict=True):
            episode.act(self.lower(action))
        for episode in episodes:
            self.grade(episode)
        asking = [episode for episode in episodes if episode.requests]
        replies = iter(run_sync(ask_together([self._ask(episode) for episode in asking])) if asking else ())
        return [next(replies) if any(episode is one for one in asking) else {} for episode in episodes]

    def grade(self, episode: Episode) -> None:
        """Grades the answer of an episode where one is due."""
        if episode.turn_of == GRADER:
            episode.graded(self.tasks.grade(episode.task, episode.answer.text))

    async def _grade(self, task: Task, answer: str) -> Grade:
        """Grades without blocking the event loop.

        Most answers are decided in microseconds, a hard one may take half a second, and a family with `grade_async` knows
        which is which. Of any other it cannot be told, so each of its answers is graded in a thread: one hop for an episode,
        none for a consult.
        """
        if isinstance(self.tasks, AsyncGrading):
            return await self.tasks.grade_async(task, answer)
        return await asyncio.get_running_loop().run_in_executor(self._grading, self.tasks.grade, task, answer)

    async def _ask(self, episode: Episode) -> dict[str, Reply]:
        requests = episode.requests
        replies = await self.ask_agents(requests, episode)
        self.tell(episode, replies)
        return dict(zip(requests, replies, strict=True))

    def tell(self, episode: Episode, replies: Sequence[Reply]) -> None:
        """Hands an episode the replies to all that it asked, in the order of its requests."""
        for reply in replies:
            episode.reply(reply)

    async def ask_agents(self, requests: Mapping[str, ConsultRequest], episode: Episode) -> list[Reply]:
        """Asks helpers by name, all at the same time; the replies come in the order of the requests.

        With the rule `leak_filter`, a reply that states the gold answer is replaced by an error.
        """
        self.require_agents(requests)
        replies = await ask_together(
            [consult(self.agents[name], request, self.consult_timeout) for name, request in requests.items()]
        )
        return [await self.screened(*asked, episode) for asked in zip(requests.values(), replies, strict=True)]

    async def screened(self, request: ConsultRequest, reply: Reply, episode: Episode) -> Reply:
        """The reply, marked if it gives the answer away and that is looked for; with `leak_filter` an error in its place."""
        found = self.finds_leaks and reply.error is None
        if not found or not await self.gives_away(reply.text, request.query, episode):
            return reply
        if not self.config.leak_filter:
            return dataclasses.replace(reply, gives_away=True)
        refusal = Reply("", error=leaks.HELD_BACK, declined=True, gives_away=True)
        return dataclasses.replace(refusal, usage=reply.usage, cached=reply.cached)

    async def gives_away(self, reply: str, query: str, episode: Episode) -> bool:
        """Whether a helper's text states the gold answer of the episode's task, which the policy has not said; see `leaks`."""
        task, own = episode.task, "".join(s.text for s in episode.segments if s.source is Source.POLICY)
        if leaks.states_gold(reply, task, query, own):
            return True
        answer = leaks.answer_in(reply, self.config.answers)
        if answer is None or leaks.said(answer, task, query, own):
            return False
        try:
            return (await self._grade(task, answer)).correct
        except GradingError:  # whether it is the answer, nobody can say
            return False

    def require_agents(self, names: Iterable[str]) -> None:
        """Raises ConfigurationError for helpers that nobody plays; in a solo game nobody has to."""
        if self.config.assisted and (missing := [name for name in names if name not in self.agents]):
            raise ConfigurationError(
                f"nobody plays {', '.join(missing)}: pass agents={{name: agent}}, or play the helper yourself with "
                "make_aec or make_parallel."
            )

    def observe(self, episode: Episode) -> Observation:
        """What the policy sees of an episode."""
        # All helpers may be consulted, or none.
        mask = self._masks[any(episode.consult_mask)].copy()
        seen: Observation = {"prompt": episode.transcript, "turn": episode.turn, "consult_mask": mask}
        if self.observation == "messages":
            seen["messages"] = tuple(episode.messages)
        return seen

    def info(self, episode: Episode, segments: list[Segment], *, first: bool = False) -> dict[str, Any]:
        """The policy's `info`: deterministic, lists and plain values only.

        Args:
            episode: the episode.
            segments: those that are new since the policy's last `info`.
            first: whether the policy has not acted yet.
        """
        action = None if first else episode.last_action
        return {
            "task_id": episode.task.id,
            "turn": episode.turn,
            "action_kind": _KINDS[type(action)],
            "parse_error": action.reason if isinstance(action, Malformed) else "",
            "consult_mask": episode.consult_mask,
            "num_consults": episode.num_consults,
            "reward_parts": dict(episode.reward_parts),
            "stop_reason": episode.stop_reason,
            "verdict": "" if episode.grade is None else episode.grade.verdict.value,
            "segments": [segment.to_json() for segment in segments],
        }

    def without_codec(self) -> ConsultGame:
        """The same game as text."""
        game = copy.copy(self)
        game.dialect = game.dialect.without_codec()
        return game

    def with_solo(self, solo: Literal["plain", "self-help"]) -> ConsultGame:
        """The same game with other episodes where nobody answers."""
        game = copy.copy(self)
        game.config = dataclasses.replace(game.config, solo=solo)
        return game

    async def aclose(self) -> None:
        """Closes what the game's own helpers hold open (connections, engines)."""
        for name in self.owned:
            close = getattr(self.agents[name], "aclose", None)
            if close is not None:
                await close()

    def close(self) -> None:
        """`aclose` for synchronous callers."""
        if any(hasattr(self.agents[name], "aclose") for name in self.owned):
            run_sync(self.aclose())


class GameFace:
    """What every face of a game with one episode at a time lets its caller read."""

    game: ConsultGame
    _episode: Episode | None = None

    @property
    def tasks(self) -> TaskSet:
        """The task family."""
        return self.game.tasks

    @property
    def config(self) -> EpisodeConfig:
        """The rules."""
        return self.game.config

    @property
    def codec(self) -> TokenCodec | None:
        """The tokenizer of token-exact episodes."""
        return self.game.codec

    @property
    def episode(self) -> Episode:
        """The running episode; EpisodeStateError before the first `reset`."""
        if self._episode is None:
            raise EpisodeStateError("there is no episode yet: call reset() first.")
        return self._episode

    @property
    def trajectory(self) -> Trajectory:
        """The record of the running episode."""
        return self.episode.trajectory()


def describe(name: str, agent: Agent | None) -> str:
    """One line on what a helper does, for the prompt: the agent's own `description`, else that of the built-in role."""
    return str(getattr(agent, "description", "") or DESCRIPTIONS.get(name, ""))
