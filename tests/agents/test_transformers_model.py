from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from aipo_agents.backends import ChatBackend, ChatSampling, CompletionBackend, CompletionSampling, Generation, Message
from aipo_agents.backends.drawing import draw
from aipo_agents.backends.row_batch import RowBatch
from aipo_agents.backends.transformers_model import TransformersModel
from aipo_env.errors import ConfigurationError, ServiceError
from tests.algorithms.tiny import ARCHITECTURES, HYBRIDS, tiny_policy, tokenizer

CHAT_TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}>"


def tiny(architecture: str = "llama", *, max_batch: int = 16, max_wait_ms: float = 5.0) -> TransformersModel:
    policy = tiny_policy(architecture)
    return TransformersModel(policy.model, policy.tokenizer, name="tiny", max_batch=max_batch, max_wait_ms=max_wait_ms)


def encode(text: str) -> list[int]:
    return [1, *tokenizer().encode(text, add_special_tokens=False)]


async def complete_all(
    backend: TransformersModel, requests: Sequence[tuple[str, CompletionSampling]]
) -> list[Generation]:
    try:
        return await asyncio.gather(*(backend.complete(encode(text), sampling) for text, sampling in requests))
    finally:
        await backend.aclose()


def forward_logprobs(
    architecture: str, prompt: str, ids: Sequence[int], temperature: float, top_p: float
) -> list[float]:
    """What a plain forward pass over the whole sequence says of the sampled ids."""
    context = encode(prompt)
    with torch.no_grad():
        logits = tiny_policy(architecture).model(input_ids=torch.tensor([[*context, *ids]])).logits[0].double()
    rows = logits[len(context) - 1 : -1] / temperature
    result = []
    for row, token in zip(rows, ids, strict=True):
        probabilities = row.softmax(dim=-1)
        if top_p < 1:
            # The definition, token by token: the most likely ones until their sum reaches top_p.
            kept, total = set(), 0.0
            for i in probabilities.argsort(descending=True).tolist():
                kept.add(i)
                total += float(probabilities[i])
                if total >= top_p:
                    break
            assert token in kept
            probabilities = probabilities / sum(float(probabilities[i]) for i in kept)
        result.append(float(probabilities[token].log()))
    return result


PROMPTS = ["1+2=", "a much longer prompt than that: 473@128=", "x", "3*4=", "1+2="]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.6)])
def test_logprobs_are_those_of_a_plain_forward(architecture: str, temperature: float, top_p: float) -> None:
    requests = [
        (prompt, CompletionSampling(temperature=temperature, top_p=top_p, max_tokens=20, seed=i))
        for i, prompt in enumerate(PROMPTS)
    ]
    for (prompt, _), generation in zip(requests, asyncio.run(complete_all(tiny(architecture), requests)), strict=True):
        assert generation.token_ids is not None
        expected = forward_logprobs(architecture, prompt, generation.token_ids, temperature, top_p)
        assert generation.logprobs == pytest.approx(expected, abs=2e-5)
        assert generation.usage is not None
        assert (generation.usage.prompt_tokens, generation.usage.completion_tokens) == (
            len(encode(prompt)),
            len(generation.token_ids),
        )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_seeded_sample_does_not_depend_on_its_batch(architecture: str) -> None:
    requests = [
        (
            prompt,
            CompletionSampling(
                temperature=0.6 + 0.2 * i, max_tokens=12 + 6 * i, seed=7 + i, top_p=0.9 if i % 2 else 1.0
            ),
        )
        for i, prompt in enumerate(PROMPTS)
    ]
    together = asyncio.run(complete_all(tiny(architecture), requests))
    reversed_ = asyncio.run(complete_all(tiny(architecture), requests[::-1]))[::-1]
    narrow = asyncio.run(complete_all(tiny(architecture, max_batch=2), requests))
    alone = [asyncio.run(complete_all(tiny(architecture), [request]))[0] for request in requests]
    for generations in (reversed_, narrow, alone):
        assert [g.token_ids for g in generations] == [g.token_ids for g in together]
        for mine, other in zip(generations, together, strict=True):
            assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    assert len({g.token_ids for g in together}) == len(PROMPTS)


def test_a_request_joins_a_batch_that_runs_and_gets_its_own_sample() -> None:
    # Greedy, the tiny model repeats itself without an end.
    late, early = CompletionSampling(max_tokens=15, seed=3), CompletionSampling(max_tokens=480, temperature=0.0)
    alone = asyncio.run(complete_all(tiny(), [("3*4=", late)]))[0]

    async def staggered() -> Generation:
        backend = tiny()
        running = asyncio.create_task(backend.complete(encode("a long running one"), early))
        await asyncio.sleep(0.1)
        joined = await backend.complete(encode("3*4="), late)
        # It did not wait for the one that ran.
        assert not running.done()
        running.cancel()
        await backend.aclose()
        return joined

    assert asyncio.run(staggered()).token_ids == alone.token_ids


@pytest.mark.filterwarnings("ignore:.*fast path is not available.*")
@pytest.mark.parametrize("architecture", HYBRIDS)
def test_repair_14_models_with_states_are_helpers_too(architecture: str) -> None:
    """Rows share their prompt, leave at different times, and join while others run."""
    requests = [(PROMPTS[i], CompletionSampling(max_tokens=4 + 3 * i, seed=i)) for i in range(len(PROMPTS))]
    found = asyncio.run(complete_all(tiny(architecture, max_batch=3), requests))
    for (prompt, _), generation in zip(requests, found, strict=True):
        assert generation.token_ids is not None
        assert generation.logprobs is not None
        expected = forward_logprobs(architecture, prompt, generation.token_ids, 1.0, 1.0)
        assert generation.logprobs == pytest.approx(expected, abs=1e-4)


def test_draws_follow_the_distribution_and_each_row_its_own_settings() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).repeat(4000, 1)
    generators = [torch.Generator().manual_seed(i) for i in range(4000)]
    ids, logprobs = draw(logits, [2.0] * 4000, [1.0] * 4000, generators)
    expected = (logits[0] / 2).softmax(dim=-1)
    assert torch.bincount(torch.tensor(ids), minlength=4) / 4000 == pytest.approx(expected, abs=0.03)
    assert logprobs[:50] == pytest.approx([float(expected[i].log()) for i in ids[:50]], abs=1e-6)
    # Greedy, a nucleus of one token, and a nucleus of two beside each other.
    rows = [draw(logits[:3], [0.0, 1.0, 1.0], [1.0, 0.5, 0.7], generators[i : i + 3]) for i in range(200)]
    assert all(ids[0] == 2 and logprobs[0] == 0.0 for ids, logprobs in rows)
    assert all(ids[1] == 2 and logprobs[1] == pytest.approx(0.0, abs=1e-6) for ids, logprobs in rows)
    assert {ids[2] for ids, _ in rows} == {1, 2}
    likely = float(torch.tensor([1.0, 2.0]).log_softmax(dim=-1)[1])
    assert all(logprobs[2] == pytest.approx(likely, abs=1e-6) for ids, logprobs in rows if ids[2] == 2)


def test_greedy_is_the_most_likely_token_with_probability_one() -> None:
    [generation] = asyncio.run(complete_all(tiny(), [("1+2=", CompletionSampling(temperature=0.0, max_tokens=6))]))
    assert generation.token_ids is not None
    context = encode("1+2=")
    for token in generation.token_ids:
        with torch.no_grad():
            assert int(tiny_policy().model(input_ids=torch.tensor([context])).logits[0, -1].argmax()) == token
        context.append(token)
    assert generation.logprobs == (0.0,) * len(generation.token_ids)


def test_without_a_seed_two_calls_differ_and_global_random_state_is_untouched() -> None:
    before = torch.random.get_rng_state()
    first, second = asyncio.run(complete_all(tiny(), [("1+2=", CompletionSampling(max_tokens=40))] * 2))
    assert first.token_ids != second.token_ids
    assert torch.equal(torch.random.get_rng_state(), before)


def ending(stop: tuple[str, ...], max_tokens: int = 300) -> list[Generation]:
    requests = [("1+2=", CompletionSampling(max_tokens=max_tokens, seed=i, stop=stop)) for i in range(12)]
    return asyncio.run(complete_all(tiny(), requests))


def test_the_end_token_is_the_last_id_and_no_text() -> None:
    generations = ending(())
    stopped = [g for g in generations if g.finish_reason == "stop"]
    assert stopped
    for generation in stopped:
        assert generation.token_ids is not None
        assert generation.token_ids.index(2) == len(generation.token_ids) - 1
        assert "<eos>" not in generation.text
        assert len(generation.logprobs or ()) == len(generation.token_ids)


def test_a_stop_id_ends_a_completion_as_its_last() -> None:
    free = CompletionSampling(max_tokens=40, temperature=0.0)
    [whole] = asyncio.run(complete_all(tiny(), [("1+2=", free)]))
    assert whole.token_ids is not None
    stop = whole.token_ids[1]
    [cut] = asyncio.run(complete_all(tiny(), [("1+2=", dataclasses.replace(free, stop_ids=(stop,)))]))
    assert (cut.token_ids, cut.finish_reason) == (whole.token_ids[: whole.token_ids.index(stop) + 1], "stop")


def test_a_stop_string_ends_a_completion_and_belongs_to_it() -> None:
    # Single characters, a string across tokens, and a tag that is one special token.
    free = ending(())
    pair = next(g.text[1:3] for g in free if len(g.text) > 3 and "<" not in g.text[:3])
    for stop in (("7", "q"), (pair,), ("</consult>",)):
        stopped = 0
        for generation, unstopped in zip(ending(stop), free, strict=True):
            assert generation.token_ids is not None
            assert unstopped.token_ids is not None
            # Stopping changes nothing before the end.
            assert generation.token_ids == unstopped.token_ids[: len(generation.token_ids)]
            if any(text in generation.text for text in stop):
                stopped += 1
                assert generation.text.endswith(stop)
                assert generation.finish_reason == "stop"
                assert sum(generation.text.count(text) for text in stop) == 1
            else:
                assert generation.token_ids == unstopped.token_ids
        assert stopped, stop


def test_the_limit_of_tokens_and_the_context_end_a_completion() -> None:
    async def play() -> None:
        backend = tiny()
        sampling = CompletionSampling(max_tokens=3, seed=1, temperature=0.5)
        generation = await backend.complete(encode("1+2="), sampling)
        assert (len(generation.token_ids or ()), generation.finish_reason) == (3, "length")
        # The tiny model has a context of 512.
        generation = await backend.complete([20] * 510, CompletionSampling(max_tokens=50, temperature=0.0))
        assert (len(generation.token_ids or ()), generation.finish_reason) == (2, "length")
        with pytest.raises(ServiceError, match="context of 512 tokens and the prompt has 512"):
            await backend.complete([20] * 512, sampling)
        with pytest.raises(ConfigurationError, match="another tokenizer"):
            await backend.complete([20, 10_000], sampling)
        with pytest.raises(ConfigurationError, match="0 ids"):
            await backend.complete([], sampling)
        await backend.aclose()

    asyncio.run(play())


def test_chat_uses_the_template_and_cuts_the_stop_string() -> None:
    tokens = tokenizer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "chat_template", CHAT_TEMPLATE)

        async def play() -> None:
            backend = tiny()
            messages = [Message("system", "be brief"), Message("user", "1+2=")]
            sampling = ChatSampling(temperature=1.0, max_tokens=200, seed=5, logprobs=True)
            generation = await backend.chat(messages, sampling)
            ids = tokens.encode("[system]be brief[user]1+2=>", add_special_tokens=False)
            same = await backend.complete(ids, CompletionSampling(max_tokens=200, seed=5))
            assert (generation.token_ids, generation.text) == (same.token_ids, same.text)
            letter = same.text[5]
            cut = await backend.chat(
                messages, ChatSampling(temperature=1.0, max_tokens=200, seed=5, logprobs=True, stop=(letter,))
            )
            assert cut.text == same.text[: same.text.index(letter)]
            assert cut.finish_reason == "stop"
            assert cut.token_ids is not None
            assert same.token_ids is not None
            assert cut.token_ids == same.token_ids[: len(cut.token_ids)]
            silent = await backend.chat(messages, ChatSampling(max_tokens=4))
            assert (silent.token_ids, silent.logprobs) == (None, None)
            await backend.aclose()

        asyncio.run(play())


def test_a_chat_without_a_template_says_so() -> None:
    with pytest.raises(ConfigurationError, match="chat template"):
        asyncio.run(tiny().chat([Message("user", "hello")], ChatSampling()))


def test_a_cancelled_request_frees_its_slot() -> None:
    async def play() -> None:
        policy = tiny_policy()
        fed = Fed(policy.model)
        backend = TransformersModel(policy.model, policy.tokenizer, name="tiny", max_batch=1)
        endless = CompletionSampling(max_tokens=500, temperature=0.0)
        running = asyncio.create_task(backend.complete(encode("1+2="), endless))
        queued = asyncio.create_task(backend.complete(encode("2+2="), endless))
        waiting = asyncio.create_task(backend.complete(encode("x"), CompletionSampling(max_tokens=2, seed=1)))
        await asyncio.sleep(0.1)
        assert not running.done()
        before = len(fed.passes)
        running.cancel()
        queued.cancel()
        assert len((await asyncio.wait_for(waiting, 5)).token_ids or ()) <= 2
        assert len(fed.passes) - before < 20
        assert [type(r) for r in await asyncio.gather(running, queued, return_exceptions=True)] == [
            asyncio.CancelledError
        ] * 2
        await backend.aclose()

    asyncio.run(play())


def test_closing_fails_what_runs_ends_the_thread_and_may_be_repeated() -> None:
    before = set(threading.enumerate())

    async def play() -> None:
        backend = tiny(max_batch=1)
        endless = CompletionSampling(max_tokens=500, temperature=0.0)
        tasks = [asyncio.create_task(backend.complete(encode(text), endless)) for text in ("1+2=", "queued")]
        await asyncio.sleep(0.05)
        await backend.aclose()
        await backend.aclose()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, ServiceError)
            assert not outcome.transient
        with pytest.raises(ServiceError, match="closed"):
            await backend.complete(encode("1"), endless)

    asyncio.run(play())
    assert {t.name for t in set(threading.enumerate()) - before if t.name == "aipo-transformers"} == set()


def test_requests_are_batched_and_several_loops_may_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    step = RowBatch.step

    def count(self: RowBatch, ids: Sequence[int]) -> torch.Tensor:
        rows.append(len(ids))
        return step(self, ids)

    monkeypatch.setattr(RowBatch, "step", count)
    backend = tiny(max_wait_ms=200.0, max_batch=6)
    sampling = CompletionSampling(max_tokens=8, temperature=0.0)
    results: list[Generation] = []

    def ask(text: str) -> None:
        results.append(asyncio.run(backend.complete(encode(text), sampling)))

    threads = [threading.Thread(target=ask, args=(f"{i}+1=",)) for i in range(6)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert time.monotonic() - started < 20
    assert len(results) == 6
    # Six rows of at most seven steps went through together.
    assert rows[0] == 6
    assert len(rows) <= 7
    asyncio.run(backend.aclose())


class Fed:
    """Counts the tokens that go through a model."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.passes: list[tuple[int, int]] = []
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: torch.nn.Module, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        self.passes.append(tuple(kwargs["input_ids"].shape))  # type: ignore[arg-type]

    @property
    def tokens(self) -> int:
        return sum(rows * width for rows, width in self.passes)


@pytest.mark.filterwarnings("ignore:.*fast path is not available.*")
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "qwen3_next"])
def test_a_turn_behind_a_reply_computes_the_reply_alone(architecture: str) -> None:
    """And samples what it would sample if all of it were computed again."""
    policy = tiny_policy(architecture)
    fed = Fed(policy.model)

    async def play() -> None:
        backend = TransformersModel(policy.model, policy.tokenizer, name="tiny")
        turn = CompletionSampling(max_tokens=300, temperature=1.5, seed=4, stop=("7", "q"))
        other = asyncio.create_task(backend.complete(encode("a neighbour"), CompletionSampling(max_tokens=90, seed=1)))
        for prompt in ("1+2=", "another one, a longer one"):
            ids = encode(prompt)
            first = await backend.complete(ids, turn)
            assert first.finish_reason == "stop"
            reply = encode("5+6=11;8")
            whole = [*ids, *(first.token_ids or ()), *reply]
            before = len(fed.passes)
            second = await backend.complete(whole, CompletionSampling(max_tokens=20, seed=6))
            joined = [p for p in fed.passes[before:] if p[1] > 1]
            # The last token of a turn was sampled, and never computed.
            assert joined == [(1, 1 + len(reply))]
            assert second.token_ids is not None
            expected = tiny(architecture)
            again = await expected.complete(whole, CompletionSampling(max_tokens=20, seed=6))
            assert (second.token_ids, second.logprobs) == (again.token_ids, pytest.approx(again.logprobs, abs=2e-5))
            await expected.aclose()
        await other
        # What went on from a kept turn left it as it was.
        assert (await backend.complete(whole, CompletionSampling(max_tokens=20, seed=6))).token_ids == again.token_ids
        await backend.aclose()

    asyncio.run(play())


def test_a_prompt_is_computed_once_for_all_its_samples() -> None:
    """Whether they come together or later, when others have grown out of it."""
    policy = tiny_policy()
    fed = Fed(policy.model)
    sampling = [CompletionSampling(max_tokens=6, seed=i) for i in range(12)]

    async def play() -> list[Generation]:
        backend = TransformersModel(policy.model, policy.tokenizer, name="tiny", max_batch=4)
        found = await asyncio.gather(*(backend.complete(encode("1+2="), each) for each in sampling))
        await backend.aclose()
        return found

    found = asyncio.run(play())
    assert [width for _, width in fed.passes if width > 1] == [len(encode("1+2="))]
    alone = [asyncio.run(complete_all(tiny(), [("1+2=", each)]))[0] for each in sampling]
    assert [g.token_ids for g in found] == [g.token_ids for g in alone]


def test_what_was_kept_is_forgotten_when_the_weights_change() -> None:
    policy = tiny_policy()
    sampling, stop = CompletionSampling(max_tokens=20, seed=6), CompletionSampling(max_tokens=60, seed=4, stop=("7",))

    def optimizer_step() -> None:
        for parameter in policy.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        torch.optim.AdamW(policy.model.parameters(), lr=0.1).step()

    def other_storage() -> None:
        policy.model.lm_head.weight.data = torch.randn_like(policy.model.lm_head.weight)

    async def play() -> None:
        backend = TransformersModel(policy.model, policy.tokenizer, name="tiny")
        other = tiny_policy(seed=3).model.state_dict()
        for change in (optimizer_step, lambda: policy.model.load_state_dict(other), other_storage):
            ids = encode("1+2=")
            turn = await backend.complete(ids, stop)
            whole = [*ids, *(turn.token_ids or ()), 20]
            change()
            for prompt in (ids, whole):
                found = await backend.complete(prompt, sampling)
                fresh = TransformersModel(policy.model, policy.tokenizer, name="tiny")
                expected = await fresh.complete(prompt, sampling)
                assert (found.token_ids, found.logprobs) == (
                    expected.token_ids,
                    pytest.approx(expected.logprobs, abs=1e-5),
                )
                await fresh.aclose()
        await backend.aclose()

    asyncio.run(play())


def test_forgetting_frees_what_was_kept() -> None:
    policy = tiny_policy()
    fed = Fed(policy.model)

    async def play() -> None:
        backend = TransformersModel(policy.model, policy.tokenizer, name="tiny")
        running = asyncio.create_task(
            backend.complete(encode("1+2="), CompletionSampling(max_tokens=40, temperature=0))
        )
        await asyncio.sleep(0.02)
        backend.forget()  # not while something runs
        await running
        for forgotten in (False, True):
            before = len(fed.passes)
            await backend.complete(encode("1+2="), CompletionSampling(max_tokens=4, temperature=0))
            assert any(width > 1 for _, width in fed.passes[before:]) is forgotten
            backend.forget()
        await backend.aclose()

    asyncio.run(play())


def test_what_is_being_joined_is_not_forgotten() -> None:
    """Neither waiting nor running yet: whoever forgets just then takes nothing away from it."""
    policy = tiny_policy()
    sampling = CompletionSampling(max_tokens=4, temperature=0)

    async def play(forgets: bool) -> tuple[int, ...]:
        backend = TransformersModel(policy.model, policy.tokenizer, name="tiny")
        handle = policy.model.register_forward_pre_hook(lambda *_: backend.forget() if forgets else None)
        try:
            return (await backend.complete(encode("1+2="), sampling)).token_ids or ()
        finally:
            handle.remove()
            await backend.aclose()

    assert asyncio.run(play(True)) == asyncio.run(play(False)) != ()


def test_who_asks_again_without_waiting_joins_at_once() -> None:
    """So what stands beside what is no matter of time: eight conversations of three turns take their steps together."""
    policy = tiny_policy()
    fed = Fed(policy.model)

    async def converse(backend: TransformersModel, number: int) -> None:
        ids = encode(f"{number}+1=")
        for turn in range(3):
            sampling = CompletionSampling(max_tokens=5, temperature=0.0)
            ids += (await backend.complete(ids, sampling)).token_ids or ()
            for _ in range(number):
                await asyncio.sleep(0)
            ids += [30 + turn]

    async def play() -> None:
        backend = TransformersModel(policy.model, policy.tokenizer, name="tiny", max_wait_ms=0.0)
        await asyncio.gather(*(converse(backend, number) for number in range(8)))
        await backend.aclose()

    asyncio.run(play())
    assert [p for p in fed.passes if p[1] == 1] == [(8, 1)] * 12
    assert [rows for rows, width in fed.passes if width > 1] == [8, 8, 8]


def test_the_thread_ends_when_nothing_is_asked_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aipo_agents.backends.transformers_model._IDLE", 0.05)
    backend = tiny()
    for _ in range(2):
        request = backend.complete(encode("1+2="), CompletionSampling(max_tokens=3, seed=1))
        assert asyncio.run(request).token_ids
        deadline = time.monotonic() + 10
        while any(t.name == "aipo-transformers" for t in threading.enumerate()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(t.name == "aipo-transformers" for t in threading.enumerate())


def test_an_error_of_the_model_reaches_the_caller_and_the_thread_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        backend = tiny()
        with monkeypatch.context() as patch:

            def out_of_memory(self: RowBatch, ids: Sequence[int]) -> torch.Tensor:
                raise MemoryError("no room")

            patch.setattr(RowBatch, "step", out_of_memory)
            with pytest.raises(MemoryError, match="no room"):
                await backend.complete(encode("1+2="), CompletionSampling(max_tokens=5, temperature=0.0))
        generation = await backend.complete(encode("1+2="), CompletionSampling(max_tokens=5, temperature=0.0))
        assert generation.token_ids
        await backend.aclose()

    asyncio.run(play())


def test_a_directory_loads_by_itself(tmp_path: Path) -> None:
    tiny_policy().save(tmp_path)
    backend = TransformersModel(str(tmp_path))
    assert isinstance(backend, ChatBackend)
    assert isinstance(backend, CompletionBackend)
    assert backend.model == str(tmp_path)
    request = ("1+2=", CompletionSampling(max_tokens=5, seed=1))
    [loaded] = asyncio.run(complete_all(backend, [request]))
    [given] = asyncio.run(complete_all(tiny(), [request]))
    assert (loaded.token_ids, loaded.text) == (given.token_ids, given.text)


def test_limits_and_missing_tokenizers_are_refused() -> None:
    policy = tiny_policy()
    with pytest.raises(ConfigurationError, match="max_batch"):
        TransformersModel(policy.model, policy.tokenizer, max_batch=0)
    with pytest.raises(ConfigurationError, match="max_wait_ms"):
        TransformersModel(policy.model, policy.tokenizer, max_wait_ms=-1.0)
    with pytest.raises(ConfigurationError, match="tokenizer"):
        TransformersModel(policy.model)
