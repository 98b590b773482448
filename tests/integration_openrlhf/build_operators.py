"""Compiles the two DeepSpeed operators that a CPU run needs, so that no test waits for a compiler; needs g++ and ninja.

DeepSpeed compiles them on first use, which takes minutes, and a process that is killed meanwhile leaves a lock behind for
which every later one waits. They go to TORCH_EXTENSIONS_DIR.
"""

from __future__ import annotations

import os

os.environ.setdefault("DS_ACCELERATOR", "cpu")

from deepspeed.accelerator import get_accelerator


def main() -> None:
    for name in ("ShareMemCommBuilder", "FusedAdamBuilder"):
        get_accelerator().create_op_builder(name).load(verbose=False)


if __name__ == "__main__":
    main()
