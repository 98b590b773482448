"""The decoder against plain forward passes over whole sequences.

Dimensions: B rows, V vocabulary.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Mamba2Config

from aipo_env.errors import ConfigurationError
from algorithms.decoder import BatchDecoder
from tests.algorithms.tiny import ARCHITECTURES, HYBRIDS, tiny_policy

PROMPTS = [[1, 40, 41], [1, 50, 51, 52, 53, 54, 55], [1, 40, 41], [1, 50, 51, 52, 53, 54, 55]]


def plain(model: torch.nn.Module, rows: list[list[int]]) -> Tensor:
    """What each row's next token is drawn from."""
    with torch.no_grad():
        return torch.stack([model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1] for row in rows])


def numbers(rows: int, width: int, start: int) -> Tensor:
    return 4 + (torch.arange(rows * width).reshape(rows, width) * 7 + start * 13) % 90


@pytest.mark.filterwarnings("ignore:.*fast path is not available.*")
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma3", *HYBRIDS])
def test_repair_14_every_kind_of_layer_decodes_what_a_plain_forward_says(architecture: str) -> None:
    """Prompts that rows share, several tokens at once, rows that are dropped, more tokens than a window holds."""
    model = tiny_policy(architecture).model
    decoder = BatchDecoder(model, PROMPTS)
    rows = [list(prompt) for prompt in PROMPTS]
    torch.testing.assert_close(decoder.logits_BV, plain(model, rows), atol=1e-5, rtol=1e-4)
    for step, width in enumerate((1, 3, 1, 1, 4, 2)):
        if step == 3:
            decoder.keep(torch.tensor([3, 0]))
            rows = [rows[3], rows[0]]
            torch.testing.assert_close(decoder.logits_BV, plain(model, rows), atol=1e-5, rtol=1e-4)
        tokens_BW = numbers(len(rows), width, step)
        for row, new in zip(rows, tokens_BW.tolist(), strict=True):
            row += new
        torch.testing.assert_close(decoder.step(tokens_BW), plain(model, rows), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1] * 4], ids=["padded", "of one length"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_repair_13_holes_change_nothing(architecture: str, prompts: list[list[int]]) -> None:
    """Rows wait at several places, of one token and of several, before and after others are dropped."""
    model = tiny_policy(architecture).model
    decoder = BatchDecoder(model, prompts)
    assert decoder.can_wait
    rows = [list(prompt) for prompt in prompts]
    waits = [[0, 0, 0, 0], [0, 1, 0, 1], [0, 1, 0, 0], [1, 0], [1, 1], [0, 0], [0, 1]]
    for step, (waiting, width) in enumerate(zip(waits, (1, 3, 1, 2, 1, 1, 2), strict=True)):
        if step == 3:
            decoder.keep(torch.tensor([1, 2]))
            rows = rows[1:3]
        tokens_BW = numbers(len(rows), width, step)
        for row, new, hole in zip(rows, tokens_BW.tolist(), waiting, strict=True):
            row += [] if hole else new
        waits_B = torch.tensor(waiting) > 0
        logits_BV = decoder.step(tokens_BW, waits_B if any(waiting) else None)
        torch.testing.assert_close(logits_BV[~waits_B], plain(model, rows)[~waits_B], atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*fast path is not available.*")
@pytest.mark.parametrize("architecture", ["gemma3", *HYBRIDS])
def test_repair_13_windows_and_states_have_no_holes(architecture: str) -> None:
    assert not BatchDecoder(tiny_policy(architecture).model, PROMPTS).can_wait


def test_repair_14_a_model_that_takes_no_keys_and_values_is_refused() -> None:
    """Its cache would be swallowed by `**kwargs`, and every token sampled as if nothing stood before it."""
    config = Mamba2Config(
        vocab_size=110,
        hidden_size=32,
        num_hidden_layers=1,
        num_heads=4,
        head_dim=16,
        state_size=8,
        n_groups=1,
        chunk_size=8,
    )
    with pytest.raises(ConfigurationError, match="Mamba2ForCausalLM's takes none"):
        BatchDecoder(AutoModelForCausalLM.from_config(config), PROMPTS)
