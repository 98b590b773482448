"""`aipo eval` with vLLM, in this process and behind a server, beside the same weights in `transformers`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.integration_vllm.processes import run_kept
from tests.integration_vllm.server import VLLMServer

ENGINE = ("dtype", "float32", "enforce_eager", "True", "max_num_seqs", "8", "block_size", "32")


def rows(path: Path) -> Path:
    """Sums, as MATH-500 writes its problems."""
    problems = [f"What is {a} + {a + 3}?" for a in (2, 11, 40)]
    texts = [
        json.dumps({"problem": p, "answer": "0", "subject": "Sums", "level": 1, "unique_id": f"sum/{i}"})
        for i, p in enumerate(problems)
    ]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def evaluate(folder: Path, name: str, *arguments: str) -> tuple[dict[str, Any], dict[tuple[int, int], list[int]]]:
    """Results and ids of an evaluation in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "aipo_env.cli",
        "eval",
        "--suite",
        "math500",
        "--data",
        str(rows(folder / "sums.jsonl")),
    ]
    command += ["--mode", "solo", "--max-tokens", "24", "--out", str(folder / name), *arguments]
    run_kept(command, folder / f"{name}.log", 300)
    results: dict[str, Any] = json.loads((folder / name / "results.json").read_text(encoding="utf-8"))
    lines = (folder / name / "traces" / "math500.solo.jsonl").read_text(encoding="utf-8").splitlines()
    traces = [json.loads(line) for line in lines]
    return results, {(t["task_index"], t["sample"]): [i for s in t["segments"] for i in s["token_ids"]] for t in traces}


def test_the_three_backends_agree(server: VLLMServer, model_folder: Path, tmp_path: Path) -> None:
    policy = ("--policy", str(model_folder))
    greedy = ("--temperature", "0")
    _, reference = evaluate(tmp_path, "transformers", *policy, *greedy)
    served, from_server = evaluate(
        tmp_path, "served", *policy, *greedy, "--server", server.base_url, "--model", server.name
    )
    vllm = ("--backend", "vllm", "--context", "1024", "--engine-args", *ENGINE)
    local, from_engine = evaluate(tmp_path, "local", *policy, *greedy, *vllm)
    assert reference == from_server == from_engine
    assert len(reference) == 3
    for results, backend in ((served, "server"), (local, "vllm")):
        assert results["complete"] is True
        assert results["policy"]["backend"] == backend
        assert results["runs"][0]["tokens"]["policy"] > 0
    assert local["policy"]["weights"].startswith("files:")
    assert local["policy"]["engine_args"]["enforce_eager"] is True
    assert local["runs"][0]["sampling"]["context"] == 1024


def test_sampled_episodes_of_an_engine_are_a_function_of_the_seed(model_folder: Path, tmp_path: Path) -> None:
    arguments = (
        "--policy",
        str(model_folder),
        "--backend",
        "vllm",
        "--samples",
        "2",
        "--num-tasks",
        "2",
        "--engine-args",
        *ENGINE,
    )
    _, first = evaluate(tmp_path, "first", *arguments)
    traces = tmp_path / "first" / "traces" / "math500.solo.jsonl"
    # A cut file is completed with the same episodes.
    lines = traces.read_text(encoding="utf-8").splitlines(keepends=True)
    traces.write_text("".join(lines[:2]) + lines[2][:50], encoding="utf-8")
    results, again = evaluate(tmp_path, "first", *arguments)
    assert results["complete"] is True
    assert first == again
    assert len({tuple(ids) for ids in first.values()}) == 4
