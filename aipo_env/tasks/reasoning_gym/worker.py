"""The process that runs reasoning-gym: makes entries and scores answers, one request at a time, until its socket closes.

Started by `process.py` with a fixed hash seed; never imported by the library.
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
import resource
import sys
from collections import OrderedDict
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import reasoning_gym  # type: ignore[import-untyped]
from reasoning_gym.factory import DATASETS  # type: ignore[import-untyped]

from aipo_env.tasks.reasoning_gym.rules import RULES, follows_rule, gold_of, guard

MEMORY_BYTES = 4 << 30
_SLOW = "arc_agi base_conversion codeio figlet_font group_anagrams rearc rush_hour spell_backward word_ladder"
_REUSED = frozenset(_SLOW.split())
"""Slow to set up, and their seed is used when an entry is made only: one instance serves all seeds."""
_KEPT_ENTRIES = 512

_datasets: dict[str, Any] = {}
_entries: OrderedDict[str, tuple[Any, dict[str, Any]]] = OrderedDict()


def _entry(name: str, config: dict[str, Any], seed: int) -> tuple[Any, dict[str, Any]]:
    """The data set and its entry of this seed."""
    family = json.dumps([name, config], sort_keys=True)
    key = f"{seed} {family}"
    if key in _entries:
        _entries.move_to_end(key)
        return _entries[key]
    # Some generators draw from the global states; here these belong to the entry.
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (the state that those generators use)
    dataset = _datasets.get(family)
    if dataset is None:
        dataset = reasoning_gym.create_dataset(name, **config, seed=seed, size=1)
        if name in _REUSED:
            _datasets[family] = dataset
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
    dataset.seed = seed
    entry = dataset[0]
    _entries[key] = dataset, entry
    if len(_entries) > _KEPT_ENTRIES:
        _entries.popitem(last=False)
    return _entries[key]


def _is_correct(name: str, dataset: Any, entry: dict[str, Any], answer: str) -> tuple[bool, str]:
    gold = gold_of(entry)
    if gold is not None and answer.strip() == gold.strip():
        return True, "rg:exact"
    if not guard(name, answer, gold or ""):
        return False, "rg:guard"
    if name in RULES:
        return follows_rule(name, answer, entry), "rg:rule"
    try:
        score = dataset.score_answer(answer, copy.deepcopy(entry))
    except Exception:
        # The scorers are not ours, and what they cannot read makes some of them raise.
        return False, "rg:scorer"
    return score == 1.0, "rg:scorer"


def answer_request(request: dict[str, Any]) -> dict[str, Any]:
    """Serves one request: the entry of a seed, or whether an answer to it is correct."""
    name = request["name"]
    try:
        dataset, entry = _entry(name, request["config"], request["seed"])
    except (AssertionError, TypeError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    if "answer" in request:
        correct, rule = _is_correct(name, dataset, entry, request["answer"])
        return {"correct": correct, "rule": rule}
    category = DATASETS[name][0].__module__.split(".")[1]
    return {"problem": entry["question"], "gold": gold_of(entry) or "", "category": category}


def main() -> None:
    """Serves requests until the other side is gone."""
    channel = Connection(int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    reply = {"ready": reasoning_gym.__version__}
    with contextlib.suppress(EOFError):
        while True:
            channel.send_bytes(json.dumps(reply).encode())
            reply = answer_request(json.loads(channel.recv_bytes()))


if __name__ == "__main__":
    main()
