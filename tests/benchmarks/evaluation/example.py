"""Results as `aipo eval` writes them, of made-up policies: solve rates are drawn, samples and scores follow from them."""

from __future__ import annotations

import numpy as np

from aipo_env.metrics import TIE_RULE, bootstrap_interval, default_ks, pass_at_k, sample_interval

SUBJECTS = (
    "Algebra",
    "Counting & Probability",
    "Geometry",
    "Intermediate Algebra",
    "Number Theory",
    "Prealgebra",
    "Precalculus",
)
TITLES = {"math500": "MATH-500", "aime24": "AIME 2024", "gsm8k": "GSM8K", "livecodebench": "LiveCodeBench"}


def _scores(values: list[float]) -> dict[str, float]:
    interval = bootstrap_interval(values, num_resamples=1000)
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high}


def example_run(
    suite: str = "math500",
    mode: str = "solo",
    *,
    num_tasks: int = 40,
    num_samples: int = 4,
    skill: float = 1.0,
    seed: int = 0,
    unscored: int = 0,
    code: bool = False,
) -> dict[str, object]:
    """One run. A problem's solve rate is u ** (1 / skill); `unscored` tasks lack their last sample."""
    difficulty = np.random.default_rng(1).beta(0.35, 0.65, num_tasks)
    rng = np.random.default_rng(seed)
    rates = difficulty ** (1.0 / skill)
    tasks: list[dict[str, object]] = []
    for i in range(num_tasks):
        samples: list[int | None] = [int(x) for x in rng.random(num_samples) < rates[i]]
        if i >= num_tasks - unscored:
            samples[-1] = None
        done = [s for s in samples if s is not None]
        tasks.append(
            {
                "id": f"{suite}/{i}",
                "index": i,
                "metadata": {"subject": SUBJECTS[i % 7], "level": 1 + i % 5} if suite == "math500" else {},
                "correct": samples,
                "num_samples": len(done),
                "num_correct": sum(done),
                "maj": None if code or len(done) < num_samples else float(2 * sum(done) > num_samples),
            }
        )
    scored = tasks[: num_tasks - unscored]
    counts = [(num_samples, int(str(t["num_correct"]))) for t in scored]
    metrics = None
    if scored:
        noise = sample_interval(counts, num_resamples=1000)
        majorities = [float(str(t["maj"])) for t in scored] if not code else []
        metrics = {
            "level": 0.95,
            "resamples": 1000,
            "avg_at_n": {
                "n": num_samples,
                **_scores([c / n for n, c in counts]),
                "sample_low": noise.low if num_samples > 1 else None,
                "sample_high": noise.high if num_samples > 1 else None,
            },
            "pass_at_k": [
                {"k": k, **_scores([pass_at_k(n, c, k) for n, c in counts])} for k in default_ks(num_samples)
            ],
            "maj_at_n": None if code else [{"n": num_samples, **_scores(majorities)}],
            "maj_tie_rule": None if code else TIE_RULE,
        }
    finished = sum(int(str(t["num_samples"])) for t in tasks)
    correct = sum(int(str(t["num_correct"])) for t in tasks)
    assisted = mode == "assisted"
    return {
        "suite": suite,
        "mode": mode,
        "title": TITLES[suite],
        "complete": unscored == 0,
        "num_tasks": num_tasks,
        "num_tasks_scored": len(scored),
        "num_episodes": num_tasks * num_samples,
        "num_finished": finished,
        "num_errors": unscored,
        "num_missing": 0,
        "errors": [{"error": "ServiceError: 503 | <busy>", "count": unscored}] if unscored else [],
        "env_id": f"{suite}-consult",
        "rules": {"max_consults": 4, "max_turns": 8},
        "data": {"repository": "HuggingFaceH4/MATH-500", "revision": "0123abc", "sha256": "35dc4108"},
        "num_samples": num_samples,
        "sampling": {
            "temperature": 0.6 if num_samples > 1 else 0.0,
            "top_p": 0.95,
            "max_tokens": 1024,
            "context": None,
            "greedy": num_samples == 1,
        },
        "episode_timeout": None,
        "consult_timeout": 60.0,
        "prompt": {"name": "consult", "invites_to_consult": True, "template": "Solve it.\n\n{problem}\n{agents}"},
        "helpers": {
            "verify": {"description": "checks a step", "agent": "aipo_agents.verify:VerifyAgent"},
            "knowledge": {"description": "looks up", "agent": "aipo_agents.llm:LLMAgent", "model": "some-model"},
        },
        "defaults": {
            "samples": 4,
            "temperature": 0.6,
            "top_p": 0.95,
            "max_tokens": 32768,
            "source": "as others do",
        },
        "confidential": False,
        "isolation": {"is_sandbox": True, "in_force": ["user", "mount"]} if code else None,
        "traces": f"traces/{suite}.{mode}.jsonl",
        "metrics": metrics,
        "breakdowns": _breakdowns(scored, num_samples) if suite == "math500" and scored else {},
        "rates": {
            "correct": correct / finished if finished else None,
            "truncated": 0.1 if finished else None,
            "no_answer": 0.02 if finished else None,
            "unparsable": 0.0 if finished else None,
        },
        "stop_reasons": {"answer": finished},
        "verdicts": {"correct": correct, "wrong": finished - correct},
        "tokens": {
            "prompt": 100 * finished,
            "policy": 321 * finished,
            "agent": 40 * finished if assisted else 0,
            "template": 0,
            "policy_per_episode": 321.0 if finished else None,
            "behind_prompt_per_episode": 361.0 if finished else None,
        },
        "consults": _consults(finished) if assisted else None,
        "tasks": tasks,
        "timing": {"seconds": 12.5},
    }


def _breakdowns(scored: list[dict[str, object]], num_samples: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for key in ("subject", "level"):
        groups: dict[object, list[int]] = {}
        for task in scored:
            groups.setdefault(task["metadata"][key], []).append(int(str(task["num_correct"])))  # type: ignore[index]
        rows = []
        for value in sorted(groups, key=str):
            interval = _scores([c / num_samples for c in groups[value]])
            row = {"value": value, "num_tasks": len(groups[value]), "avg": interval["estimate"]}
            row |= {"low": interval["low"], "high": interval["high"]}
            rows.append({**row, "pass_at_n": float(np.mean([c > 0 for c in groups[value]]))})
        found[key] = rows
    return found


def _consults(finished: int) -> dict[str, object]:
    free = {"errors": 0, "cached": 3, "unpriced": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0}
    paid = {
        "errors": 2,
        "gave_away": 5,
        "cached": 0,
        "unpriced": 0,
        "prompt_tokens": 1000,
        "completion_tokens": 234,
        "cost_usd": 0.0125,
    }
    return {
        "rate": 0.5,
        "asked_per_episode": 0.78,
        "per_episode": 0.75,
        "by_helper": {
            "verify": {"asked": 20, "consults": 20, "per_episode": 0.25, "rate": 0.2, "unmetered": 20, **free},
            "knowledge": {"asked": 42, "consults": 40, "per_episode": 0.5, "rate": 0.4, "unmetered": 0, **paid},
        },
    }


def example_results(*runs: dict[str, object], name: str = "my-policy") -> dict[str, object]:
    """A whole file around some runs."""
    return {
        "format": 1,
        "kind": "aipo-evaluation",
        "complete": all(run["complete"] for run in runs),
        "policy": {"name": name, "backend": "server", "server": "http://localhost:8000/v1", "model": name},
        "seed": 0,
        "command": "aipo eval --suite math500 --policy my-policy",
        "versions": {"aipo": "0.1.0", "python": "3.11.7"},
        "timing": {"written": "2026-01-02T03:04:05+00:00", "seconds": 25.0},
        "runs": list(runs),
    }
