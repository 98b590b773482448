"""The loss as rllm calls it: the value and the gradient of our own objective, in both of rllm's layouts."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aipo_env import Source
from aipo_env.errors import ConfigurationError
from algorithms.adapters import rllm as adapter
from algorithms.config import ObjectiveConfig
from algorithms.objective import batch_normalizer, objective_loss

# q: a token of the prompt; p: POLICY; a: AGENT. The advantages are those of whole trajectories.
ROWS = (("qqqppppaaapp", 1.0), ("qqpp", -0.5), ("qpaapaaap", -0.25), ("qqqqpppp", 0.0), ("qpaaaaaapaaaa", 0.5))
SOURCES = {"q": int(Source.PROMPT), "p": int(Source.POLICY), "a": int(Source.AGENT)}


@dataclasses.dataclass
class Context:
    """The fields of rllm's `LossContext`."""

    logp_curr: Tensor
    logp_old: Tensor
    advantages: Tensor
    action_mask: Tensor
    obs_mask: Tensor
    aggregate: Callable[..., Tensor]
    logp_ref: Tensor | None = None
    logp_rollout: Tensor | None = None
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    backend: str = ""

    def seq_reduce(self, values: Tensor, mask: Tensor, reduction: str = "mean") -> Tensor:
        assert reduction == "mean"
        sums = [
            (row * kept).sum() / kept.sum().clamp(min=1) for row, kept in zip(rows(values), rows(mask), strict=True)
        ]
        return torch.stack([x.expand(values.shape[-1]) for x in sums]).view_as(values)


def rows(values: Tensor) -> Tensor:
    return values.view(-1, values.shape[-1])


@dataclasses.dataclass(frozen=True)
class Row:
    letters: str
    advantage: float
    new: Tensor
    old: Tensor
    ref: Tensor

    def where(self, letter: str) -> Tensor:
        return torch.tensor([x == letter for x in self.letters]).float()


@pytest.fixture
def batch() -> list[Row]:
    random = torch.Generator().manual_seed(3)

    def logprobs(n: int) -> Tensor:
        return (torch.rand(n, generator=random) * 0.9 + 0.05).log()

    made = [(letters, advantage, logprobs(len(letters))) for letters, advantage in ROWS]
    shift = [torch.randn(len(letters), generator=random) * 0.3 for letters, _ in ROWS]
    return [
        Row(letters, a, new.requires_grad_(), (new.detach() + by).clamp(max=-1e-3), new.detach() - by / 2)
        for (letters, a, new), by in zip(made, shift, strict=True)
    ]


def ours(batch: list[Row], config: ObjectiveConfig, old: bool = True) -> tuple[Tensor, list[Tensor]]:
    """The objective of the whole batch, mu = 1, and its gradient: where an advantage is negative, replies have none."""
    sources = torch.tensor([SOURCES[x] for row in batch for x in row.letters])
    sequences = torch.tensor([i for i, row in enumerate(batch) for _ in row.letters])
    new = torch.cat([row.new for row in batch])
    loss = objective_loss(
        new,
        torch.cat([row.old if old else torch.where(row.where("p") > 0, row.old, row.new) for row in batch]),
        # Replies are never pushed away.
        torch.tensor([max(row.advantage, 0.0) if x == "a" else row.advantage for row in batch for x in row.letters]),
        sources,
        torch.zeros_like(new),
        sequences,
        config,
        normalizer=batch_normalizer(sources, sequences),
        reference_logprobs_T=torch.cat([row.ref for row in batch]) if config.kl_coef else None,
    ).loss
    return loss, list(torch.autograd.grad(loss, [row.new for row in batch]))


def verl(batch: list[Row], params: dict[str, Any]) -> tuple[Tensor, list[dict[str, float]]]:
    """(B, L) behind the prompt, padded, in two micro-batches that divide by the count of both."""
    count = sum(row.letters.count("p") for row in batch)
    total, metrics = torch.zeros(()), []
    for part in (batch[:3], batch[3:]):
        cut = [row.letters.count("q") for row in part]

        def padded(values: list[Tensor], cut: list[int] = cut) -> Tensor:
            behind = [x[start:] for x, start in zip(values, cut, strict=True)]
            return torch.nn.utils.rnn.pad_sequence(behind, batch_first=True)

        def aggregate(per_token: Tensor, mask: Tensor, mode: str | None = None) -> Tensor:
            assert mode == "token-mean"
            return (per_token * mask).sum() / count

        policy, agent = (padded([row.where(x) for row in part]) for x in "pa")
        loss, found = adapter.aipo(
            Context(
                padded([row.new for row in part]),
                padded([row.old for row in part]),
                torch.tensor([[row.advantage] for row in part]) * policy,
                policy,
                agent,
                aggregate,
                padded([row.ref for row in part]),
                params={**params, "clip_ratio_c": 20.0},
                backend="verl",
            )
        )
        total, metrics = total + loss, [*metrics, found]
    return total, metrics


def service(batch: list[Row], params: dict[str, Any]) -> tuple[Tensor, list[dict[str, float]]]:
    """(L,) a sequence, the prompt among the observations, 0 as all that is unknown of them."""

    def aggregate(per_token: Tensor, mask: Tensor, mode: str | None = None) -> Tensor:
        assert mode == "token-mean"
        return (per_token * mask).sum()

    found = []
    for row in batch:
        policy = row.where("p")
        context = Context(
            row.new, row.old * policy, row.advantage * policy, policy, 1 - policy, aggregate, params=params, backend="managed"
        )  # fmt: skip
        found.append(adapter.aipo(context))
    losses, metrics = zip(*found, strict=True)
    return torch.stack(losses).sum() / sum(row.letters.count("p") for row in batch), list(metrics)


RLLM = {"eps_clip": 0.2, "eps_clip_high": None, "kl_beta": 0.0}
CASES = [
    ({}, ObjectiveConfig(clip_high=0.2)),
    ({"eps_clip_high": 0.1}, ObjectiveConfig(clip_high=0.1)),
    ({"agent_weight": 2.0, "c_min": 0.5, "c_max": 0.75, "delta": 0.05},
     ObjectiveConfig(clip_high=0.2, agent_weight=2.0, c_min=0.5, c_max=0.75, delta=0.05)),
    ({"agent_loss": "clone"}, ObjectiveConfig(clip_high=0.2).with_agent_loss("clone")),
    ({"agent_loss": "mask"}, ObjectiveConfig(clip_high=0.2).with_agent_loss("mask")),
]  # fmt: skip


@pytest.mark.parametrize(("params", "config"), CASES)
def test_loss_and_gradient_in_a_padded_batch(batch: list[Row], params: dict[str, Any], config: ObjectiveConfig) -> None:
    wanted, gradients = ours(batch, config)
    loss, _ = verl(batch, RLLM | params)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(list(torch.autograd.grad(loss, [row.new for row in batch])), gradients)


@pytest.mark.parametrize(("params", "config"), CASES)
def test_loss_and_gradient_of_single_sequences(
    batch: list[Row], params: dict[str, Any], config: ObjectiveConfig
) -> None:
    wanted, gradients = ours(batch, config, old=False)
    loss, _ = service(batch, RLLM | params)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(list(torch.autograd.grad(loss, [row.new for row in batch])), gradients)


def test_the_comparison_has_what_it_compares(batch: list[Row]) -> None:
    """Replies that are learnt, and some that are not, a trust region that acts, and prompts without any gradient."""
    _, gradients = ours(batch, ObjectiveConfig(clip_high=0.2))
    _, free = ours(batch, ObjectiveConfig(clip_high=0.2, delta=float("inf")))
    replies = [g[row.where("a") > 0] for g, row in zip(gradients, batch, strict=True)]
    assert (replies[0] < 0).any()
    assert not replies[2].any()
    assert any((a != b).any() for a, b in zip(gradients, free, strict=True))
    loss, _ = service(batch, RLLM)
    for gradient, row in zip(torch.autograd.grad(loss, [row.new for row in batch]), batch, strict=True):
        assert not gradient[row.where("q") > 0].any()


def test_the_penalty_to_the_reference_model(batch: list[Row]) -> None:
    wanted, gradients = ours(batch, ObjectiveConfig(clip_high=0.2, kl_coef=0.1))
    loss, _ = verl(batch, RLLM | {"kl_beta": 0.1})
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(list(torch.autograd.grad(loss, [row.new for row in batch])), gradients)
    with pytest.raises(ConfigurationError, match="reference"):
        service(batch, RLLM | {"kl_beta": 0.1})


def test_metrics_are_numbers_of_the_terms(batch: list[Row]) -> None:
    _, metrics = verl(batch, RLLM)
    assert [m["aipo/tokens/agent"] for m in metrics] == [8, 10]
    assert 0 < metrics[0]["aipo/agent/probability"] < 1
    assert all(isinstance(x, float) and "loss/" not in name for m in metrics for name, x in m.items())


@pytest.mark.parametrize(
    "params", [{"env_loss_coef": 0.1}, {"agent_baseline": "solo"}, {"agent_normalizer": "agent_tokens"}]
)
def test_parameters_that_nothing_reads_are_refused(batch: list[Row], params: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(params))):
        verl(batch, RLLM | params)


def test_a_sequence_without_the_policy_has_no_loss(batch: list[Row]) -> None:
    none = torch.zeros(4)
    logprobs = torch.full((4,), -1.0, requires_grad=True)
    loss, _ = adapter.aipo(Context(logprobs, none, none, none, 1 - none, lambda x, mask, mode: (x * mask).sum()))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss == 0
    assert logprobs.grad is not None
    assert not logprobs.grad.any()


def test_the_entry_point_names_it() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["rllm.losses"]["aipo"].partition(":")
    assert getattr(importlib.import_module(module), name) is adapter.aipo


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A package `rllm` that notes what is registered."""
    (tmp_path / "rllm").mkdir()
    (tmp_path / "rllm" / "__init__.py").write_text(
        "found = {}\n\ndef register_loss(name, *, agg_mode=None):\n    return lambda loss: found.update({name: (loss, agg_mode)})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "rllm", raising=False)
    yield importlib.import_module("rllm").found
    sys.modules.pop("rllm")


def test_importing_it_registers_it(package: dict[str, Any]) -> None:
    again = importlib.reload(adapter)
    assert package == {"aipo": (again.aipo, "token-mean")}


def test_rllm_finds_it() -> None:
    pytest.importorskip("rllm", reason="rllm is on no package index; install it from its repository")
    losses = importlib.import_module("rllm.trainer.algorithms.loss")
    importlib.reload(adapter)
    assert losses.get_loss("aipo") is adapter.aipo
    assert losses.RLLM_LOSS_AGG_MODE["aipo"] == "token-mean"
    names = {field.name for field in dataclasses.fields(losses.LossContext)}
    assert {field.name for field in dataclasses.fields(Context)} == names
