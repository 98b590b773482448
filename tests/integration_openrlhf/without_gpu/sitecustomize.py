"""Lets every process of an OpenRLHF run start on a machine without GPU. With this folder on PYTHONPATH, Python imports it.

Ray's workers and vLLM's engine process are started by others, so a patch in the test's own process would not reach
them. Each module is patched right after it is imported, and only if it is imported.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

PATCHED = {
    "torch": "torch_cuda",
    "openrlhf": "flash_attn",
    "torch.distributed.device_mesh": "device_mesh",
    "openrlhf.trainer.ray.vllm_worker_wrap": "vllm_worker_wrap",
    "vllm.distributed.device_communicators.pynccl": "pynccl",
    "vllm.model_executor.layers.utils": "vllm_linear_layers",
}
"""Module -> the function of `replacements` that is called with it."""


class _PatchingLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, patch: str) -> None:
        self._loader, self._patch = loader, patch

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        getattr(importlib.import_module("replacements"), self._patch)(module)

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)


class _PatchingFinder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        patch = PATCHED.get(fullname)
        if patch is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchingLoader(spec.loader, patch)
        return spec


sys.meta_path.insert(0, _PatchingFinder())
