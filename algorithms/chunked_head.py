"""Log-probabilities from hidden states and the output layer's weight, without the logits of all rows at once.

The logits of T rows over a vocabulary of V are the largest tensor of training: 20 GB in fp32 at 32k x 152k, and the backward
pass wants as much again. Here they exist one tile (R rows x C columns) at a time. The forward pass keeps a running log-sum-
exp of each row; the backward pass computes each tile a second time, which costs a third more matrix products. The idea is
that of "Cut Your Losses in Large-Vocabulary Language Models" (arXiv 2411.09009) and of Liger's and TRL's chunked heads
(`liger_kernel.chunked_loss.fused_linear_ppo`, `trl.kernels.chunked_logprob`). What differs: the loop over columns is the
outer one, so that a block of the weight's gradient is summed up in fp32 and written once, and a half-precision weight needs
no fp32 gradient of its full size. Gradients cannot be taken in the forward pass instead (Liger's cross entropy does so, and
saves the second computation): what a row's log-probability is multiplied by is known only after the objective has seen it.

Dimensions: T rows, R rows of a tile, V vocabulary, C columns of a tile, H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from aipo_env.errors import ConfigurationError

TILES = {"cpu": (512, 2048), "cuda": (4096, 8192)}
"""Rows and columns that are computed at a time on each kind of device; measured (docs/results/speed.md)."""


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What a model does to its output layer's values u before they are logits: `scale * u`, then perhaps a soft cap."""

    scale: float = 1.0
    """Cohere's `logit_scale`, one over Granite's `logits_scaling`, and the like."""
    softcap: float | None = None
    """Gemma's `final_logit_softcapping`: `softcap * tanh(scale * u / softcap)`."""

    def __post_init__(self) -> None:
        """Refuses what has no inverse."""
        if not math.isfinite(self.scale) or self.scale == 0:
            raise ConfigurationError(f"a logit scale must be finite and not 0, but it is {self.scale}; check the model")
        if self.softcap is not None and not 0 < self.softcap < math.inf:
            raise ConfigurationError(f"a soft cap must be above 0, but it is {self.softcap}; use None for no cap")

    def apply_(self, values: Tensor, temperature: float = 1.0) -> Tensor:
        """The logits divided by the temperature, in place."""
        if self.softcap is None:
            factor = self.scale / temperature
            return values if factor == 1.0 else values.mul_(factor)
        return values.mul_(self.scale / self.softcap).tanh_().mul_(self.softcap / temperature)

    def derivative_(self, logits: Tensor, temperature: float = 1.0) -> Tensor | float:
        """The derivative of `logits / temperature` with respect to the values, from `logits / temperature`, in place."""
        if self.softcap is None:
            return self.scale / temperature
        share = logits.mul_(temperature / self.softcap)
        return share.square_().neg_().add_(1.0).mul_(self.scale / temperature)


def chunked_logprobs(
    hidden_TH: Float[Tensor, "tokens hidden"],
    weight_VH: Float[Tensor, "vocabulary hidden"],
    bias_V: Float[Tensor, " vocabulary"] | None,
    token_ids_T: Int[Tensor, " tokens"],
    *,
    temperature: float = 1.0,
    transform: LogitTransform | None = None,
    with_entropy: bool = False,
    tile: tuple[int, int] | None = None,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"] | None]:
    """Computes log softmax(transform(hidden @ weight.T + bias) / temperature) at the given tokens, and the entropy if asked.

    Differentiable once, in `hidden_TH`, `weight_VH` and `bias_V`. Half-precision inputs are multiplied into fp32, and all sums
    are fp32; fp64 stays fp64. Gradients have the dtypes of what they belong to.

    Args:
        hidden_TH: what the output layer would be given, loss-bearing rows alone.
        weight_VH: the output layer's weight.
        bias_V: its bias, if it has one.
        token_ids_T: the token of each row.
        temperature: what the logits are divided by.
        transform: what the model does to its logits; nothing by default.
        with_entropy: also computes the entropy in nats.
        tile: rows and columns that are computed at a time.

    Returns:
        Log-probabilities, and entropies or None, in fp32 or wider.
    """
    if tile is None:
        tile = TILES.get(hidden_TH.device.type, TILES["cuda"])
    logprobs_T, entropy_T = _ChunkedLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden_TH, weight_VH, bias_V, token_ids_T.long(), temperature, transform or LogitTransform(), with_entropy, tile
    )
    return logprobs_T, entropy_T if with_entropy else None


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        token_ids_T: Tensor,
        temperature: float,
        transform: LogitTransform,
        with_entropy: bool,
        tile: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        tiles = _Tiles(hidden_TH, weight_VH, bias_V, token_ids_T, temperature, transform, tile)
        largest_T = hidden_TH.new_full((len(hidden_TH),), -math.inf, dtype=tiles.dtype)
        # With u = logit - largest: the sums of exp(u) and of -exp(u) * u.
        sum_T, spread_T, chosen_T = (torch.zeros_like(largest_T) for _ in range(3))
        for columns in tiles.columns():
            for rows in tiles.rows():
                logits_RC = tiles.logits(rows, columns)
                place_R1, inside_R = tiles.place(rows, columns)
                chosen_R = logits_RC.gather(1, place_R1).squeeze(1)
                chosen_T[rows] = torch.where(inside_R, chosen_R, chosen_T[rows])
                old_R = largest_T[rows].clone()
                new_R = torch.maximum(old_R, logits_RC.amax(dim=1))
                exp_RC = logits_RC.sub_(new_R[:, None]).exp_()
                # 0 at the first column chunk, where the old sums are 0 and `old_R` is -inf.
                shrunk_R = (old_R - new_R).exp()
                if with_entropy:
                    # The old sum was relative to the old maximum: u shrinks by the difference.
                    moved_R = torch.where(shrunk_R > 0, sum_T[rows] * (new_R - old_R), 0.0)
                    fresh_R = torch.special.entr(exp_RC).sum(dim=1)
                    spread_T[rows] = (spread_T[rows] + moved_R) * shrunk_R + fresh_R
                sum_T[rows] = sum_T[rows] * shrunk_R + exp_RC.sum(dim=1)
                largest_T[rows] = new_R
        log_normalizer_T = largest_T + sum_T.log()
        # H = log Z - E[logit] = log sum + E[-u]
        entropy_T = sum_T.log() + spread_T / sum_T if with_entropy else torch.zeros_like(sum_T)
        ctx.save_for_backward(hidden_TH, weight_VH, bias_V, token_ids_T, log_normalizer_T, entropy_T)
        ctx.settings = temperature, transform, tile
        ctx.set_materialize_grads(False)
        if not with_entropy:
            ctx.mark_non_differentiable(entropy_T)
        return chosen_T - log_normalizer_T, entropy_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs_T: Tensor | None, grad_entropy_T: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden_TH, weight_VH, bias_V, token_ids_T, log_normalizer_T, entropy_T = ctx.saved_tensors
        tiles = _Tiles(hidden_TH, weight_VH, bias_V, token_ids_T, *ctx.settings)
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        grad_hidden_TH = torch.zeros_like(hidden_TH, dtype=tiles.dtype) if for_hidden else None
        grad_weight_VH = torch.empty_like(weight_VH) if for_weight else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=tiles.dtype) if for_bias else None
        for columns in tiles.columns():
            grad_weight_CH = None
            if grad_weight_VH is not None:
                same = grad_weight_VH.dtype == tiles.dtype
                block_CH = grad_weight_VH[columns]
                grad_weight_CH = (block_CH if same else torch.empty_like(block_CH, dtype=tiles.dtype)).zero_()
            for rows in tiles.rows():
                grad_RC = tiles.gradient(
                    rows, columns, grad_logprobs_T, grad_entropy_T, log_normalizer_T, entropy_T
                ).to(hidden_TH.dtype)
                if grad_hidden_TH is not None:
                    _add_product(grad_hidden_TH[rows], grad_RC, weight_VH[columns])
                if grad_weight_CH is not None:
                    _add_product(grad_weight_CH, grad_RC.T, hidden_TH[rows])
                if grad_bias_V is not None:
                    grad_bias_V[columns] += grad_RC.sum(dim=0, dtype=tiles.dtype)
            if grad_weight_VH is not None and grad_weight_CH is not None and not same:
                grad_weight_VH[columns] = grad_weight_CH
        if grad_hidden_TH is not None:
            grad_hidden_TH = grad_hidden_TH.to(hidden_TH.dtype)
        if grad_bias_V is not None:
            grad_bias_V = grad_bias_V.to(bias_V.dtype)
        return grad_hidden_TH, grad_weight_VH, grad_bias_V, None, None, None, None, None


@dataclass(slots=True)
class _Tiles:
    """The logits, tile by tile, in one buffer."""

    hidden_TH: Tensor
    weight_VH: Tensor
    bias_V: Tensor | None
    token_ids_T: Tensor
    temperature: float
    transform: LogitTransform
    tile: tuple[int, int]
    buffer: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What is computed and summed in."""
        return torch.promote_types(self.hidden_TH.dtype, torch.float32)

    def rows(self) -> Iterator[slice]:
        """The blocks of rows."""
        return _blocks(len(self.hidden_TH), self.tile[0])

    def columns(self) -> Iterator[slice]:
        """The blocks of columns."""
        return _blocks(len(self.weight_VH), self.tile[1])

    def logits(self, rows: slice, columns: slice) -> Tensor:
        """The tile's logits divided by the temperature; they may be overwritten, and are by the next tile's."""
        if self.buffer is None:
            size = min(self.tile[0], len(self.hidden_TH)) * min(self.tile[1], len(self.weight_VH))
            self.buffer = self.hidden_TH.new_empty(size, dtype=self.dtype)
        hidden_RH, weight_CH = self.hidden_TH[rows], self.weight_VH[columns]
        out_RC = self.buffer[: len(hidden_RH) * len(weight_CH)].view(len(hidden_RH), len(weight_CH))
        _product(out_RC, hidden_RH, weight_CH.T)
        if self.bias_V is not None:
            out_RC += self.bias_V[columns]
        return self.transform.apply_(out_RC, self.temperature)

    def place(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Where in the tile each row's token stands (R, 1), and whether it does; elsewhere a place that exists."""
        place_R = self.token_ids_T[rows] - columns.start
        inside_R = (place_R >= 0) & (place_R < columns.stop - columns.start)
        return place_R.clamp_(0, columns.stop - columns.start - 1)[:, None], inside_R

    def gradient(
        self,
        rows: slice,
        columns: slice,
        grad_logprobs_T: Tensor | None,
        grad_entropy_T: Tensor | None,
        log_normalizer_T: Tensor,
        entropy_T: Tensor,
    ) -> Tensor:
        """The tile's gradient with respect to what the output layer gives.

        With z the logits over the temperature: d log p_y / dz_j = 1[j = y] - p_j and dH / dz_j = -p_j (log p_j + H).
        """
        logits_RC = self.logits(rows, columns)
        derivative = self.transform.derivative_(
            logits_RC.clone() if self.transform.softcap is not None else logits_RC, self.temperature
        )
        log_p_RC = logits_RC.sub_(log_normalizer_T[rows, None])
        if grad_entropy_T is None:
            grad_RC = log_p_RC.exp_()
            if grad_logprobs_T is None:
                return grad_RC.zero_()
            grad_RC.mul_(-grad_logprobs_T[rows, None])
        else:
            p_RC = log_p_RC.exp()
            grad_RC = log_p_RC.add_(entropy_T[rows, None]).mul_(grad_entropy_T[rows, None])
            if grad_logprobs_T is not None:
                grad_RC.add_(grad_logprobs_T[rows, None])
            grad_RC.mul_(p_RC.neg_())
        if grad_logprobs_T is not None:
            place_R1, inside_R = self.place(rows, columns)
            grad_RC.scatter_add_(1, place_R1, torch.where(inside_R, grad_logprobs_T[rows], 0.0)[:, None])
        return grad_RC if isinstance(derivative, float) and derivative == 1.0 else grad_RC.mul_(derivative)


def _blocks(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Writes a @ b into `out`; products of half-precision factors are summed without rounding."""
    if a.dtype == out.dtype:
        torch.mm(a, b, out=out)
    elif a.device.type == "cuda":
        torch.mm(a, b, out_dtype=out.dtype, out=out)
    else:
        torch.mm(a.to(out.dtype), b.to(out.dtype), out=out)


def _add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Adds a @ b to `out`, likewise."""
    if a.dtype == out.dtype:
        out.addmm_(a, b)
    elif a.device.type == "cuda":
        torch.addmm(out, a, b, out_dtype=out.dtype, out=out)
    else:
        out.addmm_(a.to(out.dtype), b.to(out.dtype))
