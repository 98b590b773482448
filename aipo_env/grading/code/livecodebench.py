"""Reads the tests of a LiveCodeBench row without trusting it.

The private tests are JSON, or base64 of zlib of a pickle of JSON text. The official loader unpickles them with no
restriction, which lets a data file run code. Here only a pickle of one text gets as far as the unpickler, and that
one knows no class.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import pickletools
import zlib
from collections.abc import Mapping
from typing import Any, NoReturn

from aipo_env.errors import DataFormatError
from aipo_env.grading.code.problem import CodeProblem, CodeTest

MAX_INFLATED_BYTES = 512 << 20
"""Guards against decompression bombs; ask for more where a field is truly larger."""
_MEMO_OPERATIONS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_TEXT_OPERATIONS = _MEMO_OPERATIONS | {
    *("PROTO", "FRAME", "MEMOIZE", "STOP", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}


def load_lcb_tests(
    row: Mapping[str, object], *, private: bool = True, max_inflated_bytes: int = MAX_INFLATED_BYTES
) -> list[CodeTest]:
    """Decodes the public and the private tests of a row, in that order, as the official grader does.

    Args:
        row: a row of ``livecodebench/code_generation_lite``.
        private: whether to include the private tests.
        max_inflated_bytes: the size at which decompression is given up.

    Raises:
        DataFormatError: a field is missing, is not in one of the two encodings, or is too large.
    """
    names = ["public_test_cases", *(["private_test_cases"] if private else [])]
    return [test for name in names for test in _decode(row, name, max_inflated_bytes)]


def load_lcb_problem(row: Mapping[str, object], *, private: bool = True, time_limit_s: float = 6.0) -> CodeProblem:
    """Builds a problem from a row: its tests and the function name in its metadata.

    Args:
        row: a row of ``livecodebench/code_generation_lite``.
        private: whether to include the private tests.
        time_limit_s: CPU seconds per test; LiveCodeBench's own default is 6.
    """
    metadata = row.get("metadata") or "{}"
    if isinstance(metadata, str):
        metadata = _json(metadata, "metadata")
    if not isinstance(metadata, Mapping):
        raise DataFormatError(f"metadata should be a JSON object; it is a {type(metadata).__name__}. Check the row.")
    tests = load_lcb_tests(row, private=private)
    return CodeProblem(tests, metadata.get("func_name"), time_limit_s=time_limit_s)


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that knows no class and no function, so that a pickle cannot run anything."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"refers to {module}.{name}")

    def persistent_load(self, pid: object) -> NoReturn:
        raise pickle.UnpicklingError("refers to an outside object")


def _refuse_all_but_text(data: bytes) -> None:
    """Refuses operations that build anything, or that reserve memory (a memo entry with a huge number)."""
    for operation, argument, _ in pickletools.genops(data):
        if operation.name not in _TEXT_OPERATIONS or (operation.name in _MEMO_OPERATIONS and int(argument or 0) > 9):
            raise pickle.UnpicklingError(f"holds the operation {operation.name} {str(argument)[:80]}")


def _decode(row: Mapping[str, object], name: str, limit: int) -> list[CodeTest]:
    field = row.get(name)
    if isinstance(field, str):
        text = field.lstrip()
        field = _json(text if text.startswith(("[", "{")) else _inflate(text, name, limit), name)
    if not isinstance(field, list):
        kind = type(field).__name__
        raise DataFormatError(f"{name} should be a JSON list or its compressed form; it is a {kind}. Check the row.")
    return [_test(entry, name) for entry in field]


def _inflate(text: str, name: str, limit: int) -> str:
    try:
        inflater = zlib.decompressobj()
        data = inflater.decompress(base64.b64decode(text.strip(), validate=True), limit)
        if inflater.unconsumed_tail:
            raise DataFormatError(
                f"{name} inflates to more than {limit} bytes. Raise max_inflated_bytes if the file is trusted."
            )
        if not inflater.eof:
            raise DataFormatError(f"{name} ends in the middle of its compressed data. Download the file again.")
        _refuse_all_but_text(data)
        value = _PlainUnpickler(io.BytesIO(data)).load()
    except DataFormatError:
        raise
    except (binascii.Error, zlib.error) as error:
        raise DataFormatError(f"{name} is neither JSON nor base64 of zlib data ({error}). Check the row.") from error
    except Exception as error:  # a damaged or hostile pickle raises nearly anything
        raise DataFormatError(
            f"{name} holds a pickle that is not plain text ({error}). Do not use this file."
        ) from error
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if not isinstance(value, str):
        raise DataFormatError(f"{name} holds a pickled {type(value).__name__}; expected JSON text. Check the row.")
    return value


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataFormatError(f"{name} is not JSON ({error}). Check the row.") from error


def _test(entry: object, name: str) -> CodeTest:
    if not isinstance(entry, dict):
        raise DataFormatError(f"{name} should list objects; it holds a {type(entry).__name__}. Check the row.")
    given, expected, kind = (entry.get(key) for key in ("input", "output", "testtype"))
    if not (isinstance(given, str) and isinstance(expected, str)) or kind not in ("stdin", "functional"):
        raise DataFormatError(
            f"a test of {name} should have text in 'input' and 'output' and 'stdin' or 'functional' in 'testtype'; "
            f"it has the keys {sorted(map(str, entry))} and testtype {kind!r}. Check the row."
        )
    return CodeTest(given, expected, kind)
