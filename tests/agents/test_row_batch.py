"""Rows that join, grow, leave and come back, against plain forward passes over whole sequences."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Mamba2Config

from aipo_agents.backends.row_batch import KeptRows, Row, RowBatch
from aipo_agents.backends.row_layers import fill_layer, new_cache
from aipo_env.errors import ConfigurationError
from tests.algorithms.tiny import ARCHITECTURES, HYBRIDS, tiny_policy

PROMPTS = [[1, 40, 41], [1, 50, 51, 52, 53, 54, 55], [1, 40, 41], [1, *range(60, 71)]]


def plain(model: torch.nn.Module, rows: Sequence[Sequence[int]]) -> Tensor:
    """What each row's next token is drawn from."""
    with torch.no_grad():
        return torch.stack([model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1] for row in rows])


@pytest.mark.filterwarnings("ignore:.*fast path is not available.*")
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma3", *HYBRIDS])
@pytest.mark.parametrize("keep", [0, 3, 100])
def test_every_kind_of_layer_decodes_what_a_plain_forward_says(architecture: str, keep: int) -> None:
    """Prompts that rows share, rows of unequal length that come and go, replies of unequal length, more tokens than a window."""
    model = tiny_policy(architecture).model
    chance = random.Random(keep)
    batch = RowBatch(model, keep=keep)
    rows = [list(prompt) for prompt in PROMPTS]
    away: list[list[int]] = []

    def check(logits: Tensor, of: list[list[int]]) -> None:
        torch.testing.assert_close(logits, plain(model, of), atol=1e-5, rtol=1e-4)

    check(batch.join(rows), rows)
    joined = left = 0
    for _ in range(30):
        if rows:
            new = [chance.randrange(4, 100) for _ in rows]
            rows = [[*row, token] for row, token in zip(rows, new, strict=True)]
            check(batch.step(new), rows)
        if leaving := [i for i in range(len(rows)) if chance.random() < 0.15 or len(rows[i]) > 40]:
            left += len(leaving)
            away += [rows[i] for i in leaving]
            order = batch.leave(leaving, {i: (tuple(rows[i]), chance.random() < 0.5) for i in leaving})
            assert sorted(order) == [i for i in range(len(rows)) if i not in leaving]
            rows = [rows[i] for i in order]
        if away and (not rows or chance.random() < 0.5):
            chance.shuffle(away)
            count = chance.randrange(1, len(away) + 1)
            back, away = away[:count], away[count:]
            back = [[*row, *(chance.randrange(4, 100) for _ in range(chance.randrange(1, 7)))] for row in back]
            back += [list(PROMPTS[0])] * (len(back) % 2)
            joined += len(back)
            check(batch.join(back), back)
            rows += back
        assert len(batch) == len(rows)
    assert joined > 10
    assert left > 10


def row(length: int, *, logits: bool = False) -> Row:
    return Row(length, (), torch.zeros(3) if logits else None)


def test_the_longest_beginning_is_found_and_the_least_used_go_first() -> None:
    kept = KeptRows(3)
    kept.put((1, 2), row(2, logits=True))
    kept.put((1, 2, 3, 4), row(4))
    found = kept.find((1, 2, 3, 4, 5))
    assert found is not None
    assert found.length == 4
    # All of a row is no beginning of it, unless it says what comes next.
    found = kept.find((1, 2, 3, 4))
    assert found is not None
    assert found.length == 2
    assert kept.find((1, 3)) is None
    kept.put((7,), row(1))
    kept.put((8,), row(1), likely=False)  # the first to go, and so it does
    assert kept.find((8, 1)) is None
    kept.find((1, 2, 3, 4, 5))
    kept.put((9,), row(1))
    assert kept.find((1, 2)) is None
    assert kept.find((1, 2, 3, 4, 5)) is not None
    assert kept.find((7, 0)) is not None
    kept.clear()
    assert kept.find((9, 1)) is None


def test_a_kept_row_holds_nothing_else_in_memory_and_is_not_written_to() -> None:
    model = tiny_policy().model
    batch = RowBatch(model)
    batch.join(PROMPTS)
    batch.leave([0], {0: (tuple(PROMPTS[0]), True)})
    kept = batch._kept.find((*PROMPTS[0], 5))
    assert kept is not None
    before = [tensor.clone() for layer in kept.layers for tensor in layer.values()]
    for tensor in (tensor for layer in kept.layers for tensor in layer.values()):
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    batch.join([[*PROMPTS[0], 5], [*PROMPTS[0], 6, 7]])
    for _ in range(40):
        batch.step([9] * len(batch))
    assert all(map(torch.equal, before, (tensor for layer in kept.layers for tensor in layer.values())))


def test_a_step_copies_no_cache() -> None:
    """The buffers stay where they are while tokens are appended and rows leave; only now and then they grow."""
    model = tiny_policy().model
    batch = RowBatch(model)
    batch.join([list(range(4, 40))] * 8)
    places = set()
    for _ in range(12):
        batch.step([5] * len(batch))
        places.add(batch._cache.layers[0].keys.untyped_storage().data_ptr())
        batch.leave([0] if len(batch) > 2 else [])
    assert len(places) == 1


def test_repair_14_a_model_that_takes_no_keys_and_values_is_refused() -> None:
    """Its cache would be swallowed by `**kwargs`, and every token sampled as if nothing stood before it."""
    config = Mamba2Config(
        vocab_size=110, hidden_size=32, num_hidden_layers=1, num_heads=4, head_dim=16, state_size=8, n_groups=1, chunk_size=8
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match="Mamba2ForCausalLM's takes none"):
        RowBatch(AutoModelForCausalLM.from_config(config))


def test_layers_whose_rows_cannot_be_told_apart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.cache_utils import DynamicIndexedLayer, DynamicLayer

    policy = tiny_policy()

    class Indexed(DynamicIndexedLayer):  # type: ignore[misc]
        pass

    monkeypatch.setattr(
        "aipo_agents.backends.row_layers.DynamicCache", lambda config: type("Cache", (), {"layers": [Indexed()]})()
    )
    assert issubclass(Indexed, DynamicLayer)
    with pytest.raises(ConfigurationError, match="Indexed"):
        RowBatch(policy.model)


def test_a_layer_that_uses_the_keys_of_another_stays_empty() -> None:
    layer = new_cache(tiny_policy().model.config, growing=True).layers[0]
    fill_layer(layer, [{}, {}], 5)
    assert layer.get_seq_length() == 0
    assert layer.row(0, 5) == {}
