from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from aipo_env.installation import DISTRIBUTION, install_command

ROOT = Path(__file__).parents[1]


def installed_from(monkeypatch: pytest.MonkeyPatch, folder: Path, origin: object) -> None:
    """Lets the metadata say where the library was installed from; None: from the index."""
    info = folder / "aipo_rl-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: aipo-rl\nVersion: 0.1\n")
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin))
    found = importlib.metadata.PathDistribution(info)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: found)


def test_repair_05_the_distribution_is_not_the_strangers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION == "aipo-rl"
    of_extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    assert {re.split(r"\W", line)[0] for line in of_extras if line.startswith("aipo")} == {"aipo"}
    assert all(line.startswith("aipo-rl[") for line in of_extras if line.startswith("aipo"))
    plugin = tomllib.loads((ROOT / "examples/aipo-example-plugin/pyproject.toml").read_text())["project"]
    assert [line for line in plugin["dependencies"] if line.startswith("aipo")] == ["aipo-rl"]


def test_repair_05_nothing_tells_people_to_install_the_stranger() -> None:
    tracked = [
        path
        for folder in ("aipo_env", "aipo_agents", "algorithms", "benchmarks", "docs", "examples")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".md", ".sh", ".ipynb", ".toml")
    ]
    stranger = re.compile(r"aipo\[[\w,]+\]|pip install (?:-U )?['\"]?aipo(?![-\w/])")
    found = [
        str(path) for path in [*tracked, ROOT / "README.md", ROOT / "Makefile"] if stranger.search(path.read_text())
    ]
    assert len(tracked) > 200
    assert found == []


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'aipo-rl[eval]'"),
        ({"url": "file:///a/b", "dir_info": {"editable": True}}, "pip install -e '/a/b[eval]'"),
        ({"url": "file:///a%20b/c", "dir_info": {}}, "pip install '/a b/c[eval]'"),
        (
            {"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": "0"}},
            "pip install 'aipo-rl[eval] @ git+https://host/x.git'",
        ),
        ({"url": "file:///w/x.whl", "archive_info": {}}, "pip install 'aipo-rl[eval] @ file:///w/x.whl'"),
    ],
)
def test_repair_05_the_command_is_that_of_the_installation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, origin: object, command: str
) -> None:
    installed_from(monkeypatch, tmp_path, origin)
    assert install_command("eval") == command


def test_repair_05_in_its_own_clone_the_command_is_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed_from(monkeypatch, tmp_path, {"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    monkeypatch.chdir(tmp_path)
    assert install_command("eval") == "pip install -e '.[eval]'"
    assert install_command() == "pip install -e ."


def test_repair_05_the_command_names_the_tree_that_nobody_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    monkeypatch.chdir(ROOT)
    assert install_command("rg") == "pip install -e '.[rg]'"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what the Makefile reads."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", *(path.name for path in ROOT.glob("constraints*.txt"))):
        shutil.copy(ROOT / name, folder)
    return folder


def make(clone: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the project's Makefile in a folder of its own, with these variables in its environment."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(clone.parent), **variables}
    command = ["make", *arguments, f"PYTHON={sys.executable}"]
    return subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME", "CACHE"])
@pytest.mark.parametrize("name", ["john doe", "tab\there", "dollar$HOME", "semi;colon", "quo'te", "star*", "a%b"])
@pytest.mark.parametrize("target", ["test", "clean"])
def test_repair_00_a_cache_path_that_make_would_split_is_refused(
    clone: Path, tmp_path: Path, variable: str, name: str, target: str
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "kept").touch()
    folder = tmp_path / "foreign" / name
    folder.mkdir()
    (folder / "kept").touch()
    # Make reads the value of a variable from the environment literally, but for "$".
    done = make(clone, target, **{variable: str(folder)})
    assert done.returncode != 0
    assert "letters, digits" in done.stderr, done.stderr
    assert "CACHE=" in done.stderr
    assert (foreign / "kept").exists()
    assert (folder / "kept").exists()


def test_repair_00_only_a_folder_with_our_marker_is_removed(clone: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "aipo" / "openrlhf").mkdir(parents=True)
    (cache / "aipo" / "openrlhf" / "kept").touch()
    ours, foreign = cache / "aipo" / "venv-demo-1", cache / "aipo" / "venv-of-somebody"
    for folder in (ours, foreign):
        folder.mkdir()
    (ours / ".made-by-aipo").touch()
    done = make(clone, "clean", XDG_CACHE_HOME=str(cache))
    assert done.returncode == 0, done.stderr
    assert not ours.exists()
    assert foreign.exists()
    assert (cache / "aipo" / "openrlhf" / "kept").exists()


def test_repair_00_an_environment_is_not_built_over_a_foreign_folder(clone: Path, tmp_path: Path) -> None:
    dry = make(clone, "-n", "test", XDG_CACHE_HOME=str(tmp_path))
    venv = re.search(r"\"(\S+)/bin/python\" -m pytest", dry.stdout)
    assert venv is not None, dry.stdout + dry.stderr
    folder = Path(venv.group(1))
    folder.mkdir(parents=True)
    (folder / "kept").touch()
    done = make(clone, "test", XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode != 0
    assert "not made by this Makefile" in done.stderr + done.stdout
    assert (folder / "kept").exists()


def aipo(folder: Path, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `aipo` in a folder, which Python searches first; then `path`, then this tree."""
    places = [str(place) for place in (path, ROOT) if place is not None]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "-m", "aipo_env.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("in_path", [True, False], ids=["on PYTHONPATH", "in the current folder"])
@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("algorithms/__init__.py", "train"),
        ("algorithms/commands.py", "train"),
        ("algorithms/__init__.py", "eval"),
        ("benchmarks/__init__.py", "eval"),
        ("benchmarks.py", "compare"),
    ],
)
def test_another_package_in_the_place_of_ours_is_told(tmp_path: Path, file: str, command: str, in_path: bool) -> None:
    foreign, here = tmp_path / "foreign", tmp_path / "here"
    here.mkdir()
    found = foreign / file
    found.parent.mkdir(parents=True, exist_ok=True)
    found.write_text("")
    if found.parent != foreign:
        (found.parent / "__init__.py").touch()
    done = aipo(here if in_path else foreign, command, "--help", path=foreign if in_path else None)
    name = file.partition("/")[0].removesuffix(".py")
    assert done.stderr == (
        f"aipo: expected the package '{name}' of aipo-rl in {ROOT / name}, but Python finds {foreign / file.split('/')[0]} "
        "first. Start from another folder or take that one off PYTHONPATH; if it was installed, give aipo-rl an environment "
        "of its own.\n"
    )
    assert done.returncode == 2


def test_what_a_command_does_not_need_may_be_anybodys(tmp_path: Path) -> None:
    for name in ("algorithms", "benchmarks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").touch()  # a folder alone is no package, and ours comes first
    assert aipo(tmp_path, "eval", "--help").returncode == 0
    (tmp_path / "benchmarks" / "__init__.py").touch()
    assert aipo(tmp_path, "train", "--help").returncode == 0
    overview = aipo(tmp_path, "--help").stdout
    assert re.search(
        r"^  eval +\(cannot be loaded: MissingDependencyError: expected the package 'benchmarks'", overview, re.M
    )
    assert re.search(r"^  train +[A-Z]", overview, re.M)


def test_the_doctor_names_another_package_of_our_names(tmp_path: Path) -> None:
    (tmp_path / "site" / "algorithms").mkdir(parents=True)
    (tmp_path / "site" / "algorithms" / "sorting.py").touch()
    info = tmp_path / "site" / "sorts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sorts\nVersion: 1.0\n")
    (info / "RECORD").write_text("algorithms/sorting.py,,\n")
    script = "from aipo_env.doctor import _names; print(_names())"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'site'}"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert "status='broken', detail='AipoError: algorithms is a package of sorts too'" in done.stdout, done.stderr


def test_a_package_of_ones_own_that_has_our_name_is_told(tmp_path: Path) -> None:
    (tmp_path / "algorithms").mkdir()
    (tmp_path / "algorithms" / "search.py").write_text("depth = 3\n")
    (tmp_path / "mine.py").write_text("from algorithms.search import depth\n")
    done = aipo(tmp_path, "train", "--env", "mine:Tasks", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "cannot import 'mine' (No module named 'algorithms.search')" in done.stderr
    assert "'algorithms' is a package of aipo-rl: give yours another name." in done.stderr
