"""The part of `results.md` that lets somebody repeat an evaluation: command, policy, versions, and each run's settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.evaluation.fields import Json, by_suite
from benchmarks.evaluation.markdown import escape

_SETTINGS = (
    "env_id",
    "env_options",
    "rules",
    "num_samples",
    "sampling",
    "episode_timeout",
    "consult_timeout",
    "data",
    "helpers",
    "isolation",
)


def repeat_section(results: Json) -> list[str]:
    """The lines of the section "To repeat it"."""
    lines = ["## To repeat it", "", *_code(results["command"]), ""]
    lines += [
        _setting("policy", results["policy"]),
        f"- seed: {escape(results.get('seed'))}",
        f"- written: {escape(results['timing'].get('written'))}",
        _setting("versions", results["versions"]),
        "",
    ]
    for runs in by_suite(results).values():
        shown: dict[tuple[str, ...], list[str]] = {}
        for mode, run in runs.items():
            shown.setdefault(tuple(_run_settings(run)), []).append(mode)
        for settings, modes in shown.items():
            title = next(iter(runs.values()))["title"]
            lines += [f"### {escape(title)}, {' and '.join(modes)}", "", *settings]
    return lines


def _run_settings(run: Json) -> list[str]:
    lines = [_setting(key, run[key]) for key in _SETTINGS if run.get(key) is not None]
    prompt = run["prompt"]
    invites = "invites" if prompt.get("invites_to_consult") else "does not invite"
    lines += [*_departures(run), f"- prompt {escape(prompt.get('name'))}, which {invites} to consult:", ""]
    return [*lines, *_code(prompt["template"]), ""]


def _departures(run: Json) -> list[str]:
    """How the run's sampling differs from the suite's own, and where the latter comes from."""
    defaults = run.get("defaults")
    if defaults is None:
        return []
    used = {**run["sampling"], "samples": run.get("num_samples")}
    changed = [
        f"{escape(key)} {escape(used[key])} instead of {escape(value)}"
        for key, value in defaults.items()
        if key in used and used[key] != value
    ]
    return [f"- the suite's own sampling ({escape(defaults.get('source'))}): {'; '.join(changed) or 'as used'}"]


def _setting(key: str, value: object) -> str:
    """A setting as a line; an object as one line of its parts."""
    return f"- {escape(key)}: {', '.join(_flat(value)) or 'none'}"


def _flat(value: object, path: str = "") -> Iterator[str]:
    """The leaves of a setting: "sampling.temperature 0.6"."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield f"{escape(path)} {' '.join(escape(v) for v in value)}".strip()
    else:
        shown = "unset" if value is None else escape(value)
        yield f"{escape(path)} {shown}".strip()


def _code(words: str) -> list[str]:
    """Words as a block of code, whatever they hold: indented, which no text can close."""
    return [f"    {line}" if line.strip() else "" for line in words.splitlines()]
