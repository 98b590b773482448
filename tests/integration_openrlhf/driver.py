"""Runs the entry point as a user does: a process of its own, with real Ray, vLLM and DeepSpeed behind it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from aipo_env import Source, TrainingSample, Trajectory, read_traces, sample_advantages
from aipo_env.advantages import PolicyBaseline

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    returncode: int
    seconds: float

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")

    @property
    def final_model(self) -> Path:
        return self.folder / "model"

    def trajectories(self) -> list[Trajectory]:
        """All rollouts in the order in which they finished (one engine wrote them)."""
        (file,) = (self.folder / "traces").glob("rollouts-*.jsonl")
        return list(read_traces(file))

    def scalars(self, tag: str) -> dict[int, float]:
        """A metric of OpenRLHF's TensorBoard log by step."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        (folder,) = {path.parent for path in (self.folder / "tensorboard").rglob("events.out.*")}
        events = EventAccumulator(str(folder)).Reload()
        return {event.step: event.value for event in events.Scalars(tag)} if tag in events.Tags()["scalars"] else {}


def run_driver(folder: Path, checkpoint: Path, flags: list[str], *, timeout: float) -> Run:
    """Runs `algorithms/aipo_openrlhf.py` with a logical GPU for each of policy, engine and reference.

    Args:
        folder: for the log, the traces and the checkpoints.
        checkpoint: the policy.
        flags: `--aipo.*` and OpenRLHF's, behind those that any such run needs.
        timeout: seconds after which the run and all that it started is killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    common = [
        *("--actor.model_name_or_path", str(checkpoint), "--ds.attn_implementation", "eager"),
        *("--actor.num_gpus_per_node", "1", "--vllm.num_engines", "1", "--vllm.enforce_eager"),
        *("--vllm.sync_backend", "gloo", "--vllm.gpu_memory_utilization", "0.1"),
        *("--ckpt.output_dir", str(folder / "model"), "--ckpt.path", str(folder / "checkpoints")),
        *("--logger.tensorboard_dir", str(folder / "tensorboard"), "--logger.wandb.run_name", "run"),
        *("--aipo.traces", str(folder / "traces"), "--aipo.cache", str(folder / "prompts")),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "without_gpu"), str(ROOT)]),
        # Ray grants GPUs that it is told of; nobody looks for them.
        "RAY_OVERRIDE_RESOURCES": '{"GPU": 3, "CPU": 16}',
        "RAY_USAGE_STATS_ENABLED": "0",
        "DS_ACCELERATOR": "cpu",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    # Six processes import the same large packages; without their bytecode each compiles them again.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, str(ROOT / "algorithms" / "aipo_openrlhf.py"), *common, *flags]
    started = time.monotonic()
    with (folder / "log.txt").open("wb") as log, _group(command, environment, log) as process:
        try:
            returncode = process.wait(timeout)
        except subprocess.TimeoutExpired:
            returncode = -1
    return Run(folder, returncode, time.monotonic() - started)


@contextlib.contextmanager
def _group(command: list[str], environment: dict[str, str], log: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a session of its own; whatever of the session still lives at the end is killed."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,  # type: ignore[arg-type]
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def trained_tokens(samples: list[TrainingSample], policy_baseline: PolicyBaseline) -> int:
    """Tokens whose advantage is not 0, with the default estimator, replies compared with nothing, and self-imitation."""
    policy_S, agent_S = sample_advantages(samples, policy_baseline=policy_baseline, self_imitation=1.0)
    return sum(
        sample.policy_tokens * (policy != 0) + sample.count(Source.AGENT) * (agent != 0)
        for sample, policy, agent in zip(samples, policy_S.tolist(), agent_S.tolist(), strict=True)
    )
