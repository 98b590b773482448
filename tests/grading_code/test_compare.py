from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo_env.grading.code.compare import difference_in_text, difference_in_value, parse_json


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        ("1 2\n", "1 2"),
        ("  1 2  \n\n", "1 2"),
        ("a \r\nb", "a\nb"),
        ("1.50", "1.5"),
        ("1e3 x", "1000 x"),
        (".5", "0.5"),
        ("+3", "3"),
        ("007", "7"),
        ("", "\n"),
        ("-0", "0"),
        ("1   2", "1 2"),
    ],
)
def test_equal_texts(got: str, expected: str) -> None:
    assert difference_in_text(got, expected) is None
    assert difference_in_text(expected, got) is None


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        ("1\n2", "1 2"),
        ("Yes", "YES"),
        ("0.1", "0.10000001"),
        ("", "0"),
        ("nan", "NaN"),
        ("1_000", "1000"),
        ("١", "1"),
        ("0x10", "16"),
        ("1 2 3", "1 2"),
        ("a  b c", "a b"),
        ("1e999999999", "1"),
        ("ab", "a b"),
        ("a\n\nb", "a\nb"),
    ],
)
def test_different_texts(got: str, expected: str) -> None:
    assert difference_in_text(got, expected)
    assert difference_in_text(expected, got)


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        ("3", "3.0"),
        ("true", "1"),
        ("0.30000000000000004", "0.3"),
        ("0.333333333", "0.33333"),
        ("100000000000000000000000", "1e23"),
        ("Infinity", "Infinity"),
        ('{"a": [1, {"b": null}]}', '{"a":[1,{"b":null}]}'),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_equal_values(got: str, expected: str) -> None:
    assert difference_in_value(parse_json(got), parse_json(expected)) is None


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        ("NaN", "NaN"),
        ("2.9999999", "3"),
        ("0.3001", "0.3"),
        ("123456000.0", "123456789.0"),
        ('"1"', "1"),
        ("null", "false"),
        ("[]", "null"),
        ("[1]", "[1, 2]"),
        ("[[1], 2]", "[1, 2]"),
        ('{"a": 1}', '{"b": 1}'),
        ('"A"', '"a"'),
        ("9" * 5000, "9" * 4999 + "8"),
        ("9" * 5000, "1.5"),
        ("1" + "0" * 400, "1.5"),
    ],
)
def test_different_values(got: str, expected: str) -> None:
    assert difference_in_value(parse_json(got), parse_json(expected))


def test_too_deep_json_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(ValueError, match="nested"):
        parse_json("[" * 10**6)


def test_hostile_output_is_compared_in_linear_time() -> None:
    start = time.process_time()
    assert difference_in_text("1 " * 5_000_000, "1")
    assert difference_in_text("a\n" * 5_000_000, "a")
    assert difference_in_text("9" * 5_000_000, "9")
    assert time.process_time() - start < 60


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(json_values)
def test_every_value_equals_itself_after_the_wire(value: object) -> None:
    assert difference_in_value(parse_json(json.dumps(value)), parse_json(json.dumps(value))) is None


@given(st.text(), st.text())
def test_text_comparison_is_symmetric_and_total(left: str, right: str) -> None:
    assert (difference_in_text(left, right) is None) == (difference_in_text(right, left) is None)
    assert difference_in_text(left, left) is None
