"""What a policy's weights are known by, so that a resumed evaluation does not mix two of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_PROBES = 64
_BLOCK = 4096


def model_fingerprint(model: nn.Module) -> str:
    """A digest of the names and shapes of all parameters and of 64 evenly spaced values of each.

    Training moves every weight, so probes tell two checkpoints apart; reading all of a large model would take longer than
    loading it.
    """
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        flat = parameter.detach().flatten()
        places = torch.linspace(0, max(0, flat.numel() - 1), min(_PROBES, flat.numel()), dtype=torch.float64).long()
        digest.update(flat[places.to(flat.device)].float().cpu().numpy().tobytes())
    return f"parameters:{digest.hexdigest()}"


def folder_fingerprint(name: str) -> str | None:
    """A digest of the names and sizes of a model folder's files and of 64 blocks of each; None for what is no folder."""
    folder = Path(name)
    if not folder.is_dir():
        return None
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".json")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for place in range(_PROBES):
                file.seek(place * max(0, size - _BLOCK) // (_PROBES - 1))
                digest.update(file.read(_BLOCK))
    return f"files:{digest.hexdigest()}"
