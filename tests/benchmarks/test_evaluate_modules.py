"""The metrics as `evaluate` modules: loaded by path, in a process that has no network and empty caches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.metrics import math_answer_scores, pass_at_k_scores

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [[r"so \boxed{0.5}", r"\boxed{3}"], [r"\boxed{7}", "I give up"]]
REFERENCES = [r"\frac{1}{2}", "7"]
VERDICTS = [[1, 0, 1, 0], [0, 0, 0, 0]]

SCRIPT = """
import json, socket, sys, warnings
from concurrent.futures import ThreadPoolExecutor

warnings.simplefilter("error")

def refuse(*args, **options):
    raise OSError("this process has no network")

socket.socket.connect = refuse
socket.getaddrinfo = refuse

import evaluate
import numpy as np

texts, references, verdicts = json.loads(sys.argv[1])
folder = sys.argv[2]
pass_at_k = evaluate.load(folder + "/pass_at_k")
math_answer = evaluate.load(folder + "/math_answer/math_answer.py")
out = {}
out["verdicts"] = pass_at_k.compute(predictions=verdicts, k=[1, 2, 4])
out["default k"] = pass_at_k.compute(predictions=verdicts)
out["numpy"] = pass_at_k.compute(predictions=np.array(verdicts, dtype=bool), k=4)
out["ragged"] = pass_at_k.compute(predictions=[[True], [False, True, True]])
pass_at_k.add_batch(predictions=verdicts[:1])
pass_at_k.add(prediction=verdicts[1])
out["added"] = pass_at_k.compute(k=[1, 2, 4])
out["texts"] = pass_at_k.compute(predictions=texts, references=references)
out["answers"] = math_answer.compute(predictions=[t[0] for t in texts], references=references)
math_answer.add(prediction="B", reference="B")
math_answer.add_batch(predictions=["(C)", "D"], references=["C", "A"])
out["choice"] = math_answer.compute(policy="choice")
both = evaluate.combine([pass_at_k, math_answer])
both.add_batch(predictions=texts[:1], references=references[:1])
both.add_batch(predictions=texts[1:], references=references[1:])
out["combined"] = both.compute(policy="math500")
with ThreadPoolExecutor(4) as pool:
    modules = [evaluate.load(folder + "/pass_at_k", keep_in_memory=True) for _ in range(4)]
    out["threads"] = list(pool.map(lambda m: m.compute(predictions=verdicts, k=[1, 2, 4]), modules))
for name, call in {
    "no references": lambda: pass_at_k.compute(predictions=texts),
    "k too large": lambda: evaluate.load(folder + "/pass_at_k").compute(predictions=verdicts, k=5),
    "unknown policy": lambda: math_answer.compute(predictions=["1"], references=["1"], policy="maths"),
}.items():
    try:
        call()
    except Exception as error:
        out[name] = f"{type(error).__name__}: {error}"
from benchmarks.metrics import MathAnswer, PassAtK
out["names"] = [pass_at_k.name, math_answer.name, PassAtK.__name__, MathAnswer.__name__]
out["class"] = PassAtK(keep_in_memory=True).compute(predictions=verdicts, k=[1, 2, 4])
out["description"] = pass_at_k.description
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    pytest.importorskip("evaluate")
    home = tmp_path_factory.mktemp("hf")
    variables = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home),
        "HF_MODULES_CACHE": str(home / "modules"),
        "OMP_NUM_THREADS": "1",
    }
    arguments = [json.dumps([TEXTS, REFERENCES, VERDICTS]), str(ROOT / "benchmarks" / "metrics")]
    # Started elsewhere: a module that is found by the current directory alone would not be found by users.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env={**os.environ, **variables},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


pytestmark = pytest.mark.slow  # importing `evaluate` takes seconds


def test_pass_at_k_is_the_plain_function(loaded: dict[str, object]) -> None:
    plain = pass_at_k_scores(VERDICTS, [1, 2, 4])
    assert plain["pass@2"] == pytest.approx(5 / 12)
    for how in ("verdicts", "default k", "added", "class"):
        assert loaded[how] == plain, how
    assert loaded["threads"] == [plain] * 4
    assert loaded["numpy"] == pass_at_k_scores(VERDICTS, [4])
    assert loaded["ragged"] == pass_at_k_scores([[1], [0, 1, 1]])
    assert loaded["texts"] == pass_at_k_scores([[1, 0], [1, 0]])


def test_math_answer_is_the_plain_function(loaded: dict[str, object]) -> None:
    assert loaded["answers"] == math_answer_scores([row[0] for row in TEXTS], REFERENCES)
    assert loaded["choice"] == math_answer_scores(["B", "(C)", "D"], ["B", "C", "A"], "choice")
    assert loaded["choice"]["correct"] == [True, True, False]  # type: ignore[index, call-overload]


def test_combined(loaded: dict[str, object]) -> None:
    assert loaded["combined"] == {**pass_at_k_scores([[1, 0], [1, 0]]), **math_answer_scores(TEXTS, REFERENCES)}


def test_mistakes_are_named(loaded: dict[str, object]) -> None:
    assert "ConfigurationError: samples that are texts need references" in str(loaded["no references"])
    assert "k=5" in str(loaded["k too large"])
    assert "Known: " in str(loaded["unknown policy"]) or "Did you mean" in str(loaded["unknown policy"])
    assert loaded["names"] == ["pass_at_k", "math_answer", "PassAtK", "MathAnswer"]
    assert "intervals over problems" in str(loaded["description"])
