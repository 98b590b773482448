"""The roofline: shapes of a model's products, and rates that are work by time."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import report, roofline
from benchmarks.roofline import Settings


def test_product_flops_are_those_of_the_counter() -> None:
    with FlopCounterMode(display=False) as counter:
        torch.ones(3, 5) @ torch.ones(5, 7)
    assert roofline.product_flops(3, 5, 7) == counter.get_total_flops() == 210


def test_layer_shapes_are_distinct_and_those_of_linear_layers() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Embedding(9, 4))
    assert roofline.layer_shapes(model, 8) == [(8, 3, 4), (8, 4, 4)]


def test_a_rate_is_work_by_processor_time() -> None:
    def run() -> None:
        end = time.process_time() + 0.01
        while time.process_time() < end:
            pass

    found = roofline.rate(run, 1e9, 3)
    assert found.num_samples == 3
    assert 20 < found.high <= 100


def test_products_are_timed_by_shape() -> None:
    rates = roofline.product_rates([(2, 3, 4)], 2)
    assert list(rates) == ["2 x 3 x 4"]
    assert rates["2 x 3 x 4"].low > 0


def test_settings_that_cannot_be_timed_are_refused() -> None:
    with pytest.raises(ValueError, match="steps is at least 1"):
        Settings(steps=0)


def test_shares_are_of_the_best_product() -> None:
    products = {"1 x 1 x 1": report.spread([50.0]), "2 x 2 x 2": report.spread([100.0])}
    steps = {"sampling": report.spread([10.0]), "update": report.spread([30.0])}
    table = roofline.roofline_table(products, steps, [])
    assert [row[0] for row in table.rows] == ["product 1 x 1 x 1", "product 2 x 2 x 2", "sampling", "update"]
    assert [row[-1] for row in table.rows] == ["50%", "100%", "10%", "30%"]
