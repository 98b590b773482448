"""The page as a file: what is in it, and what may run in it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest

from aipo_env import write_traces
from algorithms.apps.viewer import TraceStore, build_page
from algorithms.apps.viewer.page import policy, served_page
from tests.apps.viewer.hostile import PAYLOADS, hostile_trajectories


@pytest.fixture
def page(tmp_path: Path) -> str:
    write_traces(tmp_path / "run" / "traces.jsonl", hostile_trajectories())
    return "".join(build_page(TraceStore([tmp_path]), PAYLOADS[1]))


class Elements(HTMLParser):
    """The elements of a page as (name, attributes, text)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        self.found.append(("", {}, []))  # what follows is not that element's

    def handle_data(self, data: str) -> None:
        if self.found:
            self.found[-1][2].append(data)

    def of(self, name: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, "".join(text)) for tag, attributes, text in self.found if tag == name]


def test_only_its_own_script_and_style_may_run(page: str) -> None:
    elements = Elements(page)
    policies = [a["content"] for a, _ in elements.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [policy("file")]
    running = [text for attributes, text in elements.of("script") if "type" not in attributes]
    styles = [text for _, text in elements.of("style")]
    assert (len(running), len(styles)) == (1, 1)
    hashed = [
        f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in (running[0], styles[0])
    ]
    rules = dict(part.split(" ", 1) for part in policies[0].split("; "))  # type: ignore[union-attr]
    assert rules == {
        "default-src": "'none'", "script-src": hashed[0], "style-src": hashed[1], "connect-src": "'none'", "base-uri": "'none'",
        "form-action": "'none'", "require-trusted-types-for": "'script'", "trusted-types": "'none'",
    }  # fmt: skip
    assert "connect-src 'self'" in policy("served")


def test_it_names_nothing_outside_of_itself(page: str) -> None:
    for _, attributes, _ in Elements(page).found:
        assert not attributes.keys() & {"src", "href", "style", "srcdoc", "action", "data"}
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"https?://", page)
    assert "http" not in served_page("x").replace("http-equiv", "")


def test_no_text_of_a_trace_stands_in_it_as_text(page: str) -> None:
    title = f"<title>{html.escape(PAYLOADS[1])}</title>"
    assert title in page
    rest = page.replace(title, "")
    assert not any(bad in rest for bad in PAYLOADS if bad not in ("constructor", "__proto__"))
    assert "owned" not in rest


def test_the_data_come_back_whole(page: str, tmp_path: Path) -> None:
    blocks = {
        str(attributes["id"]): json.loads(gzip.decompress(base64.b64decode(text)))
        for attributes, text in Elements(page).of("script")
        if attributes.get("type") == "text/plain"
    }
    assert list(blocks) == ["index", "texts-0.0", "tokens-0.0"]
    assert blocks["index"] == json.loads(json.dumps(TraceStore([tmp_path]).index()))
    assert [row[1][1] for row in blocks["texts-0.0"]["rows"]] == [f"policy {bad}" for bad in PAYLOADS]


def test_the_same_traces_give_the_same_page(page: str, tmp_path: Path) -> None:
    assert "".join(build_page(TraceStore([tmp_path]), PAYLOADS[1])) == page


def test_its_program_writes_no_markup() -> None:
    for file in (resources.files("algorithms.apps.viewer") / "page_parts").iterdir():
        if file.name.endswith(".js"):
            source = file.read_text(encoding="utf-8")
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setAttribute\(\"style",
                source,
            )
            assert "</script" not in source
