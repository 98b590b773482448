"""The cost table: its rows vary one size at a time, its batches have the sizes that they claim, one small row is measured."""

from __future__ import annotations

import dataclasses

import pytest

from aipo_env.trajectory import Source
from benchmarks import cost_growth, report
from benchmarks.cost_growth import SWEEPS, Cost, Settings, Sizes


def test_each_row_changes_one_size_alone() -> None:
    base = Sizes(samples=6, consults=3, context=17, vocabulary=300)
    rows = list(cost_growth.varied(base))
    assert [getattr(sizes, name) for name, sizes in rows] == [value for values in SWEEPS.values() for value in values]
    for name, sizes in rows:
        changed = {f.name for f in dataclasses.fields(Sizes) if getattr(sizes, f.name) != getattr(base, f.name)}
        assert changed <= {name}


def test_a_batch_has_the_sizes_that_it_claims() -> None:
    sizes = Sizes(samples=3, consults=2, context=5, vocabulary=200, prompts=2, turn=4, reply=7)
    batch = cost_growth.make_batch(sizes)
    assert sum(t.count(Source.POLICY) for t in batch) == sizes.policy_tokens == 2 * 3 * 3 * 4
    assert sum(t.count(Source.AGENT) for t in batch) == 2 * 3 * 2 * 7
    assert {len(t.segments[0].token_ids) for t in batch} == {5}
    assert [t.group for t in batch] == [0, 0, 0, 1, 1, 1]
    assert len({t.segments[0].token_ids for t in batch}) == 2
    assert all(len({t.reward for t in batch if t.group == group}) == 2 for group in (0, 1))
    assert max(max(t.token_ids) for t in batch) < 200


def test_sizes_that_are_no_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="samples is at least 2"):
        Sizes(samples=1)
    with pytest.raises(ValueError, match="repeats is at least 1"):
        Settings(repeats=0)


def test_a_row_is_measured() -> None:
    sizes = Sizes(samples=2, consults=1, context=4, vocabulary=131, prompts=1, turn=2, reply=3)
    cost = cost_growth.measure(sizes, Settings(repeats=1))
    assert cost.sampled.median > 0
    assert cost.updated.median > 0
    assert cost.peak_mib >= 0


def test_the_table_shows_what_was_varied() -> None:
    cost = Cost(report.spread([1234.0]), report.spread([99.0]), 7.4)
    table = cost_growth.cost_table([("vocabulary", Sizes(vocabulary=8192), cost)])
    assert table.rows == [["vocabulary 8,192", "1,234 (1,234 .. 1,234)", "99 (99 .. 99)", "7"]]
