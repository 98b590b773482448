"""Decoding of many rows at once with a key-value cache, for any causal language model of `transformers`.

Each step every row takes one token, or all rows take several: whether a token was sampled or is forced (a helper's
reply) is the caller's business, so a reply is appended to the cache like anything else and nothing is computed twice.
A row may also wait while others go on: its place in the step is a hole, which the mask hides from then on.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from aipo_agents.backends.cache_argument import cache_argument
from aipo_env.errors import ConfigurationError


class BatchDecoder:
    """The cache and the positions of a batch of sequences.

    Dimensions: B rows, W tokens fed at once, V vocabulary.

    Args:
        model: a causal language model of `transformers`.
        prompts: the ids of each row's prompt; equal prompts are computed once.
    """

    def __init__(self, model: nn.Module, prompts: Sequence[Sequence[int]]) -> None:
        from algorithms.growing_cache import GrowingLayer, growing_cache

        self._model = model
        self._device = next(model.parameters()).device
        self._cache = growing_cache(model.config)
        parameters = inspect.signature(model.forward).parameters
        self._extra = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._takes_positions = "position_ids" in parameters
        name = cache_argument(model.forward)
        if name is None:
            raise ConfigurationError(
                f"sampling here needs a model whose forward takes a cache of keys and values, and {type(model).__name__}'s "
                "takes none. Sample it on a server (vLLM)."
            )
        self._cache_argument = name
        # A state has no places that a mask could hide, and a window counts holes as if they were tokens.
        self.can_wait = self._takes_positions and all(type(layer) is GrowingLayer for layer in self._cache.layers)
        """Whether rows may wait in a step."""
        self.logits_BV = self._prefill(prompts)
        """What each row's next token is drawn from, in fp32."""

    @torch.no_grad()
    def _prefill(self, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "batch vocabulary"]:
        distinct = {tuple(prompt): i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        length = max(map(len, distinct))
        # Padding stands on the left, so that all rows continue at the same place of the cache.
        ids = torch.zeros(len(distinct), length, dtype=torch.long)
        mask = torch.zeros(len(distinct), length, dtype=torch.long)
        for prompt, row in distinct.items():
            ids[row, length - len(prompt) :] = torch.tensor(prompt)
            mask[row, length - len(prompt) :] = 1
        ids, mask = ids.to(self._device), mask.to(self._device)
        self._padded = bool((mask == 0).any())
        self._mask_BT = mask
        self._length_B = mask.sum(dim=1)
        logits_BV = self._forward(ids, (mask.cumsum(dim=1) - 1).clamp(min=0))
        rows = torch.tensor([distinct[tuple(prompt)] for prompt in prompts], device=self._device)
        self._select(rows)
        return logits_BV[rows]

    @torch.no_grad()
    def step(
        self, token_ids_BW: Int[Tensor, "batch width"], waits_B: Bool[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch vocabulary"]:
        """Appends tokens to the rows; returns (and keeps) the logits for the token after them.

        Args:
            token_ids_BW: of each row.
            waits_B: rows whose tokens are holes, if the model `can_wait`: they take none, and their logits mean nothing until
                they have taken one again.
        """
        width = token_ids_BW.shape[1]
        positions_BW = self._length_B[:, None] + torch.arange(width, device=self._device)
        taken_B = torch.ones_like(self._length_B) if waits_B is None else 1 - waits_B.to(self._length_B)
        self._length_B = self._length_B + width * taken_B
        if waits_B is not None and not self._padded:
            self._padded = True
            self._mask_BT = self._mask_BT.new_ones(len(self._mask_BT), self._cache.get_seq_length())
        if self._padded:
            self._mask_BT = torch.cat([self._mask_BT, taken_B[:, None].expand(-1, width)], dim=1)
        self.logits_BV = self._forward(token_ids_BW.to(self._device), positions_BW)
        return self.logits_BV

    def keep(self, rows_B: Int[Tensor, " kept"]) -> None:
        """Drops all rows but these."""
        rows_B = rows_B.to(self._device)
        self._select(rows_B)
        self.logits_BV = self.logits_BV[rows_B]

    def _select(self, rows_B: Int[Tensor, " kept"]) -> None:
        # What beam search calls, and so the one selection of rows that every kind of layer has.
        self._cache.reorder_cache(rows_B)
        self._mask_BT = self._mask_BT[rows_B]
        self._length_B = self._length_B[rows_B]

    def _forward(
        self, ids_BW: Int[Tensor, "batch width"], positions_BW: Int[Tensor, "batch width"]
    ) -> Float[Tensor, "batch vocabulary"]:
        output = self._model(
            input_ids=ids_BW,
            attention_mask=self._mask_BT if self._padded else None,
            use_cache=True,
            **{self._cache_argument: self._cache},
            **({"position_ids": positions_BW} if self._takes_positions else {}),
            **self._extra,
        )
        logits_BV: Tensor = output.logits[:, -1]
        return logits_BV.float()
