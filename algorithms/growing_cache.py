"""A key-value cache that grows in place.

The dynamic cache of `transformers` copies all its keys and values for every token; on small models that is the largest part of
decoding. This one keeps room at the end, and copies only when the room is used up.
"""

from __future__ import annotations

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A layer whose keys and values are the filled part of larger buffers."""

    keys: Tensor
    values: Tensor
    _key_buffer: Tensor
    _value_buffer: Tensor

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Appends keys and values (batch, heads, new, size); returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        if old == 0 or new > self._key_buffer.shape[-2]:
            self._key_buffer = self._with_room(self.keys, key_states, old, new)
            self._value_buffer = self._with_room(self.values, value_states, old, new)
        self._key_buffer[:, :, old:new] = key_states
        self._value_buffer[:, :, old:new] = value_states
        self.keys, self.values = self._key_buffer[:, :, :new], self._value_buffer[:, :, :new]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keeps these rows, in this order; a row may be named more than once."""
        length = self.get_seq_length()
        if length > 0:
            self._key_buffer, self._value_buffer = self._key_buffer[beam_idx], self._value_buffer[beam_idx]
            self.keys, self.values = self._key_buffer[:, :, :length], self._value_buffer[:, :, :length]

    @staticmethod
    def _with_room(filled: Tensor, states: Tensor, old: int, new: int) -> Tensor:
        batch, heads, _, size = states.shape
        buffer = states.new_empty(batch, heads, new + max(16, new // 2), size)
        if old:
            buffer[:, :, :old] = filled
        return buffer


def keeps_states(config: PreTrainedConfig) -> bool:
    """Whether some layer of a model keeps a state (linear attention, a convolution) and not keys and values alone."""
    layers = DynamicCache(config=config).layers
    return any(not isinstance(layer, DynamicLayer) or hasattr(layer, "recurrent_states") for layer in layers)


def growing_cache(config: PreTrainedConfig) -> DynamicCache:
    """The cache for a model: full-attention layers grow in place, all others are those of `transformers`."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
