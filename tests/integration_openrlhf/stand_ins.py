"""What is stood in for on a machine without a GPU; all of it lives here.

- `flash_attn` (cannot be built without CUDA): the five functions that OpenRLHF imports at module level, written plainly.
- `torch.cuda`: OpenRLHF asks it for the current device and calls `synchronize` and `empty_cache`; here the device is the CPU.

Call both before OpenRLHF is imported, in every process.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types

import torch
from torch import Tensor


def index_first_axis(values: Tensor, indices: Tensor) -> Tensor:
    return values[indices]


def unpad_input(hidden: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor, int, Tensor]:
    """(batch, length, ...) -> (tokens, ...), indices, cumulative lengths, longest, lengths."""
    lengths = attention_mask.sum(dim=-1, dtype=torch.int32)
    indices = attention_mask.flatten().nonzero().flatten()
    cumulative = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return hidden.flatten(0, 1)[indices], indices, cumulative, int(lengths.max()), lengths


def pad_input(hidden: Tensor, indices: Tensor, batch: int, length: int) -> Tensor:
    """The inverse of `unpad_input`; padding is 0."""
    padded = hidden.new_zeros(batch * length, *hidden.shape[1:])
    return padded.index_put((indices,), hidden).unflatten(0, (batch, length))


def all_gather(values: Tensor, group: object) -> Tensor:
    raise NotImplementedError("ring attention is not stood in for; use ring_attn_size 1")


def install_flash_attn() -> None:
    """Puts the stand-in where `import flash_attn.bert_padding` and `flash_attn.utils.distributed` find it."""
    from einops import rearrange

    contents = {
        "flash_attn": {},
        "flash_attn.bert_padding": {
            "index_first_axis": index_first_axis, "pad_input": pad_input, "rearrange": rearrange, "unpad_input": unpad_input,
        },
        "flash_attn.utils": {},
        "flash_attn.utils.distributed": {"all_gather": all_gather},
    }  # fmt: skip
    for name, functions in contents.items():
        if name in sys.modules:
            continue
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
        vars(module).update(functions)
        sys.modules[name] = module


class _CPU(str):
    """The device "cpu", which reads as an index where OpenRLHF writes f"cuda:{torch.cuda.current_device()}"."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return "0"


def install_cuda() -> None:
    """Makes the CPU the current device of `torch.cuda`; does nothing where there is a GPU."""
    if torch.cuda.is_available():
        return
    torch.cuda.current_device = lambda: _CPU("cpu")  # type: ignore[assignment, return-value]
    torch.cuda.synchronize = lambda device=None: None  # type: ignore[assignment]
    torch.cuda.empty_cache = lambda: None
