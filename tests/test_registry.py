from __future__ import annotations

import functools
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec as GymnasiumSpec

import aipo_env
from aipo_agents import KnowledgeAgent
from aipo_env import registry
from aipo_env.errors import ConfigurationError, UnknownIdError
from aipo_env.registry import gymnasium_id
from aipo_env.tasks.base import Task
from tests.helpers import Recorder, SumTasks


def ask(env: aipo_env.ConsultEnv, agent: str, query: str) -> str:
    env.reset(seed=0)
    prompt = env.step(f'<consult agent="{agent}">{query}</consult>')[0]["prompt"]
    return str(prompt).rsplit(f'<feedback agent="{agent}">', 1)[1].removesuffix("</feedback>")


def test_import_is_quick_and_needs_no_torch() -> None:
    code = (
        "import sys, time; start = time.process_time(); import aipo_env; seconds = time.process_time() - start;"
        "heavy = {'torch', 'transformers', 'sympy', 'mpmath', 'datasets', 'bm25s', 'cyclopts'} & set(sys.modules);"
        "assert not heavy, heavy; print(seconds)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(3)]
    assert min(float(run.stdout) for run in runs) < 1.0


def test_ids() -> None:
    families = ("math500", "gsm8k", "aime24", "aime25", "gpqa-diamond", "livecodebench", "rulebook")
    assert {*families, *(f"{family}-consult" for family in families)} <= set(aipo_env.list_envs())
    for env_id in aipo_env.list_envs():
        spec = gymnasium.spec(gymnasium_id(env_id))
        assert GymnasiumSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("math50-consult", "math500-consult"), ("rulebok", "rulebook"), ("Math500", "math500"), (7, "Known")],
)
def test_unknown_ids_name_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(UnknownIdError, match=near) as caught:
        aipo_env.make(wrong)
    assert isinstance(caught.value, KeyError)


def test_gymnasium_makes_the_same_environment() -> None:
    ours, theirs = aipo_env.make("rulebook-consult"), gymnasium.make("aipo/rulebook-consult-v0", level=2)
    assert ours.reset(seed=4)[0]["prompt"] == theirs.reset(seed=4)[0]["prompt"]
    again = gymnasium.make(ours.spec)  # type: ignore[arg-type]
    assert again.reset(seed=4)[0]["prompt"] == ours.reset(seed=4)[0]["prompt"]


def test_the_default_helpers_are_the_embedded_ones() -> None:
    env = aipo_env.make("rulebook-consult")
    assert env.agent_names == ["verify", "knowledge", "reasoning"]
    assert ask(env, "knowledge", "473@128") == "4+4+1;7+7+2;3+3+8"
    assert ask(env, "verify", "17+25=43").startswith("incorrect")
    assert ask(env, "reasoning", "473@128:4+4+1") == "7+7+2"


def test_the_steps_variant_needs_every_helper() -> None:
    env = aipo_env.make("rulebook-consult", variant="steps")
    assert "add three digits" in ask(env, "knowledge", "473@128")
    assert "4+4+1" not in ask(env, "knowledge", "473@128")
    done = "473@128"
    places = []
    for separator in (":", ";", ";"):
        places.append(ask(env, "reasoning", done))
        done += separator + places[-1]
    assert places == ["4+4+1", "7+7+2", "3+3+8"]
    assert ask(env, "verify", "7+7+2=15").startswith("incorrect")
    assert ask(env, "verify", "7+7+2=16").startswith("correct")


def test_registered_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_agents", {})
    assert {"verify", "knowledge", "reasoning"} <= set(aipo_env.list_agents())
    aipo_env.register_agent("oracle", Recorder("42", "oracle"))
    aipo_env.register_agent("knowledge", str.upper)
    env = aipo_env.make("rulebook-consult", agents=["oracle", "knowledge"])
    assert ask(env, "oracle", "what?") == "42"
    assert ask(env, "knowledge", "ab") == "AB"
    assert "oracle" in aipo_env.list_agents()


def test_agents_of_other_packages_come_through_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("shout", "tests.test_gym_env:ShoutAgent", registry.AGENT_GROUP)
    monkeypatch.setattr(registry, "_entries", lambda group: (entry,) if group == registry.AGENT_GROUP else ())
    assert ask(aipo_env.make("rulebook-consult", agents=["shout"]), "shout", "ab") == "AB"


def test_environments_of_other_packages_come_through_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("sums", "tests.test_registry:SUMS", registry.ENV_GROUP)
    monkeypatch.setattr(registry, "_entries", lambda group: (entry,) if group == registry.ENV_GROUP else ())
    monkeypatch.setattr(registry, "_plugins_loaded", False)
    monkeypatch.setattr(registry, "_envs", dict(registry._envs))
    assert "sums-consult" in aipo_env.list_envs()
    env = aipo_env.make("sums-consult", agents={"verify": Recorder()})
    assert (env.config.max_turns, env.game.prompt) == (3, "bare")
    assert gymnasium.spec("aipo/sums-consult-v0").kwargs == {"env_id": "sums-consult"}
    gymnasium.registry.pop("aipo/sums-consult-v0")


class SumFamily(SumTasks):
    """A task family as another package would bring it."""

    def __init__(self, split: str = "train") -> None:
        self.split = split


SUMS = aipo_env.EnvSpec(
    "sums-consult", "tests.test_registry:SumFamily", assisted=True, options={"max_turns": 3, "prompt": "bare"}
)


BROKEN = "no value"


@pytest.fixture
def with_a_broken_plug_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    entries = tuple(
        importlib.metadata.EntryPoint(name, value, registry.ENV_GROUP)
        for name, value in (
            ("gone", "no.such.module:SPECS"),
            ("wrong", "tests.test_registry:BROKEN"),
            ("sums", "tests.test_registry:SUMS"),
        )
    )
    others = registry._entries
    monkeypatch.setattr(registry, "_entries", lambda group: entries if group == registry.ENV_GROUP else others(group))
    monkeypatch.setattr(registry, "_plugins_loaded", False)
    monkeypatch.setattr(registry, "_broken", {})
    monkeypatch.setattr(registry, "_envs", dict(registry._envs))
    for name in ("gone", "wrong"):
        registry._announce(name)  # as at import
    yield
    for name in ("gone", "wrong", "sums-consult"):
        gymnasium.registry.pop(f"aipo/{name}-v0", None)


@pytest.mark.usefixtures("with_a_broken_plug_in")
def test_repair_20_a_broken_plug_in_is_an_error_for_who_asks_for_it() -> None:
    with pytest.warns(UserWarning, match="cannot be loaded") as caught:
        ids = aipo_env.list_envs()
    assert sorted(str(w.message).split("'")[1] for w in caught) == ["gone", "wrong"]
    # Told of once; everything else works, the plug-in behind it too.
    assert "sums-consult" in ids
    assert "gone" not in ids
    assert aipo_env.list_envs() == ids
    aipo_env.make("rulebook-consult").reset(seed=0)
    gymnasium.make("aipo/rulebook-v0").reset(seed=0)
    for env_id in ("gone", "gone-consult", "aipo/gone-v0"):
        with pytest.raises(
            ConfigurationError,
            match=r"'gone' of aipo\.envs \(package no\.such\.module\).*No module named 'no'.*uninstall",
        ) as raised:
            aipo_env.make(env_id)
        assert isinstance(raised.value.__cause__, ImportError)
    with pytest.raises(ConfigurationError, match=r"'wrong'.*EnvSpec"):
        gymnasium.make("aipo/wrong-v0")
    with pytest.raises(UnknownIdError, match=r"rulebock.*Did you mean 'rulebook'.*Not loaded: gone, wrong"):
        aipo_env.make("rulebock")


@pytest.mark.usefixtures("with_a_broken_plug_in")
def test_repair_20_the_first_call_may_be_any() -> None:
    with pytest.warns(UserWarning, match="cannot be loaded"):
        gymnasium.make("aipo/rulebook-v0").reset(seed=0)


def test_what_can_stand_for_an_agent() -> None:
    for agent in (
        KnowledgeAgent(),
        KnowledgeAgent,
        functools.partial(KnowledgeAgent, top_k=1),
        "aipo_agents:KnowledgeAgent",
    ):
        assert ask(aipo_env.make("rulebook-consult", agents={"k": agent}), "k", "473@128") == "4+4+1;7+7+2;3+3+8"


@pytest.mark.parametrize(
    ("agents", "message"),
    [
        ({"x": 5}, "async def respond"),
        ({"x": "nobody"}, "unknown agent 'nobody'"),
        (["verfy"], "Did you mean 'verify'"),
        ({"x": "no.such.module:Agent"}, "cannot import"),
        ({"x": "no/such/folder"}, "in the folder no/such/folder, which is not there"),
        ({"x": "tests/"}, "which holds none. Name one that `aipo train --train-helper x` wrote"),
        ("verify", r"agents=\['verify'\]"),
        ({"a b": str.upper}, "letters, digits"),
        ([], "at least one helper"),
    ],
)
def test_wrong_agents(agents: object, message: str) -> None:
    with pytest.raises(aipo_env.AipoError, match=message):
        aipo_env.make("rulebook-consult", agents=agents)  # type: ignore[arg-type]


def test_wrong_options() -> None:
    with pytest.raises(ConfigurationError, match=r"no option levl.*level"):
        aipo_env.make("rulebook", levl=2)
    with pytest.raises(ConfigurationError, match="own options"):
        aipo_env.make("rulebook", tasks=SumTasks(), level=2)
    with pytest.raises(ConfigurationError, match="max_turns >= 2"):
        aipo_env.make("rulebook-consult", max_turns=1)
    with pytest.raises(ConfigurationError, match="EnvSpec"):
        aipo_env.register_env("sums")  # type: ignore[arg-type]


def helper(query: str) -> str:
    return query


class NoTasks(SumTasks):
    def task(self, index: int) -> Task:
        return {"id": index}  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_consults": "4"}, r"max_consults is how many .* a whole number from 0 on; got '4'"),
        ({"max_turns": 4.0}, r"max_turns is .*got 4\.0"),
        ({"max_chars": 0}, "max_chars is .* from 1 on; got 0"),
        ({"fan_out": True}, "fan_out is .*got True"),
        ({"consult_cost": float("nan")}, "consult_cost is .* from 0 on; got nan"),
        ({"consult_cost": "0.1"}, r"consult_cost is .*got '0\.1'"),
        ({"consult_timeout": "60"}, "consult_timeout is seconds .*got '60'"),
        ({"codec": 3}, "codec is a tokenizer's adapter .*got int without fingerprint"),
        ({"reward_fn": 3}, r"reward_fn is a function \(task, answer, grade\).*got 3"),
        ({"tasks": 3}, "tasks is no task family: it needs name"),
        ({"tasks": NoTasks()}, r"task\(\d+\) of the family 'sums' must return .*Task, got dict"),
    ],
)
def test_repair_26_options_of_a_wrong_type_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        aipo_env.make("rulebook-consult", **options).reset(seed=0)


def test_numbers_may_be_numpys() -> None:
    env = aipo_env.make("rulebook-consult", max_consults=np.int64(2), consult_cost=np.float32(0.5))
    assert (env.config.max_consults, env.config.consult_cost) == (2, 0.5)


@pytest.mark.parametrize(
    "option",
    [{"agents": {"verify": helper}}, {"agents": ["verify"]}, {"max_consults": 2}, {"consult_cost": 0.0}, {"fan_out": 2},
     {"helper_view": "query"}, {"max_reply_chars": 10}],
)  # fmt: skip
def test_repair_26_what_concerns_helpers_is_refused_where_there_are_none(option: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"rulebook is solo.*{next(iter(option))} would change nothing.*-consult"
    ):
        aipo_env.make("rulebook", **option)
    assert aipo_env.make("rulebook-consult", **option)
    aipo_env.make("rulebook", max_turns=3, max_chars=10)


def test_the_public_names_exist() -> None:
    assert all(hasattr(aipo_env, name) for name in aipo_env.__all__)
