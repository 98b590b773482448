from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from aipo_env.errors import ConfigurationError, MissingDependencyError
from algorithms.cluster import hooks

SCRIPT = Path(__file__).parents[2] / "algorithms" / "aipo_openrlhf.py"


def test_a_function_that_gained_parameters_at_its_end_is_the_same() -> None:
    def forward(self: object, log_probs: object, extra: object = None) -> None: ...

    hooks.check_signature("m:forward", forward, ["self", "log_probs"])


def test_a_changed_function_is_named_with_both_forms() -> None:
    def forward(self: object, logprobs: object) -> None: ...

    with pytest.raises(
        ConfigurationError, match=r"m:forward changed: expected \(self, log_probs\), found \(self, logprobs\)"
    ):
        hooks.check_signature("m:forward", forward, ["self", "log_probs"])


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.12.0")
    with pytest.raises(
        ConfigurationError, match=r"expected OpenRLHF 0\.11\.2.*0\.12\.0 is installed.*pip install openrlhf==0\.11\.2"
    ):
        hooks.check_openrlhf()


def test_without_openrlhf_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(MissingDependencyError, match=r"\[openrlhf\]"):
        hooks.check_openrlhf()


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("json:no_such_name", ConfigurationError, "nothing of that name"),
        ("json:JSONDecoder.no_such_method", ConfigurationError, "no_such_method"),
        ("no_such_package.module:name", MissingDependencyError, "no_such_package"),
    ],
)
def test_what_is_gone_is_named(path: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hooks._find(path)


def test_found_behind_a_wrapper() -> None:
    assert hooks._find("json:JSONDecoder.decode").__name__ == "decode"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "--aipo.solo-share"),
        (["--aipo.env", "rulebook-consult", "--aipo.solo_share", "3"], 2, "solo_share"),
    ],
)
def test_command(arguments: list[str], code: int, said: str) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
