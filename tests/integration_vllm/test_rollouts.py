"""Policy and helpers on one real vLLM server: rollouts, log mu, the prefix cache, a killed server, replay."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

import aipo_env
from aipo_agents.backends import ChatSampling, CompletionSampling, Generation, Message, OpenAIServer
from aipo_agents.llm import LLMAgent
from aipo_env import ConsultEnv, Source, TokenAction, Trajectory, TurnPolicy, TurnRequest, read_traces
from aipo_env.markup import FEEDBACK_CLOSE, feedback_open
from aipo_env.replay import replay
from algorithms.policies import Policy
from algorithms.samplers import BackendPolicy
from tests.integration_vllm.guided_policy import GuidedPolicy
from tests.integration_vllm.reference import largest_difference, reference_logprobs
from tests.integration_vllm.server import BLOCK_SIZE, VLLMServer

TOLERANCE = 1e-3
"""Of a log-probability, absolute; see test_backends.py."""
HELPERS = ("verify", "knowledge", "reasoning")
ENVIRONMENTS = ("math500-consult", "rulebook-consult")
GROUP_SIZE, NUM_TASKS, TURN_TOKENS, REPLY_TOKENS = 2, 2, 32, 96
OWN_PROBLEMS = [
    {"problem": "What is $17 + 25$?", "answer": "42", "unique_id": "own/0", "level": 1, "subject": "Sums"},
    {
        "problem": "How many primes are below $10$?",
        "answer": "4",
        "unique_id": "own/1",
        "level": 1,
        "subject": "Primes",
    },
]


class Recorder:
    """A chat backend that keeps what it was asked and what it answered."""

    def __init__(self, backend: OpenAIServer) -> None:
        self.model = backend.model
        self.calls: list[tuple[tuple[Message, ...], ChatSampling, Generation]] = []
        self._backend = backend

    async def chat(self, messages: Sequence[Message], sampling: ChatSampling) -> Generation:
        generation = await self._backend.chat(messages, sampling)
        self.calls.append((tuple(messages), sampling, generation))
        return generation

    async def aclose(self) -> None:
        await self._backend.aclose()


@dataclasses.dataclass
class Table:
    """What a rollout needs, all on one server."""

    backend: OpenAIServer
    recorder: Recorder
    helpers: dict[str, LLMAgent]
    natural: BackendPolicy
    guided: GuidedPolicy

    def env(self, env_id: str, math_data: Path, policy: Policy, **options: object) -> ConsultEnv:
        data: dict[str, object] = {"data": math_data} if env_id.startswith("math500") else {}
        limits = {"max_turns": 3, "max_consults": 2, "consult_timeout": 120.0}
        return aipo_env.make(env_id, agents=self.helpers, codec=policy.codec, **{**limits, **data, **options})


def table(server: VLLMServer, policy: Policy, *, calls: bool = False) -> Table:
    backend = OpenAIServer(server.base_url, server.name, logprobs_mode="processed", timeout=180.0)
    recorder = Recorder(backend)
    helpers = {
        role: LLMAgent(role, recorder, temperature=1.0, max_tokens=REPLY_TOKENS, codec=policy.codec) for role in HELPERS
    }
    natural = BackendPolicy(backend, policy.codec, CompletionSampling(max_tokens=TURN_TOKENS), name="smollm2")
    return Table(backend, recorder, helpers, natural, GuidedPolicy(natural, policy.codec, HELPERS, calls=calls))


@pytest.fixture(scope="session")
def math_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public problems where they are at hand, else two of our own."""
    public = Path(os.environ.get("AIPO_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    if (public / "math500" / "test.jsonl").exists():
        return public.resolve()
    path = tmp_path_factory.mktemp("data") / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in OWN_PROBLEMS))
    return path


@dataclasses.dataclass
class Played:
    """What one session of rollouts left."""

    trajectories: list[Trajectory]
    traces: list[Path]
    envs: list[ConsultEnv]
    calls: list[tuple[tuple[Message, ...], ChatSampling, Generation]]
    forced: dict[tuple[int, ...], tuple[int, int]]
    """Of a guided action's ids: how many were forced at its beginning and at its end."""


@pytest.fixture(scope="session")
def played(server: VLLMServer, policy: Policy, math_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Natural and consulting rollouts of both environments."""
    folder = tmp_path_factory.mktemp("traces")
    at = table(server, policy)
    result = Played([], [], [], at.recorder.calls, at.guided.forced)

    async def play() -> None:
        async with asyncio.timeout(600):
            for env_id in ENVIRONMENTS:
                env = at.env(env_id, math_data, policy)
                runs: list[tuple[TurnPolicy, int]] = [(at.natural, 1), (at.guided, GROUP_SIZE)]
                for turn_policy, group_size in runs:
                    path = folder / f"{env_id}-{turn_policy.name}.jsonl"
                    rollouts = aipo_env.rollout(
                        env, turn_policy, NUM_TASKS, group_size=group_size, max_in_flight=8, seed=5, traces=path
                    )
                    result.trajectories += await rollouts.collect()
                    result.traces.append(path)
                    result.envs.append(env)
        await at.backend.aclose()

    asyncio.run(play())
    return result


def test_policy_and_helpers_play_on_one_server(played: Played) -> None:
    assert len(played.trajectories) == len(ENVIRONMENTS) * NUM_TASKS * (1 + GROUP_SIZE)
    for trajectory in played.trajectories:
        assert trajectory.stop_reason in ("answer", "max_turns", "length"), trajectory.metadata
        assert trajectory.count(Source.POLICY) > 0
    guided = [t for t in played.trajectories if t.metadata["policy"] == "smollm2-guided"]
    assert {t.env_id for t in guided} == set(ENVIRONMENTS)
    assert all(t.num_consults >= 1 for t in guided)
    assert all(any(s.source is Source.AGENT for s in t.segments) for t in guided)
    natural = [t for t in played.trajectories if t.metadata["policy"] == "smollm2"]
    asked = sorted(s.agent for t in guided for s in t.segments if s.source is Source.AGENT)
    tokens = sum(t.count(Source.POLICY) for t in played.trajectories)
    print(
        f"{len(natural)} natural episodes with {sum(t.num_consults for t in natural)} consults, {len(guided)} with a "
        f"forced one; helpers asked: {asked}; {tokens} policy tokens"
    )
    assert len(set(asked)) >= 2


def test_policy_logprobs_are_those_of_transformers(played: Played, policy: Policy) -> None:
    largest, count = 0.0, 0
    # One of each group is enough, and keeps the test short.
    for trajectory in [trajectory for trajectory in played.trajectories if trajectory.sample == 0]:
        prompt = len(trajectory.segments[0].token_ids)
        expected = [0.0] * prompt + reference_logprobs(policy, trajectory.token_ids, prompt)
        position = 0
        for segment in trajectory.segments:
            start, position = position, position + len(segment.token_ids)
            if segment.source is not Source.POLICY:
                continue
            assert len(segment.logprobs) == len(segment.token_ids)
            before, behind = played.forced.get(segment.token_ids, (0, 0))
            sampled = slice(before, len(segment.logprobs) - behind)
            theirs = expected[start:position][sampled]
            largest = max(largest, largest_difference(segment.logprobs[sampled], theirs))
            count += len(theirs)
    print(f"{count} sampled policy tokens: largest difference of a log-probability {largest:.2e}")
    assert count > 100
    assert largest < TOLERANCE


def test_log_mu_is_the_helpers_own_log_probability(played: Played, policy: Policy) -> None:
    codec = policy.codec
    generated = [
        (messages, tuple(i for i in g.token_ids or () if i not in codec.eos_ids)) for messages, _, g in played.calls
    ]
    replies = [s for t in played.trajectories for s in t.segments if s.source is Source.AGENT]
    known = [s for s in replies if s.mu_known]
    # A helper's context is long; two replies of each are enough.
    checked = [s for role in HELPERS for s in [k for k in known if k.agent == role][:2]]
    largest, count = 0.0, 0
    for segment in checked:
        before, behind = len(codec.encode_tag(feedback_open(segment.agent))), len(codec.encode_tag(FEEDBACK_CLOSE))
        ids, log_mu = segment.token_ids[before:-behind], segment.logprobs[before:-behind]
        # The tags are the environment's.
        assert set(segment.logprobs[:before] + segment.logprobs[-behind:]) == {0.0}
        # A reply that ran out of tokens ends behind its last whole sentence.
        messages = next(messages for messages, said in generated if said[: len(ids)] == ids)
        context = policy.tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages],
            add_generation_prompt=True,
            return_dict=False,
        )
        expected = reference_logprobs(policy, [*context, *ids], len(context))
        largest = max(largest, largest_difference(log_mu, expected))
        count += len(ids)
    print(
        f"{len(known)} of {len(replies)} replies with a known mu; {count} tokens of {len(checked)} replies: largest "
        f"difference of log mu {largest:.2e}"
    )
    assert known
    assert largest < TOLERANCE


def test_traces_replay_without_a_model(played: Played, policy: Policy) -> None:
    verdicts = []
    for path in played.traces:
        recorded = list(read_traces(path))
        # Everything but the tokenizer comes from the record beside the traces; nobody is asked.
        replayed = replay(path, codec=policy.codec)
        assert [str(mismatch) for mismatch in replayed.mismatches] == []
        assert replayed.num_trajectories == len(recorded) > 0
        verdicts += [trajectory.verdict for trajectory in recorded]
        # It would be seen if a token, or the grade, were another.
        forged = [dataclasses.replace(recorded[0], reward=1.0 - recorded[0].reward), copy.deepcopy(recorded[0])]
        prompt = forged[1].segments[0]
        forged[1].segments[0] = dataclasses.replace(
            prompt, token_ids=(*prompt.token_ids[:-1], prompt.token_ids[-1] + 1)
        )
        found = replay(forged, played.envs[played.traces.index(path)]).mismatches
        assert [mismatch.what for mismatch in found] == ["reward", "segments[0].token_ids"]
    print(f"{len(verdicts)} episodes replayed; verdicts graded again: {sorted(filter(None, verdicts))}")
    assert any(verdicts)


class Metered:
    """A policy that reads the server's prefix cache before and behind each turn."""

    def __init__(self, policy: TurnPolicy, server: VLLMServer) -> None:
        self.name, self.contexts, self.hits = policy.name, list[int](), list[float]()
        self._policy, self._server = policy, server

    async def act(self, request: TurnRequest) -> TokenAction:
        before = self._server.counter("vllm:prefix_cache_hits_total")
        action = await self._policy.act(request)
        assert isinstance(action, TokenAction)
        self.hits.append(self._server.counter("vllm:prefix_cache_hits_total") - before)
        self.contexts.append(len(request.token_ids))
        return action


def test_the_prefix_cache_hits_across_turns(server: VLLMServer, policy: Policy, math_data: Path) -> None:
    at = table(server, policy)
    # Words that no other test sends, so that the first turn finds nothing behind the chat template's own beginning.
    prompt = "Apples, pears and plums; a prompt of its own.\n{agents}\n{problem}"
    env = at.env("rulebook-consult", math_data, policy, prompt=prompt)
    metered = Metered(at.guided, server)

    async def play() -> list[Trajectory]:
        async with asyncio.timeout(180):
            trajectories = await aipo_env.rollout(env, metered, 1, max_in_flight=1, seed=11).collect()
        await at.backend.aclose()
        return trajectories

    [trajectory] = asyncio.run(play())
    # What the server computed in the first turn: all but the last sampled id. The forced closing tag came later.
    prompt_ids, query_ids = (segment.token_ids for segment in trajectory.segments[:2])
    computed = len(prompt_ids) + len(query_ids) - at.guided.forced[query_ids][1] - 1
    expected = computed // BLOCK_SIZE * BLOCK_SIZE
    print(
        f"contexts of {metered.contexts} ids, of which {metered.hits} came from the prefix cache; first turn {expected}"
    )
    assert len(metered.hits) >= 2
    assert metered.hits[0] <= BLOCK_SIZE
    assert metered.hits[1] >= expected >= 2 * BLOCK_SIZE
    assert all(later >= earlier for earlier, later in zip(metered.hits[1:], metered.hits[2:], strict=False))


def keys(path: Path) -> list[tuple[int | None, int]]:
    return [(trajectory.task_index, trajectory.sample) for trajectory in read_traces(path)]


def test_killing_the_server_loses_no_finished_episode(
    server: VLLMServer, policy: Policy, math_data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "traces.jsonl"
    tasks, killed_behind = 4, 3
    wanted = {(task, sample) for task in range(tasks) for sample in range(GROUP_SIZE)}

    def rollouts(at: Table) -> aipo_env.Rollouts:
        env = at.env("rulebook-consult", math_data, policy, max_turns=2, helper_view="query")
        return aipo_env.rollout(
            env, at.guided, tasks, group_size=GROUP_SIZE, max_in_flight=3, seed=21, timeout=240.0, traces=path
        )

    async def until_killed() -> list[Trajectory]:
        at, taken = table(server, policy), []
        async with asyncio.timeout(300), rollouts(at) as episodes:
            async for trajectory in episodes:
                taken.append(trajectory)
                if len(taken) == killed_behind:
                    server.kill()
        await at.backend.aclose()
        return taken

    taken = asyncio.run(until_killed())
    assert not server.answers()
    finished = [t for t in taken if t.stop_reason != "error"]
    failed = [t for t in taken if t.stop_reason == "error"]
    assert len(taken) == len(wanted)
    assert len(finished) >= killed_behind
    assert failed
    assert all(
        "no model server answers" in str(t.metadata["error"]) or "broke off" in str(t.metadata["error"]) for t in failed
    )
    # Everything that was finished is on disk, exactly, and nothing else.
    on_disk = list(read_traces(path))
    assert sorted(map(repr, on_disk)) == sorted(map(repr, finished))

    server.start()

    async def rest() -> list[Trajectory]:
        at = table(server, policy)
        async with asyncio.timeout(300):
            resumed = await rollouts(at).collect()
        await at.backend.aclose()
        return resumed

    resumed = asyncio.run(rest())
    print(
        f"killed behind {killed_behind} episodes: {len(finished)} finished, {len(failed)} failed, {len(resumed)} in the end; "
        f"server starts took {[round(s) for s in server.start_seconds]} s"
    )
    # The whole run comes back: what was finished as it was, and what had failed.
    assert sorted((t.task_index, t.sample) for t in resumed) == sorted(wanted)
    assert {repr(t) for t in on_disk} <= {repr(t) for t in resumed}
    assert all(t.stop_reason != "error" for t in resumed)
    assert sorted(keys(path)) == sorted(wanted)
    assert list(read_traces(path))[: len(on_disk)] == on_disk
