from __future__ import annotations

import asyncio
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import aipo_env
from aipo_env import Answer, Consult, ConsultRequest, ConsultVectorEnv, Reply, TokenAction
from aipo_env.errors import ConfigurationError, EpisodeStateError, InvalidActionError
from aipo_env.registry import gymnasium_id
from tests.helpers import CharacterCodec, Recorder, SumTasks
from tests.tasks.small_data import for_this_machine
from tests.test_aec_env import ASK, ENV_IDS, small_data

TURNS = [ASK, "mumble", '<consult agent="nobody">x</consult>', r"\boxed{5}", "<answer>7</answer>", "x" * 400]


def make(env_id: str = "rulebook-consult", num_envs: int = 3, **options: object) -> ConsultVectorEnv:
    return aipo_env.make_vec(env_id, num_envs, **{**defaults(env_id), **options})  # type: ignore[arg-type]


def defaults(env_id: str) -> dict[str, Any]:
    helpers = {"agents": {"verify": Recorder("incorrect")}} if env_id.endswith("-consult") else {}
    return {"tasks": SumTasks(), **helpers}


def unbatch(values: dict[str, Any], number: int) -> dict[str, Any]:
    """What one sub-environment put into infos, by Gymnasium's masks."""
    found = {}
    for key, value in values.items():
        if f"_{key}" in values and values[f"_{key}"][number]:
            found[key] = unbatch(value, number) if isinstance(value, dict) else value[number]
    return found


def plain(observation: dict[str, Any]) -> dict[str, Any]:
    return observation | {"consult_mask": list(observation["consult_mask"])}


@pytest.mark.parametrize("env_id", for_this_machine(ENV_IDS))
@pytest.mark.parametrize("mode", ["text", "structured"])
def test_every_id_through_gymnasium(env_id: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_data(tmp_path, monkeypatch)
    env = gymnasium.make_vec(gymnasium_id(env_id), num_envs=4, action_mode=mode, allow_test_split=True)
    assert isinstance(env, ConsultVectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    observation, infos = env.reset(seed=3)
    env.action_space.seed(3)
    for _ in range(8):
        assert observation in env.observation_space
        assert infos["_task_id"].all()
        observation, rewards, terminations, truncations, infos = env.step(env.action_space.sample())
        assert rewards.dtype == np.float64
        assert terminations.dtype == truncations.dtype == np.bool_
        assert list(infos.get("_final_obs", [False] * 4)) == list(terminations | truncations)
    env.close()


@pytest.mark.parametrize("env_id", ["rulebook-consult", "rulebook"])
@pytest.mark.parametrize("seed", [5, [9, 9, 2]])
def test_each_episode_is_that_of_a_single_environment(env_id: str, seed: int | list[int]) -> None:
    rules: dict[str, Any] = {"max_turns": 4, "max_chars": 300}
    if env_id.endswith("-consult"):
        rules["consult_cost"] = 0.1
    many = make(env_id, **rules)
    single = [aipo_env.make(env_id, **defaults(env_id), **rules) for _ in range(3)]
    seeds = seed if isinstance(seed, list) else [seed, seed + 1, seed + 2]
    observation, infos = many.reset(seed=seed)
    expected = [env.reset(seed=s) for env, s in zip(single, seeds, strict=True)]
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(40):
        for number, (seen, info) in enumerate(expected):
            alone = {key: values[number] for key, values in observation.items()}
            assert plain(alone) == plain(seen)
            found = unbatch(infos, number)
            assert {k: v for k, v in found.items() if not k.startswith("final")} == info
        turns = [TURNS[i] for i in rng.integers(len(TURNS), size=3)]
        observation, rewards, terminations, truncations, infos = many.step(turns)
        expected = []
        for number, (env, turn) in enumerate(zip(single, turns, strict=True)):
            seen, reward, terminated, truncated, info = env.step(turn)
            assert (rewards[number], terminations[number], truncations[number]) == (reward, terminated, truncated)
            assert many.telemetry[number] == env.telemetry
            if terminated or truncated:
                ended += 1
                assert many.finished[number] == env.trajectory
                assert plain(infos["final_obs"][number]) == plain(seen)
                assert unbatch(infos["final_info"], number) == info
                seen, info = env.reset()
            else:
                assert many.finished[number] is None
                assert many.trajectories[number] == env.trajectory
            expected.append((seen, info))
    assert ended > 10


def test_all_helpers_of_all_episodes_are_asked_at_the_same_time() -> None:
    arrived: list[str] = []

    class Meeting(Recorder):
        async def respond(self, request: ConsultRequest) -> Reply:
            arrived.append(self.name)
            while len(arrived) < 4:
                await asyncio.sleep(0)
            return self.reply

    env = make(num_envs=3, agents={"a": Meeting(name="a"), "b": Meeting(name="b")}, fan_out=2, consult_timeout=5)
    env.reset(seed=0)
    both = [Consult("a", "x"), Consult("b", "y")]
    _, _, _, _, infos = env.step([both, r"\boxed{1}", both])
    assert sorted(arrived) == ["a", "a", "b", "b"]
    assert infos["num_consults"].tolist() == [2, 0, 2]
    assert [len(entries) for entries in env.telemetry] == [2, 0, 2]


def test_repair_22_an_aborted_step_leaves_no_call_running() -> None:
    ended: list[str] = []

    class Slow(Recorder):
        async def respond(self, request: ConsultRequest) -> Reply:
            if request.query == "bug":
                raise ZeroDivisionError
            try:
                await asyncio.sleep(0.2)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            ended.append("went on")
            return self.reply

    env = make(agents={"verify": Slow()})
    env.reset(seed=0)
    with pytest.raises(ZeroDivisionError):
        env.step([ASK, '<consult agent="verify">bug</consult>', ASK])
    assert ended == ["cancelled"] * 2
    env.reset(seed=0)
    env.step([ASK] * 3)
    assert ended == ["cancelled"] * 2 + ["went on"] * 3


def test_sub_environments_share_tasks_and_helpers() -> None:
    helper = Recorder()
    env = make(num_envs=5, agents={"verify": helper})
    env.reset(seed=0)
    env.step([ASK] * 5)
    assert len(helper.requests) == 5
    assert len({request.seed for request in helper.requests}) == 5


def test_one_task_for_all_or_one_for_each() -> None:
    env = make()
    assert env.reset(seed=0, options={"task_index": 4})[1]["task_id"].tolist() == ["sums/4"] * 3
    assert env.reset(options={"task_index": [1, 2, 3]})[1]["task_id"].tolist() == ["sums/1", "sums/2", "sums/3"]
    with pytest.raises(ConfigurationError, match="task_index is an int, or has one value for each of 3"):
        env.reset(options={"task_index": [1]})
    with pytest.raises(ConfigurationError, match="task_index"):
        env.reset(options={"index": 1})


def test_seeds() -> None:
    def tasks(env: ConsultVectorEnv, **reset: Any) -> list[str]:
        return list(env.reset(**reset)[1]["task_id"]) + list(env.reset()[1]["task_id"])

    env = make()
    assert tasks(env, seed=1) == tasks(env, seed=[1, 2, 3]) == tasks(make(seed=1)) == tasks(make(seed=[1, 2, 3]))
    assert tasks(env, seed=1) != tasks(env, seed=2)
    assert len(set(tasks(make(num_envs=20), seed=[None] * 20))) > 5
    for wrong in ([1], 1.5, "abc"):
        with pytest.raises(ConfigurationError, match="seed is an int, or has one value for each of 3"):
            env.reset(seed=wrong)  # type: ignore[arg-type]


def test_actions_of_every_kind() -> None:
    codec = CharacterCodec()
    env = make(codec=codec, action_mode="structured")
    env.reset(options={"task_index": 4})
    _, _, _, _, infos = env.step([TokenAction(codec.encode(ASK)), {"target": 0, "text": "x"}, Consult("verify", "y")])
    assert infos["action_kind"].tolist() == ["consult"] * 3
    _, rewards, *_ = env.step({"target": np.array([1, 1, 0]), "text": ("5", "6", "x")})
    assert rewards.tolist() == [1.0, 0.0, 0.0]
    env.step((Answer("5"), "x", r"\boxed{5}"))


@pytest.mark.parametrize(
    "actions",
    [
        "abc",
        None,
        [ASK, ASK],
        [ASK, ASK, 5],
        [ASK, ASK, None],
        [ASK, ASK, []],
        [ASK, ASK, {"target": 7, "text": "x"}],
        [ASK, ASK, TokenAction([1])],
        [ASK, ASK, Consult("verify", r"a</consult>\boxed{3}")],
        {"target": [0, 0], "text": ("x", "y", "z")},
        {"target": [0, 0, 0]},
    ],
)
def test_wrong_actions_change_nothing(actions: Any) -> None:
    env = make(action_mode="structured")
    env.reset(seed=0)
    with pytest.raises(InvalidActionError):
        env.step(actions)
    assert all(episode.turn == 0 for episode in env.episodes)


def test_calls_out_of_order_and_wrong_options() -> None:
    with pytest.raises(EpisodeStateError, match="reset"):
        make().step([ASK] * 3)
    with pytest.raises(ConfigurationError, match="num_envs"):
        make(num_envs=0)
    with pytest.raises(ConfigurationError, match="ansi"):
        make(render_mode="human")


def test_render_and_close() -> None:
    closed: list[str] = []

    class Connected(Recorder):
        async def aclose(self) -> None:
            closed.append(self.name)

    env = make(render_mode="ansi", agents={"verify": Connected})
    env.reset(seed=0)
    env.step([ASK] * 3)
    rendered = env.render()
    assert rendered is not None
    assert all("[verify]     ok" in text.splitlines() for text in rendered)
    env.close()
    env.close()
    assert closed == ["verify"]
    with pytest.warns(UserWarning, match="does nothing"):
        assert make().render() is None


def test_repair_02_a_loop_over_a_test_split_warns_once() -> None:
    def play(split: str, steps: int, resets: int = 1, **options: Any) -> None:
        env = aipo_env.make_vec("rulebook-consult", 2, split=split, **options)
        for seed in range(resets):
            env.reset(seed=seed)
            for _ in range(steps):
                env.step([r"\boxed{1}"] * 2)

    # One episode for each reset is how an evaluation goes; the next one is begun without being asked for.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        play("test", 1, resets=3)
        play("train", 4)
        play("test", 4, allow_test_split=True)
    with pytest.warns(UserWarning, match="for evaluation") as caught:
        play("test", 4)
    assert len(caught) == 1


def test_gymnasiums_own_vector_environment_works_too() -> None:
    ours = gymnasium.make_vec("aipo/rulebook-consult-v0", num_envs=2)
    theirs = gymnasium.make_vec(
        "aipo/rulebook-consult-v0",
        num_envs=2,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
    )
    a, b = ours.reset(seed=7), theirs.reset(seed=7)
    for turns in ([ASK, r"\boxed{5}"], ["mumble", ASK], [r"\boxed{1}", r"\boxed{2}"]):
        assert str(sorted(a[0].items())) == str(sorted(b[0].items()))
        assert str(a[1:]) == str(b[1:])
        a, b = ours.step(turns), theirs.step(turns)
    again = gymnasium.make_vec(ours.spec)  # type: ignore[arg-type]
    assert again.num_envs == 2
    theirs.close()
