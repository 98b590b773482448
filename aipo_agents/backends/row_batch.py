"""Continuous batching with `transformers`: rows join, grow by a token a step, and leave, each whenever it likes.

What a row leaves behind can be kept, and a later row that begins with the same ids goes on from there: of a turn behind a
helper's reply only the reply is computed, and of the samples of one prompt the prompt once.

Dimensions: B rows, N rows that join, T cached tokens, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from aipo_agents.backends.cache_argument import cache_argument
from aipo_agents.backends.row_layers import (
    LayerRow,
    append_rows,
    attends_to_all,
    check_layers,
    fill_layer,
    layer_row,
    new_cache,
    select_rows,
)
from aipo_env.errors import ConfigurationError

Ids = tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """What a model has computed of a sequence. Nobody writes to it."""

    length: int
    layers: tuple[LayerRow, ...]
    logits_V: Tensor | None = None
    """For the token behind it; None where that is not known."""

    def copy(self) -> Row:
        """One that holds nothing else in memory."""
        layers = tuple({name: tensor.clone() for name, tensor in layer.items()} for layer in self.layers)
        return Row(self.length, layers, None if self.logits_V is None else self.logits_V.clone())


class KeptRows:
    """Rows by their ids, up to a number of them: those that were not used for the longest time go first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: OrderedDict[Ids, Row] = OrderedDict()
        self._lengths: Counter[int] = Counter()

    def put(self, ids: Ids, row: Row, *, likely: bool = True) -> None:
        """Keeps a row; one that is not `likely` to be gone on with is the first to go."""
        if ids not in self._rows:
            self._lengths[len(ids)] += 1
        self._rows[ids] = row.copy()
        self._rows.move_to_end(ids, last=likely)
        while len(self._rows) > self._limit:
            gone, _ = self._rows.popitem(last=False)
            self._lengths[len(gone)] -= 1

    def find(self, ids: Ids) -> Row | None:
        """The longest kept row that these ids begin with; one of all of them only if it says what comes next."""
        for length in sorted((n for n, count in self._lengths.items() if count and n <= len(ids)), reverse=True):
            row = self._rows.get(ids[:length])
            if row is not None and (length < len(ids) or row.logits_V is not None):
                self._rows.move_to_end(ids[:length])
                return row
        return None

    def clear(self) -> None:
        """Forgets all of them."""
        self._rows.clear()
        self._lengths.clear()


class RowBatch:
    """Sequences of one causal language model, decoded together.

    Args:
        model: a causal language model of `transformers`.
        keep: rows that are kept for later ones; they are forgotten when the weights change.

    Raises:
        ConfigurationError: for a model that takes no cache of keys and values, or one that cannot be told apart into rows.
    """

    def __init__(self, model: PreTrainedModel, *, keep: int = 256) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        parameters = inspect.signature(model.forward).parameters
        name = cache_argument(model.forward)
        if name is None:
            raise ConfigurationError(
                f"sampling here needs a model whose forward takes a cache of keys and values, and {type(model).__name__}'s "
                "takes none. Sample it on a server (vLLM)."
            )
        check_layers(model.config)
        self._cache_argument = name
        self._extra = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._takes_positions = "position_ids" in parameters
        self._gaps = self._takes_positions and attends_to_all(model.config)
        self._cache = new_cache(model.config, growing=True)
        self._lengths: list[int] = []
        self._kept = KeptRows(keep)
        self._weights: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._lengths)

    @torch.no_grad()
    def join(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Appends rows, each holding a sequence; returns their logits_NV for the next token, in fp32."""
        self._forget_other_weights()
        rows: dict[Ids, Row] = {}
        groups: dict[int, dict[Ids, Row | None]] = {}
        for ids in dict.fromkeys(map(tuple, sequences)):
            kept = self._kept.find(ids)
            if kept is not None and kept.length == len(ids):
                rows[ids] = kept
            else:
                # Without gaps rows of one pass have equally many new tokens; prompts, with nothing before, are padded.
                new = 0 if kept is None else 1 if self._gaps else len(ids) - kept.length
                groups.setdefault(new, {})[ids] = kept
        for new, group in groups.items():
            computed = self._compute(group)
            rows |= computed
            for ids, row in computed.items() if new == 0 else ():
                self._kept.put(ids, row)
        joining = [rows[tuple(ids)] for ids in sequences]
        self._append(joining)
        return torch.stack([row.logits_V for row in joining])  # type: ignore[misc]

    @torch.no_grad()
    def step(self, ids: Sequence[int]) -> Tensor:
        """Appends one token to every row; returns logits_BV for the token after it, in fp32."""
        positions_B1 = torch.tensor(self._lengths)[:, None]
        self._lengths = [length + 1 for length in self._lengths]
        return self._forward(torch.tensor(ids)[:, None], _mask(self._lengths), positions_B1, self._cache)

    def leave(self, rows: Iterable[int], keep: Mapping[int, tuple[Ids, bool]] | None = None) -> list[int]:
        """Drops rows.

        Args:
            rows: those that leave.
            keep: for some of them the ids that are in the row, and whether a later one is likely to begin with them.

        Returns:
            Which row stands where now.
        """
        for row, (ids, likely) in (keep or {}).items():
            length = self._lengths[row]
            assert length == len(ids)
            self._kept.put(
                ids, Row(length, tuple(layer_row(la, row, length) for la in self._cache.layers)), likely=likely
            )
        leaving = set(rows)
        stay = [row for row in range(len(self)) if row not in leaving]
        # The last rows take the places of those that leave; all others stay where they are.
        late = [row for row in stay if row >= len(stay)]
        order = [late.pop() if row in leaving else row for row in range(len(stay))]
        self._lengths = [self._lengths[row] for row in order]
        length = max(self._lengths, default=0)
        self._change(lambda layer, empty, _: select_rows(layer, empty, order, length))
        return order

    def _compute(self, group: Mapping[Ids, Row | None]) -> dict[Ids, Row]:
        """Computes what is new of each sequence behind its kept beginning, in one pass; all of them have one, or none."""
        befores = [0 if kept is None else kept.length for kept in group.values()]
        news = [ids[before:] for ids, before in zip(group, befores, strict=True)]
        before, width = max(befores), max(map(len, news))
        cache = new_cache(self._model.config)
        kept_rows = [kept for kept in group.values() if kept is not None]
        for layer, parts in zip(cache.layers, zip(*(kept.layers for kept in kept_rows), strict=True), strict=False):
            if parts[0]:
                fill_layer(layer, parts, before)
        ids_NW = torch.zeros(len(news), width, dtype=torch.long)
        mask_NT = torch.zeros(len(news), before + width, dtype=torch.long)
        for row, (new, old) in enumerate(zip(news, befores, strict=True)):
            ids_NW[row, width - len(new) :] = torch.tensor(new)
            mask_NT[row, before - old : before] = 1
            mask_NT[row, before + width - len(new) :] = 1
        positions_NW = (mask_NT.cumsum(dim=1)[:, before:] - 1).clamp(min=0)
        logits_NV = self._forward(ids_NW, None if bool(mask_NT.all()) else mask_NT, positions_NW, cache)
        rows = {}
        for row, (ids, new, old) in enumerate(zip(group, news, befores, strict=True)):
            gap = width - len(new) if old else 0
            layers = (layer_row(layer, row, old + gap + len(new)) for layer in cache.layers)
            rows[ids] = Row(len(ids), tuple(_without_gap(layer, old, gap) for layer in layers), logits_NV[row])
        return rows

    def _append(self, joining: Sequence[Row]) -> None:
        self._lengths += [row.length for row in joining]
        lengths = self._lengths
        self._change(lambda layer, empty, i: append_rows(layer, empty, [row.layers[i] for row in joining], lengths))

    def _change(self, change: Callable[[Any, Any, int], Any]) -> None:
        """Replaces each layer by what is made of it, of an empty one of its kind, and of its number."""
        empty = new_cache(self._model.config).layers
        self._cache.layers = [change(layer, empty[i], i) for i, layer in enumerate(self._cache.layers)]

    def _forget_other_weights(self) -> None:
        weights = [(parameter.data_ptr(), parameter._version) for parameter in self._model.parameters()]
        if weights != self._weights:
            self._kept.clear()
            self._weights = weights

    def _forward(self, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: DynamicCache) -> Tensor:
        output = self._model(
            input_ids=ids.to(self._device),
            attention_mask=None if mask is None else mask.to(self._device),
            use_cache=True,
            **{self._cache_argument: cache},
            **({"position_ids": positions.to(self._device)} if self._takes_positions else {}),
            **self._extra,
        )
        logits: Tensor = output.logits[:, -1]
        return logits.float()


def _mask(lengths: Sequence[int]) -> Tensor | None:
    """What is no padding, by row and token; None where nothing is."""
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    return (torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]).long()


def _without_gap(layer: LayerRow, old: int, gap: int) -> LayerRow:
    """A row without the padding between what was kept and what is new."""
    return {name: torch.cat([t[:old], t[old + gap :]]) for name, t in layer.items()} if gap else layer
