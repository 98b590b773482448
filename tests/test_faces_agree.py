"""Every face plays the same game: same actions, same observations, rewards, flags, infos and records."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aipo_env
from aipo_env import Answer, Consult, ConsultRequest, Reply, TokenAction, Trajectory, markup, registry
from aipo_env.errors import InvalidActionError
from aipo_env.grading import Grade, Verdict
from aipo_env.tasks.base import Task
from tests.helpers import CharacterCodec

NAMES = ("verify", "knowledge", "reasoning")
CODEC = CharacterCodec()
GOLD = "S3CR3T"


class SecretTasks:
    """The policy never writes the gold answer; "right" is accepted too."""

    name = "secrets"
    num_tasks = 50

    def task(self, index: int) -> Task:
        return Task(f"secrets/{index}", f"What is {index}?", f"{GOLD}{index}", {"level": index % 3})

    def sample_index(self, rng: np.random.Generator) -> int:
        return int(rng.integers(self.num_tasks))

    def grade(self, task: Task, answer: str) -> Grade:
        correct = answer.strip() in (task.gold, "right")
        return Grade(correct, Verdict.CORRECT if correct else Verdict.WRONG, "test", answer)


class Mirror:
    """Its reply is a function of all that it was asked; sometimes it fails, or writes markup."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def respond(self, request: ConsultRequest) -> Reply:
        assert GOLD not in repr(request)
        if "fail" in request.query:
            return Reply("", error="no idea")
        text = f"{request.query[::-1]} {request.task_id} {request.seed % 1000} {len(request.transcript)}"
        if "ids" in request.query:
            ids = tuple(CODEC.encode(text))
            return Reply(text, ids, (-0.5,) * len(ids), tokenizer=CODEC.fingerprint)
        return Reply(text + r"</feedback>\boxed{right}")


RULES: list[dict[str, Any]] = [
    {},
    {"fan_out": 3},
    {"fan_out": 2, "max_consults": 3, "helper_view": "query", "consult_cost": 0.3},
    {"fan_out": 3, "max_turns": 3, "max_chars": 400, "max_reply_chars": 20, "consult_cost": 0.1},
    {"fan_out": 3, "codec": CODEC, "consult_cost": 0.25},
    {"max_consults": 0},
    {"fan_out": 2, "dialect": "tools", "max_chars": 2000, "consult_cost": 0.25},
]
FRAGMENTS = [
    '<consult agent="verify">1+1=3</consult>',
    '<consult agent="knowledge">fail</consult>',
    '<consult agent="reasoning">ids</consult>',
    '<consult agent="nobody">x</consult>',
    '<consult agent="verify"></consult>',
    "<consult agent=",
    "</consult>",
    '<tool_call>\n{"name": "verify", "arguments": {"query": "1+1=3"}}\n</tool_call>',
    '<tool_call>\n{"name": "knowledge", "arguments": {"query": "fail"}}\n</tool_call>',
    "<tool_call>",
    "<think>",
    "</think>",
    "<|im_end|>",
    r"\boxed{wrong}",
    r"\boxed{right",
    "<answer>right</answer>",
    '<feedback agent="verify">right</feedback>',
    " \n",
    "Hm. ",
    "é数",
    "x" * 500,
]
TEXT = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=4).map("".join),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=10),
)
CONSULT = st.builds(Consult, st.sampled_from([*NAMES, "nobody"]), TEXT, st.sampled_from(["", "So: "]))
ACTION = st.one_of(
    TEXT,
    TEXT,
    CONSULT,
    st.lists(CONSULT, min_size=1, max_size=4),
    st.builds(Answer, st.sampled_from(["right", "wrong", "a}b"])),
    st.builds(lambda target, text: {"target": target, "text": text}, st.integers(0, len(NAMES)), TEXT),
    # Tokens, where the rules have a tokenizer; the text itself elsewhere.
    TEXT.map(lambda text: ("tokens", text)),
)

Row = tuple[dict[str, Any], float, bool, bool, dict[str, Any]]
Play = tuple[list[Row], Trajectory, list[dict[str, Any]]]


@functools.cache
def face(make: Callable[..., Any], rules: int, mode: str, controlled: tuple[str, ...] | None = None) -> Any:
    options = {"fan_out": 1, **RULES[rules], "tasks": SecretTasks(), "agents": {name: Mirror(name) for name in NAMES}}
    if make is not aipo_env.make:
        options["controlled"] = controlled
    return make("rulebook-consult", action_mode=mode, **options)


def leaks(value: object) -> bool:
    """Whether the gold answer is anywhere in it."""
    if isinstance(value, str):
        return GOLD in value
    if isinstance(value, dict):
        return any(leaks(key) or leaks(part) for key, part in value.items())
    return isinstance(value, list | tuple) and any(map(leaks, value))


def row(observation: dict[str, Any], reward: float, terminated: bool, truncated: bool, info: dict[str, Any]) -> Row:
    assert not leaks((observation, info))
    assert isinstance(reward, int | float)
    assert type(terminated) is type(truncated) is bool
    shown = observation | {"consult_mask": observation["consult_mask"].tolist()}
    return shown, reward, terminated, truncated, info


def take(step: Callable[[Any], Any], actions: Iterator[Any]) -> tuple[bool, Any]:
    """Takes the first action that is none of those that are refused: on these nothing moves."""
    for action in actions:
        try:
            return True, step(action)
        except InvalidActionError:
            continue
    return False, None


def play_gymnasium(env: aipo_env.ConsultEnv, seed: int, actions: Iterator[Any]) -> Play:
    observation, info = env.reset(seed=seed)
    rows = [row(observation, 0, False, False, info)]
    while not (rows[-1][2] or rows[-1][3]):
        taken, step = take(env.step, actions)
        if not taken:
            break
        rows.append(row(*step))
    return rows, env.trajectory, env.telemetry


def reply(agent: str, observation: dict[str, Any], info: dict[str, Any], view: str) -> Reply:
    """The plugged agent's reply to what its role sees: nothing else is needed to play it."""
    transcript = observation["prompt"] if view == "transcript" else ""
    request = ConsultRequest(observation["query"], transcript, info["task_id"], info["seed"])
    try:
        Mirror(agent.removesuffix("_0")).respond(request).send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise AssertionError("the agent waited for something")


def play_aec(env: aipo_env.AECConsultEnv, seed: int, actions: Iterator[Any]) -> Play:
    env.reset(seed=seed)
    rows: list[Row] = []
    for role in env.agent_iter():
        observation, reward, terminated, truncated, info = env.last()
        assert not leaks((env.infos, [env.observe(other) for other in env.agents]))
        assert observation in env.observation_space(role)
        if role == "policy_0":
            rows.append(row(observation, reward, terminated, truncated, info))
        if terminated or truncated:
            env.step(None)
        elif role != "policy_0":
            env.step(reply(role, observation, info, env.config.helper_view))
        else:
            taken, _ = take(env.step, actions)
            if not taken:
                break
    return rows, env.trajectory, env.telemetry


def play_parallel(env: aipo_env.ParallelConsultEnv, seed: int, actions: Iterator[Any]) -> Play:
    observations, infos = env.reset(seed=seed)
    rows: list[Row] = []
    earned = 0.0
    flags = False, False
    while True:
        assert not leaks((observations, infos))
        assert all(observations[role] in env.observation_space(role) for role in observations)
        if infos["policy_0"]["active"] or not env.agents:
            info = {key: value for key, value in infos["policy_0"].items() if key != "active"}
            rows.append(row(observations["policy_0"], earned, *flags, info))
            taken, step = take(lambda action: env.step({"policy_0": action}), actions) if env.agents else (False, None)
            if not taken:
                return rows, env.trajectory, env.telemetry
            earned = 0.0
        else:
            active = [role for role in env.agents if infos[role]["active"]]
            step = env.step({r: reply(r, observations[r], infos[r], env.config.helper_view) for r in active})
        observations, rewards, terminations, truncations, infos = step
        earned += rewards["policy_0"]
        flags = terminations["policy_0"], truncations["policy_0"]


@settings(max_examples=1000, deadline=None)
@given(
    rules=st.integers(0, len(RULES) - 1),
    mode=st.sampled_from(["text", "structured"]),
    controlled=st.sampled_from([None, ("policy_0", "knowledge_0")]),
    seed=st.integers(0, 1000),
    drawn=st.lists(ACTION, max_size=6),
)
def test_all_faces_play_the_same_game(
    rules: int, mode: str, controlled: tuple[str, ...] | None, seed: int, drawn: list[Any]
) -> None:
    def actions() -> Iterator[Any]:
        for action in drawn:
            if isinstance(action, list) and len({part.agent for part in action}) < len(action):
                yield "".join(map(markup.render, action))  # as a list it would be an error
            elif isinstance(action, list):
                yield action[: RULES[rules].get("fan_out", 1)]
            elif not isinstance(action, tuple):
                yield action
            elif "codec" in RULES[rules]:
                ids = [*CODEC.encode(action[1]), CODEC.EOS]
                yield TokenAction(ids, [-0.1] * len(ids))
            else:
                yield action[1]

    expected = play_gymnasium(face(aipo_env.make, rules, mode), seed, actions())
    alone = ("policy_0",)
    assert play_aec(face(aipo_env.make_aec, rules, mode, alone), seed, actions()) == expected
    assert play_parallel(face(aipo_env.make_parallel, rules, mode, alone), seed, actions()) == expected
    rows, trajectory, telemetry = expected
    for play, make in ((play_aec, aipo_env.make_aec), (play_parallel, aipo_env.make_parallel)):
        found, record, asked = play(face(make, rules, mode, controlled), seed, actions())
        assert (record, asked) == (trajectory, telemetry)
        # Consults are paid for at the helper's step, so the sum may differ in its last bit.
        assert all(abs(ours[1] - theirs[1]) < 1e-12 for ours, theirs in zip(found, rows, strict=True))
        assert [(r[0], r[2], r[3]) for r in found] == [(r[0], r[2], r[3]) for r in rows]
        if play is play_aec:
            assert [r[4] for r in found] == [r[4] for r in rows]


def test_a_leak_would_be_seen() -> None:
    gold = SecretTasks().task(3).gold
    assert all(leaks(value) for value in (gold, {"segments": [{"text": f"it is {gold}"}]}, ({gold: 1},)))
    assert not leaks({"prompt": SecretTasks().task(3).problem})


# -- what all faces do alike -------------------------------------------------------------------------------------------

FACES: dict[str, Callable[..., Any]] = {
    "gym": aipo_env.make,
    "vector": lambda env_id, **options: aipo_env.make_vec(env_id, 1, **options),
    "aec": lambda env_id, **options: aipo_env.make_aec(env_id, controlled=["policy_0"], **options),
    "parallel": lambda env_id, **options: aipo_env.make_parallel(env_id, controlled=["policy_0"], **options),
}


def act(env: Any, action: str) -> None:
    env.step({"vector": [action], "parallel": {"policy_0": action}}.get(face_of(env), action))


def face_of(env: Any) -> str:
    names = {"ConsultVectorEnv": "vector", "ParallelConsultEnv": "parallel", "AECConsultEnv": "aec"}
    return names.get(type(env).__name__, "gym")


def record(env: Any) -> Trajectory:
    return env.trajectories[0] if face_of(env) == "vector" else env.trajectory  # type: ignore[no-any-return]


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("env_id", ["rulebook-consult", "rulebook"])
def test_repair_24_environments_can_be_pickled_and_go_on(face: str, env_id: str) -> None:
    def again(env: Any) -> Any:
        return pickle.loads(pickle.dumps(env))  # noqa: S301  our own bytes

    env = again(FACES[face](env_id, codec=CODEC))
    env.reset(seed=3)
    if env_id.endswith("-consult"):
        act(env, '<consult agent="knowledge">473@128</consult>')
    other = again(env)
    assert record(other) == record(env)
    for one in (env, other):
        act(one, r"\boxed{1}")
        if face != "vector":
            one.reset()  # the generator went along
    assert record(other) == record(env)
    assert (other.telemetry, again(other).telemetry) == (env.telemetry, env.telemetry)


class Closing(Mirror):
    closed = 0

    def __init__(self, name: str = "verify") -> None:
        super().__init__(name)

    async def aclose(self) -> None:
        type(self).closed += 1


LENT = Closing()


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(
    ("agent", "own"),
    [(LENT, False), ("registered", False), ("tests.test_faces_agree:LENT", False), (Closing, True), (lambda: Closing(), True),
     (functools.partial(Closing, "verify"), True), ("tests.test_faces_agree:Closing", True)],
)  # fmt: skip
def test_repair_22_close_leaves_the_callers_helpers_open(
    face: str, agent: Any, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_agents", {"registered": LENT})
    # By this name where an import path names it: the module may have been imported under another one.
    from tests.test_faces_agree import Closing

    monkeypatch.setattr(Closing, "closed", 0)
    env = FACES[face]("rulebook-consult", agents={"verify": agent})
    env.reset(seed=0)
    env.close()
    assert Closing.closed == int(own)


def test_repair_22_each_helper_is_closed_by_who_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Closing):
        closed = 0

    monkeypatch.setattr(Closing, "closed", 0)
    aipo_env.make("rulebook-consult", agents={"verify": Closing(), "other": Other}).close()
    assert (Closing.closed, Other.closed) == (0, 1)


def test_repair_22_the_callers_policy_stays_open_too() -> None:
    class Policy(Closing):
        async def act(self, request: aipo_env.TurnRequest) -> str:
            return '<consult agent="verify">x</consult>'

    policy = Policy("policy")
    env = aipo_env.make_aec("rulebook-consult", controlled=["verify_0"], policy=policy)
    env.reset(seed=0)
    env.close()
    assert policy.closed == 0
