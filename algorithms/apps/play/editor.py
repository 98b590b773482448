"""A person's own editor, for a text that is longer than a few lines."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from aipo_env.errors import ConfigurationError


def edit(text: str, suffix: str) -> str:
    """The text after it was edited in the program that VISUAL or EDITOR names; blocks until that ends.

    Args:
        text: what stands there at first.
        suffix: of the file, which tells the editor what it is: ".py" or ".md".

    Raises:
        ConfigurationError: when no editor is named, or it fails.
    """
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not command:
        raise ConfigurationError("no editor is named: set EDITOR, for example to vim, before the start.")
    with tempfile.TemporaryDirectory(prefix="aipo-play-") as folder:
        path = Path(folder) / f"turn{suffix}"
        path.write_text(text, encoding="utf-8")
        try:
            subprocess.run([*shlex.split(command), str(path)], check=True)
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            raise ConfigurationError(f"the editor {command!r} failed ({error}). The text is as it was.") from error
