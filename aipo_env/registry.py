"""Names to things: environment ids, task families and agents; built-in ones and those of other packages.

Another package adds an environment through the entry-point group `aipo.envs` (each entry an `EnvSpec`) and an agent
through `aipo.agents` (each entry a class or a function without required arguments that returns an agent). Our own
agents arrive by the same way.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import gymnasium

from aipo_env.consulting import as_agent
from aipo_env.episode import EpisodeConfig, RewardFunction, TokenCodec
from aipo_env.errors import ConfigurationError, unknown_id
from aipo_env.game import ActionMode, ConsultGame
from aipo_env.gym_env import ConsultEnv
from aipo_env.protocol import Agent
from aipo_env.tasks.base import TaskSet

AGENT_GROUP, ENV_GROUP = "aipo.agents", "aipo.envs"
DEFAULT_AGENTS = ("verify", "knowledge", "reasoning")

AgentLike = Agent | Callable[..., object] | str
"""An agent, a function `str -> str`, a registered name, or an import path "package.module:Class"."""


@dataclasses.dataclass(frozen=True, slots=True)
class EnvSpec:
    """An environment that `make` can make."""

    id: str
    """For example "math500-consult"."""
    tasks: str
    """Import path of the task family, "package.module:Class"; the class takes `split` first, and keywords."""
    assisted: bool
    """Whether helpers answer."""
    description: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Defaults that differ from those of `make`."""


def _family(name: str, tasks: str, description: str) -> list[EnvSpec]:
    return [
        EnvSpec(name, tasks, assisted=False, description=description + ", solo"),
        EnvSpec(f"{name}-consult", tasks, assisted=True, description=description + ", with helpers"),
    ]


_envs: dict[str, EnvSpec] = {
    spec.id: spec
    for spec in (
        *_family("math500", "aipo_env.tasks.math500:Math500Tasks", "MATH-500 competition problems"),
        *_family("gsm8k", "aipo_env.tasks.gsm8k:Gsm8kTasks", "GSM8K word problems"),
        *_family(
            "rulebook",
            "aipo_env.tasks.rulebook:RulebookTasks",
            "procedural problems with undefined operators",
        ),
    )
}
_agents: dict[str, AgentLike] = {}
_plugins_loaded = False


def register_env(spec: EnvSpec) -> None:
    """Adds an environment id, and its Gymnasium id `aipo/<id>-v0`; an existing id is replaced."""
    if not isinstance(spec, EnvSpec):
        raise ConfigurationError(f"register_env takes an aipo_env.EnvSpec, got {type(spec).__name__}.")
    _envs[spec.id] = spec
    gym_id = gymnasium_id(spec.id)
    gymnasium.registry.pop(gym_id, None)
    gymnasium.register(gym_id, entry_point="aipo_env.registry:make", kwargs={"env_id": spec.id})


def gymnasium_id(env_id: str) -> str:
    """The id under which Gymnasium knows an environment."""
    return f"aipo/{env_id}-v0"


def list_envs() -> list[str]:
    """The ids that `make` takes, sorted."""
    _load_plugins()
    return sorted(_envs)


def env_spec(env_id: str) -> EnvSpec:
    """The registered environment with this id; UnknownIdError names the nearest."""
    _load_plugins()
    name = str(env_id).removeprefix("aipo/").removesuffix("-v0")
    if name not in _envs:
        raise unknown_id("environment id", env_id, _envs, "aipo_env.list_envs() lists them all.")
    return _envs[name]


def register_agent(name: str, agent: AgentLike) -> None:
    """Makes an agent known by name, in front of any entry point of that name.

    Args:
        name: how it is addressed, for example "verify".
        agent: an agent, a function `str -> str`, or an import path "package.module:Class".
    """
    EpisodeConfig(agents=(name,))
    _agents[name] = agent


def list_agents() -> list[str]:
    """The names of the registered agents, sorted."""
    return sorted({*_agents, *(entry.name for entry in _entries(AGENT_GROUP))})


def make_agent(agent: AgentLike, name: str) -> Agent:
    """Turns whatever stands for an agent into one.

    Args:
        agent: an agent (returned as it is), a class or function without arguments that makes one, a function
            `str -> str`, a registered name, or an import path.
        name: the name under which it will be addressed.
    """
    if isinstance(agent, str):
        if ":" in agent:
            return make_agent(_import(agent), name)
        if agent in _agents:
            return make_agent(_agents[agent], name)
        for entry in _entries(AGENT_GROUP):
            if entry.name == agent:
                return make_agent(entry.load(), name)
        hint = "Register one with aipo_env.register_agent(name, agent), or pass agents={name: agent}."
        raise unknown_id("agent", agent, list_agents(), hint)
    if inspect.isclass(agent):
        instance: Any = agent()
        return make_agent(instance, name)
    if isinstance(agent, Agent) and inspect.iscoroutinefunction(agent.respond):
        return agent
    if callable(agent):
        if not _takes_arguments(agent):
            return make_agent(agent(), name)  # type: ignore[arg-type]
        return as_agent(agent, name)  # type: ignore[arg-type]
    raise ConfigurationError(
        f"the agent {name!r} must have a `name` and an `async def respond(self, request) -> Reply`, or be a function "
        f"`str -> str`, a registered name, or an import path 'package.module:Class'; got {type(agent).__name__}."
    )


def _takes_arguments(function: Callable[..., object]) -> bool:
    """Whether a function needs arguments: one that needs none makes an agent, one that takes a query is an agent."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some built-in functions have no signature; all of those take arguments
        return True
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def parse_agents(texts: Sequence[str]) -> dict[str, str] | None:
    """Reads helpers as a command line gives them: "name", or "name=package.module:Class". None where there are none."""
    pairs = (text.partition("=") for text in texts)
    return {name: path or name for name, _, path in pairs} or None


def make_tasks(env_id: str, *, split: str | None = None, **options: Any) -> TaskSet:
    """The task family of an environment id.

    Args:
        env_id: as for `make`.
        split: the family's own default where it is None.
        options: what the family takes (`data=` for data sets; `level=`, `digits=`, ... for rulebook).
    """
    spec = env_spec(env_id)
    family = _import(spec.tasks)
    known = set(inspect.signature(family).parameters)
    merged = {k: v for k, v in spec.options.items() if k in known} | options
    if unknown := merged.keys() - known:
        raise ConfigurationError(
            f"{env_id} has no option {', '.join(sorted(unknown))}. Its task family takes {', '.join(sorted(known))}; the "
            "options of every environment are in help(aipo_env.make)."
        )
    if split is not None:
        merged["split"] = split
    tasks = family(**merged)
    if not isinstance(tasks, TaskSet):
        raise ConfigurationError(
            f"{spec.tasks} is no task family: it needs name, num_tasks, task, sample_index and grade."
        )
    return tasks


def make(
    env_id: str,
    *,
    action_mode: ActionMode = "text",
    render_mode: str | None = None,
    seed: int | None = None,
    **options: Any,
) -> ConsultEnv:
    """Makes a Gymnasium environment.

    Args:
        env_id: one of `list_envs()`, for example "math500-consult"; without "-consult" it is the solo environment.
        action_mode: "text" or "structured".
        render_mode: None or "ansi".
        seed: used by the first `reset` that brings none.
        options: what `make_game` takes: `agents`, `max_consults`, `max_turns`, `max_chars`, `max_reply_chars`,
            `consult_cost`, `consult_timeout`, `helper_view`, `fan_out`, `split`, `prompt`, `reward_fn`, `codec`, `tasks`,
            and the options of the task family (`data=` for data sets; `level=`, `digits=`, `operators=`, `style=` for
            rulebook).

    Raises:
        UnknownIdError: naming the nearest known id.
        ConfigurationError: for options that cannot work.
        DataNotFoundError: when a data set is neither local nor reachable.
    """
    env = ConsultEnv(make_game(env_id, **options), action_mode=action_mode, render_mode=render_mode, seed=seed)
    # With its spec an environment can be made again: Gymnasium's checker and vector environments do so.
    asked = {"action_mode": action_mode, "render_mode": render_mode, "seed": seed, **options}
    kwargs = {"env_id": env.game.env_id} | {k: v for k, v in asked.items() if v is not None}
    env.spec = dataclasses.replace(gymnasium.spec(gymnasium_id(env.game.env_id)), kwargs=kwargs)
    return env


def make_game(
    env_id: str,
    *,
    agents: Mapping[str, AgentLike] | Sequence[str] | None = None,
    max_consults: int | None = None,
    max_turns: int | None = None,
    max_chars: int | None = None,
    max_reply_chars: int | None = None,
    consult_cost: float | None = None,
    consult_timeout: float | None = 60.0,
    helper_view: Literal["transcript", "query"] | None = None,
    fan_out: int | None = None,
    split: str | None = None,
    prompt: str | None = None,
    reward_fn: RewardFunction | None = None,
    codec: TokenCodec | None = None,
    tasks: TaskSet | None = None,
    **task_options: Any,
) -> ConsultGame:
    """Tasks, helpers and rules of an environment id: what its faces (Gymnasium, PettingZoo, vector, rollouts) share.

    Args:
        env_id: as for `make`.
        agents: the helpers: names of registered ones, or a mapping from name to agent, function or import path. The
            default is verify, knowledge and reasoning, embedded, without model or network.
        max_consults: consults that are answered (4).
        max_turns: turns of the policy (8).
        max_chars: characters behind the prompt (100,000).
        max_reply_chars: characters of one reply of a helper; longer ones are cut (8,000).
        consult_cost: subtracted from the reward for each consult (0).
        consult_timeout: seconds a helper has to answer; None for no limit.
        helper_view: whether a helper sees the "transcript" beside the query, or the "query" alone ("transcript").
        fan_out: consults, of different helpers, that one turn may carry (1).
        split: of the task family.
        prompt: "consult", "plain", "bare", or a text of your own with {problem} and {agents}.
        reward_fn: `(task, answer, grade) -> float or {part: float}`, instead of 1 for a correct answer.
        codec: a tokenizer adapter; makes the record token-exact and `TokenAction` possible.
        tasks: a task family of your own, in place of the one of the id.
        task_options: options of the task family.
    """
    spec = env_spec(env_id)
    given = {
        "max_consults": max_consults,
        "max_turns": max_turns,
        "max_chars": max_chars,
        "max_reply_chars": max_reply_chars,
        "consult_cost": consult_cost,
        "helper_view": helper_view,
        "fan_out": fan_out,
    }
    fields = {field.name for field in dataclasses.fields(EpisodeConfig)}
    rules = {k: v for k, v in spec.options.items() if k in fields - {"agents", "assisted"}}
    rules |= {k: v for k, v in given.items() if v is not None}
    if tasks is None:
        tasks = make_tasks(env_id, split=split, **task_options)
    elif task_options or split is not None:
        raise ConfigurationError("tasks= brings its own options; do not pass split or task options beside it.")
    if agents is None:
        # A task family may know which helpers make sense for it.
        agents = getattr(tasks, "default_agents", None) or spec.options.get("agents", DEFAULT_AGENTS)
    if isinstance(agents, str):
        raise ConfigurationError(
            f"agents is a list of names or a mapping, got the text {agents!r}; write agents=[{agents!r}]."
        )
    named: dict[str, AgentLike] = dict(agents) if isinstance(agents, Mapping) else {name: name for name in agents}
    return ConsultGame(
        tasks,
        # Nobody answers in a solo episode; its helpers are only names in the prompt.
        {name: make_agent(agent, name) for name, agent in named.items()} if spec.assisted else {},
        EpisodeConfig(agents=tuple(named), assisted=spec.assisted, **rules),
        prompt=prompt if prompt is not None else spec.options.get("prompt", "consult"),
        consult_timeout=consult_timeout,
        reward_fn=reward_fn,
        codec=codec,
        env_id=spec.id,
    )


def _entries(group: str) -> Sequence[importlib.metadata.EntryPoint]:
    return tuple(importlib.metadata.entry_points(group=group))


def _load_plugins() -> None:
    """Registers the environments of other packages, once; importing ours stays fast."""
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True
    for entry in _entries(ENV_GROUP):
        register_env(entry.load())


def _import(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"cannot import {path!r} ({error}); expected 'package.module:Name' of something installed or in {os.getcwd()}."
        ) from error


for _spec in list(_envs.values()):
    register_env(_spec)
