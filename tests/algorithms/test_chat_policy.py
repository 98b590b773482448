from __future__ import annotations

import asyncio

import pytest

import aipo_env
from aipo_agents.backends import ChatSampling, Generation, Message
from aipo_env.errors import ConfigurationError
from aipo_env.playing import turn_request
from aipo_env.protocol import TurnRequest
from algorithms.samplers.chat_policy import ChatPolicy
from tests.helpers import SumTasks

ASK = '<consult agent="verify">17+25=43</consult>'


class Chat:
    """Says what it is told to, and keeps what it was asked."""

    model = "chat"

    def __init__(self, *says: Generation) -> None:
        self._says = list(says)
        self.asked: list[tuple[list[Message], ChatSampling]] = []

    async def chat(self, messages: list[Message], sampling: ChatSampling) -> Generation:
        self.asked.append((list(messages), sampling))
        return self._says.pop(0)

    async def aclose(self) -> None: ...


def test_an_episode_is_a_chat_in_which_the_environment_is_the_user() -> None:
    chat = Chat(Generation(f"Hm. {ASK} and on"), Generation(""), Generation(r"\boxed{5", finish_reason="length"))
    policy = ChatPolicy(chat, ChatSampling(0.7, 0.9, 300), name="p")
    env = aipo_env.make("rulebook-consult", tasks=SumTasks(), agents={"verify": lambda query: "no [INST] <b>"})
    (episode,) = asyncio.run(aipo_env.rollout(env, policy, [4], seed=3).collect())
    assert (episode.stop_reason, episode.num_consults, episode.metadata["policy"]) == ("length", 1, "p")
    prompt, told = episode.segments[0].text, [s.text for s in episode.segments if s.source.name == "TEMPLATE"]
    messages = [[(m.role, m.content) for m in asked] for asked, _ in chat.asked]
    first = [("user", prompt)]
    # Behind a consult nothing belongs to the turn; a helper's text opens no turn.
    second = [*first, ("assistant", f"Hm. {ASK}"), ("user", '<feedback agent="verify">no [ INST] < b></feedback>')]
    assert messages == [first, second, [*second, ("assistant", ""), ("user", told[0])]]
    assert [(s.temperature, s.top_p, s.max_tokens, s.stop) for _, s in chat.asked] == [(0.7, 0.9, 300, ())] * 3
    assert len({s.seed for _, s in chat.asked} - {None}) == 3


def test_a_chat_that_calls_functions_is_told_of_them_and_hears_replies_as_the_user() -> None:
    call = '<tool_call>\n{"name": "%s", "arguments": {"query": "q"}}\n</tool_call>'
    chat = Chat(Generation(call % "verify" + "\n" + call % "reasoning"), Generation(r"\boxed{5}"))
    env = aipo_env.make(
        "rulebook-consult",
        tasks=SumTasks(),
        agents={"verify": lambda query: "no <|im_end|>", "reasoning": lambda query: "yes"},
        dialect="tools",
        fan_out=2,
    )
    (episode,) = asyncio.run(aipo_env.rollout(env, ChatPolicy(chat, ChatSampling()), [4]).collect())
    assert (episode.reward, episode.num_consults) == (1.0, 2)
    first, second = ([(m.role, m.content) for m in asked] for asked, _ in chat.asked)
    assert [role for role, _ in second] == ["system", "user", "assistant", "user"]
    assert second[:2] == first
    assert '"name": "verify"' in first[0][1]
    # Two replies are one message of the user's, in which nothing is a control token.
    assert second[3][1].split("\n")[1] == "yes"
    assert "<|im_end|>" not in second[3][1]
    # A prompt that does not invite to ask tells of no functions.
    plain = Chat(Generation(r"\boxed{5}"))
    env = aipo_env.make("rulebook-consult", tasks=SumTasks(), dialect="tools", prompt="plain")
    asyncio.run(aipo_env.rollout(env, ChatPolicy(plain, ChatSampling()), [4]).collect())
    assert [m.role for m in plain.asked[0][0]] == ["user"]


def test_a_limit_of_the_request_is_kept_and_the_problem_is_sent_word_for_word() -> None:
    chat = Chat(*[Generation("x")] * 3)
    episode = aipo_env.make("rulebook", tasks=SumTasks(), prompt="<s>[INST] {problem}").make_episode(4)
    for limit, used in ((7, 7), (None, 300), (900, 300)):
        request = turn_request(episode, seed=1, max_tokens=limit)
        asyncio.run(ChatPolicy(chat, ChatSampling(max_tokens=300)).act(request))
        messages, sampling = chat.asked[-1]
        assert (sampling.max_tokens, messages) == (used, [Message("user", "<s>[INST] 4+1=")])


def test_a_chat_cannot_go_on_with_a_helper_s_message() -> None:
    with pytest.raises(ConfigurationError, match="completion backend"):
        asyncio.run(ChatPolicy(Chat(), ChatSampling()).act(TurnRequest("x", replying="verify")))
