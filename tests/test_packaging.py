"""What is built for others to install holds what it needs, and runs."""

from __future__ import annotations

import configparser
import email
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytest.importorskip("hatchling", reason="the extra 'dev' is not installed")

ROOT = Path(__file__).parents[1]
PACKAGES = ("aipo_env", "aipo_agents", "algorithms", "benchmarks")
pytestmark = pytest.mark.slow


def build(source: Path, target: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *PACKAGES],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("this is no clone")
    expected = {name for name in done.stdout.split("\0") if name and (ROOT / name).exists()}
    assert names(wheel) == expected
    assert "algorithms/policies/embedded/model.safetensors" in expected


def test_the_metadata_name_what_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = email.message_from_string(archive.read(f"{folder}/METADATA").decode())
        entries = configparser.ConfigParser()
        entries.read_string(archive.read(f"{folder}/entry_points.txt").decode())
        assert f"{folder}/licenses/LICENSE" in archive.namelist()
    assert (metadata["Name"], metadata["Requires-Python"], metadata["License-Expression"]) == (
        "aipo-rl",
        ">=3.11",
        "Apache-2.0",
    )
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    modules = {value.partition(":")[0] for group in entries.sections() for value in entries[group].values()}
    assert {f"{module.replace('.', '/')}.py" for module in modules} <= names(wheel)
    assert {"console_scripts", "aipo.agents", "aipo.commands"} <= set(entries.sections())
    # Each extra needs something, and what it needs of ours is an extra.
    required = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    for extra in metadata.get_all("Provides-Extra"):
        assert any(r.marker is not None and r.marker.evaluate({"extra": extra}) for r in required), extra
    assert {e for r in required if r.name == "aipo-rl" for e in r.extras} <= set(metadata.get_all("Provides-Extra"))
    assert not [str(r) for r in required if r.url], "an address of one's own is refused by the index"


def test_the_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sdist = build(ROOT, "sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    for name in ("LICENSE", "README.md", "CONTRIBUTING.md", "Makefile", "constraints.txt", "tests/conftest.py"):
        assert (source / name).exists(), name
    assert names(build(source, "wheel", tmp_path / "again")) == names(wheel)


def test_the_installed_wheel_runs_the_demo(wheel: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the extra 'train' is not installed")
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # The requirements are those of this environment, behind the wheel's own packages.
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    paths = [path for path in sys.path if path.endswith("-packages")]
    (own / "requirements.pth").write_text("".join(f"{path}\n" for path in paths))
    # The clone stands on no path: what runs is what was installed.
    where = run_in(tmp_path, str(python), "-c", "import aipo_env; print(aipo_env.__file__)")
    assert Path(where.strip()).is_relative_to(folder)
    done = run_in(tmp_path, str(folder / "bin" / "aipo"), "demo", "--steps", "1", "--out", "demo")
    assert "AIPO" in done
    assert (tmp_path / "demo" / "summary.json").exists()


def run_in(folder: Path, *command: str) -> str:
    environment = {"OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout
