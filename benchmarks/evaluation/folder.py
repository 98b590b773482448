"""The folder of an evaluation: its settings, so that two evaluations are never mixed, and its results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from aipo_env.errors import ConfigurationError, DataFormatError
from algorithms.run_folder import write_whole

Json = Mapping[str, object]


class EvaluationFolder:
    """Where an evaluation is kept.

    Args:
        path: the folder; made when it is claimed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = path / "settings.json"
        self.results = path / "results.json"

    def traces(self, run: str) -> Path:
        """The traces of a run ("math500.solo")."""
        return self.path / "traces" / f"{run}.jsonl"

    def claim(self, shared: Json, runs: Mapping[str, Json]) -> None:
        """Writes down the settings, or checks that they are those of the evaluation that lies here; runs may be added.

        Args:
            shared: settings of all runs: policy, seed, versions.
            runs: settings of each run by its name.

        Raises:
            ConfigurationError: naming each setting that differs.
        """
        wanted = _plain({"shared": shared, "runs": runs})
        kept: dict[str, dict[str, object]] = {"shared": wanted["shared"], "runs": {}}
        if self.settings.exists():
            kept = read_json(self.settings)
            common = {name: settings for name, settings in kept["runs"].items() if name in wanted["runs"]}
            old = {**kept["shared"], **common}
            new = {**wanted["shared"], **{name: wanted["runs"][name] for name in common}}
            if changed := differences(old, new):
                raise ConfigurationError(
                    f"{self.path} holds an evaluation with other settings: {'; '.join(changed)}. Give this one another "
                    "--out, or the settings of that one."
                )
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.settings, {"shared": kept["shared"], "runs": {**kept["runs"], **wanted["runs"]}})


def differences(old: Json, new: Json, path: str = "") -> list[str]:
    """What two settings differ in, in words: "math500.solo.sampling.temperature was 0.6 and is 0.7"."""
    found = []
    for key in dict.fromkeys([*old, *new]):
        here = f"{path}.{key}" if path else key
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, here)
        elif before != after:
            found.append(f"{here} was {_shown(before)} and is {_shown(after)}")
    return found


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:60]} ... ({len(text)} characters)"


def _plain(value: Json) -> dict[str, dict[str, object]]:
    """The value as it comes back from a file."""
    plain: dict[str, dict[str, object]] = json.loads(json.dumps(value))
    return plain


def write_json(path: Path, value: Json) -> None:
    """Writes a JSON file in one piece: a cut never leaves half of one."""
    write_whole(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, dict[str, object]]:
    """Reads a JSON object.

    Raises:
        DataFormatError: naming the file.
    """
    try:
        value: dict[str, dict[str, object]] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataFormatError(f"{path} cannot be read ({error}). Remove it, or give another --out.") from error
    return value
