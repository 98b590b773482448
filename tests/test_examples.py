"""The example of a plug-in works as a package of its own: installed, found, checked, without a change to this project."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import gymnasium
import pytest

import aipo_env
from aipo_env import EnvSpec, registry
from aipo_env.errors import ConfigurationError
from aipo_env.installation import install_command

PLUGIN = Path(__file__).parents[1] / "examples" / "aipo-example-plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a process in which the plug-in is installed."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip(f"building the example needs hatchling: {install_command('dev')}")
    target = tmp_path_factory.mktemp("plugin")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    # Built from a copy: a build leaves nothing in the repository.
    source = tmp_path_factory.mktemp("source") / PLUGIN.name
    subprocess.run(["cp", "-r", str(PLUGIN), str(source)], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", target, source], check=True)
    return {**os.environ, "PYTHONPATH": str(target)}


def run(code: str, variables: dict[str, str], folder: Path) -> str:
    process = subprocess.run([sys.executable, "-c", code], env=variables, cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_the_command_lists_it(installed: dict[str, str], tmp_path: Path) -> None:
    assert "units-consult" in run(
        "from aipo_env.cli import main; import sys; sys.argv[1:] = ['envs']; main()", installed, tmp_path
    )


def test_both_libraries_make_it_without_its_import(installed: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import gymnasium, aipo_env, sys\n"
        "assert not any(name.startswith('aipo_example') for name in sys.modules)\n"
        "env = gymnasium.make('aipo/units-consult-v0')\n"
        "other = aipo_env.make('units-consult')\n"
        "assert env.reset(seed=1)[0]['prompt'] == other.reset(seed=1)[0]['prompt']\n"
        "print(other.step('<consult agent=\"converter\">3 furlong in yard</consult>')[0]['prompt'])"
    )
    assert "3 furlong = 660 yard</feedback>" in run(code, installed, tmp_path)


def test_its_own_tests_pass(installed: dict[str, str], tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        str(tmp_path),
    ]
    process = subprocess.run(
        [*command, str(PLUGIN / "tests")],
        env={**installed, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "4 passed" in process.stdout


def test_without_it_nobody_knows_its_ids(tmp_path: Path) -> None:
    if importlib.util.find_spec("aipo_example_units") is not None:
        pytest.skip("the example is installed in this environment")
    code = "import aipo_env; print(aipo_env.list_envs(), aipo_env.list_agents())"
    output = run(code, dict(os.environ), tmp_path)
    assert "units" not in output
    assert "converter" not in output


FIRST = EnvSpec("tests-first", "tests.helpers:SumTasks", assisted=False)
BOTH = (FIRST, EnvSpec("tests/second", "tests.helpers:SumTasks", assisted=False))
BROKEN = ["tests-first"]


def both() -> list[EnvSpec]:
    return list(BOTH)


@pytest.mark.parametrize(("name", "ids"), [("FIRST", 1), ("BOTH", 2), ("both", 2)])
def test_an_entry_point_may_bring_several(name: str, ids: int, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("anything", f"tests.test_examples:{name}", registry.ENV_GROUP)
    monkeypatch.setattr(registry, "_entries", lambda group: (entry,) if group == registry.ENV_GROUP else ())
    monkeypatch.setattr(registry, "_plugins_loaded", False)
    monkeypatch.setattr(registry, "_envs", dict(registry._envs))
    assert len({"tests-first", "tests/second"} & set(aipo_env.list_envs())) == ids
    if ids == 2:
        env = gymnasium.make("aipo/tests.second-v0")
        assert env.reset(seed=1)[1]["task_id"].startswith("sums/")
    for spec in BOTH:
        gymnasium.registry.pop(registry.gymnasium_id(spec.id), None)


def test_an_entry_point_that_brings_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("odd", "tests.test_examples:BROKEN", registry.ENV_GROUP)
    monkeypatch.setattr(registry, "_entries", lambda group: (entry,) if group == registry.ENV_GROUP else ())
    monkeypatch.setattr(registry, "_plugins_loaded", False)
    monkeypatch.setattr(registry, "_broken", {})
    message = r"entry point 'odd' of aipo.envs \(package tests.test_examples\).*gave str"
    with pytest.warns(UserWarning, match=message):
        aipo_env.list_envs()
    for _ in range(2):  # the message does not go away by asking again
        with pytest.raises(ConfigurationError, match=message):
            aipo_env.make("odd")
