"""What README says is run here."""

from __future__ import annotations

import functools
import inspect
import re
import shlex
from pathlib import Path

import pytest
import tyro

from aipo_env.cli import commands

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_blocks_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})  # noqa: S102
    assert "import" in block


@pytest.mark.parametrize("line", re.findall(r"^    aipo (.*)$", README, re.MULTILINE))
def test_commands_parse(line: str) -> None:
    name, *arguments = shlex.split(line, comments=True)
    command = commands()[name]
    if arguments == ["--help"]:
        return

    @functools.wraps(command)
    def stand_in(*args: object, **kwargs: object) -> bool:
        inspect.signature(command).bind(*args, **kwargs)
        return True

    assert tyro.cli(stand_in, args=arguments)


def test_every_file_that_the_map_names_exists() -> None:
    tree = re.search(r"```\naipo_env/.*?```", README, re.DOTALL)
    assert tree is not None
    folder = ""
    for line in tree.group().splitlines()[1:-1]:
        if not line.startswith(" "):
            folder = line.split("/")[0]
            assert (ROOT / folder).is_dir()
        else:
            for name in re.findall(r"[a-z0-9_]+\.py|^  [a-z_]+/", line):
                candidates = [ROOT / folder / name.strip(), *(ROOT / folder).rglob(name.strip())]
                assert any(c.exists() for c in candidates), (folder, name)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
