"""The executor against an engine with OpenRLHF's interface whose turns are scripted; the episodes, helpers and codec are real."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aipo_env import read_traces
from aipo_env.errors import ConfigurationError, GradingError, ServiceError
from aipo_env.grading import Grade
from aipo_env.markup import consult_open
from aipo_env.tasks.base import Task
from algorithms.cluster.channel import decode
from algorithms.cluster.epochs import Epochs
from algorithms.cluster.executor import EngineTurns, EpisodeExecutor, SampleNumbers, is_solo
from algorithms.cluster.options import ClusterConfig
from algorithms.cluster.prompts import PromptLabel, evaluation_game, training_game
from algorithms.codec import TransformersCodec
from algorithms.policies.embedded_model import build_tokenizer
from tests.cluster.faulty_helpers import PORT_VARIABLE, SlowEcho
from tests.cluster.scripted_engine import Output, Params, ScriptedEngine, generate_responses
from tests.helpers import Recorder

CODEC = TransformersCodec(build_tokenizer())
ASK, CLOSE = consult_open("knowledge"), "</consult>"


def config(**fields: object) -> ClusterConfig:
    options = {"prompt": "bare", "style": "terse"} | fields.pop("env_options", {})  # type: ignore[operator]
    return ClusterConfig(**{"env": "rulebook-consult", "env_options": options, "solo_share": 0.0, **fields})  # type: ignore[arg-type]


def play(
    engine: ScriptedEngine,
    rules: ClusterConfig,
    *,
    num_samples: int = 1,
    max_length: int = 400,
    task: int = 0,
    evaluation: bool = False,
    params: Params | None = None,
    executor: EpisodeExecutor | None = None,
) -> list[dict[str, object]]:
    prompt = training_game(rules).make_episode(task).transcript
    label = PromptLabel(task, evaluation).to_text()
    executor = executor or EpisodeExecutor(rules)
    return asyncio.run(generate_responses(executor, engine, prompt, label, params or Params(), max_length, num_samples))


def logs(response: dict[str, object]) -> dict[str, float]:
    return response["extra_logs"]  # type: ignore[return-value]


def ask_then_answer(context: str, replies: int) -> str:
    return f"{ASK}473@128{CLOSE}" if replies == 0 else "\\boxed{1}<eos>"


def test_ids_are_what_the_engine_saw() -> None:
    engine = ScriptedEngine(CODEC, ask_then_answer)
    (response,) = play(engine, config())
    ids, channel = response["observation_tokens"], response["rollout_log_probs"]
    assert isinstance(ids, list)
    assert len(engine.calls) == 2
    # Each prompt is the prompt before, what was sampled, and what the environment put behind it.
    for before, after in pairwise(engine.calls):
        seen = before.prompt + before.output
        assert after.prompt[: len(seen)] == seen
    assert ids == engine.calls[-1].prompt + engine.calls[-1].output
    sampled = [ids[start:end] for start, end in response["action_ranges"]]  # type: ignore[attr-defined]
    assert sampled == [call.output for call in engine.calls]
    assert len(channel) == len(ids)  # type: ignore[arg-type]


def test_channel_holds_the_samplers_logprobs_and_the_reply() -> None:
    import torch

    engine = ScriptedEngine(CODEC, ask_then_answer)
    (response,) = play(engine, config())
    contents = decode(torch.tensor(response["rollout_log_probs"]))
    ranges = response["action_ranges"]
    for start, end in ranges:  # type: ignore[attr-defined]
        expected = torch.tensor([-0.25 - 0.001 * n for n in range(end - start)])
        assert torch.equal(contents.behaviour_logprobs[start:end], expected)
    (first, second) = ranges  # type: ignore[misc]
    assert contents.is_agent.nonzero().flatten().tolist() == list(range(first[1], second[0]))
    reply = CODEC.decode(response["observation_tokens"][first[1] : second[0]])  # type: ignore[index]
    assert reply.startswith('<feedback agent="knowledge">')


PIECES = (
    *(
        "1",
        "473@128",
        " ",
        "\n",
        "\\boxed{",
        "}",
        "<eos>",
        ASK,
        CLOSE,
        f"{ASK}1@2{CLOSE}",
        f"{consult_open('verify')}1+1=3{CLOSE}",
    ),
    *("<feedback", "</feedback>", "<notice>", "<consult agent=", "\\boxed{1}", "<bos>", "<pad>"),
)


@settings(max_examples=40, deadline=None)
@given(
    turns=st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), min_size=1, max_size=5),
    max_length=st.integers(12, 250),
    new_tokens=st.none() | st.integers(1, 40),
    honour_stop=st.booleans(),
    fan_out=st.integers(1, 2),
    solo=st.booleans(),
)
def test_whatever_the_policy_writes_the_record_is_what_the_engine_saw(
    turns: list[str], max_length: int, new_tokens: int | None, honour_stop: bool, fan_out: int, solo: bool
) -> None:
    script = itertools.cycle(turns)
    # An engine makes at least one token (min_tokens=1).
    engine = ScriptedEngine(CODEC, lambda context, replies: next(script) or "1", honour_stop=honour_stop)
    (response,) = play(
        engine,
        config(env_options={"fan_out": fan_out}, solo_share=float(solo)),
        max_length=max_length,
        params=Params(max_tokens=new_tokens),
    )
    ids, channel, ranges = (response[name] for name in ("observation_tokens", "rollout_log_probs", "action_ranges"))
    assert len(ids) == len(channel) <= max_length  # type: ignore[arg-type]
    actions = {at for start, end in ranges for at in range(start, end)}  # type: ignore[attr-defined]
    sampled: set[int] = set()
    for call in engine.calls:
        seen = call.prompt + call.output
        assert len(seen) <= max_length
        assert ids[: len(seen)] == seen  # type: ignore[index]
        sampled |= set(range(len(call.prompt), len(seen)))
    assert actions <= sampled
    for at, value in enumerate(channel):  # type: ignore[arg-type]
        if at in actions:
            assert value < 0
        else:
            assert value == 0 or (value >= 1 and at not in sampled)
    if new_tokens is not None:
        assert len(sampled) <= new_tokens
    if solo:
        assert max(channel) <= 0  # type: ignore[type-var]


def test_a_right_answer_is_rewarded_and_graded() -> None:
    gold = training_game(config()).tasks.task(3).gold
    engine = ScriptedEngine(CODEC, lambda context, replies: f"\\boxed{{{gold}}}<eos>")
    (response,) = play(engine, config(), task=3)
    assert (response["reward"], response["scores"], response["truncated"]) == (1.0, 1.0, False)
    assert logs(response)["aipo/assisted_correct"] == 1.0
    (wrong,) = play(ScriptedEngine(CODEC, ask_then_answer), config(env_options={"consult_cost": 0.25}), task=3)
    assert (wrong["reward"], wrong["scores"]) == (-0.25, 0.0)


def test_stop_strings_are_for_assisted_samples_alone() -> None:
    engine = ScriptedEngine(CODEC, ask_then_answer)
    play(engine, config(solo_share=0.5), num_samples=2)
    stops = {tuple(call.params.stop) for call in engine.calls}
    assert stops == {(CLOSE,), ()}
    assert all(call.params.include_stop_str_in_output for call in engine.calls)


def test_half_of_a_group_is_solo_and_its_numbers_are_its_order() -> None:
    engine = ScriptedEngine(CODEC, ask_then_answer)
    responses = play(engine, config(solo_share=0.5), num_samples=6)
    assert [logs(r)["aipo/solo"] for r in responses] == [1.0, 0.0] * 3
    assert [logs(r)["aipo/consults"] for r in responses] == [0.0, 1.0] * 3


@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("size", [1, 2, 7, 8, 16])
def test_solo_share_of_any_group(share: float, size: int) -> None:
    assert sum(is_solo(k, share) for k in range(size)) == math.floor(size * share + 0.5)


def test_evaluation_is_solo_and_has_its_own_options() -> None:
    engine = ScriptedEngine(CODEC, ask_then_answer)
    rules = config(eval_tasks=1, eval_options={"split": "test"})
    prompt = evaluation_game(rules).make_episode(0).transcript
    assert prompt != training_game(rules).make_episode(0).transcript
    label = PromptLabel(0, evaluation=True).to_text()
    responses = asyncio.run(generate_responses(EpisodeExecutor(rules), engine, prompt, label, Params(), 400, 2))
    assert [logs(r)["aipo/solo"] for r in responses] == [1.0, 1.0]
    assert all(not call.params.stop for call in engine.calls)


def test_numbers_of_groups_that_run_at_the_same_time() -> None:
    numbers, first, second = SampleNumbers(), object(), object()
    with numbers.number(first) as a, numbers.number(second) as b, numbers.number(first) as c:
        assert (a, b, c) == (0, 0, 1)
    with numbers.number(first) as again:
        assert again == 0


def test_a_group_whose_samples_never_wait_is_numbered() -> None:
    """A prompt without room for a single token ends at once, before the next sample has started."""
    engine = ScriptedEngine(CODEC, ask_then_answer)
    prompt_length = len(CODEC.encode_prompt(training_game(config()).make_episode(0).transcript))
    responses = play(engine, config(solo_share=0.5), num_samples=4, max_length=prompt_length)
    assert [logs(r)["aipo/solo"] for r in responses] == [1.0, 0.0] * 2
    assert not engine.calls
    assert all(r["action_ranges"] == [] and r["truncated"] for r in responses)


def test_helpers_of_a_group_answer_at_the_same_time() -> None:
    SlowEcho.running, SlowEcho.most, SlowEcho.expected = 0, 0, 5
    rules = config(agents=("knowledge=tests.cluster.faulty_helpers:SlowEcho",))
    responses = play(ScriptedEngine(CODEC, ask_then_answer), rules, num_samples=5)
    assert SlowEcho.most == 5
    assert all(logs(r)["aipo/consults"] == 1.0 for r in responses)


def test_context_is_never_exceeded() -> None:
    engine = ScriptedEngine(CODEC, lambda context, replies: "1" * 100)
    (response,) = play(engine, config(), max_length=40)
    assert len(response["observation_tokens"]) == 40  # type: ignore[arg-type]
    assert response["truncated"] is True
    assert logs(response)["aipo/truncated"] == 1.0


def test_new_tokens_limit_what_the_policy_writes_in_all_turns() -> None:
    turns = iter(["1" * 6 + "<eos>", "2" * 6 + "<eos>", "3"])
    engine = ScriptedEngine(CODEC, lambda context, replies: next(turns))
    (response,) = play(engine, config(), params=Params(max_tokens=10))
    assert [len(call.output) for call in engine.calls] == [7, 3]
    assert [call.params.max_tokens for call in engine.calls] == [10, 3]
    assert response["truncated"] is True


def test_openrlhfs_own_sampling_params_are_left_alone() -> None:
    params = Params(max_tokens=50, temperature=0.7)
    engine = ScriptedEngine(CODEC, ask_then_answer)
    play(engine, config(), params=params, num_samples=2)
    assert params == Params(max_tokens=50, temperature=0.7)
    assert all(call.params.temperature == 0.7 and call.params.logprobs == 0 for call in engine.calls)


def test_turns_run_out() -> None:
    engine = ScriptedEngine(CODEC, lambda context, replies: "12<eos>")
    (response,) = play(engine, config(env_options={"max_turns": 3}))
    assert len(engine.calls) == 3
    assert response["truncated"] is True
    assert logs(response)["aipo/malformed_turns"] == 2.0


def test_every_sample_has_the_same_metrics() -> None:
    """OpenRLHF merges the metrics of samples key by key, and fails where one is missing."""
    engine = ScriptedEngine(CODEC, ask_then_answer)
    responses = play(engine, config(solo_share=0.5), num_samples=4)
    responses += play(ScriptedEngine(CODEC, lambda context, replies: "1"), config(), max_length=30)
    assert len({tuple(logs(r)) for r in responses}) == 1
    assert all(type(value) is float for r in responses for value in logs(r).values())


# Faults


def test_a_helper_server_that_is_down_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = config(agents=("knowledge=tests.cluster.faulty_helpers:RemoteHelper",))
    executor = EpisodeExecutor(rules)
    prompt, label = training_game(rules).make_episode(0).transcript, PromptLabel(0).to_text()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query = await reader.readline()
        writer.write(b"about " + query)
        writer.close()

    async def group() -> list[dict[str, object]]:
        engine = ScriptedEngine(CODEC, ask_then_answer)
        return await generate_responses(executor, engine, prompt, label, Params(), 400, 4)

    async def run() -> list[list[dict[str, object]]]:
        # Bound and not listening: nobody else can take the port meanwhile, and connections are refused.
        server = await asyncio.start_server(serve, "127.0.0.1", 0, start_serving=True)
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv(PORT_VARIABLE, str(port))
        up = await group()
        server.close()
        await server.wait_closed()
        down = await group()
        server = await asyncio.start_server(serve, "127.0.0.1", port)
        again = await group()
        server.close()
        return [up, down, again]

    for responses, errors in zip(asyncio.run(run()), (0.0, 1.0, 0.0), strict=True):
        assert [logs(r)["aipo/helper_errors"] for r in responses] == [errors] * 4
        assert [logs(r)["aipo/consults"] for r in responses] == [1.0 - errors] * 4
        assert [logs(r)["aipo/agent_tokens"] > 0 for r in responses] == [not errors] * 4
        assert all(len(r["action_ranges"]) == 2 for r in responses)  # type: ignore[arg-type]


def test_a_helper_that_is_always_late() -> None:
    rules = config(agents=("knowledge=tests.cluster.faulty_helpers:LateHelper",), consult_timeout=0.05)
    (response,) = play(ScriptedEngine(CODEC, ask_then_answer), rules)
    assert logs(response)["aipo/helper_errors"] == 1.0
    assert logs(response)["aipo/agent_tokens"] == 0.0
    assert response["truncated"] is False


def test_a_reply_that_is_longer_than_the_context() -> None:
    engine = ScriptedEngine(CODEC, ask_then_answer)
    (response,) = play(engine, config(agents=("knowledge=tests.cluster.faulty_helpers:ChattyHelper",)), max_length=120)
    assert len(engine.calls) == 1
    assert len(response["observation_tokens"]) == len(response["rollout_log_probs"]) == 120  # type: ignore[arg-type]
    assert response["truncated"] is True
    assert logs(response)["aipo/cut_tokens"] > 300.0
    start = engine.calls[0].prompt + engine.calls[0].output
    assert response["observation_tokens"][: len(start)] == start  # type: ignore[index]
    assert logs(response)["aipo/agent_tokens"] == 120 - len(start)


def test_two_tags_in_one_turn() -> None:
    """What stands behind the first tag is in the context, so it stays in the record; nobody learns from it."""
    both = f"{ASK}1{CLOSE}{ASK}2{CLOSE}"
    engine = ScriptedEngine(
        CODEC, lambda context, replies: both if replies == 0 else "\\boxed{1}<eos>", honour_stop=False
    )
    (response,) = play(engine, config())
    first = len(CODEC.encode_tag(f"{ASK}1{CLOSE}"))
    start, end = response["action_ranges"][0]  # type: ignore[index]
    assert end - start == first
    assert response["rollout_log_probs"][end : start + len(engine.calls[0].output)] == [0.0] * first  # type: ignore[index]
    assert logs(response)["aipo/consults"] == 1.0
    assert response["observation_tokens"][: len(engine.calls[1].prompt)] == engine.calls[1].prompt  # type: ignore[index]


def test_two_consults_in_one_turn_where_the_rules_allow_it() -> None:
    both = f"{ASK}473@128{CLOSE}{consult_open('verify')}1+1=2{CLOSE}<eos>"
    engine = ScriptedEngine(CODEC, lambda context, replies: both if replies == 0 else "\\boxed{1}<eos>")
    (response,) = play(engine, config(env_options={"fan_out": 2}))
    assert logs(response)["aipo/consults"] == 2.0
    assert all(not call.params.stop for call in engine.calls)


def test_an_end_token_inside_a_tag() -> None:
    engine = ScriptedEngine(CODEC, lambda context, replies: f"{ASK}473<eos>" if replies == 0 else "\\boxed{1}<eos>")
    (response,) = play(engine, config())
    assert logs(response)["aipo/malformed_turns"] == 1.0
    assert logs(response)["aipo/consults"] == 0.0
    assert len(engine.calls) == 2
    # The end token was sampled: it is an action, and stays where it is.
    assert engine.calls[0].output[-1] == CODEC.tokenizer.eos_token_id
    assert engine.calls[1].prompt[: len(engine.calls[0].prompt) + len(engine.calls[0].output)] == (
        engine.calls[0].prompt + engine.calls[0].output
    )


@pytest.mark.parametrize(("helper", "known"), [("TokenHelper", True), ("ForeignTokenHelper", False)])
def test_log_mu_counts_under_the_policys_own_tokenizer_alone(helper: str, known: bool) -> None:
    import torch

    engine = ScriptedEngine(CODEC, ask_then_answer)
    (response,) = play(engine, config(agents=(f"knowledge=tests.cluster.faulty_helpers:{helper}",)))
    log_mu = decode(torch.tensor(response["rollout_log_probs"])).log_mu
    assert bool((log_mu == -0.5).any()) is known
    assert (logs(response)["aipo/mu_known_share"] > 0) is known
    assert CODEC.decode(response["observation_tokens"]).count("4+4+1") == 1  # type: ignore[arg-type]


class FlakyEngine(ScriptedEngine):
    """Fails the requests of which `fails(turn, number)` says so: the turn of the episode, and how many asked for one before."""

    def __init__(self, fails: Callable[[int, int], bool]) -> None:
        super().__init__(CODEC, ask_then_answer)
        self.fails, self.asked = fails, Counter[int]()

    async def generate(self, prompt_token_ids: list[int], *args: Any, **kwargs: Any) -> Output | None:  # type: ignore[override]
        turn = CODEC.decode(prompt_token_ids).count("</feedback>")
        number, self.asked[turn] = self.asked[turn], self.asked[turn] + 1
        answer = await super().generate(prompt_token_ids, *args, **kwargs)
        return None if self.fails(turn, number) else answer


def test_repair_11_a_fault_of_the_engine_ends_one_episode(tmp_path: Path) -> None:
    rules = config(traces=tmp_path)
    executor = EpisodeExecutor(rules)
    responses = play(FlakyEngine(lambda turn, number: number == 0), rules, num_samples=4, executor=executor)
    executor.close()
    assert sorted(logs(r)["aipo/faults"] for r in responses) == [0.0, 0.0, 1.0, 1.0]
    for response in responses:
        # Of an episode that was cut the prompt is left, in which nothing bears loss.
        faulted = logs(response)["aipo/faults"] == 1.0
        assert (response["action_ranges"] == []) is faulted
        assert (max(response["rollout_log_probs"]) < 1) is faulted  # type: ignore[type-var]
        assert response["truncated"] is False
    (file,) = tmp_path.glob("rollouts-*.jsonl")
    recorded = sorted(read_traces(file), key=lambda t: (t.stop_reason == "answer", t.num_consults))
    assert [t.stop_reason for t in recorded] == ["error", "error", "answer", "answer"]
    assert [str(t.metadata.get("error", ""))[:33] for t in recorded] == ["ServiceError: OpenRLHF's engine w"] * 2 + [
        ""
    ] * 2
    assert [t.num_consults for t in recorded[:2]] == [0, 1]


def test_repair_11_a_fault_of_the_grader_ends_one_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = config()
    executor = EpisodeExecutor(rules)
    tasks = executor._game(False, CODEC.tokenizer).tasks
    grade, answers = tasks.grade, itertools.count()

    def broken(task: Task, answer: str) -> Grade:
        if next(answers) == 1:
            raise GradingError("the worker died")
        return grade(task, answer)

    monkeypatch.setattr(tasks, "grade", broken)
    responses = play(ScriptedEngine(CODEC, ask_then_answer), rules, num_samples=3, executor=executor)
    assert sorted(logs(r)["aipo/faults"] for r in responses) == [0.0, 0.0, 1.0]


def test_repair_11_an_engine_that_died_ends_the_run() -> None:
    """After so many faults in a row that nothing can be left of it."""
    executor = EpisodeExecutor(config())
    play(FlakyEngine(lambda turn, number: True), config(), num_samples=63, executor=executor)
    play(FlakyEngine(lambda turn, number: False), config(), executor=executor)
    play(FlakyEngine(lambda turn, number: True), config(), num_samples=63, executor=executor)
    with pytest.raises(ServiceError, match="gave none"):
        play(FlakyEngine(lambda turn, number: True), config(), executor=executor)


def test_repair_09_the_outcome_is_reported_beside_the_reward() -> None:
    rules = config(env_options={"consult_cost": 0.25})
    (response,) = play(ScriptedEngine(CODEC, ask_then_answer), rules, task=3)
    assert (response["reward"], logs(response)["aipo/outcome"]) == (-0.25, 0.0)


class Generator:
    """OpenRLHF's `SamplesGenerator`, as far as prompts pass through it."""

    def __init__(self, size: int) -> None:
        self.prompts_dataloader = range(size)
        self.sent: list[str] = []

    def _dispatch_prompts_to_vllm(self, prompts: list[str], labels: list[str], **settings: object) -> list[str]:
        assert settings == {"images": None, "top_p": 1.0}
        self.sent += labels
        return prompts


def test_repair_11_helpers_have_other_seeds_in_every_epoch() -> None:
    """And those that they would have had in a run that goes on."""
    generator, resumed = Generator(3), Generator(3)
    epochs, again = Epochs(generator), Epochs(resumed)

    def draw(from_: Generator, *tasks: int, evaluation: bool = False) -> None:
        labels = [PromptLabel(task, evaluation).to_text() for task in tasks]
        assert from_._dispatch_prompts_to_vllm(["p"] * len(tasks), labels, images=None, top_p=1.0) == ["p"] * len(tasks)

    draw(generator, 2, 0)
    draw(generator, 7, 7, evaluation=True)
    draw(generator, 1, 0)
    draw(generator, 1)
    assert epochs.consumed == 5
    again.consumed = 4
    draw(resumed, 1, 2, 0)
    expected = [(2, 0), (0, 0), (7, 0), (7, 0), (1, 0), (0, 1), (1, 1)]
    assert [(which.task, which.epoch) for which in map(PromptLabel.from_text, generator.sent)] == expected
    assert [PromptLabel.from_text(label).epoch for label in resumed.sent] == [1, 1, 2]

    def seeds(label: str) -> list[int]:
        executor = EpisodeExecutor(config())
        game = executor._game(False, CODEC.tokenizer)
        game.agents["knowledge"] = helper = Recorder("4", "knowledge")
        prompt = training_game(config()).make_episode(PromptLabel.from_text(label).task).transcript
        engine = ScriptedEngine(CODEC, ask_then_answer)
        asyncio.run(generate_responses(executor, engine, prompt, label, Params(), 400, 2))
        return sorted(request.seed for request in helper.requests)

    first, second = generator.sent[4], generator.sent[6]  # task 1 in both epochs
    assert seeds(second) == seeds(resumed.sent[0])
    assert len({*seeds(first), *seeds(second)}) == 4


def test_a_foreign_prompt_is_refused() -> None:
    engine = ScriptedEngine(CODEC, ask_then_answer)
    run = generate_responses(EpisodeExecutor(config()), engine, "1+1=", PromptLabel(0).to_text(), Params(), 400, 1)
    with pytest.raises(ConfigurationError, match="exported"):
        asyncio.run(run)


def test_another_tokenizer_in_the_middle_of_a_run_is_refused() -> None:
    executor = EpisodeExecutor(config())
    play(ScriptedEngine(CODEC, ask_then_answer), config(), executor=executor)
    other = build_tokenizer()
    other.add_tokens(["zzz"])
    with pytest.raises(ConfigurationError, match="tokenizer changed"):
        play(ScriptedEngine(TransformersCodec(other), ask_then_answer), config(), executor=executor)


def test_traces_are_written(tmp_path: Path) -> None:
    rules = config(traces=tmp_path, solo_share=0.5)
    executor = EpisodeExecutor(rules)
    responses = play(ScriptedEngine(CODEC, ask_then_answer), rules, num_samples=2, executor=executor)
    executor.close()
    (file,) = tmp_path.glob("rollouts-*.jsonl")
    trajectories = sorted(read_traces(file), key=lambda t: t.sample)
    assert [t.token_ids for t in trajectories] == [r["observation_tokens"] for r in responses]
    assert [t.assisted for t in trajectories] == [False, True]
    assert json.loads(file.read_text().splitlines()[0])["metadata"]["evaluation"] is False


def test_no_tokens_left_is_no_request() -> None:
    from aipo_env import TurnRequest

    engine = ScriptedEngine(CODEC, ask_then_answer)
    action = asyncio.run(EngineTurns(engine, Params()).act(TurnRequest("", (1,), max_tokens=0)))
    assert (action.ids, action.finish_reason, engine.calls) == ((), "length", [])
