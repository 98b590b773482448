from __future__ import annotations

import warnings
from pathlib import Path

import pettingzoo
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test

import aipo_env
from aipo_env import Consult, ParallelConsultEnv, Reply, Trajectory
from aipo_env.errors import ConfigurationError, EpisodeStateError, InvalidActionError
from aipo_env.registry import gymnasium_id
from tests.helpers import Recorder, SumTasks
from tests.tasks.small_data import for_this_machine
from tests.test_aec_env import ASK, ASK_BOTH, ENV_IDS, asks_of_even_numbers, small_data, who

MODES = ["text", "structured"]


def make(env_id: str = "rulebook-consult", **options: object) -> ParallelConsultEnv:
    agents = {"verify": Recorder("incorrect"), "knowledge": Recorder("a rule", "knowledge")}
    helpers = {"agents": agents} if env_id.endswith("-consult") else {}
    return aipo_env.make_parallel(env_id, **{"tasks": SumTasks(), **helpers, **options})  # type: ignore[arg-type]


def active(infos: dict[str, dict[str, object]]) -> list[str]:
    return [role for role, info in infos.items() if info["active"]]


@pytest.mark.parametrize("env_id", for_this_machine(ENV_IDS))
@pytest.mark.parametrize("kind", ["all", "policy", "one helper"])
@pytest.mark.parametrize("mode", MODES)
def test_pettingzoos_own_tests(
    env_id: str, kind: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_data(tmp_path, monkeypatch)
    options = {"controlled": who(env_id, kind), "action_mode": mode}
    with warnings.catch_warnings():
        # It passes an option that no environment knows.
        warnings.filterwarnings("ignore", message=".*reset knows the option")
        parallel_api_test(pettingzoo.make("parallel", gymnasium_id(env_id), **options), num_cycles=60)
    parallel_seed_test(lambda: aipo_env.make_parallel(env_id, **options), num_cycles=60)


def test_a_whole_episode_in_ticks() -> None:
    env = make(consult_cost=0.25)
    observations, infos = env.reset(options={"task_index": 4})
    assert env.config.fan_out == 2
    assert set(observations) == set(infos) == {"policy_0", "verify_0", "knowledge_0"}
    assert active(infos) == ["policy_0"]
    # Those who are not addressed may act or not; nobody listens.
    silent = {"verify_0": object(), "knowledge_0": "hello"}
    observations, rewards, _, _, infos = env.step({"policy_0": "Hm. " + ASK_BOTH, **silent})
    assert sorted(active(infos)) == ["knowledge_0", "verify_0"]
    assert {observations[role]["query"] for role in active(infos)} == {"17+25=43", "rule"}
    assert list(observations["policy_0"]["consult_mask"]) == [0, 0]
    assert all(observations[role] in env.observation_space(role) for role in env.agents)
    assert set(rewards.values()) == {0.0}
    observations, rewards, _, _, infos = env.step({"knowledge_0": "K", "verify_0": "V", "policy_0": "ignored"})
    assert active(infos) == ["policy_0"]
    assert observations["policy_0"]["prompt"].endswith(
        ASK_BOTH + '<feedback agent="verify">V</feedback><feedback agent="knowledge">K</feedback>'
    )
    assert [segment["source"] for segment in infos["policy_0"]["segments"]] == ["agent", "agent"]
    assert set(rewards.values()) == {-0.5}
    _, rewards, terminations, truncations, infos = env.step({"policy_0": r"\boxed{5}"})
    assert set(rewards.values()) == {1.0}
    assert (set(terminations.values()), set(truncations.values())) == ({True}, {False})
    assert active(infos) == env.agents == []
    assert env.trajectory.reward == 0.5
    assert [entry["agent"] for entry in env.telemetry] == ["verify", "knowledge"]


def test_the_policy_may_act_with_a_list_of_consults() -> None:
    by_text, by_list = make(), make()
    for env in (by_text, by_list):
        env.reset(seed=1)
    by_text.step({"policy_0": ASK_BOTH})
    by_list.step({"policy_0": [Consult("verify", "17+25=43"), Consult("knowledge", "rule")]})
    assert by_text.trajectory == by_list.trajectory
    assert by_text.episode.requests == by_list.episode.requests


def test_plugged_helpers_reply_within_the_tick() -> None:
    env = make(controlled=("policy_0", "knowledge_0"))
    env.reset(seed=0)
    *_, infos = env.step({"policy_0": ASK})
    assert active(infos) == ["policy_0"]
    *_, infos = env.step({"policy_0": ASK_BOTH})
    assert active(infos) == ["knowledge_0"]
    env.step({"knowledge_0": Reply("", error="no time")})
    assert env.trajectory.text.endswith(
        '<feedback agent="verify">incorrect</feedback><notice>knowledge could not answer: no time</notice>'
    )


def test_one_consult_a_turn_where_the_caller_says_so() -> None:
    env = make(fan_out=1)
    env.reset(seed=0)
    *_, infos = env.step({"policy_0": ASK_BOTH})
    assert active(infos) == ["verify_0"]
    assert env.trajectory.text.endswith(ASK)
    assert make("rulebook").config.fan_out == 3  # a solo episode asks nobody, however many there are


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ({}, "policy_0 must act in this tick.*got none"),
        ({"verify_0": "x"}, "policy_0 must act in this tick.*got verify_0"),
        ({"policy": "x"}, "no role policy; this environment has policy_0, verify_0, knowledge_0"),
        ({"policy_0": 5}, "an action is a str"),
        ("x", "dict from role to action"),
    ],
)
def test_wrong_actions_change_nothing(actions: object, message: str) -> None:
    env = make()
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match=message):
        env.step(actions)  # type: ignore[arg-type]
    env.step({"policy_0": ASK_BOTH})
    before = env.trajectory
    for wrong in ({"verify_0": "x"}, {"verify_0": "x", "knowledge_0": 7}):
        with pytest.raises(InvalidActionError, match="knowledge_0"):
            env.step(wrong)
    assert env.trajectory == before
    env.step({"verify_0": "x", "knowledge_0": "y"})
    assert env.episode.turn_of == "policy"


def test_calls_out_of_order() -> None:
    env = make()
    with pytest.raises(EpisodeStateError, match="reset"):
        env.step({"policy_0": "x"})
    env.reset(seed=0)
    env.step({"policy_0": r"\boxed{5}"})
    with pytest.raises(EpisodeStateError, match="over"):
        env.step({"policy_0": "x"})
    assert env.reset(seed=0)
    assert env.agents == env.possible_agents
    with pytest.raises(ConfigurationError, match="fan_out"):
        make(fan_out=0)


def test_helpers_can_have_rewards_of_their_own() -> None:
    def reward(name: str, trajectory: Trajectory) -> float:
        return sum(segment.agent == name for segment in trajectory.segments)

    env = make(helper_reward=reward)
    env.reset(options={"task_index": 4})
    assert set(env.step({"policy_0": ASK})[1].values()) == {0.0}
    env.step({"verify_0": "no"})
    assert env.step({"policy_0": r"\boxed{5}"})[1] == {"policy_0": 1.0, "verify_0": 1.0, "knowledge_0": 0.0}


def test_the_caller_plays_helpers_and_a_function_the_policy() -> None:
    env = make(
        controlled=("verify_0", "knowledge_0"), policy=lambda t: r"\boxed{5}" if "<feedback agent" in t else ASK_BOTH
    )
    _, infos = env.reset(options={"task_index": 4})
    assert active(infos) == ["verify_0", "knowledge_0"]
    _, rewards, terminations, *_ = env.step({"verify_0": "V", "knowledge_0": "K"})
    assert (rewards, terminations) == (
        {"verify_0": 1.0, "knowledge_0": 1.0},
        {"verify_0": True, "knowledge_0": True},
    )


def test_repair_24_reset_leaves_a_helper_to_act() -> None:
    env = make(controlled=("verify_0",), policy=asks_of_even_numbers)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*reset knows the option")
        parallel_api_test(env, num_cycles=60)
    for seed in range(10):
        _, infos = env.reset(seed=seed)
        assert env.agents == active(infos) == ["verify_0"]


def test_render() -> None:
    env = make(render_mode="ansi")
    env.reset(options={"task_index": 4})
    env.step({"policy_0": ASK})
    env.step({"verify_0": "incorrect"})
    assert "[verify]     incorrect" in (env.render() or "").splitlines()
    with pytest.warns(UserWarning, match="does nothing"):
        assert make().render() is None
