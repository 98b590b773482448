from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from aipo_env.errors import DataFormatError
from aipo_env.grading.code import CodeTest, load_lcb_problem, load_lcb_tests

PUBLIC = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]
PRIVATE = [{"input": "5\n", "output": "6\n", "testtype": "stdin"}, {"input": "é", "output": "x", "testtype": "stdin"}]


def packed(value: object) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def row(private: object, metadata: str = "{}") -> dict[str, object]:
    return {"public_test_cases": json.dumps(PUBLIC), "private_test_cases": private, "metadata": metadata}


@pytest.mark.parametrize("private", [json.dumps(PRIVATE), packed(json.dumps(PRIVATE)), PRIVATE])
def test_public_and_private_tests_in_order(private: object) -> None:
    tests = load_lcb_tests(row(private))
    assert tests == [CodeTest("1\n", "2\n"), CodeTest("5\n", "6\n"), CodeTest("é", "x")]
    assert load_lcb_tests(row(private), private=False) == tests[:1]


def test_function_name_comes_from_the_metadata() -> None:
    tests = [{"input": "[1]\n2", "output": "3", "testtype": "functional"}]
    problem = load_lcb_problem(row(packed(json.dumps(tests)), '{"func_name": "solve"}'))
    assert problem.func_name == "solve"
    assert [test.kind for test in problem.tests] == ["stdin", "functional"]


class _Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (str(self.path),))


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with pytest.raises(DataFormatError, match="pickle"):
        load_lcb_tests(row(packed(_Payload(target))))
    assert not target.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [str, lambda text: text.encode()])
def test_every_pickle_protocol(protocol: int, kind: Callable[[str], object]) -> None:
    if kind is not str and protocol < 3:
        return  # those know bytes only as the result of a call
    data = zlib.compress(pickle.dumps(kind(json.dumps(PRIVATE)), protocol))
    assert len(load_lcb_tests(row(base64.b64encode(data).decode()))) == 3


def test_a_pickle_that_reserves_memory_is_refused() -> None:
    data = zlib.compress(b"\x80\x04\x8c\x02[]r\xff\xff\xff\x7f.")
    with pytest.raises(DataFormatError, match="LONG_BINPUT"):
        load_lcb_tests(row(base64.b64encode(data).decode()))


def test_a_decompression_bomb_is_given_up() -> None:
    bomb = base64.b64encode(zlib.compress(b"x" * 10_000_000)).decode()
    with pytest.raises(DataFormatError, match="inflates"):
        load_lcb_tests(row(bomb), max_inflated_bytes=1_000_000)


@pytest.mark.parametrize(
    "private",
    [
        None,
        "",
        "@@@",
        "[",
        "{}",
        "[1]",
        '[{"input": 1, "output": "x", "testtype": "stdin"}]',
        '[{"input": "", "output": "x", "testtype": "other"}]',
        "[" * 100000,
        base64.b64encode(b"not zlib").decode(),
        base64.b64encode(zlib.compress(b"not a pickle")).decode(),
        packed([1]),
        packed("not json"),
        packed(json.dumps(PRIVATE))[:-8],
    ],
)
def test_damaged_rows_are_named(private: object) -> None:
    with pytest.raises(DataFormatError, match="private_test_cases"):
        load_lcb_tests(row(private))
