from __future__ import annotations

import asyncio
import warnings
from pathlib import Path

import pettingzoo
import pytest
from pettingzoo.test import api_test, render_test, seed_test

import aipo_env
from aipo_env import AECConsultEnv, Answer, Consult, ConsultRequest, Reply, TokenAction, Trajectory, TurnRequest
from aipo_env.errors import ConfigurationError, EpisodeStateError, InvalidActionError, UnknownIdError
from aipo_env.registry import gymnasium_id
from aipo_env.trajectory import Source
from tests.helpers import CharacterCodec, Recorder, SumTasks
from tests.tasks.small_data import for_this_machine, write_small_data

ASK = '<consult agent="verify">17+25=43</consult>'
ASK_BOTH = ASK + '<consult agent="knowledge">rule</consult>'
RG_SAMPLE = ("rg/chain_sum", "rg/chain_sum-consult", "rg/figlet_font-consult", "rg/propositional_logic-consult")
"""Of reasoning-gym's 210 ids; all of them take minutes."""
ENV_IDS = [env_id for env_id in aipo_env.list_envs() if not env_id.startswith("rg/") or env_id in RG_SAMPLE]


def small_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rows for each data set that is not part of the repository."""
    monkeypatch.setenv("AIPO_DATA", str(write_small_data(folder)))


def who(env_id: str, kind: str) -> tuple[str, ...] | None:
    """The controlled roles: all, the policy alone, the policy and one helper."""
    if kind == "all":
        return None
    return ("policy_0", "verify_0") if kind == "one helper" and env_id.endswith("-consult") else ("policy_0",)


def make(env_id: str = "rulebook-consult", **options: object) -> AECConsultEnv:
    agents = {"verify": Recorder("incorrect"), "knowledge": Recorder("a rule", "knowledge")}
    helpers = {"agents": agents} if env_id.endswith("-consult") else {}
    return aipo_env.make_aec(env_id, **{"tasks": SumTasks(), **helpers, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("env_id", for_this_machine(ENV_IDS))
@pytest.mark.parametrize("kind", ["all", "policy", "one helper"])
def test_pettingzoos_own_tests(env_id: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_data(tmp_path, monkeypatch)
    controlled = who(env_id, kind)
    with warnings.catch_warnings():
        # It advises Box and Discrete spaces, and passes an option that no environment knows.
        warnings.simplefilter("ignore")
        api_test(pettingzoo.make("aec", gymnasium_id(env_id), controlled=controlled), num_cycles=60)
    seed_test(lambda: aipo_env.make_aec(env_id, controlled=controlled), num_cycles=60)
    render_test(lambda render_mode: aipo_env.make_aec(env_id, controlled=controlled, render_mode=render_mode))


def test_a_whole_episode_of_two_roles() -> None:
    env = make(controlled=("policy_0", "verify_0"), consult_cost=0.25)
    env.reset(options={"task_index": 4})
    assert env.possible_agents == env.agents == ["policy_0", "verify_0"]
    assert env.agent_selection == "policy_0"
    assert env.observe("verify_0") == {"prompt": "", "query": "", "turn": 0}
    assert env.infos["verify_0"] == {"active": False, "task_id": "sums/4", "seed": 0}
    env.step("Hm. " + ASK)
    assert env.agent_selection == "verify_0"
    observation, reward, terminated, truncated, info = env.last()
    assert (reward, terminated, truncated) == (0, False, False)
    assert observation in env.observation_space("verify_0")
    assert observation["query"] == "17+25=43"
    assert observation["prompt"] == env.episode.transcript
    assert observation["prompt"].endswith(ASK)
    assert (info["active"], info["seed"]) == (True, env.episode.request.seed)
    env.step("incorrect")
    assert env.agent_selection == "policy_0"
    observation, reward, *_, info = env.last()
    assert observation["prompt"].endswith('<feedback agent="verify">incorrect</feedback>')
    assert reward == -0.25
    assert [s["source"] for s in info["segments"]] == ["policy", "agent"]
    assert env.infos["verify_0"]["active"] is False
    # A helper that is not the caller's is asked on the way; it takes no turn.
    env.step('<consult agent="knowledge">rule</consult>')
    assert env.agent_selection == "policy_0"
    env.step(r"\boxed{5}")
    assert env.terminations == {"policy_0": True, "verify_0": True}
    assert env.rewards == {"policy_0": 1.0, "verify_0": 1.0}
    seen = {}
    for role in env.agent_iter():
        observation, reward, terminated, truncated, info = env.last()
        assert (terminated, truncated) == (True, False)
        seen[role] = reward
        env.step(None)
    assert seen == {"policy_0": 1.0, "verify_0": 0.5}
    assert env.agents == []
    assert [entry["agent"] for entry in env.telemetry] == ["verify", "knowledge"]


def test_a_fork_of_the_environment_goes_on_by_itself() -> None:
    env = make(controlled=("policy_0", "verify_0"), consult_cost=0.25)
    env.reset(seed=3, options={"task_index": 4})
    env.step(ASK)
    forks = [env.fork(), env.fork()]
    for one in forks:
        assert one.agent_selection == "verify_0"
        assert one.observe("verify_0") == env.observe("verify_0")
    for one, reply in zip((env, *forks), ("incorrect", "incorrect", "correct"), strict=True):
        one.step(reply)
        assert (one.rewards, one.last()[1]) == ({"policy_0": -0.25, "verify_0": -0.25}, -0.25)
        one.step(r"\boxed{5}")
        assert one.terminations == {"policy_0": True, "verify_0": True}
    same, other = forks
    assert same.trajectory == env.trajectory != other.trajectory
    assert same.infos == env.infos
    # What is drawn next is the same too, and drawn by each for itself.
    for one in (env, *forks):
        one.reset()
    assert len({one.episode.task.id for one in (env, *forks)}) == 1
    with pytest.raises(EpisodeStateError, match="call reset"):
        make().fork()


def test_roles_follow_the_helpers() -> None:
    assert aipo_env.make_aec("rulebook-consult").possible_agents == [
        "policy_0",
        "verify_0",
        "knowledge_0",
        "reasoning_0",
    ]
    assert make().possible_agents == ["policy_0", "verify_0", "knowledge_0"]
    assert make("rulebook").possible_agents == ["policy_0"]
    assert make(agents={"coach": None}).possible_agents == ["policy_0", "coach_0"]
    assert make(controlled=["knowledge_0", "policy_0"]).possible_agents == ["policy_0", "knowledge_0"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"controlled": ["verfy_0"]}, UnknownIdError, "Did you mean 'verify_0'"),
        ({"controlled": ["reasoning_0"]}, UnknownIdError, "policy_0, verify_0, knowledge_0"),
        ({"controlled": "policy_0"}, ConfigurationError, r"controlled=\('policy_0',\)"),
        ({"controlled": []}, ConfigurationError, "one role or more"),
        ({"controlled": ["policy_0", "policy_0"]}, ConfigurationError, "each once"),
        ({"controlled": ["verify_0"]}, ConfigurationError, "policy="),
        ({"controlled": ["verify_0"], "policy": 5}, ConfigurationError, "str -> str"),
        ({"policy": str.upper}, ConfigurationError, "Drop one"),
        ({"agents": {"coach": None}, "controlled": ["policy_0"]}, ConfigurationError, "nobody plays coach"),
        ({"agents": {"policy": str.upper}}, ConfigurationError, "policy's own name"),
        ({"agents": {"grader": str.upper}}, ConfigurationError, "grader's own name"),
        ({"render_mode": "rgb_array"}, ConfigurationError, "ansi"),
        ({"action_mode": "json"}, ConfigurationError, "structured"),
        ({"helper_reward": 1.0}, ConfigurationError, "helper_reward is a function"),
    ],
)
def test_options_that_cannot_work(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(**options)


def test_a_helper_that_nobody_plays_is_an_error_in_the_other_faces() -> None:
    for face in (aipo_env.make, lambda *args, **kwargs: aipo_env.make_vec(*args, 2, **kwargs)):
        with pytest.raises(ConfigurationError, match="nobody plays coach"):
            face("rulebook-consult", agents={"coach": None})


def test_a_helper_sees_the_query_alone_where_the_rules_say_so() -> None:
    env = make(helper_view="query")
    env.reset(seed=0)
    env.step("secret thoughts " + ASK)
    assert env.observe("verify_0") == {"prompt": "17+25=43", "query": "17+25=43", "turn": 1}


def test_several_consults_in_one_turn_act_in_the_order_of_their_tags() -> None:
    env = make(fan_out=2)
    env.reset(options={"task_index": 4})
    env.step([Consult("knowledge", "rule"), Consult("verify", "17+25=43")])
    order = []
    while env.agent_selection != "policy_0":
        role = env.agent_selection
        others = {"verify_0", "knowledge_0"} - {role}
        assert all(env.observe(other)["prompt"] == "" and not env.infos[other]["active"] for other in others)
        # Asked at the same time: nobody sees another's reply.
        assert env.observe(role)["prompt"].endswith("</consult>")
        order.append(role)
        env.step(f"I am {role}")
    assert order == ["knowledge_0", "verify_0"]
    assert env.episode.transcript.endswith(
        '<feedback agent="knowledge">I am knowledge_0</feedback><feedback agent="verify">I am verify_0</feedback>'
    )


@pytest.mark.parametrize("controlled", ["verify_0", "knowledge_0"])
def test_plugged_and_controlled_helpers_in_one_turn(controlled: str) -> None:
    env = make(fan_out=2, controlled=("policy_0", controlled))
    env.reset(seed=0)
    env.step(ASK_BOTH)
    assert env.agent_selection == controlled
    env.step("mine")
    assert env.agent_selection == "policy_0"
    replies = [s.agent for s in env.trajectory.segments if s.source is Source.AGENT]
    assert replies == ["verify", "knowledge"] == [entry["agent"] for entry in env.telemetry]
    assert env.trajectory.text.count("mine") == 1


def test_plugged_helpers_of_one_turn_are_asked_at_the_same_time() -> None:
    arrived: list[str] = []

    class Meeting(Recorder):
        async def respond(self, request: ConsultRequest) -> Reply:
            arrived.append(self.name)
            while len(arrived) < 2:
                await asyncio.sleep(0)
            return self.reply

    agents = {"verify": Meeting(), "knowledge": Meeting("rule", "knowledge"), "coach": Recorder("run", "coach")}
    env = make(agents=agents, fan_out=3, controlled=("policy_0", "coach_0"), consult_timeout=5)
    env.reset(seed=0)
    env.step(ASK_BOTH + '<consult agent="coach">x</consult>')
    assert (arrived, env.agent_selection) == (["verify", "knowledge"], "coach_0")


def test_a_helper_may_decline_or_bring_its_tokens() -> None:
    codec = CharacterCodec()
    env = make(codec=codec)
    env.reset(seed=0)
    env.step(ASK)
    env.step(Reply("", error="I do not know"))
    assert "<notice>verify could not answer: I do not know</notice>" in env.episode.transcript
    ids = codec.encode(ASK)
    env.step(TokenAction(ids, [-1.0] * len(ids)))
    reply = tuple(codec.encode("no"))
    env.step(Reply("no", reply, (-0.5, -0.25), tokenizer=codec.fingerprint))
    segment = env.trajectory.segments[-1]
    assert segment.mu_known
    assert {-0.5, -0.25} <= set(segment.logprobs)


@pytest.mark.parametrize("reply", [None, 5, b"no", Consult("verify", "x"), {"text": "x"}])
def test_replies_that_are_none_change_nothing(reply: object) -> None:
    env = make()
    env.reset(seed=0)
    env.step(ASK)
    with pytest.raises(InvalidActionError, match="its action is its reply"):
        env.step(reply)
    assert env.agent_selection == "verify_0"
    env.step("fine")
    assert env.agent_selection == "policy_0"


def test_the_policys_wrong_actions_change_nothing() -> None:
    env = make(consult_cost=0.5)
    env.reset(seed=0)
    env.step(ASK)
    env.step("no")
    before = env.last()[1]
    with pytest.raises(InvalidActionError):
        env.step(None)
    assert env.last()[1] == before == -0.5
    env.step(Answer("5"))
    assert env.last()[2] is True


def test_calls_out_of_order() -> None:
    env = make()
    for call in (env.last, lambda: env.step("x"), lambda: env.observe("policy_0"), lambda: env.last(observe=False)):
        with pytest.raises(EpisodeStateError, match="reset"):
            call()
    env.reset(seed=0)
    env.step(r"\boxed{5}")
    with pytest.raises(EpisodeStateError, match="step policy_0 with None"):
        env.step("more")
    for _ in range(3):
        env.step(None)
    for call in (env.last, lambda: env.step(None), lambda: env.step("x")):
        with pytest.raises(EpisodeStateError, match="over"):
            call()
    with pytest.raises(UnknownIdError, match="Did you mean 'verify_0'"):
        env.observation_space("verify")
    env.reset(seed=0)
    assert env.agents == env.possible_agents


def test_helpers_can_have_rewards_of_their_own() -> None:
    calls: list[tuple[str, Trajectory]] = []

    def reward(name: str, trajectory: Trajectory) -> float:
        calls.append((name, trajectory))
        return sum(segment.agent == name for segment in trajectory.segments)

    env = make(helper_reward=reward, consult_cost=0.25)
    env.reset(options={"task_index": 4})
    paid = []
    for action in (ASK, "no", ASK, "no", r"\boxed{5}"):
        env.step(action)
        paid.append(dict(env.rewards))
    assert [p["verify_0"] for p in paid] == [0, 0, 0, 0, 2]
    assert [p["policy_0"] for p in paid] == [0, -0.25, 0, -0.25, 1]
    assert [p["knowledge_0"] for p in paid] == [0] * 5
    assert [name for name, _ in calls] == ["verify", "knowledge"]
    assert calls[0][1].stop_reason == "answer"


def test_the_caller_plays_a_helper_and_a_function_the_policy() -> None:
    def policy(transcript: str) -> str:
        return r"\boxed{5}" if "no!" in transcript else ASK

    env = make(controlled=("verify_0",), policy=policy)
    env.reset(options={"task_index": 4})
    assert (env.agents, env.agent_selection) == (["verify_0"], "verify_0")
    assert env.infos["verify_0"]["active"] is True
    env.step("perhaps")
    assert env.agent_selection == "verify_0"
    env.step("no!")
    assert env.last()[1:4] == (1.0, True, False)
    env.step(None)
    assert env.agents == []


def test_a_turn_policy_is_asked_for_its_turns() -> None:
    class Policy:
        name = "script"

        def __init__(self) -> None:
            self.requests: list[TurnRequest] = []

        async def act(self, request: TurnRequest) -> aipo_env.protocol.Action:
            self.requests.append(request)
            if len(self.requests) == 3:
                raise ConnectionError("gone")
            return Consult("verify", "x") if len(self.requests) % 3 == 1 else "mumble"

    policy = Policy()
    env = make(controlled=("verify_0",), policy=policy, codec=CharacterCodec())
    env.reset(seed=3)
    env.step("no")
    first, second, third = policy.requests
    assert first.token_ids == tuple(env.trajectory.token_ids[: len(first.token_ids)])
    assert (first.turn, second.turn, third.turn) == (0, 1, 2)
    assert first.stop == ("</consult>",)
    assert len({request.seed for request in policy.requests}) == 3
    assert env.episode.stop_reason == "error"
    assert env.last()[1:4] == (0.0, False, True)


def asks_of_even_numbers(transcript: str) -> str:
    """A policy that consults in every other task of `SumTasks`."""
    number = int(transcript.rpartition("Problem: ")[2].partition("+")[0])
    return r"\boxed{5}" if "<feedback agent" in transcript or number % 2 else ASK


def test_repair_24_reset_leaves_a_helper_to_act() -> None:
    """PettingZoo's contract, also where the policy is plugged in and may ask nobody."""
    env = make(controlled=("verify_0",), policy=asks_of_even_numbers, seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        api_test(env, num_cycles=60)
    seen = set()
    for _ in range(20):
        env.reset()
        assert (env.agents, env.agent_selection) == (["verify_0"], "verify_0")
        assert env.last()[0]["query"] == "17+25=43"
        assert env.last()[1:4] == (0.0, False, False)
        seen.add(env.episode.task.id)
        env.step("incorrect")
        assert env.last()[2]
    assert all(int(task_id.rpartition("/")[2]) % 2 == 0 for task_id in seen)
    assert len(seen) > 5
    silent = make(controlled=("verify_0",), policy=lambda transcript: r"\boxed{5}")
    with pytest.raises(EpisodeStateError, match=r"verify_0 has to act.*'answer'.*consults them"):
        silent.reset(seed=0)


def test_unknown_reset_options_are_told() -> None:
    env = make()
    with pytest.warns(UserWarning, match="index"):
        env.reset(options={"index": 3, "task_index": 4})
    assert env.episode.task.id == "sums/4"


def test_seeds_decide_the_tasks() -> None:
    def tasks(**reset: int) -> list[str]:
        env = aipo_env.make_aec("rulebook-consult", seed=11)
        found = []
        for kwargs in (reset, {}, {}):
            env.reset(**kwargs)
            found.append(env.episode.task.id)
        return found

    assert tasks() == tasks() == tasks(seed=11) != tasks(seed=12)
    assert len(set(tasks())) == 3


def test_render_and_close(capsys: pytest.CaptureFixture[str]) -> None:
    closed: list[str] = []

    class Connected(Recorder):
        async def aclose(self) -> None:
            closed.append(self.name)

    env = make(render_mode="ansi", agents={"verify": Connected})
    env.reset(options={"task_index": 4})
    env.step(ASK)
    env.step("incorrect")
    assert "[verify]     incorrect" in (env.render() or "").splitlines()
    env.close()
    assert closed == ["verify"]
    human = make(render_mode="human")
    human.reset(options={"task_index": 4})
    assert human.render() is None
    assert capsys.readouterr().out.startswith("== rulebook-consult · sums/4")


def test_pettingzoo_knows_the_ids() -> None:
    env = pettingzoo.make("aec", "aipo/rulebook-consult-v0", controlled=("policy_0",), level=2)
    assert isinstance(env, AECConsultEnv)
    assert str(env) == "rulebook-consult"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aipo_env.register_env(aipo_env.registry.env_spec("rulebook-consult"))
    for env_id in aipo_env.list_envs():
        assert pettingzoo.spec("aec", aipo_env.registry.gymnasium_id(env_id)).kwargs == {"env_id": env_id}
        assert pettingzoo.spec("parallel", aipo_env.registry.gymnasium_id(env_id)).kwargs == {"env_id": env_id}
