"""Names to things: environment ids, task families and agents; built-in ones and those of other packages.

Another package adds environments through the entry-point group `aipo.envs` (each entry an `EnvSpec`, several of them, or a
function without arguments that returns them) and an agent through `aipo.agents` (each entry a class or a function
without arguments that returns an agent). Our own agents arrive by the same way. One that cannot be loaded is told of in a
warning, and is an error for who asks for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, cast

import gymnasium
import pettingzoo

from aipo_env.aec_env import AECConsultEnv
from aipo_env.consulting import as_agent
from aipo_env.episode import EpisodeConfig
from aipo_env.errors import ConfigurationError, MissingDependencyError, UnknownOptionError, unknown_id
from aipo_env.game import ActionMode, ConsultGame
from aipo_env.gym_env import ConsultEnv
from aipo_env.installation import COMMON_NAMES, DISTRIBUTION, install_command
from aipo_env.make_options import HELPER_RULES, RULES, AgentLike, Options
from aipo_env.parallel_env import ParallelConsultEnv
from aipo_env.playing import PolicyLike
from aipo_env.protocol import Agent
from aipo_env.roles import HelperReward
from aipo_env.tasks.base import TaskSet
from aipo_env.tasks.data_sets import DATA_SETS
from aipo_env.tasks.reasoning_gym import names as reasoning_gym_names
from aipo_env.vector_env import ConsultVectorEnv

AGENT_GROUP, ENV_GROUP = "aipo.agents", "aipo.envs"
DEFAULT_AGENTS = ("verify", "knowledge", "reasoning")


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
    splits: tuple[str, ...] = ()
    """Of the family: "train" is for training, "test" for evaluation. Empty where it has none, or nobody says."""


_TEST, _BOTH = ("test",), ("train", "test")


def _family(name: str, tasks: str, description: str, splits: tuple[str, ...], **options: object) -> list[EnvSpec]:
    return [
        EnvSpec(name, tasks, False, description + ", solo", options, splits),
        EnvSpec(f"{name}-consult", tasks, True, description + ", with helpers", options, splits),
    ]


def _reasoning_gym() -> list[EnvSpec]:
    """The data sets of reasoning-gym, where it is installed; does not import it."""
    tasks = "aipo_env.tasks.reasoning_gym.tasks:ReasoningGymTasks"
    names = reasoning_gym_names.DATASETS if reasoning_gym_names.installed() else ()
    described = [(name, f"reasoning-gym {name}") for name in names]
    return [spec for name, text in described for spec in _family(f"rg/{name}", tasks, text, _BOTH, dataset=name)]


def _data_sets() -> list[EnvSpec]:
    """The data sets that are declared; loads none."""
    tasks = "aipo_env.tasks.questions:QuestionTasks"
    found = [_family(name, tasks, d.description, d.splits, family=name) for name, d in DATA_SETS.items()]
    return [spec for specs in found for spec in specs]


_has_champ = importlib.util.find_spec("champ_dataset") is not None
_envs: dict[str, EnvSpec] = {
    spec.id: spec
    for spec in (
        *_data_sets(),
        *_family("gpqa-diamond", "aipo_env.tasks.gpqa:GpqaDiamondTasks", "GPQA-Diamond science questions", _TEST),
        *_family("dataset", "aipo_env.tasks.own_data:OwnData", "a data set of your own (data=)", _BOTH),
        *_family("mix", "aipo_env.tasks.mix:MixTasks", "a mixture of others (parts=)", _BOTH),
        *_family("livecodebench", "aipo_env.tasks.livecodebench:LiveCodeBenchTasks", "LiveCodeBench programs", _TEST),
        *_family(
            "rulebook",
            "aipo_env.tasks.rulebook:RulebookTasks",
            "procedural problems with undefined operators",
            _BOTH,
        ),
        *_reasoning_gym(),
        *(
            _family("champ", "aipo_env.tasks.champ:ChampTasks", "CHAMP problems with hints", _TEST)
            if _has_champ
            else ()
        ),
    )
}
_agents: dict[str, AgentLike] = {}
_broken: dict[str, ConfigurationError] = {}
"""The entry points of `aipo.envs` that cannot be loaded, by name, and why."""
_plugins_loaded = False


def register_env(spec: EnvSpec) -> None:
    """Adds an environment id, and `aipo/<id>-v0` to Gymnasium's and PettingZoo's registries; an existing one is replaced."""
    if not isinstance(spec, EnvSpec):
        raise ConfigurationError(f"register_env takes an aipo_env.EnvSpec, got {type(spec).__name__}.")
    _envs[spec.id] = spec
    _announce(spec.id)


def _announce(env_id: str) -> None:
    """Makes an id known to Gymnasium and PettingZoo."""
    gym_id = gymnasium_id(env_id)
    gymnasium.registry.pop(gym_id, None)
    gymnasium.register(
        gym_id,
        entry_point="aipo_env.registry:make",
        vector_entry_point="aipo_env.registry:make_vec",
        kwargs={"env_id": env_id},
    )
    pettingzoo.aec_registry.pop(gym_id, None)
    pettingzoo.register("aec", gym_id, "aipo_env.registry:make_aec", kwargs={"env_id": env_id})
    pettingzoo.parallel_registry.pop(gym_id, None)
    pettingzoo.register("parallel", gym_id, "aipo_env.registry:make_parallel", kwargs={"env_id": env_id})


def gymnasium_id(env_id: str) -> str:
    """The id under which Gymnasium and PettingZoo know an environment; a name of theirs has no "/"."""
    return f"aipo/{env_id.replace('/', '.')}-v0"


def list_envs() -> list[str]:
    """The ids that `make` takes, sorted."""
    _load_plugins()
    return sorted(_envs)


def pprint_registry() -> None:
    """Prints the ids that `make` takes: those with a training split, and those that are for evaluation alone."""
    specs = [env_spec(env_id) for env_id in list_envs()]
    width = max(len(s.id) for s in specs)
    kinds = {
        "for training (the split train)": [s for s in specs if "train" in s.splits],
        "for evaluation alone": [s for s in specs if s.splits and "train" not in s.splits],
        "splits not known": [s for s in specs if not s.splits],
    }
    for title, members in kinds.items():
        lines = [f"{s.id:<{width}}  {s.description}{' (also test)' * (s.splits[1:] != ())}" for s in members]
        print("\n".join([f"# {title}", *lines]) if lines else "", end="\n" * bool(lines))


def env_spec(env_id: str) -> EnvSpec:
    """The registered environment with this id; UnknownIdError names the nearest."""
    _load_plugins()
    name = str(env_id).removeprefix("aipo/").removesuffix("-v0")
    if ":" in name and name not in _envs:
        return _own_env(name)
    if name not in _envs:
        # "rg.chain_sum" is how Gymnasium spells "rg/chain_sum".
        name = next((known for known in _envs if gymnasium_id(known) == gymnasium_id(name)), name)
    if name not in _envs and name.startswith(("rg/", "rg.")) and not reasoning_gym_names.installed():
        raise MissingDependencyError(
            f"{env_id} needs the package reasoning-gym, which is not installed. Install it with: {install_command('rg')}"
        )
    if name in ("champ", "champ-consult") and not _has_champ:
        raise MissingDependencyError(f"{env_id} needs the package champ-dataset: pip install champ-dataset")
    if name not in _envs:
        for broken in {name, name.removesuffix("-consult")} & _broken.keys():
            raise _broken[broken].with_traceback(None)
        also = f" Not loaded: {', '.join(_broken)} (aipo doctor says why)." if _broken else ""
        raise unknown_id("environment id", env_id, _envs, "`aipo envs` lists them all." + also)
    return _envs[name]


def _own_env(path: str) -> EnvSpec:
    """What "module:ID" or "module:TaskFamily" names: importing the module may register the id, and a family gets helpers."""
    module, _, name = path.partition(":")
    _module(module)
    if name not in _envs:
        found = _import(path)
        if isinstance(found, EnvSpec):
            register_env(found)
            return found
        splits = _BOTH if callable(found) and "split" in inspect.signature(found).parameters else ()
        register_env(EnvSpec(path, path, assisted=True, description="a task family of your own", splits=splits))
        name = path
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
            `str -> str`, a registered name, an import path, or the folder of a helper that was trained (with a "/").
        name: the name under which it will be addressed.
    """
    return _agent(agent, name)[0]


def _agent(agent: AgentLike, name: str, made: bool = False) -> tuple[Agent, bool]:
    """An agent, and whether it was made here: then nobody else closes it."""
    if isinstance(agent, str):
        if "/" in agent:
            return _agent(_trained_helper(agent, name), name, made=True)
        if ":" in agent:
            return _agent(_import(agent), name)
        if agent in _agents:
            return _agent(_agents[agent], name)
        for entry in _entries(AGENT_GROUP):
            if entry.name == agent:
                return _agent(entry.load(), name)
        hint = (
            "Register one with aipo_env.register_agent, or give it as an import path, name and 'package.module:Class', or as "
            "the folder of a trained one, with a '/'."
        )
        raise unknown_id("agent", agent, list_agents(), hint)
    if inspect.isclass(agent):
        return _agent(cast("AgentLike", agent()), name, made=True)
    if isinstance(agent, Agent) and inspect.iscoroutinefunction(agent.respond):
        return agent, made
    if callable(agent):
        if not _takes_arguments(agent):
            return _agent(cast("AgentLike", agent()), name, made=True)
        return as_agent(agent, name), True  # type: ignore[arg-type]
    raise ConfigurationError(
        f"the agent {name!r} must have a `name` and an `async def respond(self, request) -> Reply`, or be a function "
        f"`str -> str`, a registered name, or an import path 'package.module:Class'; got {type(agent).__name__}."
    )


def _trained_helper(folder: str, name: str) -> AgentLike:
    """The helper whose model lies in a folder."""
    if not (Path(folder) / "tokenizer_config.json").is_file():
        found = "holds none" if Path(folder).is_dir() else "is not there"
        raise ConfigurationError(
            f"the helper {name!r} is to be the model, with its tokenizer, in the folder {folder}, which {found}. Name one "
            f"that `aipo train --train-helper {name}` wrote, such as runs/team/helpers/{name}/policy."
        )
    return cast("AgentLike", _import("algorithms.multi_agent:TrainedHelper").load(name, folder))


def _takes_arguments(function: Callable[..., object]) -> bool:
    """Whether a function can take a query: then it is an agent; one that cannot, like one made of a class, makes an agent."""
    if isinstance(function, functools.partial) and inspect.isclass(function.func):
        return False
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some built-in functions have no signature; all of those take arguments
        return True
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)


def parse_agents(texts: Sequence[str]) -> dict[str, str] | None:
    """Reads helpers as a command line gives them, for `make_agent`: "name", or "name=...". None where there are none."""
    pairs = (text.partition("=") for text in texts)
    return {name: path or name for name, _, path in pairs} or None


def make_tasks(env_id: str, *, split: str | None = None, **options: Any) -> TaskSet:
    """The task family of an environment id.

    Args:
        env_id: as for `make`.
        split: the family's own default where it is None.
        options: what the family takes (`data=` for data sets; `level=`, `digits=`, ... for rulebook; see `make`).
    """
    spec = env_spec(env_id)
    family = _import(spec.tasks)
    known = set(inspect.signature(family).parameters)
    merged = {k: v for k, v in spec.options.items() if k in known} | options
    if unknown := merged.keys() - known:
        near = difflib.get_close_matches(min(unknown), sorted(known | RULES), n=1)
        raise UnknownOptionError(
            f"{env_id} has no option {', '.join(sorted(unknown))} (got an unexpected keyword argument {min(unknown)!r}). "
            + "".join(f"Did you mean {name!r}? " for name in near)
            + f"Its task family takes {', '.join(sorted(known))}; every environment {', '.join(sorted(RULES))}."
        )
    if split is not None:
        merged["split"] = split
    return _task_set(family(**merged), spec.tasks)


def _task_set(tasks: object, where: str) -> TaskSet:
    if not isinstance(tasks, TaskSet):
        raise ConfigurationError(
            f"{where} is no task family: it needs name, num_tasks, task, sample_index and grade; got {type(tasks).__name__}."
        )
    return tasks


def make(
    env_id: str,
    *,
    action_mode: ActionMode = "text",
    render_mode: str | None = None,
    seed: int | None = None,
    **options: Unpack[Options],
) -> ConsultEnv:
    """Makes a Gymnasium environment.

    Args:
        env_id: one of `list_envs()`, for example "math500-consult"; without "-consult" it is the solo environment.
        action_mode: "text" or "structured".
        render_mode: None or "ansi".
        seed: used by the first `reset` that brings none.
        options: `Options`: of the game, and of the task family.

    Raises:
        UnknownIdError: naming the nearest known id.
        ConfigurationError: for options that cannot work.
        DataNotFoundError: when a data set is neither local nor reachable.
    """
    game = make_game(env_id, **options)
    game.require_agents(game.agent_names)
    env = ConsultEnv(game, action_mode=action_mode, render_mode=render_mode, seed=seed)
    # With its spec an environment can be made again: Gymnasium's checker and vector environments do so.
    asked = {"action_mode": action_mode, "render_mode": render_mode, "seed": seed, **options}
    kwargs = {"env_id": env.game.env_id} | {k: v for k, v in asked.items() if v is not None}
    env.spec = dataclasses.replace(gymnasium.spec(gymnasium_id(env.game.env_id)), kwargs=kwargs)
    return env


def make_aec(
    env_id: str,
    *,
    controlled: Iterable[str] | None = None,
    policy: PolicyLike | None = None,
    helper_reward: HelperReward | None = None,
    action_mode: ActionMode = "text",
    render_mode: str | None = None,
    seed: int | None = None,
    **options: Unpack[Options],
) -> AECConsultEnv:
    """Makes a PettingZoo AEC environment, in which the policy and its helpers take turns.

    Args:
        env_id: as for `make`.
        controlled: the roles that the caller plays, for example ("policy_0", "verify_0"); None for all. Plugged agents
            play the other helpers.
        policy: plays the policy where the caller does not: a `TurnPolicy`, or a function from the transcript to the
            turn's text.
        helper_reward: `(helper's name, finished Trajectory) -> float`, called once per controlled helper at the end of
            an episode, in place of the team's reward.
        action_mode: the policy's, "text" or "structured".
        render_mode: None, "ansi" or "human".
        seed: used by the first `reset` that brings none.
        options: as for `make`. In `agents` a controlled helper may have None: nobody else plays it.

    Raises:
        UnknownIdError: for an unknown environment or role, naming the nearest known.
        ConfigurationError: for options that cannot work.
    """
    return AECConsultEnv(
        make_game(env_id, **options),
        controlled=controlled,
        policy=policy,
        helper_reward=helper_reward,
        action_mode=action_mode,
        render_mode=render_mode,
        seed=seed,
    )


def make_parallel(
    env_id: str,
    *,
    controlled: Iterable[str] | None = None,
    policy: PolicyLike | None = None,
    helper_reward: HelperReward | None = None,
    action_mode: ActionMode = "text",
    render_mode: str | None = None,
    seed: int | None = None,
    **options: Unpack[Options],
) -> ParallelConsultEnv:
    """Makes a PettingZoo Parallel environment: one tick takes the replies of all helpers that one turn consulted.

    Args:
        env_id: as for `make`.
        controlled: as for `make_aec`, like `policy` and `helper_reward`.
        policy: see there.
        helper_reward: see there.
        action_mode: the policy's, "text" or "structured".
        render_mode: None, "ansi" or "human".
        seed: used by the first `reset` that brings none.
        options: as for `make_aec`; one turn may consult all helpers, unless there is `fan_out`.
    """
    game = make_game(env_id, **options)
    if options.get("fan_out") is None and "fan_out" not in env_spec(env_id).options:
        game.config = dataclasses.replace(game.config, fan_out=max(1, len(game.agent_names)))
    return ParallelConsultEnv(
        game,
        controlled=controlled,
        policy=policy,
        helper_reward=helper_reward,
        action_mode=action_mode,
        render_mode=render_mode,
        seed=seed,
    )


def make_vec(
    env_id: str,
    num_envs: int,
    *,
    action_mode: ActionMode = "text",
    render_mode: str | None = None,
    seed: int | Sequence[int | None] | None = None,
    allow_test_split: bool = False,
    **options: Unpack[Options],
) -> ConsultVectorEnv:
    """Makes a vector environment: episodes that step together and whose helpers are asked at the same time.

    Args:
        env_id: as for `make`.
        num_envs: how many episodes; they share the tasks and the helpers.
        action_mode: "text" or "structured".
        render_mode: None or "ansi".
        seed: used by the first `reset` that brings none: an int for seed, seed + 1, ..., or one for each.
        allow_test_split: no warning where a loop plays one episode after the other of tasks that are for evaluation.
        options: as for `make`.
    """
    game = make_game(env_id, **options)
    game.require_agents(game.agent_names)
    return ConsultVectorEnv(
        game, num_envs, action_mode=action_mode, render_mode=render_mode, seed=seed, allow_test_split=allow_test_split
    )


def make_game(env_id: str, **options: Unpack[Options]) -> ConsultGame:
    """Tasks, helpers and rules of an environment id: what its faces (Gymnasium, PettingZoo, vector, rollouts) share.

    Args:
        env_id: as for `make`.
        options: as for `make`.
    """
    spec = env_spec(env_id)
    given: dict[str, Any] = {n: v for n, v in options.items() if v is not None}
    idle = [n for n in given if n in HELPER_RULES]
    if idle and not spec.assisted and given.get("solo") != "self-help":
        raise ConfigurationError(
            f"{spec.id} is solo and asks nobody: {', '.join(idle)} would change nothing. Leave it out, or make the id that "
            "ends in '-consult'."
        )
    fields = {field.name for field in dataclasses.fields(EpisodeConfig)} - {"agents", "assisted"}
    rules = {k: v for k, v in spec.options.items() if k in fields} | {
        k: given[k] for k in given.keys() & fields & RULES
    }
    task_options = {n: v for n, v in given.items() if n not in RULES}
    if (tasks := given.get("tasks")) is None:
        tasks = make_tasks(env_id, split=given.get("split"), **task_options)
    elif task_options or "split" in given:
        raise ConfigurationError("tasks= brings its own options; do not pass split or task options beside it.")
    _task_set(tasks, "tasks")
    # A task family may know which helpers make sense for it.
    agents = given.get("agents", getattr(tasks, "default_agents", None) or spec.options.get("agents", DEFAULT_AGENTS))
    if isinstance(agents, str):
        raise ConfigurationError(
            f"agents is a list of names or a mapping, got the text {agents!r}; write agents=[{agents!r}]."
        )
    named: dict[str, AgentLike | None] = (
        dict(agents) if isinstance(agents, Mapping) else {name: name for name in agents}
    )
    # Nobody answers in a solo episode; its helpers are only names in the prompt.
    helpers = {n: _agent(a, n) for n, a in named.items() if a is not None} if spec.assisted else {}
    reward_fn = given.get("reward_fn")
    return ConsultGame(
        tasks,
        {name: agent for name, (agent, _) in helpers.items()},
        EpisodeConfig(agents=tuple(named), assisted=spec.assisted, **rules),
        prompt=given.get("prompt", spec.options.get("prompt", "consult")),
        solo_prompt=given.get("solo_prompt", spec.options.get("solo_prompt")),
        consult_timeout=options.get("consult_timeout", 60.0),
        reward_fn=_import(reward_fn) if isinstance(reward_fn, str) else reward_fn,
        codec=given.get("codec"),
        dialect=given.get("dialect", "tags"),
        observation=given.get("observation", "text"),
        env_id=spec.id,
        owned=[name for name, (_, made) in helpers.items() if made],
    )


def _entries(group: str) -> Sequence[importlib.metadata.EntryPoint]:
    return tuple(importlib.metadata.entry_points(group=group))


def _load_plugins() -> None:
    """Registers the environments of other packages, once; importing ours stays fast."""
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True  # before they are loaded: one of them may ask for our ids
    try:
        for entry in _entries(ENV_GROUP):
            try:
                for spec in _specs(entry.load(), entry):
                    register_env(spec)
            except Exception as error:  # another package's code may raise anything
                package = entry.dist.name if entry.dist is not None else entry.value.partition(":")[0]
                _broken[entry.name] = ConfigurationError(
                    f"the entry point {entry.name!r} of {ENV_GROUP} (package {package}) cannot be loaded: "
                    f"{type(error).__name__}: {error} Repair or uninstall that package; all others can be used."
                )
                _broken[entry.name].__cause__ = error
    except BaseException:
        _plugins_loaded = False
        raise
    for broken in _broken.values():
        warnings.warn(str(broken), stacklevel=3)


def _specs(loaded: object, entry: importlib.metadata.EntryPoint) -> list[EnvSpec]:
    """What an entry point of `aipo.envs` stands for."""
    if callable(loaded):
        loaded = loaded()
    found: list[object] = list(loaded) if isinstance(loaded, Iterable) else [loaded]
    specs = [spec for spec in found if isinstance(spec, EnvSpec)]
    if wrong := [spec for spec in found if not isinstance(spec, EnvSpec)]:
        raise ConfigurationError(
            "it must be an aipo_env.EnvSpec, several, or a function without arguments that returns them; "
            f"{entry.value} gave {type(wrong[0]).__name__}."
        )
    return specs


def _import(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(_module(module), name)
    except AttributeError as error:
        raise ConfigurationError(f"{module} has no {name!r}; expected 'package.module:Name'.") from error


def _module(name: str) -> types.ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # behind all that is installed
    try:
        return importlib.import_module(name)
    except ImportError as error:
        taken = (error.name or "").partition(".")[0]
        raise ConfigurationError(
            f"cannot import {name!r} ({error}); expected the module of something installed or in {os.getcwd()}."
            + (f" {taken!r} is a package of {DISTRIBUTION}: give yours another name." if taken in COMMON_NAMES else "")
        ) from error


for _spec in list(_envs.values()):
    register_env(_spec)
for _entry in _entries(ENV_GROUP):
    # So that `gymnasium.make` finds an environment of another package before that package is imported; an entry's name
    # is the id of its environment, or that of none.
    with contextlib.suppress(gymnasium.error.Error):
        _announce(_entry.name)
