"""Helpers that think: every way in which a server tells thoughts from a reply, and every way in which a reply does not come."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aipo_env
from aipo_agents.backends import ChatSampling, Generation, Message
from aipo_agents.backends.tokenizing import Tokenizing
from aipo_agents.llm import LLMAgent
from aipo_agents.middleware import Cache
from aipo_agents.request_key import request_key
from aipo_agents.thoughts import count_reasoning, split_reasoning
from aipo_env import ConsultRequest, Reply
from aipo_env.consulting import run_sync
from aipo_env.errors import ConfigurationError
from aipo_env.protocol import TurnRequest, Usage
from aipo_env.trajectory import Segment
from algorithms.samplers.chat_policy import ChatPolicy
from tests.algorithms.vocabularies import THINKING, carrier, qwen
from tests.helpers import CharacterCodec, SumTasks
from tests.misbehaving_server import EOS, Fault, MisbehavingServer, logprob_of

REQUEST = ConsultRequest("is 2+3=5?", transcript="Problem: 2+3=", seed=42)
THOUGHT, SAID = "2+3? \\boxed{6}. No, 5.", "It is 5."


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer(reply=lambda request: SAID) as running:
        yield running
        assert running.errors == []


def reply_of(agent: LLMAgent) -> Reply:
    return asyncio.run(agent.respond(REQUEST))


def agent_on(server: MisbehavingServer, **options: object) -> LLMAgent:
    return LLMAgent.from_server("verify", server.base_url, "m", **{"temperature": 0.6, **options})


def says(message: dict[str, Any], finish: str = "stop", usage: dict[str, Any] | None = None, **choice: Any) -> Fault:
    whole = {"message": message, "finish_reason": finish, **choice}
    return Fault("body", payload={"choices": [whole], "usage": usage or {"prompt_tokens": 9, "completion_tokens": 60}})


PARTS = [{"type": "text", "text": SAID}]
DETAILS = {"prompt_tokens": 9, "completion_tokens": 60, "completion_tokens_details": {"reasoning_tokens": 50}}
SHAPES = {
    "vLLM": (says({"content": SAID, "reasoning": THOUGHT}, usage=DETAILS), 50),
    "vLLM, older, and DeepSeek": (says({"content": SAID, "reasoning_content": THOUGHT}, usage=DETAILS), 50),
    "vLLM, both names": (says({"content": SAID, "reasoning": THOUGHT, "reasoning_content": None}, usage=DETAILS), 50),
    "SGLang": (says({"content": SAID, "reasoning_content": THOUGHT}, usage={"prompt_tokens": 9, "completion_tokens": 60, "reasoning_tokens": 50}), 50),
    "llama.cpp": (says({"content": SAID, "reasoning_content": THOUGHT}), 44),
    "llama.cpp, --reasoning-format none": (says({"content": f"<think>\n{THOUGHT}\n</think>\n\n{SAID}"}), 44),
    "llama.cpp, deepseek-legacy": (says({"content": f"<think>\n{THOUGHT}\n</think>\n\n{SAID}", "reasoning_content": THOUGHT}), 44),
    "opened in the prompt, no parser": (says({"content": f"{THOUGHT}\n</think>\n\n{SAID}"}), 44),
    "Anthropic's parts": (says({"content": [{"type": "thinking", "thinking": THOUGHT, "signature": "x"}, {"type": "redacted_thinking", "data": "x"}, *PARTS]}), 44),
    "Mistral's parts": (says({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}, *PARTS]}), 44),
    "Mistral's marks": (says({"content": f"[THINK]{THOUGHT}[/THINK]{SAID}"}), 44),
    "Gemma's marks": (says({"content": f"<|channel>thought\n{THOUGHT}<channel|>{SAID}"}), 44),
    "harmony, raw": (says({"content": f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>{SAID}<|return|>"}), 44),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_thoughts_are_removed_counted_and_kept_on_request(server: MisbehavingServer, shape: str) -> None:
    fault, count = SHAPES[shape]
    server.script(fault, fault)
    reply = reply_of(agent_on(server))
    assert (reply.text, reply.error, reply.reasoning) == (SAID, None, None)
    assert reply.usage == Usage(9, 60, None, count)
    kept = reply_of(agent_on(server, keep_reasoning=True))
    assert kept.reasoning is not None
    assert kept.reasoning.strip() == THOUGHT
    assert dataclasses.replace(kept, reasoning=None) == reply


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (says({"content": None, "reasoning": THOUGHT}, "length"), "still thinking, at max_tokens=77; raise max_tokens"),
        (says({"content": "", "reasoning_content": THOUGHT}, "length"), "still thinking, at max_tokens=77; raise max_tokens"),
        (says({"content": f"<think>{THOUGHT}"}, "length"), "still thinking, at max_tokens=77; raise max_tokens"),
        (says({"content": None, "reasoning": THOUGHT}), "thought, and wrote no reply; raise max_tokens, or turn its thinking off"),
        (says({"content": [{"type": "thinking", "thinking": THOUGHT}]}), "thought, and wrote no reply"),
        (says({"content": f"{THOUGHT}</think>"}), "thought, and wrote no reply"),
        (says({"content": "<|channel|>analysis<|message|>hm<|end|>"}), "thought, and wrote no reply"),
        (says({"content": None}, "stop"), "the model wrote nothing"),
    ],
)  # fmt: skip
def test_a_reply_that_is_all_thinking_is_an_error_that_says_what_to_do(
    server: MisbehavingServer, fault: Fault, error: str
) -> None:
    server.script(fault)
    reply = reply_of(agent_on(server, max_tokens=77, keep_reasoning=True))
    assert (reply.text, reply.declined) == ("", True)
    assert error in (reply.error or "")
    assert THOUGHT not in (reply.error or "")
    assert reply.usage is not None


def ids(text: str) -> list[int]:
    return [ord(character) for character in text]


def with_ids(message: dict[str, Any], text: str, *, finish: str = "stop") -> Fault:
    """An answer of vLLM whose ids and log-probabilities cover thoughts and reply."""
    sampled = [*ids(text), EOS]
    entries = [{"token": "?", "logprob": logprob_of(i)} for i in sampled]
    return says(message, finish, token_ids=sampled, logprobs={"content": entries})


WHOLE = f"<think>\n{THOUGHT}\n</think>\n\n{SAID}"


@pytest.mark.parametrize(
    "fault",
    [
        with_ids({"content": SAID, "reasoning": THOUGHT}, WHOLE),
        with_ids({"content": f"\n\n{SAID}", "reasoning": THOUGHT}, WHOLE),
        with_ids({"content": WHOLE}, WHOLE),
        with_ids({"content": SAID, "reasoning": THOUGHT}, f"{THOUGHT}</think>{SAID}"),
        with_ids({"content": SAID, "reasoning": f"{SAID} So: {SAID}"}, f"<think>{SAID} So: {SAID}</think>{SAID}"),
    ],
)
def test_the_reply_s_ids_and_mu_survive_and_say_what_they_are_given(server: MisbehavingServer, fault: Fault) -> None:
    codec = CharacterCodec()
    server.script(fault)
    reply = reply_of(agent_on(server, codec=codec, logprobs_mode="processed"))
    assert reply.text.strip() == SAID
    assert reply.token_ids == tuple(ids(reply.text))
    assert reply.logprobs == tuple(logprob_of(i) for i in ids(reply.text))
    assert reply.given_thoughts


def test_ids_that_do_not_spell_the_reply_are_left_out(server: MisbehavingServer) -> None:
    server.script(with_ids({"content": "It is five.", "reasoning": THOUGHT}, WHOLE))
    reply = reply_of(agent_on(server, codec=CharacterCodec(), logprobs_mode="processed"))
    assert (reply.text, reply.token_ids, reply.given_thoughts) == ("It is five.", None, False)


def test_thoughts_reach_the_telemetry_on_request_and_never_the_transcript(server: MisbehavingServer) -> None:
    server.script(with_ids({"content": SAID, "reasoning": THOUGHT}, WHOLE), says({"content": SAID}))
    codec = CharacterCodec()
    agent = agent_on(server, codec=codec, logprobs_mode="processed", keep_reasoning=True)
    env = aipo_env.make("rulebook-consult", tasks=SumTasks(), agents={"verify": agent}, codec=codec)
    env.reset(seed=0)
    for _ in range(2):
        env.step('<consult agent="verify">2+3=5</consult>')
    first, second = env.unwrapped.telemetry
    assert first["reasoning"] == THOUGHT
    assert "reasoning" not in second
    trajectory = env.unwrapped.trajectory
    assert THOUGHT not in trajectory.text
    assert SAID in trajectory.text
    replies = [segment for segment in trajectory.segments if segment.agent == "verify"]
    assert [(segment.mu_known, segment.given_thoughts) for segment in replies] == [(True, True), (False, False)]
    assert [Segment.from_json(segment.to_json()) for segment in replies] == replies
    env.close()
    run_sync(agent.aclose())  # who made the helper closes it


def test_no_cache_keeps_thoughts(server: MisbehavingServer, tmp_path: Path) -> None:
    fault = with_ids({"content": SAID, "reasoning": THOUGHT}, WHOLE)
    server.script(fault)
    cache = Cache(agent_on(server, temperature=0, codec=CharacterCodec(), keep_reasoning=True), tmp_path)
    first, second = (asyncio.run(cache.respond(REQUEST)) for _ in range(2))
    assert server.num_requests == 1
    assert (first.reasoning, second.reasoning, second.cached) == (THOUGHT, None, True)
    assert (second.given_thoughts, second.logprobs) == (True, (0.0,) * len(SAID))
    assert not any(b"boxed" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_options_reach_the_server_and_the_request_s_key(server: MisbehavingServer) -> None:
    plain = agent_on(server)
    told = agent_on(server, reasoning_effort="low", chat_template_kwargs={"enable_thinking": False})
    for agent in (plain, told):
        reply_of(agent)
    bodies = [request.body for request in server.requests]
    assert not {"reasoning_effort", "chat_template_kwargs"} & bodies[0].keys()
    assert bodies[1]["reasoning_effort"] == "low"
    assert bodies[1]["chat_template_kwargs"] == {"enable_thinking": False}
    others = [
        agent_on(server, reasoning_effort="high"),
        agent_on(server, chat_template_kwargs={"enable_thinking": True}),
    ]
    keys = {request_key(agent, REQUEST).digest for agent in (plain, told, *others)}
    assert len(keys) == 4
    # What is kept of a reply is no part of the request.
    assert request_key(agent_on(server, keep_reasoning=True), REQUEST) == request_key(plain, REQUEST)


def test_an_option_is_set_in_one_place(server: MisbehavingServer) -> None:
    agent = agent_on(server, reasoning_effort="low", extra_body={"reasoning_effort": "high"})
    with pytest.raises(ConfigurationError, match="reasoning_effort: set by the sampling options and by"):
        reply_of(agent)
    with pytest.raises(ConfigurationError, match="include_reasoning"):
        agent_on(server, extra_body={"include_reasoning": False})


def test_a_thinking_helper_that_is_decoded_greedily_is_warned_of_once(
    server: MisbehavingServer, caplog: pytest.LogCaptureFixture
) -> None:
    fault = says({"content": SAID, "reasoning": THOUGHT})
    server.script(fault, fault, fault, says({"content": SAID}))
    greedy = agent_on(server, temperature=0)
    for agent in (greedy, greedy, agent_on(server), agent_on(server, temperature=0)):
        reply_of(agent)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "thinks and is decoded greedily" in warnings[0]
    assert "temperature=0.6" in warnings[0]


@pytest.mark.parametrize(
    ("text", "told", "opened", "reasoning", "reply"),
    [
        ("a </think> b", "", "think", "a", "b"),
        ("a", "", "think", "a", ""),
        ("a <think>b</think> c", "", False, "a <think>b", "c"),  # a closer without an opener at the head
        ("say </think>", "t", False, "t", "say </think>"),  # the server took the thoughts away already
        ("say", "t", "think", "t", "say"),
        ("<think>\n\n</think>\n\nx", "", False, "", "x"),
        ("<|channel|>final<|message|>x<|return|>", "", False, "", "x"),
        ("a<|end|><|start|>assistant<|channel|>final<|message|>x<|return|>", "", "harmony", "a", "x"),
        ("plain", "", False, "", "plain"),
    ],
)  # fmt: skip
def test_parts(text: str, told: str, opened: bool | str, reasoning: str, reply: str) -> None:
    parts = split_reasoning(text, told, opened)
    assert (parts.reasoning, parts.reply) == (reasoning, reply)


def test_thoughts_are_counted_by_their_ids() -> None:
    decode = CharacterCodec().decode
    assert count_reasoning(ids("<think>ab</think>c"), decode) == len("<think>ab</think>")
    assert count_reasoning(ids("ab</think>c"), decode, "think") == len("ab</think>")
    assert count_reasoning(ids("ab"), decode, "think") == 2
    assert count_reasoning(ids("ab"), decode) == 0


def test_an_engine_in_this_process_knows_what_its_prompt_opened() -> None:
    tokenizer = qwen(THINKING)
    tokenizing = Tokenizing(tokenizer)
    prompt = tokenizing.chat_ids([Message("user", "hi")], ChatSampling())
    sampled = tuple(tokenizer.encode("hm, five.\n</think>\n\nIt is 5.<|im_end|>"))
    logprobs = (-0.5,) * len(sampled)
    generation = tokenizing.generation(prompt, sampled, logprobs, ChatSampling(logprobs=True), "stop")
    assert (generation.opened, generation.token_ids, generation.logprobs) == ("think", sampled, logprobs)
    assert generation.usage == Usage(len(prompt), len(sampled), 0.0, sampled.index(151668) + 1)
    assert split_reasoning(generation.text, generation.reasoning, generation.opened).reply == "It is 5."
    silent = tokenizing.generation(prompt, sampled, logprobs, ChatSampling(stop=("five",)), "stop")
    assert (silent.text, silent.token_ids, silent.logprobs) == ("hm, ", None, None)


def test_template_options_reach_the_template_of_an_engine_in_this_process() -> None:
    template = (
        "{% if enable_thinking is defined and not enable_thinking %}off{% endif %}{{ reasoning_effort or 'any' }}"
    )
    tokenizing = Tokenizing(qwen(template))
    shown = [
        tokenizing.decode(tokenizing.chat_ids([Message("user", "hi")], sampling))
        for sampling in (
            ChatSampling(),
            ChatSampling(reasoning_effort="low", chat_template_kwargs={"enable_thinking": False}),
        )
    ]
    assert shown == ["any", "offlow"]


def test_marks_of_thoughts_are_shown_though_they_are_control_tokens() -> None:
    marks = ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>"]
    text = "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>"
    harmony, phi = (Tokenizing(carrier("", those, "<|end|>")) for those in (marks, ["<|end|>", "<|user|>"]))
    assert harmony.decode(harmony.tokenizer.encode(text)) == text
    assert phi.decode(phi.tokenizer.encode("a<|end|>")) == "a"


def test_a_policy_behind_a_chat_answers_with_what_it_said_alone() -> None:
    class Chat:
        model = "m"

        async def chat(self, messages: object, sampling: object) -> Generation:
            return generation

        async def aclose(self) -> None: ...

    request = TurnRequest("1+1?")
    for generation, said in (
        (Generation("<think>\\boxed{7}</think>\\boxed{2}"), "\\boxed{2}"),
        (Generation("\\boxed{2}", reasoning="\\boxed{7}"), "\\boxed{2}"),
        (Generation("<think>\\boxed{7}", finish_reason="length"), ""),
        (Generation("\\boxed{2}"), "\\boxed{2}"),
    ):
        action = asyncio.run(ChatPolicy(Chat(), ChatSampling()).act(request))
        assert (action.text, action.finish_reason) == (said, generation.finish_reason)
