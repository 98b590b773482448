"""Links of the pages lead somewhere, where the tree is browsed and on the site."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from tests.docs.pages import FENCE, PAGES, ROOT

SPEC = importlib.util.spec_from_file_location("docs_links", ROOT / "docs" / "site" / "links.py")
assert SPEC is not None
assert SPEC.loader is not None
links = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(links)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_exist(page: Path) -> None:
    for target in re.findall(
        r"\]\((?!https?:|mailto:|#)([^)\s#]+)[^)]*\)", FENCE.sub("", page.read_text(encoding="utf-8"))
    ):
        assert (page.parent / target).exists(), target


def test_links_out_of_the_docs_lead_to_the_source() -> None:
    found: list[str] = []
    text = (
        "[a](../algorithms/config.py#L3) [b](objective.md#x) [c](https://a.b) [d](../no.py)\n```\n[e](../no.py)\n```\n"
    )
    there = links.rewrite(text, "cluster.md", ROOT / "docs", "https://host/blob/main", found.append)
    assert there.startswith(
        "[a](https://host/blob/main/algorithms/config.py#L3) [b](objective.md#x) [c](https://a.b) [d](../no.py)"
    )
    assert there.endswith("[e](../no.py)\n```\n")
    assert len(found) == 1
    assert "no.py" in found[0]
    assert links.rewrite("[a](../../Makefile)", "guides/agent.md", ROOT / "docs", "", found.append) == "a"


@pytest.mark.parametrize("url", ["", "https://host/blob/main", "https://host/blob/main/"])
def test_the_api_says_where_a_definition_stands(url: str) -> None:
    jinja2 = pytest.importorskip("jinja2", reason="the extra 'train' is not installed")
    template = (ROOT / "docs/site/templates/python/material/place.html.jinja").read_text(encoding="utf-8")
    place = {"relative_package_filepath": Path("aipo_env/registry.py"), "lineno": 7}
    page = jinja2.Template(template).render(object=place, config={"extra": {"source_url": url}})
    link = '<a href="https://host/blob/main/aipo_env/registry.py#L7">aipo_env/registry.py:7</a>'
    assert (link if url else "<code>aipo_env/registry.py:7</code>") in page


def test_the_site_knows_where_the_tree_is_browsed() -> None:
    # Links of pages and of the API are set by one variable.
    assert (ROOT / "mkdocs.yml").read_text(encoding="utf-8").count('source_url: !ENV [AIPO_SOURCE_URL, ""]') == 2
