"""README's links and the map in CONTRIBUTING are right. Its code and commands are run by tests/docs/test_pages.py."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_every_file_that_the_map_names_exists() -> None:
    tree = re.search(r"```\naipo_env/.*?```", CONTRIBUTING, re.DOTALL)
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


def test_it_is_read_in_one_sitting() -> None:
    assert len(README.splitlines()) <= 200
    order = ("aipo_env.make(", "## What is learnt", "## Two commands", "## Ways to use it")
    assert [README.index(part) for part in order] == sorted(README.index(part) for part in order)
