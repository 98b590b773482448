"""A real `vllm serve` on the loopback interface, as a context manager that leaves no process behind."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from tests.integration_vllm.processes import kill_group, start_kept

BLOCK_SIZE = 32
"""Tokens in a block of the prefix cache; the CPU backend prefers a multiple of 32."""
MAX_MODEL_LEN = 2048
START_SECONDS = 420.0
TEMPLATE = Path(__file__).with_name("smollm2_tools.jinja")
"""SmolLM2's own chat template, with functions."""


class VLLMServer:
    """One model behind `vllm serve`; may be killed and started again on the same port.

    Args:
        model: the model's folder.
        name: the name under which it is served.
        log: where the server's output goes.
    """

    def __init__(self, model: Path, name: str, log: Path) -> None:
        self.model, self.name, self.log = model, name, log
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.start_seconds: list[float] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """The address of its OpenAI-compatible interface."""
        return f"{self.root}/v1"

    def __enter__(self) -> VLLMServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        command = [
            str(Path(sys.executable).parent / "vllm"), "serve", str(self.model),
            "--host", "127.0.0.1", "--port", str(self.port), "--served-model-name", self.name,
            "--dtype", "float32", "--enforce-eager", "--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", "16",
            "--enable-prefix-caching", "--block-size", str(BLOCK_SIZE),
            "--logprobs-mode", "processed_logprobs", "--generation-config", "vllm", "--chat-template", str(TEMPLATE),
        ]  # fmt: skip
        started = time.monotonic()
        # It takes new weights (`TrainableServer`).
        self._process = start_kept(command, self.log, VLLM_SERVER_DEV_MODE="1")
        while not self.answers():
            waited = time.monotonic() - started
            if self._process.poll() is not None or waited > START_SECONDS:
                self.kill()
                tail = self.log.read_text(errors="replace")[-3000:]
                raise RuntimeError(
                    f"`vllm serve` gave up or did not answer within {waited:.0f} s; its log ends:\n{tail}"
                )
            time.sleep(0.5)
        self.start_seconds.append(time.monotonic() - started)

    def kill(self) -> None:
        """Kills the server's whole process group at once, as `kill -9` does."""
        if self._process is not None:
            kill_group(self._process)
            self._process = None

    def answers(self) -> bool:
        """Whether the server is up."""
        try:
            with urllib.request.urlopen(f"{self.root}/health", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def counter(self, name: str) -> float:
        """The value of a counter of the server's /metrics."""
        with urllib.request.urlopen(f"{self.root}/metrics", timeout=30) as response:
            text = response.read().decode()
        values = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        if not values:
            raise RuntimeError(f"the server has no counter {name}")
        return sum(map(float, values))
