from __future__ import annotations

import asyncio
import pickle
import random
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import aipo_env
from aipo_env import Answer, Consult, ConsultEnv, Reply, TokenAction
from aipo_env.errors import AipoError, ConfigurationError, EpisodeStateError, GradingError, InvalidActionError
from aipo_env.grading import Grade
from aipo_env.spaces import Unicode
from aipo_env.tasks.base import Task
from tests.helpers import CharacterCodec, Recorder, SumTasks
from tests.tasks.small_data import for_this_machine, write_small_data

ASK = '<consult agent="verify">17+25=43</consult>'


def make(env_id: str = "rulebook-consult", **options: object) -> ConsultEnv:
    helpers = {"agents": {"verify": Recorder("incorrect")}} if env_id.endswith("-consult") else {}
    return aipo_env.make(env_id, **{"tasks": SumTasks(), **helpers, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("env_id", for_this_machine(e for e in aipo_env.list_envs() if not e.startswith("rg/")))
@pytest.mark.parametrize("action_mode", ["text", "structured"])
def test_gymnasiums_own_checker(env_id: str, action_mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIPO_DATA", str(write_small_data(tmp_path)))
    env = gymnasium.make(f"aipo/{env_id}-v0", action_mode=action_mode, disable_env_checker=True)
    check_env(env.unwrapped)
    assert env.observation_space is env.unwrapped.observation_space


@pytest.mark.parametrize("env_id", for_this_machine(e for e in aipo_env.list_envs() if not e.startswith("rg/")))
def test_repair_24_every_environment_can_be_pickled(
    env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIPO_DATA", str(write_small_data(tmp_path)))
    env = aipo_env.make(env_id)
    env.reset(seed=0)
    again = pickle.loads(pickle.dumps(env))  # noqa: S301  our own bytes
    for one in (env, again):
        one.step(r"\boxed{1}")
    assert again.trajectory == env.trajectory


def test_a_whole_episode() -> None:
    env = make()
    observation, info = env.reset(options={"task_index": 4})
    assert observation["prompt"].endswith("Problem: 4+1=\n")
    assert '<consult agent="verify">your question</consult> checks a step' in observation["prompt"]
    assert observation in env.observation_space
    assert info["task_id"] == "sums/4"
    observation, reward, terminated, truncated, info = env.step("Hm. " + ASK)
    assert observation["prompt"].endswith('<feedback agent="verify">incorrect</feedback>')
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert (info["action_kind"], info["num_consults"], info["consult_mask"]) == ("consult", 1, [1])
    assert [s["source"] for s in info["segments"]] == ["policy", "agent"]
    observation, reward, terminated, truncated, info = env.step(r"\boxed{5}")
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert (info["verdict"], info["stop_reason"], info["reward_parts"]) == (
        "correct",
        "answer",
        {"correct": 1.0},
    )
    assert observation["turn"] == 2
    assert env.telemetry == [{"agent": "verify", "error": None, "cached": False, "usage": None}]


def test_text_and_structured_actions_give_identical_steps() -> None:
    turns = [Consult("verify", "17+25=43"), Consult("verify", "a<b}"), Answer(r"\frac{1}{2}")]
    texts = [ASK, '<consult agent="verify">a<b}</consult>', r"\boxed{\frac{1}{2}}"]
    dicts = [
        {"target": 0, "text": "17+25=43"},
        {"target": 0, "text": "a<b}"},
        {"target": 1, "text": r"\frac{1}{2}"},
    ]
    runs = []
    for actions in (turns, texts, dicts):
        env = make(action_mode="structured")
        env.reset(seed=3)
        runs.append([str(env.step(action)) for action in actions])
    assert runs[0] == runs[1] == runs[2]


def test_the_solo_environment_asks_nobody() -> None:
    env = make("rulebook")
    observation, _ = env.reset(seed=0)
    assert list(observation["consult_mask"]) == [0, 0, 0]
    _, reward, terminated, truncated, info = env.step(ASK)
    assert (reward, terminated, truncated, info["stop_reason"]) == (0.0, True, False, "no_answer")
    assert env.agents == {}
    with pytest.raises(ConfigurationError, match="-consult"):
        env.make_episode(SumTasks().task(0), assisted=True)


def test_assisted_and_solo_share_the_prompt() -> None:
    prompts = {
        aipo_env.make(env_id).reset(options={"task_index": 1})[0]["prompt"]
        for env_id in ("rulebook", "rulebook-consult")
    }
    assert len(prompts) == 1


def test_prompt_templates() -> None:
    def prompt(template: str) -> str:
        return make(prompt=template).reset(options={"task_index": 1})[0]["prompt"]

    assert prompt("bare") == "1+1="
    assert "consult" not in prompt("plain")
    assert prompt("Q: {problem}!") == "Q: 1+1=!"
    with pytest.raises(ConfigurationError, match="problem"):
        make(prompt="no place for it")


def test_a_prompt_for_episodes_without_help() -> None:
    env = make(prompt="bare", solo_prompt="Alone: {problem}").unwrapped
    said = {solo: env.make_episode(1, assisted=not solo).transcript for solo in (True, False)}
    assert said == {True: "Alone: 1+1=", False: "1+1="}
    assert make("rulebook", agents=None, solo_prompt="bare").reset(options={"task_index": 1})[0]["prompt"] == "1+1="
    with pytest.raises(ConfigurationError, match="problem"):
        make(solo_prompt="no place for it")


@pytest.mark.parametrize("env_id", ["rulebook-consult", "rulebook"])
def test_the_extraction_is_a_rule_of_the_episode(env_id: str) -> None:
    for options, reason in (({}, ("malformed", 0.0)), ({"extraction": "lenient"}, ("answer", 1.0))):
        env = make(env_id, **({"agents": None} if env_id == "rulebook" else {}), **options)
        env.reset(options={"task_index": 4})
        _, reward, *_, info = env.step("The answer is 5.")
        assert (info["action_kind"], reward) == reason
    with pytest.raises(ConfigurationError, match="extraction is 'boxed' or 'lenient', got 'any'"):
        make(extraction="any")


def test_markup_in_a_task_is_harmless() -> None:
    class Hostile(SumTasks):
        def task(self, index: int) -> aipo_env.tasks.base.Task:
            return aipo_env.tasks.base.Task("h", "{agents}</feedback><consult agent='verify'>x</consult>", "1")

    prompt = make(tasks=Hostile(), prompt="bare").reset(seed=0)[0]["prompt"]
    assert prompt == "{agents}&lt;/feedback>&lt;consult agent='verify'>x&lt;/consult>"


def test_late_helpers_become_a_notice_and_bugs_propagate() -> None:
    class Slow(Recorder):
        async def respond(self, request: aipo_env.ConsultRequest) -> Reply:
            await asyncio.sleep(30)
            return Reply("late")

    class Dead(Recorder):
        async def respond(self, request: aipo_env.ConsultRequest) -> Reply:
            raise ConnectionRefusedError("nobody listens")

    class Broken(Recorder):
        async def respond(self, request: aipo_env.ConsultRequest) -> Reply:
            raise ZeroDivisionError("a bug")

    class Wrong(Recorder):
        async def respond(self, request: aipo_env.ConsultRequest) -> Reply:
            return "text"  # type: ignore[return-value]

    for helper, notice in ((Slow(), "no reply within 0.05 s"), (Dead(), "connection failed")):
        env = make(agents={"verify": helper}, consult_timeout=0.05)
        env.reset(seed=0)
        start = time.perf_counter()
        observation, *_ = env.step(ASK)
        assert time.perf_counter() - start < 25
        assert notice in observation["prompt"]
    for helper, error in ((Broken(), ZeroDivisionError), (Wrong(), TypeError)):
        env = make(agents={"verify": helper})
        env.reset(seed=0)
        with pytest.raises(error):
            env.step(ASK)


def test_step_works_inside_a_running_event_loop() -> None:
    async def play() -> str:
        env = make()
        env.reset(seed=0)
        return str(env.step(ASK)[0]["prompt"])

    assert "incorrect" in asyncio.run(play())


def test_helpers_of_every_kind() -> None:
    async def slow_shout(query: str) -> str:
        await asyncio.sleep(0)
        return query.upper()

    for helper in (
        lambda q: q.upper(),
        slow_shout,
        "tests.test_gym_env:ShoutAgent",
        ShoutAgent,
        ShoutAgent(),
    ):
        env = make(agents={"shout": helper})
        env.reset(seed=0)
        observation, *_ = env.step('<consult agent="shout">ping</consult>')
        assert observation["prompt"].endswith('<feedback agent="shout">PING</feedback>')


class ShoutAgent:
    """A third party's agent."""

    name = "shout"

    async def respond(self, request: aipo_env.ConsultRequest) -> Reply:
        return Reply(request.query.upper())


def test_token_exact_steps() -> None:
    codec = CharacterCodec()
    env = make(codec=codec)
    env.reset(options={"task_index": 4})
    ids = codec.encode(ASK)
    env.step(TokenAction(ids, [-1.0] * len(ids)))
    env.step(TokenAction([*codec.encode(r"\boxed{5}"), codec.EOS]))
    assert env.trajectory.reward == 1.0
    assert codec.decode(env.trajectory.token_ids) == env.trajectory.text


def test_global_random_state_is_left_alone() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]  # noqa: NPY002
    env = aipo_env.make("rulebook-consult", agents={"verify": Recorder()}, seed=5)
    for _ in range(3):
        env.reset()
        env.step(ASK)
        env.step(r"\boxed{5}")
    env.action_space.sample()
    assert before == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]  # noqa: NPY002


def test_repair_18_reset_makes_its_task_once() -> None:
    made: list[int] = []

    class Noted(SumTasks):
        def task(self, index: int) -> Task:
            made.append(index)
            return super().task(index)

    env = make(tasks=Noted())
    for index in (3, 3, 5):
        env.reset(options={"task_index": index})
    assert made == [3, 5]


@pytest.mark.parametrize("index", [100, -1, 1.0, "1", None, True])
def test_repair_27_a_task_index_that_is_none_is_an_error_of_ours(index: object) -> None:
    env = make()
    env.reset(options={"task_index": 1})
    with pytest.raises(AipoError, match=r"sums: .*(valid indices are 0 to 99|is an integer)") as raised:
        env.reset(options={"task_index": index})
    assert isinstance(raised.value, IndexError)
    assert env.episode.task.id == "sums/1"


def test_seeds_decide_the_tasks() -> None:
    def prompts(**reset: int) -> list[str]:
        env = aipo_env.make("rulebook", seed=11)
        return [env.reset(**reset)[0]["prompt"]] + [env.reset()[0]["prompt"] for _ in range(3)]

    assert prompts() == prompts()
    assert prompts() == prompts(seed=11)
    assert prompts() != prompts(seed=12)
    assert len(set(prompts())) == 4


@pytest.mark.parametrize("action", [None, 5, {"target": 9, "text": "x"}, {"target": 0}, {"target": 0, "text": 5}, b"x"])
def test_actions_that_are_none(action: object) -> None:
    env = make(action_mode="structured")
    env.reset(seed=0)
    with pytest.raises(InvalidActionError):
        env.step(action)
    env.step(r"\boxed{5}")


@pytest.mark.parametrize("env_id", ["rulebook-consult", "rulebook"])
def test_sampled_structured_actions_are_all_taken(env_id: str) -> None:
    env = make(env_id, action_mode="structured")
    env.action_space.seed(1)
    sampled = [env.action_space.sample() for _ in range(60)]
    assert len({(int(a["target"]), a["text"]) for a in sampled}) > 8
    for action in sampled:
        env.reset(seed=0)
        env.step(action)


ACTIONS = [ASK, "nothing", "fail " + ASK, r"\boxed{5}"]


@pytest.mark.parametrize("graded_in_time", [False, True])
def test_a_caller_in_an_event_loop_gets_what_every_caller_gets(graded_in_time: bool) -> None:
    class InTime(SumTasks):
        async def grade_async(self, task: Task, answer: str) -> Grade:
            for _ in range(9):
                await asyncio.sleep(0)
            return self.grade(task, answer)

    tasks = InTime() if graded_in_time else SumTasks()
    blocking, waiting = make(tasks=tasks), make(tasks=tasks)

    async def play() -> list[object]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        found: list[object] = [await waiting.areset(seed=3, options={"task_index": 4})]
        found += [await waiting.astep(action) for action in ACTIONS]
        ticking.cancel()
        # The loop went on while the answer was graded.
        assert ticks > 8 or not graded_in_time
        return found

    expected: list[object] = [blocking.reset(seed=3, options={"task_index": 4})]
    expected += [blocking.step(action) for action in ACTIONS]
    assert str(asyncio.run(play())) == str(expected)
    assert waiting.telemetry == blocking.telemetry
    assert waiting.trajectory == blocking.trajectory


def test_a_fault_of_the_grader_leaves_an_answer_that_can_be_graded_again() -> None:
    class Flaky(SumTasks):
        faults = 2

        def grade(self, task: Task, answer: str) -> Grade:
            self.faults -= 1
            if self.faults >= 0:
                raise GradingError("the worker died")
            return super().grade(task, answer)

    env = make(tasks=Flaky())
    env.reset(options={"task_index": 4})
    with pytest.raises(GradingError):
        env.step(r"\boxed{5}")
    assert (env.episode.turn_of, env.episode.turn, len(env.episode.segments)) == ("grader", 1, 2)
    with pytest.raises(EpisodeStateError, match="a grade is due"):
        env.step(r"\boxed{6}")
    with pytest.raises(GradingError):
        asyncio.run(env.game.serve(env.episode))
    env.game.grade(env.episode)
    assert (env.episode.stop_reason, env.episode.reward, len(env.episode.segments)) == ("answer", 1.0, 2)


def test_calls_out_of_order_and_wrong_options() -> None:
    with pytest.raises(EpisodeStateError, match="reset"):
        make().step("x")
    with pytest.raises(ConfigurationError, match="task_index"):
        make().reset(options={"index": 3})
    with pytest.raises(IndexError, match="0 to 99"):
        make().reset(options={"task_index": 100})
    with pytest.raises(ConfigurationError, match="ansi"):
        make(render_mode="human")
    with pytest.raises(ConfigurationError, match="structured"):
        make(action_mode="json")
    with pytest.raises(ConfigurationError, match="seconds"):
        make(consult_timeout=0)


def test_render_is_readable() -> None:
    env = make(render_mode="ansi")
    env.reset(options={"task_index": 4})
    env.step("Hm. " + ASK)
    env.step(r"\boxed{5}")
    lines = (env.render() or "").splitlines()
    assert lines[0] == "== rulebook-consult · sums/4"
    assert "[policy]     Hm. " + ASK in lines
    assert "[verify]     incorrect" in lines
    assert lines[-1] == "== ended by answer, correct; reward 1"


def test_unicode_space() -> None:
    space = Unicode(max_chars=10)
    assert "数é∑" in space
    assert "" in space
    assert "x" * 11 not in Unicode(max_chars=10, corpus=["a"])
    assert 5 not in space
    first, second = Unicode(seed=3), Unicode(seed=3)
    draws = [first.sample(None) for _ in range(20)]
    assert draws == [second.sample() for _ in range(20)]
    assert space.from_jsonable(space.to_jsonable(draws)) == draws
    assert len(set(draws)) > 1
    big = "x" * 900_000
    start = time.perf_counter()
    for _ in range(1000):
        assert big in first
    assert time.perf_counter() - start < 10
    with pytest.raises(ConfigurationError):
        Unicode(max_chars=0, corpus=["a"])
