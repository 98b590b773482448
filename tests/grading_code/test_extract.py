from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo_env.grading.code import extract_code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("no program", None),
        ("", None),
        ("```python\nprint(1)\n```", "print(1)"),
        ("first\n```python\na\n```\nthen\n```python\nb\n```\nend", "b"),
        ("```python\na\n```\n```\noutput\n```", "a"),
        ("```\na\n```", "a"),
        ("```json\n{}\n```", None),
        ("```Python3 title\na\nb\n```", "a\nb"),
        ("  ```py\n  a\n  ```", "  a"),
        ("````python\nx='''\n```\n'''\n````", "x='''\n```\n'''"),
        ("```python\na = 1", "a = 1"),
        ("```python\nwhole\n```\n```python\ncut", "whole"),
        ("```\nhalf", None),
        ("```python\r\na\r\nb\r\n```", "a\nb"),
        ("```inline``` ```python\nx\n```", None),
        ("```python\nprint('```')\n```", "print('```')"),
    ],
)
def test_extract(text: str, code: str | None) -> None:
    assert extract_code(text) == code


def test_long_texts_take_linear_time() -> None:
    start = time.process_time()
    for text in ("`" * 10**7, "```\n" * 10**6, "```python\n" * 10**5, " " * 10**7, "`\n" * 10**6):
        extract_code(text)
    assert time.process_time() - start < 60


@given(st.text())
def test_never_raises(text: str) -> None:
    extract_code(text)


@given(st.text(alphabet=st.characters(exclude_characters="`\r"), min_size=1))
def test_fenced_text_comes_back(code: str) -> None:
    assert extract_code(f"Here:\n```python\n{code}\n```\n") == code
