"""Several sequences in a row: how rows are filled, that nothing changes by it, and which models are refused."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aipo_env import Segment, Source, TrainingSample, Trajectory, to_training_sample
from aipo_env.errors import ConfigurationError
from algorithms import logprobs
from algorithms.batch import MicroBatch, micro_batches
from algorithms.config import ObjectiveConfig
from algorithms.logprobs import token_logprobs
from algorithms.packing import require_packing
from algorithms.policies import Policy
from algorithms.policies.adapters import add_adapter
from algorithms.precision import lower, recomputing
from algorithms.train_config import LoraConfig
from algorithms.trainer import Trainer
from tests.algorithms.test_trainer import HELPERS, config, make, weights
from tests.algorithms.tiny import ARCHITECTURES, HYBRIDS, tiny_policy

LENGTHS = [7, 3, 12, 4, 9, 5, 3, 8]


def sample(number: int, length: int) -> TrainingSample:
    """A prompt of two tokens, then tokens of helper and policy in turn."""
    ids = [10 + (7 * number + 3 * place) % 50 for place in range(length)]
    behind = [
        Segment(Source.POLICY if place % 2 else Source.AGENT, "", (token,), (-0.01 * token,), mu_known=True)
        for place, token in enumerate(ids[2:])
    ]
    return to_training_sample(Trajectory("e", "t", [Segment(Source.PROMPT, "", tuple(ids[:2])), *behind]))


SAMPLES = [sample(number, length) for number, length in enumerate(LENGTHS)]


def parts_of(size: int, *, packing: bool, samples: list[TrainingSample] = SAMPLES) -> list[MicroBatch]:
    advantages_S = np.arange(1.0, len(samples) + 1)
    return micro_batches(
        samples, advantages_S, size, pad_id=0, agent_advantages_S=-advantages_S, device="cpu", packing=packing
    )


def tokens_by_sequence(parts: list[MicroBatch], values: list[Tensor]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for part, values_T in zip(parts, values, strict=True):
        for index, value in zip(part.sequence_ids_T.tolist(), values_T.tolist(), strict=True):
            found.setdefault(index, []).append(value)
    return found


def test_rows_are_filled_and_hold_each_sequence_whole() -> None:
    [part] = parts_of(8, packing=True)
    assert part.position_ids_BL is not None
    assert part.prompt_lengths_B is None
    # First fit, the longest first: 12 | 9 + 3 | 8 + 4 | 7 + 5 | 3, and the fullest rows last.
    starts = [[place for place, position in enumerate(row) if position == 0] for row in part.position_ids_BL.tolist()]
    assert part.attention_mask_BL.sum(dim=1).tolist() == [3, 12, 12, 12, 12]
    assert starts == [[0, *range(3, 12)], [0], [0, 9], [0, 8], [0, 7]]  # each place of padding is a sequence of its own
    assert part.position_ids_BL[2].tolist() == [*range(9), *range(3)]
    held = [6, 2, 4, 1, 7, 3, 0, 5]
    ids = np.concatenate([SAMPLES[index].token_ids for index in held])
    assert part.input_ids_BL[part.attention_mask_BL.bool()].tolist() == ids.tolist()
    [alone] = parts_of(8, packing=False)
    for name in ("sources_T", "behaviour_logprobs_T", "advantages_T"):
        packed, plain = (tokens_by_sequence([one], [getattr(one, name)]) for one in (part, alone))
        assert packed == plain
        assert sorted(packed) == list(range(8))
    assert [tuple(one.input_ids_BL.shape) for one in parts_of(2, packing=True)] == [(2, 12), (2, 12), (1, 12)]


def test_rows_that_hold_one_sequence_each_are_plain_ones() -> None:
    same = [sample(number, 6) for number in range(4)]
    for packed, plain in zip(*(parts_of(2, packing=on, samples=same) for on in (True, False)), strict=True):
        assert packed.position_ids_BL is plain.position_ids_BL is None
        assert packed.prompt_lengths_B == [2, 2]
        assert torch.equal(packed.input_ids_BL, plain.input_ids_BL)
    assert parts_of(2, packing=True, samples=[]) == []


def values_and_gradients(policy: Policy, parts: list[MicroBatch]) -> tuple[dict[int, list[float]], dict[str, Tensor]]:
    """Of a sum, of the size of a loss, in which tokens count differently."""
    policy.model.zero_grad()
    values = []
    for part in parts:
        logprobs_T = token_logprobs(
            policy.model, part.input_ids_BL, part.attention_mask_BL, part.selected_BL, temperature=0.7,
            prompt_lengths_B=part.prompt_lengths_B, position_ids_BL=part.position_ids_BL,
        ).logprobs_T  # fmt: skip
        (logprobs_T * part.advantages_T * part.behaviour_logprobs_T / 10).sum().backward()  # type: ignore[no-untyped-call]
        values.append(logprobs_T.detach())
    gradients = {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}
    return tokens_by_sequence(parts, values), gradients


@pytest.mark.parametrize("way", ["plain", "eager", "chunked head", "recomputed", "adapter"])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "qwen3", "gemma3"])
def test_packing_changes_no_value_and_no_gradient(architecture: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy(architecture)
    if way == "eager":
        policy.model.set_attn_implementation("eager")
    if way == "chunked head":
        monkeypatch.setattr(logprobs, "CHUNKED_FROM", 1)
    if way == "adapter":
        add_adapter(policy, LoraConfig(rank=3), seed=0)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    require_packing(policy)
    values, gradients = values_and_gradients(policy, parts_of(1, packing=False))
    for size in (1, 2, 8):
        with recomputing(policy.model, way == "recomputed"):
            packed, found = values_and_gradients(policy, parts_of(size, packing=True))
        for index, expected in values.items():
            assert packed[index] == pytest.approx(expected, abs=1e-5)
        assert found.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
def test_an_update_is_the_same_packed(tmp_path: Path, kl_coef: float) -> None:
    found = []
    for packing in (False, True):
        trainer = make(tmp_path, packing=packing, objective=ObjectiveConfig(kl_coef=kl_coef), samples_per_prompt=8)
        packed_parts: list[bool] = []

        def seen(model: Any, part: MicroBatch, trainer: Trainer = trainer, packed_parts: Any = packed_parts) -> Tensor:
            packed_parts.append(part.position_ids_BL is not None)
            return type(trainer)._token_logprobs(trainer, model, part)

        trainer._token_logprobs = seen  # type: ignore[method-assign]
        metrics, _ = trainer.train_step()
        assert any(packed_parts) is packing
        found.append((weights(trainer), metrics))
    (plain, metrics), (packed, others) = found
    for name in ("grad_norm", "tokens/trained", "learning_rows"):
        assert others[name] == pytest.approx(metrics[name], rel=1e-4)
    for name, value in plain.items():
        torch.testing.assert_close(packed[name], value, atol=2e-5, rtol=1e-3, msg=name)


def test_a_run_may_go_on_packed(tmp_path: Path) -> None:
    make(tmp_path, steps=2).train()
    again = make(tmp_path, steps=3, packing=True)
    assert [row["step"] for row in again.train()] == [0, 1, 2, 3]


@pytest.mark.filterwarnings("ignore:.*fast path is not available.*")
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("architecture", HYBRIDS)
def test_models_that_carry_a_state_along_the_row_are_refused(architecture: str, bfloat16: bool, tmp_path: Path) -> None:
    """Also where the leak of random weights is below what passes for rounding, as that of LFM2 is."""
    policy = tiny_policy(architecture)
    if bfloat16:
        lower(policy.model)
    with pytest.raises(ConfigurationError, match=rf"{architecture} \(.*differ by .* and depend on the sequence before"):
        require_packing(policy)
    with pytest.raises(ConfigurationError, match="Leave packing out"):
        Trainer(config(tmp_path, packing=True), policy=policy, agents=HELPERS)


@contextlib.contextmanager
def with_forward(policy: Policy, forward: Any) -> Iterator[None]:
    plain = policy.model.forward

    def changed(*args: Any, **options: Any) -> Any:
        return forward(plain, **options)

    changed.__signature__ = inspect.signature(plain)  # type: ignore[attr-defined]
    policy.model.forward = changed
    yield
    policy.model.forward = plain


def test_what_the_probe_tells_apart() -> None:
    policy = tiny_policy()

    def deaf(plain: Any, position_ids: Tensor | None = None, **options: Any) -> Any:
        return plain(**options)

    def moved(plain: Any, position_ids: Tensor | None = None, **options: Any) -> Any:
        output = plain(position_ids=position_ids, **options)
        # As rounding does not: each sequence alone has other log-probabilities, and sees no other one.
        output.logits = output.logits * (1.0 if position_ids is None else 1.01)
        return output

    with with_forward(policy, deaf), pytest.raises(ConfigurationError, match="depend on the sequence before"):
        require_packing(policy)
    with with_forward(policy, moved), pytest.raises(ConfigurationError, match=r"is allowed\. Leave packing out"):
        require_packing(policy)
    require_packing(policy)
    assert not policy.model.get_input_embeddings()._forward_hooks
    assert not policy.model.training
    policy.model.train()
    require_packing(policy)
    assert policy.model.training


def test_models_whose_attention_does_not_go_by_positions_are_refused() -> None:
    policy = tiny_policy()
    policy.model.config.layer_types = ["chunked_attention", "full_attention"]
    with pytest.raises(ConfigurationError, match=r"unlike llama \(llama, chunked_attention, full_attention\)"):
        require_packing(policy)
    policy.model.config.layer_types = None

    def forward(input_ids: Tensor, attention_mask: Tensor, use_cache: bool = False) -> None:
        raise AssertionError

    policy.model.forward = forward
    with pytest.raises(ConfigurationError, match="attention goes by positions"):
        require_packing(policy)


def test_first_tokens_of_sequences_within_a_row_cannot_be_selected() -> None:
    [part] = parts_of(8, packing=True)
    selected_BL = part.selected_BL.clone()
    selected_BL[2, 9] = True
    with pytest.raises(ConfigurationError, match="first token"):
        token_logprobs(
            tiny_policy().model, part.input_ids_BL, part.attention_mask_BL, selected_BL,
            position_ids_BL=part.position_ids_BL,
        )  # fmt: skip
