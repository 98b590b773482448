"""Rows of a key-value cache, layer by layer: taken out of one batch, put into another.

A row is what one sequence has left in every kind of layer: keys and values, the last of them in a window, or a state. In a
batch rows stand on the right of the cache's length; what a shorter row lacks on the left is padding, which a mask hides.

Dimensions: B rows, H heads, T cached tokens, D size of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from aipo_env.errors import ConfigurationError

LayerRow = dict[str, Tensor]
"""One row of one layer by name: "keys" and "values" (T, H, D), "conv_states 0", "recurrent_states 0"."""

_STATES = {"conv_states": "update_conv_state", "recurrent_states": "update_recurrent_state"}


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values in buffers with room for more tokens and rows: nothing is copied for each token."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._buffers: list[Tensor] = []
        self._rows = self._start = self._end = 0

    def get_seq_length(self) -> int:
        """Cached tokens of the longest row."""
        return self._end - self._start

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Appends keys and values (B, H, new, D) to the rows; returns all of them."""
        new = key_states.shape[-2]
        if not self._rows:
            self._rows = key_states.shape[0]
        self._make_room([key_states, value_states], self._rows, 0, new)
        self._end += new
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[: self._rows, :, self._end - new : self._end] = states
        self.keys, self.values = (b[: self._rows, :, self._start : self._end] for b in self._buffers)
        return self.keys, self.values

    def append_rows(self, keys: Tensor, values: Tensor) -> None:
        """Appends rows (B, H, T, D)."""
        count, length = keys.shape[0], keys.shape[-2]
        before = max(0, length - self.get_seq_length())
        self._make_room([keys, values], self._rows + count, before, 0)
        self._start -= before
        for buffer, states in zip(self._buffers, (keys, values), strict=True):
            buffer[self._rows : self._rows + count, :, self._end - length : self._end] = states
        self._rows += count
        self.is_initialized = True

    def select_rows(self, order: Sequence[int], length: int) -> None:
        """Keeps these rows, in this order, and so many tokens of them; rows that keep their place are not touched."""
        moved = [(to, row) for to, row in enumerate(order) if to != row]
        self._start = self._end - length
        if moved:
            to, rows = (torch.tensor(places, device=self._buffers[0].device) for places in zip(*moved, strict=True))
            for buffer in self._buffers:
                used = buffer[:, :, self._start : self._end]
                used[to] = used[rows]
        self._rows = len(order)

    def row(self, row: int, length: int) -> LayerRow:
        """A view of one row; nothing where other layers' keys are used."""
        if not self._buffers:
            return {}
        keys, values = (b[row, :, self._end - length : self._end].transpose(0, 1) for b in self._buffers)
        return {"keys": keys, "values": values}

    def _make_room(self, like: Sequence[Tensor], rows: int, before: int, behind: int) -> None:
        length, old = self.get_seq_length(), self._buffers
        if old and rows <= old[0].shape[0] and before <= self._start and self._end + behind <= old[0].shape[-2]:
            return
        size, start = before + length + behind + max(16, length // 2), self._start
        if old and rows > (capacity := old[0].shape[0]):
            rows = max(rows, capacity + capacity // 2)
        # Zeros, for what is masked is multiplied all the same.
        self._buffers = [t.new_zeros(rows, t.shape[1], size, t.shape[-1]) for t in like]
        for buffer, states in zip(self._buffers, old, strict=False):
            buffer[: self._rows, :, before : before + length] = states[: self._rows, :, start : self._end]
        self._start, self._end = before, before + length


def new_cache(config: PreTrainedConfig, *, growing: bool = False) -> DynamicCache:
    """An empty cache for a model; a `growing` one keeps full attention in `GrowingLayer`s."""
    cache = DynamicCache(config=config)
    if growing:
        cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def keeps_states(config: PreTrainedConfig) -> bool:
    """Whether some layer of a model keeps a state (linear attention, a convolution) and not keys and values alone."""
    return any(not isinstance(layer, DynamicLayer) or _has_states(layer) for layer in new_cache(config).layers)


def attends_to_all(config: PreTrainedConfig) -> bool:
    """Whether a mask can hide gaps inside a row: a window counts them as tokens, a state takes them in."""
    return all(type(layer) is DynamicLayer for layer in new_cache(config).layers)


def check_layers(config: PreTrainedConfig) -> None:
    """Raises ConfigurationError for a model that keeps what cannot be told apart into rows here."""
    for layer in new_cache(config).layers:
        if not (type(layer) is DynamicLayer or hasattr(layer, "sliding_window") or _has_states(layer)):
            raise ConfigurationError(
                f"a cache with a {type(layer).__name__} cannot be decoded here, where rows come and go. Sample this model on a "
                "server (vLLM)."
            )


def layer_row(layer: Any, row: int, length: int) -> LayerRow:
    """A view of one row of a layer, of `length` tokens."""
    if isinstance(layer, GrowingLayer):
        return layer.row(row, length)
    found: LayerRow = {}
    if getattr(layer, "keys", None) is not None:
        for name in ("keys", "values"):
            kept = getattr(layer, name)[row]
            found[name] = kept[:, max(0, kept.shape[1] - length) :].transpose(0, 1)
    return found | {name: states[row] for name, states in _states(layer)}


def fill_layer(layer: Any, rows: Sequence[LayerRow], length: int) -> None:
    """Puts rows into a layer, the longest of `length` tokens: behind those of a `GrowingLayer`, or into an empty one."""
    if "keys" in rows[0]:
        keys, values = (_padded([row[name] for row in rows]) for name in ("keys", "values"))
        if isinstance(layer, GrowingLayer):
            layer.append_rows(keys, values)
        else:
            layer.update(keys, values)
            if hasattr(layer, "cumulative_length"):
                layer.cumulative_length = length
    for name in rows[0].keys() - {"keys", "values"}:
        kind, _, number = name.partition(" ")
        update: Callable[..., object] = getattr(layer, _STATES[kind])
        update(torch.stack([row[name] for row in rows]), **({} if number == "0" else {"state_idx": int(number)}))


def append_rows(layer: Any, empty: Any, rows: Sequence[LayerRow], lengths: Sequence[int]) -> Any:
    """The layer of a batch with rows behind its own.

    Args:
        layer: of the batch.
        empty: a layer of its kind.
        rows: those that join.
        lengths: tokens of each row, those that join last.
    """
    if isinstance(layer, GrowingLayer):
        fill_layer(layer, rows, max(lengths))
        return layer
    own = [layer_row(layer, row, length) for row, length in enumerate(lengths[: len(lengths) - len(rows)])]
    fill_layer(empty, [*own, *rows], max(lengths))
    return empty


def select_rows(layer: Any, empty: Any, order: Sequence[int], length: int) -> Any:
    """The layer of a batch with these rows of it, in this order, the longest of `length` tokens."""
    if isinstance(layer, GrowingLayer):
        layer.select_rows(order, length)
        return layer
    if order:
        fill_layer(empty, [layer_row(layer, row, length) for row in order], length)
    return empty


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """(T, H, D) of each row, padded on the left, as (B, H, T, D)."""
    return pad_sequence(list(rows), batch_first=True, padding_side="left").transpose(1, 2)


def _has_states(layer: object) -> bool:
    return hasattr(layer, "conv_states") or hasattr(layer, "recurrent_states")


def _states(layer: object) -> list[tuple[str, Tensor]]:
    found = []
    for name in _STATES:
        kept = getattr(layer, name, None)
        for number, states in kept.items() if isinstance(kept, dict) else [(0, kept)]:
            if states is not None:
                found.append((f"{name} {number}", states))
    return found
