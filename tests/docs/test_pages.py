"""What the pages and README say is run here."""

from __future__ import annotations

import importlib.util
import inspect
import pkgutil
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest

from aipo_env.cli import commands as known_commands
from aipo_env.parsing import parse
from tests.docs.pages import PAGES, ROOT, blocks, commands


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.language == "python" for b in blocks(p))], ids=_name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page share a namespace, as a reader who types them in order has it."""
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for block in blocks(page):
        if block.language == "python" and block.reason is None:
            code = "\n" * (block.line - 1) + block.code  # tracebacks show the page's line
            exec(compile(code, str(page), "exec"), module.__dict__)  # noqa: S102


@pytest.mark.slow
def test_repair_35_python_blocks_type_check(tmp_path: Path) -> None:
    """As a reader's own strict check would see them: what a page does is what the signatures allow."""
    pytest.importorskip("mypy")
    pages = {
        _name(p).replace("/", "_").removesuffix(".md"): [b for b in blocks(p) if b.language == "python"] for p in PAGES
    }
    files = []
    for name, found in pages.items():
        if found:
            files.append(tmp_path / f"page_{name}.py")
            files[-1].write_text("\n\n".join(block.code for block in found), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=900, check=False)
    errors = [
        line for line in done.stdout.splitlines() if line.startswith((str(tmp_path), "page_")) and ": error:" in line
    ]
    assert (errors, f"{len(files)} source files" in done.stdout) == ([], True), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("page", "line"),
    [pytest.param(p, line, id=f"{_name(p)}: {line}") for p in PAGES for line in commands(p) if p.name != "own_task.md"],
)
def test_commands_parse(page: Path, line: str) -> None:
    # Those of own_task.md need its file; tests/training runs them.
    name, *arguments = shlex.split(line, comments=True)
    if not arguments or arguments == ["--help"] or "--config" in arguments or "openrlhf" in arguments:
        assert name in known_commands()
        return
    assert parse(known_commands()[name], arguments, f"aipo {name}")


def test_what_is_not_run_is_listed() -> None:
    """A new marker has to be counted here, so that none slips in."""
    not_run = {f"{_name(b.page)}:{b.reason}" for page in PAGES for b in blocks(page) if b.reason is not None}
    assert not_run == {
        "docs/guides/backend.md:needs a server",
        "docs/guides/openenv.md:needs a server; tests/algorithms/adapters/test_openenv.py plays one",
        "docs/guides/trl.md:examples/trl_aipo.py is this, and tests/training runs it",
        "docs/guides/trl.md:tests/algorithms/adapters/test_trl_environment.py runs TRL's loop on it",
    }, sorted(not_run)


def test_every_public_name_of_the_environments_is_on_an_api_page() -> None:
    import aipo_env

    shown = {
        name
        for page in (ROOT / "docs" / "api").glob("*.md")
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)
    }
    objects = {id(pkgutil.resolve_name(name)) for name in shown}
    modules = [pkgutil.resolve_name(name) for name in shown]
    objects |= {id(value) for module in modules if inspect.ismodule(module) for value in vars(module).values()}
    missing = [name for name in aipo_env.__all__ if id(getattr(aipo_env, name)) not in objects]
    assert not missing, f"no page of docs/api shows {missing}"


def test_formulas_become_mathml() -> None:
    pytest.importorskip("latex2mathml", reason="make docs brings it")
    spec = importlib.util.spec_from_file_location("docs_formulas", ROOT / "docs" / "site" / "formulas.py")
    assert spec is not None
    assert spec.loader is not None
    formulas = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formulas)
    text = formulas.on_page_markdown("before\n\n```math\n\\frac{a}{b}\n```\n\nafter `math`\n")
    assert "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>" in text
    assert text.startswith("before")
    assert text.endswith("after `math`\n")
    for page in PAGES:
        assert "<merror" not in formulas.on_page_markdown(page.read_text(encoding="utf-8"))
