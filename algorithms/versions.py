"""The versions that a training run was made with, noted beside it."""

from __future__ import annotations

import datetime
import json
import platform
from pathlib import Path

from aipo_env.installation import DISTRIBUTION, versions

FILE = "versions.jsonl"
_PACKAGES = (DISTRIBUTION, "torch", "transformers", "numpy", "gymnasium", "mpmath")


def note_versions(out: Path, step: int) -> None:
    """Appends a line to versions.jsonl: a run that is resumed with other packages has two.

    Args:
        out: folder of the run.
        step: how many steps were done when it was started or resumed; at 0 the file begins anew.
    """
    row = {
        "step": step,
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **versions(_PACKAGES),
    }
    with (out / FILE).open("a" if step else "w", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
