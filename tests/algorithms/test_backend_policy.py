from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Sequence

import pytest

import aipo_env
from aipo_agents.backends import CompletionSampling, Generation
from aipo_agents.backends.openai_server import OpenAIServer
from aipo_env.errors import ConfigurationError, ServiceError
from aipo_env.protocol import FinishReason, TokenAction, TurnPolicy, TurnRequest
from aipo_env.trajectory import Source
from algorithms.samplers import BackendPolicy
from tests.helpers import CharacterCodec, Recorder, SumTasks
from tests.misbehaving_server import EOS, Fault, MisbehavingServer, Request, logprob_of

CODEC = CharacterCodec()
REQUEST = TurnRequest("2+1=", token_ids=(EOS + 1, *CODEC.encode("2+1=")), stop=("</consult>",), seed=5)


def ask_then_answer(request: Request) -> str:
    return r"so \boxed{3}" if "</feedback>" in request.prompt else 'hm <consult agent="verify">2+1=3</consult> and more'


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer(reply=ask_then_answer) as running:
        yield running
        assert running.errors == []


def policy_on(
    server: MisbehavingServer, sampling: CompletionSampling | None = None, **options: object
) -> BackendPolicy:
    return BackendPolicy(OpenAIServer(server.base_url, "m", **options), CODEC, sampling)  # type: ignore[arg-type]


def act(policy: BackendPolicy, request: TurnRequest = REQUEST) -> TokenAction:
    return asyncio.run(policy.act(request))


def test_ids_go_in_and_ids_come_out(server: MisbehavingServer) -> None:
    policy = policy_on(server)
    assert isinstance(policy, TurnPolicy)
    action = act(policy)
    text = 'hm <consult agent="verify">2+1=3</consult>'
    assert action == TokenAction(tuple(CODEC.encode(text)), tuple(logprob_of(ord(c)) for c in text), "stop")
    sent = server.requests[0].body
    assert (sent["prompt"], sent["stop"], sent["seed"]) == (list(REQUEST.token_ids), ["</consult>"], 5)
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"]) == (1.0, 1.0, 1024)


def test_a_turn_stops_on_ids_which_belong_to_it(server: MisbehavingServer) -> None:
    ends = (ord(">"), EOS)
    for request in (REQUEST, dataclasses.replace(REQUEST, stop=())):
        action = act(policy_on(server), dataclasses.replace(request, stop_ids=ends))
        assert (CODEC.decode(action.ids), action.finish_reason) == ('hm <consult agent="verify">', "stop")
        assert server.requests[-1].body["stop_token_ids"] == list(ends)
    # Also where it is the last that was allowed.
    action = act(BackendPolicy(Returns((ord(">"),), "length"), CODEC), dataclasses.replace(REQUEST, stop_ids=ends))
    assert action.finish_reason == "stop"


def test_every_turn_of_an_episode_says_which_ids_end_it(server: MisbehavingServer) -> None:
    env = aipo_env.make("rulebook-consult", tasks=SumTasks(), codec=CODEC)
    asyncio.run(aipo_env.rollout(env, policy_on(server), 1, group_size=2, solo_share=0.5).collect())
    sent = [(request.body["stop_token_ids"], request.body.get("stop")) for request in server.requests]
    # Alone once, with help twice.
    assert sorted(sent, key=str) == [([EOS], None), ([EOS], ["</consult>"]), ([EOS], ["</consult>"])]


def test_alone_nothing_stops_at_a_tag(server: MisbehavingServer) -> None:
    action = act(policy_on(server), dataclasses.replace(REQUEST, stop=()))
    assert CODEC.decode(action.ids).endswith("and more")
    assert (action.ids[-1], action.finish_reason) == (EOS, "stop")
    assert "stop" not in server.requests[0].body


@pytest.mark.parametrize(("own", "given", "sent"), [(7, None, 7), (7, 3, 3), (3, 7, 3)])
def test_the_lesser_limit_of_tokens_counts(server: MisbehavingServer, own: int, given: int | None, sent: int) -> None:
    action = act(policy_on(server, CompletionSampling(max_tokens=own)), dataclasses.replace(REQUEST, max_tokens=given))
    assert (len(action.ids), action.finish_reason) == (sent, "length")


def test_without_tokens_left_nothing_is_asked(server: MisbehavingServer) -> None:
    assert act(policy_on(server), dataclasses.replace(REQUEST, max_tokens=0)) == TokenAction((), (), "length")
    assert server.num_requests == 0


def test_a_turn_ends_where_the_context_of_the_model_ends(server: MisbehavingServer) -> None:
    backend = OpenAIServer(server.base_url, "m")
    size = len(REQUEST.token_ids)
    action = act(BackendPolicy(backend, CODEC, context_length=size + 4))
    assert (len(action.ids), action.finish_reason) == (4, "length")
    assert act(BackendPolicy(backend, CODEC, context_length=size)) == TokenAction((), (), "length")
    assert server.num_requests == 1
    with pytest.raises(ConfigurationError, match="context_length"):
        BackendPolicy(backend, CODEC, context_length=0)


def test_logprobs_that_cannot_be_promised_are_none(server: MisbehavingServer) -> None:
    assert act(policy_on(server, CompletionSampling(0.7))).logprobs is None
    assert act(policy_on(server, CompletionSampling(0.7), logprobs_mode="processed")).logprobs is not None
    greedy = act(policy_on(server, CompletionSampling(0.0)))
    assert greedy.logprobs == (0.0,) * len(greedy.ids)


def test_an_environment_without_a_tokenizer_is_told_so(server: MisbehavingServer) -> None:
    with pytest.raises(ConfigurationError, match="codec="):
        act(policy_on(server), TurnRequest("2+1="))


def test_seed_and_stop_come_with_the_request(server: MisbehavingServer) -> None:
    for sampling in (CompletionSampling(seed=1), CompletionSampling(stop=("x",))):
        with pytest.raises(ConfigurationError, match="from each request"):
            policy_on(server, sampling)


class Returns:
    """A backend whose ids are given."""

    model = "given"

    def __init__(self, ids: tuple[int, ...] | None, finish_reason: FinishReason = "stop") -> None:
        self.ids, self.finish_reason = ids, finish_reason

    async def complete(self, token_ids: Sequence[int], sampling: CompletionSampling) -> Generation:
        return Generation("", self.ids, None, self.finish_reason)

    async def aclose(self) -> None: ...


@pytest.mark.parametrize(("ids", "says"), [(None, "without token ids"), ((1,) * 1025, "at most 1024")])
def test_a_backend_that_breaks_its_contract_is_a_failing_service(ids: tuple[int, ...] | None, says: str) -> None:
    with pytest.raises(ServiceError, match=says) as caught:
        act(BackendPolicy(Returns(ids), CODEC))
    assert not caught.value.transient


@pytest.mark.parametrize(
    ("text", "finish"), [("a</consult>", "stop"), ("a</consul", "length"), ("a\0", "stop"), ("", "length")]
)
def test_a_turn_that_ended_at_its_last_allowed_token_was_not_cut(text: str, finish: str) -> None:
    ids = tuple(EOS if c == "\0" else ord(c) for c in text)
    action = act(BackendPolicy(Returns(ids, "length"), CODEC))
    assert (action.ids, action.finish_reason) == (ids, finish)


def test_a_failing_server_is_raised(server: MisbehavingServer) -> None:
    server.script(Fault("status", status=429, retry_after="2"))
    with pytest.raises(ServiceError) as caught:
        act(policy_on(server))
    assert caught.value.retry_after == 2.0


def test_an_episode_records_what_was_sampled_and_sends_back_what_it_recorded(server: MisbehavingServer) -> None:
    policy = policy_on(server)
    env = aipo_env.make("rulebook-consult", tasks=SumTasks(), agents={"verify": Recorder("correct")}, codec=CODEC)
    env.reset(seed=0, options={"task_index": 2})
    game = env.unwrapped

    async def play() -> None:
        context: tuple[int, ...] = ()
        for turn in range(2):
            record = game.trajectory
            context = tuple(i for segment in record.segments for i in segment.token_ids)
            request = TurnRequest(record.segments[0].text, context, stop=("</consult>",), seed=turn)
            await asyncio.to_thread(env.step, await policy.act(request))
        assert tuple(server.requests[1].body["prompt"]) == context

    asyncio.run(play())
    record = game.trajectory
    assert record.reward == 1.0
    turns = [segment for segment in record.segments if segment.source is Source.POLICY]
    assert [len(turn.logprobs) for turn in turns] == [len(turn.token_ids) for turn in turns]
    assert turns[1].token_ids == (*CODEC.encode(r"so \boxed{3}"), EOS)
    env.close()
