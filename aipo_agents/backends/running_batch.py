"""The key-value cache of a batch whose rows join and leave while others go on.

Rows of unequal length stand on the right of one cache; what a shorter row lacks on the left is padding that the mask hides.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from aipo_agents.backends.cache_argument import cache_argument


class RunningBatch:
    """Sequences of one causal language model, decoded together.

    Dimensions: B rows, N rows that join, T cached tokens, V vocabulary.

    Args:
        model: a causal language model of `transformers`.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        parameters = inspect.signature(model.forward).parameters
        self._cache_argument = cache_argument(model.forward) or "past_key_values"
        self._extra = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._takes_positions = "position_ids" in parameters
        self._cache = DynamicCache(config=model.config)
        # Layers that keep a window or a state can not be padded on the left after the fact.
        self.joinable = all(type(layer) is DynamicLayer for layer in self._cache.layers)
        """Whether rows may join a batch that runs; if not, only an empty one takes rows."""
        self._mask_BT = torch.zeros(0, 0, dtype=torch.long, device=self._device)

    def __len__(self) -> int:
        return len(self._mask_BT)

    def join(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Appends rows, each holding a prompt; returns their logits_NV for the next token, in fp32."""
        # The samples of a group come with the same prompt, which is computed once.
        distinct = {tuple(prompt): i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        length = max(map(len, distinct))
        ids_NT = torch.zeros(len(distinct), length, dtype=torch.long)
        mask_NT = torch.zeros(len(distinct), length, dtype=torch.long)
        for prompt, row in distinct.items():
            ids_NT[row, length - len(prompt) :] = torch.tensor(prompt)
            mask_NT[row, length - len(prompt) :] = 1
        ids_NT, mask_NT = ids_NT.to(self._device), mask_NT.to(self._device)
        cache = DynamicCache(config=self._model.config)
        logits_NV = self._forward(ids_NT, mask_NT, (mask_NT.cumsum(dim=1) - 1).clamp(min=0), cache)
        rows = torch.tensor([distinct[tuple(prompt)] for prompt in prompts], device=self._device)
        # What beam search calls, and so the one selection of rows that every kind of layer has.
        cache.reorder_cache(rows)
        logits_NV, mask_NT = logits_NV[rows], mask_NT[rows]
        if len(self) == 0:
            self._cache, self._mask_BT = cache, mask_NT
            return logits_NV
        assert self.joinable
        for mine, new in zip(self._cache.layers, cache.layers, strict=True):
            mine.keys, mine.values = _stack(mine.keys, new.keys), _stack(mine.values, new.values)
        self._mask_BT = _stack(self._mask_BT[..., None], mask_NT[..., None])[..., 0]
        return logits_NV

    def step(self, ids: Sequence[int]) -> Tensor:
        """Appends one token to every row; returns logits_BV for the token after it, in fp32."""
        self._mask_BT = torch.cat([self._mask_BT, self._mask_BT.new_ones(len(self), 1)], dim=1)
        ids_B1 = torch.tensor(ids, device=self._device)[:, None]
        return self._forward(ids_B1, self._mask_BT, self._mask_BT.sum(dim=1, keepdim=True) - 1, self._cache)

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all rows but these, and the padding that no row needs any more."""
        if not rows:
            self._cache, self._mask_BT = DynamicCache(config=self._model.config), self._mask_BT[:0, :0]
            return
        index = torch.tensor(rows, device=self._device)
        self._cache.reorder_cache(index)
        self._mask_BT = self._mask_BT[index]
        unused = int((self._mask_BT.sum(dim=0) > 0).int().argmax())
        if unused and self.joinable:
            self._mask_BT = self._mask_BT[:, unused:]
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[:, :, unused:], layer.values[:, :, unused:]

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            use_cache=True,
            **{self._cache_argument: cache},
            **({"position_ids": positions} if self._takes_positions else {}),
            **self._extra,
        )
        logits: Tensor = output.logits[:, -1]
        return logits.float()


def _stack(upper: Tensor, lower: Tensor) -> Tensor:
    """Puts two batches (rows, ..., length, size) on top of each other, the shorter one padded on the left."""
    length = max(upper.shape[-2], lower.shape[-2])
    padded = [torch.nn.functional.pad(part, (0, 0, length - part.shape[-2], 0)) for part in (upper, lower)]
    return torch.cat(padded)
