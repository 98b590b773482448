"""Starting a command so that neither a failing nor a killed test run leaves a process of it behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CPU_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""What vLLM needs to hear on a small machine without a GPU and without a network."""


def start_kept(command: Sequence[str], log: Path, **variables: str) -> subprocess.Popen[bytes]:
    """Starts a command under `keeper.py`, in a process group of its own; its output is appended to `log`."""
    keeper = str(Path(__file__).with_name("keeper.py"))
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, keeper, *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **CPU_ENVIRONMENT, **variables},
        )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kills what `start_kept` started, and all that it started, as `kill -9` does."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    if process.stdin is not None:
        process.stdin.close()


def run_kept(command: Sequence[str], log: Path, timeout: float) -> None:
    """Runs a command to its end; what it started ends with it. Raises RuntimeError with the end of its log.

    The keeper kills its own group at the end, so a command says by its output that it came through, not by its status.
    """
    process = start_kept(command, log)
    try:
        process.wait(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not done within {timeout:g} s:\n{log.read_text(errors='replace')[-3000:]}") from None
    finally:
        kill_group(process)
