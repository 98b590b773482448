"""The training report in a real Chromium: it loads nothing, runs nothing, and fits the screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from algorithms.report_command import report
from tests.apps.test_report import hostile_run, write_run
from tests.apps.viewer.pages import Opener

pytestmark = pytest.mark.usefixtures("chromium")


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    report((write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=1)), out=tmp_path / "page.html")
    return tmp_path / "page.html"


def test_two_runs(opened: Opener, compared: Path) -> None:
    page = opened(compared, ready=None).page
    assert page.locator("#final td").count() == 2 * page.locator("#final tbody tr").count()
    figure = page.locator("figure", has_text="Accuracy on the test tasks")
    assert figure.locator("svg[role=img] polyline").count() == 2
    blue, orange = (figure.locator("svg[role=img] g.line").nth(i).locator("polyline") for i in (0, 1))
    stroke = "e => getComputedStyle(e).stroke"
    assert blue.evaluate(stroke) != orange.evaluate(stroke)
    assert "0.25" in figure.locator("circle title").first.text_content()  # type: ignore[operator]
    page.get_by_text("All options").click()
    assert page.get_by_text("objective.c_max").is_visible()
    page.get_by_role("link", name="Transcripts").click()
    assert page.url.endswith("#samples")


def test_no_text_of_a_figure_is_cut(opened: Opener, compared: Path) -> None:
    page = opened(compared, ready=None).page
    boxes = """() => [...document.querySelectorAll('figure svg[role=img]')].flatMap(svg => [...svg.querySelectorAll('text')]
        .map(node => [node.getBoundingClientRect(), svg.getBoundingClientRect(), node.textContent])
        .filter(([a, b]) => a.left < b.left - 0.5 || a.right > b.right + 0.5 || a.bottom > b.bottom + 0.5).map(row => row[2]))"""
    assert page.evaluate(boxes) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_is_wider_than_the_screen_and_text_can_be_read(
    opened: Opener, compared: Path, scheme: str, width: int
) -> None:
    page = opened(compared, ready=None, viewport={"width": width, "height": 800}, color_scheme=scheme).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    # Text on the charts' ground, and on the page's: the contrast that WCAG 2 asks for.
    ratio = """() => {
        const lum = c => { const v = c.match(/\\d+/g).slice(0, 3).map(x => x / 255)
          .map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4); return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
        const style = s => getComputedStyle(document.querySelector(s));
        const of = (a, b) => { const [x, y] = [lum(a), lum(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
        return [of(style('svg text').fill, style('figure').backgroundColor),
                of(style('section p').color, style('body').backgroundColor)];
    }"""
    assert min(page.evaluate(ratio)) >= 4.5


def test_a_hostile_run_runs_nothing(opened: Opener, tmp_path: Path) -> None:
    report((hostile_run(tmp_path / "a"),), out=tmp_path / "page.html", samples=20)
    page = opened(tmp_path / "page.html", ready=None).page
    page.wait_for_timeout(200)
    assert page.evaluate("window.owned") is None
    assert page.locator("article").count() == 13
    assert page.evaluate("document.querySelectorAll('script, img, iframe, base').length") == 0
    assert page.locator("body").is_visible()
    assert page.get_by_text("policy <script>window.owned = 1</script>").is_visible()


def test_the_policy_of_the_page_forbids_scripts(
    opened: Opener, chromium: object, compared: Path, tmp_path: Path
) -> None:
    """Were an escape forgotten, the browser would refuse all the same."""
    broken = tmp_path / "broken.html"
    broken.write_text(compared.read_text().replace("<main>", "<main><script>window.owned = 1</script>"))
    from tests.apps.viewer.pages import open_page

    page = open_page(chromium, broken, ready=None)  # type: ignore[arg-type]
    assert page.page.evaluate("window.owned") is None
    assert "Content Security Policy" in page.errors[0]
    page.close()
