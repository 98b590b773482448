from __future__ import annotations

import pytest

from aipo_env.errors import ConfigurationError
from algorithms.cluster import launch
from algorithms.commands import train

pass_on = train.pass_on  # type: ignore[attr-defined]


@pytest.mark.parametrize("backend", [["--backend", "openrlhf"], ["--backend=openrlhf"]])
def test_all_other_flags_go_to_the_cluster_learner(monkeypatch: pytest.MonkeyPatch, backend: list[str]) -> None:
    received: list[list[str]] = []
    monkeypatch.setattr(launch, "main", received.append)
    assert pass_on(["--aipo.env", "x", *backend, "--actor.adam.lr", "1e-6"]) == 0
    assert received == [["--aipo.env", "x", "--actor.adam.lr", "1e-6"]]


@pytest.mark.parametrize(
    "arguments", [[], ["--steps", "3"], ["--backend", "local"], ["--env", "openrlhf"], ["--backend"]]
)
def test_the_local_trainer_keeps_its_own(arguments: list[str]) -> None:
    assert pass_on(arguments) is None


def test_flags_are_read_as_the_script_reads_them() -> None:
    with pytest.raises(ConfigurationError, match=r"--aipo\.solo_share is a share between 0 and 1"):
        pass_on(["--backend", "openrlhf", "--aipo.env", "rulebook-consult", "--aipo.solo_share", "2"])
