"""Traces whose every text tries to break out of the page."""

from __future__ import annotations

from aipo_env import Segment, Source, Trajectory

PAYLOADS = (
    "<script>window.owned = 1</script>",
    "</script><script>window.owned = 2</script>",
    "</pre></details></div><img src=x onerror='window.owned = 3'>",
    "<svg/onload=window.owned=4>",
    '"><iframe srcdoc="<script>parent.owned = 5</script>"></iframe>',
    "javascript:window.owned=6",
    "<!-- --!> <style>body{display:none}</style>",
    "<a href='https://evil.example/?q=1' onfocus=window.owned=7 autofocus tabindex=1>x</a>",
    "{{constructor.constructor('window.owned=8')()}} ${window.owned=9}",
    "</title><base href='https://evil.example/'><meta http-equiv=refresh content='0;url=https://evil.example/'>",
    "\u202e gnp.exe \u2028 \u2029 \x00 \ud800 \u0085",
    "__proto__",
    "constructor",
)


def hostile_trajectories() -> list[Trajectory]:
    """One for each payload, which stands in every field that holds text."""
    rows = []
    for number, bad in enumerate(PAYLOADS):
        segments = [
            Segment(Source.PROMPT, f"problem {bad}", (1, 2)),
            Segment(Source.POLICY, f"policy {bad}", (3, 4), (-0.5, -1.0)),
            Segment(Source.AGENT, f"agent {bad}", (5,), (-0.1,), agent=bad, mu_known=True),
            Segment(Source.TEMPLATE, f"template {bad}", (6,), agent=bad),
        ]
        metadata: dict[str, object] = {
            "level": bad,
            bad: bad,
            "error": bad,
            "nan": float("nan"),
            "list": [bad, {bad: 1}],
        }
        rows.append(
            Trajectory(
                env_id=f"env {bad}", task_id=f"task {number} {bad}", segments=segments, reward=float(number % 2),
                reward_parts={bad: 1.0}, stop_reason=bad, verdict=bad, num_consults=1, seed=number, sample=number, metadata=metadata,
            )
        )  # fmt: skip
    return rows
