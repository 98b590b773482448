"""The keys by which lm-evaluation-harness knows a row, so that samples of its runs and of ours can be joined.

Its `--log_samples` names each sample by `doc_id`, `doc_hash`, `prompt_hash` and `target_hash`; they are computed here as its
`lm_eval/evaluator.py` and `lm_eval/utils.py` do (read at 4e7e0d47). They are equal where the row is: tasks of its that rewrite
rows (`process_docs`), and fields that we rename, have other hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TypedDict

from aipo_env.tasks.base import TaskSet


class RowKeys(TypedDict):
    """What tells a row among those of its data set."""

    doc_id: int
    """Its number in the split, from 0."""
    doc_hash: str
    target_hash: str


def row_keys_of(tasks: TaskSet, index: int) -> RowKeys | None:
    """The keys of the row that a task was made of; None where it is none, or is not to be known."""
    says = getattr(tasks, "row_keys", None)
    found: RowKeys | None = None if says is None else says(index)
    return found


def text_hash(text: str) -> str:
    """The hash of a prompt or a target."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def keys_of(number: int, row: Mapping[str, object], target: object) -> RowKeys:
    """The keys of a row.

    Args:
        number: in its split.
        row: with all its fields, in their order.
        target: the field of the answer, as it stands in the row.
    """
    document = json.dumps(row, indent=2, default=str, ensure_ascii=False)
    return {"doc_id": number, "doc_hash": text_hash(document), "target_hash": text_hash(str(target))}
