from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from aipo_env.errors import ConfigurationError, UnknownIdError
from aipo_env.parsing import parse
from benchmarks.evaluation import EvaluationConfig
from benchmarks.evaluation.results import command_line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suite": ""}, "names at least one suite"),
        ({"suite": "aime24,aime24"}, "names a suite twice"),
        ({"suite": "math500", "temperature": 0.0, "samples": 4}, r"temperature 0 is greedy, so 4 samples"),
        ({"suite": "gsm8k", "samples": 2}, r"gsm8k: temperature 0 is greedy"),
        ({"suite": "aime24,aime25", "tasks": (1,)}, "indices of one suite"),
        ({"suite": "aime24", "tasks": (1,), "num_tasks": 3}, "give one of them"),
        (
            {"suite": "aime24", "samples": 4, "k": (1, 8)},
            r"pass@8 needs at least 8 samples of a task, and aime24 has 4",
        ),
        ({"suite": "aime24", "samples": 0}, "--samples is a whole number of at least 1"),
        ({"suite": "aime24", "max_tokens": 0}, "--max-tokens is a whole number of at least 1"),
        ({"suite": "aime24", "k": (0,)}, "--k is 1 or more"),
        ({"suite": "aime24", "temperature": -0.1}, "--temperature is a number of at least 0"),
        ({"suite": "aime24", "top_p": 0.0}, "--top-p is a probability"),
        ({"suite": "aime24", "server": "http://x/v1"}, "--server and --model go together"),
        ({"suite": "aime24", "helper_model": "x"}, "--helper-server and --helper-model go together"),
        ({"suite": "aime24", "server": "http://x/v1", "model": "x", "backend": "vllm"}, "exclude each other"),
        (
            {"suite": "aime24", "server": "http://x/v1", "model": "x", "device": "cuda"},
            "--device does nothing with --server",
        ),
        (
            {"suite": "aime24", "server": "http://x/v1", "model": "x", "engine_args": {"a": 1}},
            "--engine-args does nothing",
        ),
        ({"suite": "aime24", "backend": "vllm", "device": "cuda"}, "--device does nothing with --backend vllm"),
        ({"suite": "aime24", "engine_args": {"a": 1}}, "--engine-args does nothing with transformers"),
        ({"suite": "aime24", "chat": True}, "--chat is for --server"),
        (
            {"suite": "aime24", "chat": True, "server": "http://x/v1", "model": "x", "policy": "smollm2"},
            "leave out --policy",
        ),
        (
            {"suite": "aime24", "chat": True, "server": "http://x/v1", "model": "x", "context": 4096},
            "leave out .* --context",
        ),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EvaluationConfig(**options)


def test_an_unknown_suite_is_named() -> None:
    with pytest.raises(UnknownIdError, match="math500"):
        EvaluationConfig("math5000")


def test_greedy_without_a_number_of_samples_takes_one() -> None:
    assert EvaluationConfig("math500", temperature=0.0).samples_of("math500") == 1
    assert EvaluationConfig("math500").samples_of("math500") == 4
    assert EvaluationConfig("math500,aime24").samples_of("aime24") == 32


CONFIGS = (
    EvaluationConfig("math500"),
    EvaluationConfig(
        "math500,aime24", policy="smollm2", mode="solo", out=Path("runs/with space"), samples=2, temperature=0.7, seed=3,
        num_tasks=5, data=("math500=a/b.jsonl", "c"), agents=("verify", "shout=my.module:Shout"), prompt="plain",
        env_options={"max_consults": 2, "math500": {"keep": "level > 3"}, "leak_filter": True}, k=(1, 2), max_in_flight=7,
    ),
    EvaluationConfig(
        "gsm8k", tasks=(4, 9), server="http://localhost:8000/v1", model="m", max_in_flight=9, timeout=2.5, context=4096,
        helper_server="http://h/v1", helper_model="big",
    ),
    EvaluationConfig("rulebook", backend="vllm", engine_args={"dtype": "float32", "tensor_parallel_size": 2, "enforce_eager": True}),
)  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.suite)
def test_the_command_repeats_the_evaluation(config: EvaluationConfig) -> None:
    program, name, *arguments = shlex.split(command_line(config))
    assert (program, name) == ("aipo", "eval")
    assert parse(EvaluationConfig, arguments, name)() == config


@pytest.mark.parametrize(("text", "value"), [("True", True), ("true", True), ("False", False), ("false", False)])
def test_a_flag_of_the_engine_is_no_text(text: str, value: bool) -> None:
    arguments = ["--suite", "rulebook", "--backend", "vllm", "--engine-args", "enforce_eager", text]
    assert parse(EvaluationConfig, arguments, "eval")().engine_args["enforce_eager"] is value
