"""The trace viewer in a real Chromium: loading, filters, tokens, keys, views, hostile traces, ten thousand trajectories."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aipo_env import Segment, Source, Trajectory, write_traces
from algorithms.apps.viewer import RunInfo, TokenReader, TraceStore, build_page, make_server
from tests.apps.viewer.hostile import PAYLOADS, hostile_trajectories
from tests.apps.viewer.pages import Opened, Opener
from tests.apps.viewer.scripted import WordCodec, play

pytestmark = pytest.mark.usefixtures("chromium")


def learner_of(traces: Path) -> Any:
    if not traces.with_name("config.json").exists():
        return None
    from algorithms.token_weights import TokenWeights

    return TokenWeights.read(traces.with_name("config.json"))


def write_page(path: Path, runs: list[Path], codec: WordCodec | None) -> Path:
    reader = None if codec is None else TokenReader(codec.decode, codec.name)
    store = TraceStore(runs, lambda traces: RunInfo(reader, learner_of(traces)))
    with path.open("w", encoding="utf-8") as file:
        file.writelines(build_page(store, "aipo view: test"))
    return path


@dataclasses.dataclass
class Runs:
    codec: WordCodec
    folder: Path
    page: Path


@pytest.fixture(scope="session")
def trained(chromium: object, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A training run of 3 steps of 5 tasks with 8 samples each; the last step has faults."""
    pytest.importorskip("torch", reason="the extra 'train' is not installed")
    folder, codec = tmp_path_factory.mktemp("trained"), WordCodec()
    play(folder / "run", codec, 15, tasks_per_step=5, faults_from=10)
    return Runs(codec, folder / "run", write_page(folder / "page.html", [folder / "run"], codec))


@pytest.fixture(scope="session")
def many(chromium: object, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    pytest.importorskip("torch", reason="the extra 'train' is not installed")
    folder, codec = tmp_path_factory.mktemp("many"), WordCodec()
    play(folder / "run", codec, 1250, tasks_per_step=125, faults_from=1125)
    return Runs(codec, folder / "run", write_page(folder / "page.html", [folder / "run"], codec))


def chosen(opened: Opened) -> str:
    return opened.page.locator(".row[aria-selected=true]").get_attribute("aria-label") or ""


# -- loading, filters, search ------------------------------------------------------------------------------------------


def test_it_opens_from_disk_and_shows_a_conversation(trained: Runs, opened: Opener) -> None:
    view = opened(trained.page)
    assert view.count() == "120 of 120"
    page = view.page
    assert page.title() == "aipo view: test"
    page.locator("#sort").select_option("task")
    view.keys("Escape", "Home")
    page.locator("#detail h1").get_by_text("sums/00000").wait_for()
    assert "Compute" in page.locator(".block.prompt .preview, .block.prompt .text").first.inner_text()
    view.page.locator("#filter-consulted").select_option("yes")
    blocks = page.locator("#detail .block").evaluate_all("nodes => nodes.map(node => node.className)")
    assert [b.split()[1].split("-")[0] for b in blocks[:3]] == ["prompt", "policy", "agent"]
    colours = page.locator("#detail .block").evaluate_all(
        "nodes => [...new Set(nodes.map(node => getComputedStyle(node).borderLeftColor))]"
    )
    assert len(colours) >= 3
    assert page.locator(".legend").inner_text().split("\n")[:2] == ["prompt", "policy"]


def test_filters_narrow_the_list(trained: Runs, opened: Opener) -> None:
    view = opened(trained.page)
    rows = list(TraceStore([trained.folder]).files)
    everything = [row for file in rows for row in file.rows]
    assert len(everything) == 120

    def expect(wanted: int) -> None:
        assert view.count() == f"{wanted} of 120"
        view.page.locator("#clear").click()
        assert view.count() == "120 of 120"

    pick = lambda name, value: view.page.locator(f"#filter-{name}").select_option(value)  # noqa: E731
    pick("consulted", "yes")
    expect(sum(r.consults > 0 for r in everything))
    pick("helper", "verify")
    expect(sum("verify" in r.agents for r in everything))
    pick("error", "yes")
    faults = sum(bool(r.error) for r in everything)
    assert faults > 0
    expect(faults)
    pick("level", "3")
    pick("mode", "solo")
    expect(sum(r.level == "3" and not r.assisted for r in everything))
    pick("verdict", "correct")
    expect(sum(r.verdict == "correct" for r in everything))
    view.page.locator("#filter-least").fill("0.5")
    expect(sum(r.reward >= 0.5 for r in everything))
    pick("step", "2")
    view.page.locator("#filter-most").fill("0.5")
    expect(sum(r.step == 2 and r.reward <= 0.5 for r in everything))
    view.page.locator("#sort").select_option("tokens")
    assert view.count() == "120 of 120"
    longest = max(everything, key=lambda r: r.tokens[Source.POLICY])
    view.keys("Escape", "Home")
    assert longest.task in chosen(view)


def test_search_reads_texts_tasks_and_errors_and_marks_what_it_found(trained: Runs, opened: Opener) -> None:
    view = opened(trained.page)
    view.keys("/")
    view.page.keyboard.type("SUMS/00007")
    assert view.count() == "8 of 120"
    view.page.locator("#search").fill("answered 503")
    assert view.count() == f"{sum(bool(r.error) for f in TraceStore([trained.folder]).files for r in f.rows)} of 120"
    view.page.locator("#search").fill("from knowledge:")
    view.page.locator("#detail .block.agent-knowledge").first.wait_for()
    hits = view.page.evaluate("() => [...(CSS.highlights.get('hit') || [])].map(range => range.toString())")
    assert hits
    assert {hit.lower() for hit in hits} == {"from knowledge:"}
    view.page.locator("#search").fill("this stands nowhere")
    assert view.count() == "0 of 120"
    assert view.page.locator("#detail").inner_text() == "No trajectory passes the filters."


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_hovering_a_token_tells_its_numbers(trained: Runs, opened: Opener) -> None:
    view = opened(trained.page)
    store = TraceStore([trained.folder], lambda traces: RunInfo(None, learner_of(traces)))
    view.page.locator("#filter-consulted").select_option("yes")
    first = next(r for r in store.files[0].rows if r.consults)
    assert first.advantages is not None
    view.page.locator(".block.policy .token").nth(1).hover()
    tip = view.tip()
    assert list(tip) == ["token", "id", "source", "logprob", "μ", "coefficient", "clipped", "advantage"]
    assert re.fullmatch(r"−\d+\.\d+  \(p 0\.\d+\)", tip["logprob"])
    assert tip["coefficient"] == "1"
    assert tip["clipped"] == "no: π is still π_old"
    assert float(tip["advantage"].replace("−", "-")) == pytest.approx(first.advantages[0], abs=1e-3)
    view.page.locator(".block[class*=agent-] .token").nth(1).hover()
    tip = view.tip()
    assert tip["logprob"] == "π was not recorded"
    assert tip["log μ"] == "unknown; taken as μ = 1"
    assert tip["trust region"] == "inside: π is still π_old"
    assert float(tip["advantage"].replace("−", "-")) == pytest.approx(first.advantages[1], abs=1e-3)
    # The sum of what the tokens show is the text, character by character.
    text = view.page.locator(".block.policy .text").first
    pieces = text.locator(".token:not(.control)").all_text_contents()
    assert "".join(pieces) + text.locator(".token.control").first.text_content() == text.text_content()  # type: ignore[operator]
    view.page.locator("#title").hover()
    assert view.page.locator("#tip").is_hidden()


def test_a_step_that_is_not_whole_has_no_advantages(trained: Runs, opened: Opener) -> None:
    view = opened(trained.page)
    view.page.locator("#filter-step").select_option("3")
    view.page.locator(".block.policy .token").first.hover()
    assert view.tip()["advantage"] == "unknown: the step is not whole in the file"


def test_without_tokenizer_and_objective_it_says_so(trained: Runs, opened: Opener, tmp_path: Path) -> None:
    traces = tmp_path / "plain" / "traces.jsonl"
    traces.parent.mkdir()
    traces.write_bytes((trained.folder / "traces.jsonl").read_bytes())
    view = opened(write_page(tmp_path / "page.html", [traces], None))
    view.page.locator(".block.policy .ids .token").first.hover()
    tip = view.tip()
    assert tip["token"] == "(text not known)"
    assert tip["objective"] == "none: this run did not train"
    assert "(p 0." in tip["logprob"]
    assert "tokenizer is not known" in view.page.locator(".metadata").text_content()  # type: ignore[operator]


@pytest.mark.parametrize("colour", ["logprob", "push"])
def test_colours_show_numbers(trained: Runs, opened: Opener, colour: str) -> None:
    view = opened(trained.page)
    view.page.locator("#filter-step").select_option("1")
    view.page.locator("#sort").select_option("advantage")
    view.keys("Escape", "Home")
    view.page.locator("#colour").select_option(colour)
    marked = view.page.locator({"logprob": ".token.surprise", "push": ".token.up"}[colour])
    marked.first.wait_for()
    heats = marked.evaluate_all("nodes => nodes.map(node => Number(getComputedStyle(node).getPropertyValue('--heat')))")
    assert all(0 <= heat <= 1 for heat in heats)
    assert max(heats) > 0.1
    assert marked.first.evaluate("node => getComputedStyle(node).backgroundColor") != "rgba(0, 0, 0, 0)"


# -- the keyboard, the views -------------------------------------------------------------------------------------------


def test_everything_can_be_reached_by_the_keyboard(trained: Runs, opened: Opener) -> None:
    view = opened(trained.page)
    page = view.page
    assert page.evaluate("() => document.activeElement.id") == "list"
    labels = [chosen(view)]
    for key in ("j", "ArrowDown", "k"):
        view.keys(key)
        labels.append(chosen(view))
    assert labels[0] != labels[1] != labels[2]
    assert labels[3] == labels[1]
    view.keys("End")
    assert page.locator(".row[aria-selected=true]").get_attribute("aria-posinset") == "120"
    assert page.locator("#list").get_attribute("aria-activedescendant") == "row-119"
    view.keys("Home", "Enter")
    assert page.evaluate("() => document.activeElement.id") == "detail"
    view.keys("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft")
    assert page.locator(".token.cursor").get_attribute("data-t") == "1"
    assert page.locator("#tip").is_visible()
    assert "logprob −" in page.locator("#said").text_content()  # type: ignore[operator]
    view.keys("Escape")
    assert page.locator("#tip").is_hidden()
    assert page.evaluate("() => document.activeElement.id") == "list"
    view.keys("?")
    assert page.locator("#help").is_visible()
    view.keys("j")  # the dialog has the keyboard
    view.keys("Escape")
    assert page.locator("#help").is_hidden()
    assert chosen(view) == labels[0]
    view.keys("/")
    page.keyboard.type("jkgc?")  # in a field they are letters
    assert page.locator("#search").input_value() == "jkgc?"
    assert page.locator("[data-view=single]").get_attribute("aria-pressed") == "true"
    view.keys("Escape", "Escape")
    view.keys("x")
    assert view.count() == "120 of 120"
    view.keys("f")
    assert page.evaluate("() => document.activeElement.id") == "filter-step"
    view.keys("Escape", "g")
    assert page.locator("[data-view=group]").get_attribute("aria-pressed") == "true"


def test_focus_can_be_seen(trained: Runs, opened: Opener) -> None:
    view = opened(trained.page)
    for _ in range(24):
        view.keys("Tab")
        outline = view.page.evaluate(
            "() => { const node = document.activeElement; return [node.id || node.tagName, getComputedStyle(node).outlineStyle,"
            " node.id === 'list' && getComputedStyle(node.querySelector('[aria-selected=true]')).outlineStyle] }"
        )
        assert outline[0] == "BODY" or "solid" in outline[1:], outline


def test_every_control_has_a_name(trained: Runs, opened: Opener) -> None:
    page = opened(trained.page).page
    unnamed = page.evaluate(
        "() => [...document.querySelectorAll('button, select, input')].filter(node => !(node.textContent.trim()"
        " && node.tagName === 'BUTTON') && !node.getAttribute('aria-label') && !(node.labels && node.labels.length))"
        ".map(node => node.outerHTML)"
    )
    assert unnamed == []


def test_a_group_stands_side_by_side(trained: Runs, opened: Opener) -> None:
    view = opened(trained.page)
    view.keys("g")
    columns = view.page.locator(".column")
    columns.first.wait_for()
    assert columns.count() == 8
    assert columns.locator("h2").all_inner_texts() == [f"Sample {i}" for i in range(8)]
    assert view.page.locator("#detail .block.prompt").count() == 1  # they have it in common
    assert view.page.locator(".column.chosen").count() == 1
    columns.nth(2).locator(".token").first.hover()
    assert "logprob" in view.tip()
    view.keys("v")
    view.page.locator(".column").first.wait_for(state="detached")


def test_two_checkpoints_stand_side_by_side(chromium: object, tmp_path: Path, opened: Opener) -> None:
    codec = WordCodec()
    for name, skill in (("before", -0.4), ("after", 0.5)):
        play(tmp_path / name, codec, 10, 4, skill=skill)
    view = opened(write_page(tmp_path / "page.html", [tmp_path / "before", tmp_path / "after"], codec))
    assert view.count() == "80 of 80"
    view.keys("c")
    assert view.count() == "10 tasks in both"
    page = view.page
    assert page.locator("#checkpoint-left").evaluate("node => node.selectedOptions[0].textContent") == "before"
    assert page.locator("#checkpoint-right").evaluate("node => node.selectedOptions[0].textContent") == "after"
    assert page.locator(".stepper span").all_inner_texts() == ["1 of 4", "1 of 4"]
    page.get_by_label("right: next sample").click()
    page.locator(".column").nth(1).get_by_text("2 of 4").wait_for()
    rows = {file.run.name: file.rows for file in TraceStore([tmp_path / "before", tmp_path / "after"]).files}
    mean = lambda name, task: sum(r.reward for r in rows[name] if r.task == task) / 4  # noqa: E731
    changes = {f"sums/{i:05d}": mean("after", f"sums/{i:05d}") - mean("before", f"sums/{i:05d}") for i in range(10)}
    largest = max(abs(change) for change in changes.values())
    view.keys("Home")
    task = page.locator("#detail h1").inner_text().lstrip("‹")
    assert abs(changes[task]) == largest > 0
    page.locator("#checkpoint-left").select_option(index=1)
    page.locator("#checkpoint-right").select_option(index=0)
    page.locator("#detail .where").get_by_text("→").wait_for()
    assert view.count() == "10 tasks in both"


def test_one_checkpoint_alone_cannot_be_compared(chromium: object, tmp_path: Path, opened: Opener) -> None:
    play(tmp_path / "only", WordCodec(), 2, 2)
    view = opened(write_page(tmp_path / "page.html", [tmp_path / "only"], None))
    view.page.locator("[data-view=compare]").click()
    # Both sides show it, so that the choice can still be made.
    assert view.count() == "2 tasks in both"


def test_a_comparison_takes_checkpoints_with_tasks_in_common_and_lets_choose_others(
    chromium: object, tmp_path: Path, opened: Opener
) -> None:
    codec = WordCodec()
    for name in "ab":
        play(tmp_path / name, codec, 10, 4, tasks_per_step=5)
    view = opened(write_page(tmp_path / "page.html", [tmp_path / "a", tmp_path / "b"], codec))
    view.keys("c")
    assert view.count() == "5 tasks in both"

    def shown(side: str) -> str:
        return str(view.page.locator(f"#checkpoint-{side}").evaluate("node => node.selectedOptions[0].textContent"))

    assert (shown("left"), shown("right")) == ("a · step 1", "b · step 1")
    view.page.locator("#checkpoint-left").select_option(label="a · step 2")
    view.page.get_by_text("no task in common").wait_for()
    assert view.count() == "0 tasks in both"
    view.page.locator("#checkpoint-right").select_option(label="b · step 2")
    view.page.locator(".column").nth(1).wait_for()
    assert view.count() == "5 tasks in both"


# -- hostile and confidential traces -------------------------------------------------------------------------------------


def test_nothing_of_a_hostile_trace_is_read_as_markup(chromium: object, tmp_path: Path, opened: Opener) -> None:
    write_traces(tmp_path / "run" / "traces.jsonl", hostile_trajectories())
    page_file = tmp_path / "page.html"
    store = TraceStore([tmp_path / "run"])
    with page_file.open("w", encoding="utf-8") as file:
        file.writelines(build_page(store, PAYLOADS[1]))
    view = opened(page_file)
    page = view.page
    assert page.title() == PAYLOADS[1]
    tags = "() => [...new Set([...document.querySelectorAll('*')].map(node => node.tagName))].sort()"
    for number, bad in enumerate(PAYLOADS):
        for key in ("v", "g", "c"):
            view.keys(key)
            page.wait_for_timeout(30)
        view.keys("v")
        page.locator("#detail h1").get_by_text(f"task {number} ").wait_for()
        text = page.locator("#detail .block.policy .text").text_content()
        assert text is not None
        assert text.replace("\ufffd", "\ud800") == f"policy {bad}"
        page.locator("#detail .metadata summary").click()
        page.locator(".ids .token").first.hover()
        view.keys("Escape", "j")
    assert page.evaluate("() => window.owned") is None
    assert set(page.evaluate(tags)).isdisjoint({"IMG", "SVG", "IFRAME", "A", "BASE", "OBJECT", "EMBED"})
    assert page.locator("style").count() == 1
    assert page.locator("meta[http-equiv]").count() == 1
    assert page.locator("body").is_visible()
    assert page.evaluate("() => ({}).polluted === undefined && Object.keys(Object.prototype).length === 0")
    # Filters over hostile values work as over any others.
    page.locator("#filter-ended").select_option(PAYLOADS[0])
    assert view.count() == f"1 of {len(PAYLOADS)}"


def test_the_policy_of_the_page_stops_what_would_get_in(trained: Runs, opened: Opener) -> None:
    view = opened(trained.page)
    stopped = view.page.evaluate(
        """async () => {
          const found = [];
          document.addEventListener("securitypolicyviolation", (event) => found.push(event.effectiveDirective));
          const script = document.createElement("script");
          try { script.textContent = "window.owned = 1"; document.body.append(script); } catch (error) { found.push("thrown"); }
          try { document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.owned=2'>"); } catch (error) { found.push("thrown"); }
          try { await fetch("http://127.0.0.1:9/"); } catch (error) { found.push("fetch"); }
          await new Promise((next) => setTimeout(next, 50));
          return [found, window.owned === undefined];
        }"""
    )
    assert stopped[1]
    assert stopped[0].count("thrown") == 2
    assert "connect-src" in stopped[0]
    # These are the violations that were made on purpose.
    view.errors[:] = [
        e
        for e in view.errors
        if "Content Security Policy" not in e and "TrustedScript" not in e and "TrustedHTML" not in e
    ]
    view.foreign[:] = [url for url in view.foreign if url != "http://127.0.0.1:9/"]


def test_texts_of_confidential_tasks_are_not_in_the_page(chromium: object, tmp_path: Path, opened: Opener) -> None:
    secret = Trajectory(
        "gpqa", "gpqa/1", [Segment(Source.PROMPT, "zygomorphic", (1, 2)), Segment(Source.POLICY, "zygomorphic!", (3,), (-1.0,))],
        stop_reason="error", metadata={"error": "ServiceError: zygomorphic"}, confidential=True,
    )  # fmt: skip
    # As somebody might write it who does not use a TraceWriter.
    import json

    (tmp_path / "traces.jsonl").write_text(json.dumps(secret.to_json()) + "\n")
    view = opened(write_page(tmp_path / "page.html", [tmp_path / "traces.jsonl"], None))
    assert "zygomorphic" not in view.page.evaluate("() => document.documentElement.innerHTML")
    assert view.page.locator(".withheld").all_inner_texts() == [
        "withheld: 11 characters, 2 tokens; the task is confidential",
        "withheld: 12 characters, 1 token; the task is confidential",
    ]
    assert "ServiceError: (withheld)" in view.page.locator("#detail .failure").inner_text()
    view.page.locator("#search").fill("zygomorphic")
    assert view.count() == "0 of 1"


# -- ten thousand ---------------------------------------------------------------------------------------------------------

TIMED = """async (query) => {
  const field = document.getElementById("search"), started = performance.now();
  field.value = query;
  field.dispatchEvent(new Event("input"));
  await new Promise((next) => requestAnimationFrame(() => setTimeout(next)));
  return [performance.now() - started, document.getElementById("count").textContent];
}"""


@pytest.mark.slow
def test_ten_thousand_trajectories(many: Runs, opened: Opener) -> None:
    view = opened(many.page)
    page = view.page
    assert view.count() == "10,000 of 10,000"
    paint = page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime")
    shown = page.evaluate("() => performance.getEntriesByName('list')[0].startTime")
    searches = {
        query: page.evaluate(TIMED, query)
        for query in ("beads", "sums/00777", "therefore the result", "503", "nowhere")
    }
    slowest = max(milliseconds for milliseconds, _ in searches.values())
    print(
        f"\nfirst paint {paint:.0f} ms, list {shown:.0f} ms, slowest search {slowest:.0f} ms, {many.page.stat().st_size / 1e6:.1f} MB"
    )
    assert [searches[q][1] for q in ("beads", "sums/00777", "nowhere")] == [
        "10,000 of 10,000",
        "8 of 10,000",
        "0 of 10,000",
    ]
    page.locator("#search").fill("")
    assert page.locator(".row").count() < 60
    view.keys("Escape", "End")
    assert "sums/" in chosen(view)
    assert page.locator(".row[aria-selected=true]").get_attribute("aria-posinset") == "10000"
    assert page.locator(".row").count() < 60
    # Whichever episode ended last: one that failed in its first turn has no tokens to wait for.
    page.locator("#detail h1").get_by_text(chosen(view).split(", ")[1]).wait_for()


# -- served ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    run = tmp_path / "run"
    play(run, WordCodec(), 2, 2)
    server = make_server(TraceStore([run]), "aipo view: live")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", run / "traces.jsonl"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_run_that_goes_on_is_followed(chromium: object, live: tuple[str, Path], opened: Opener) -> None:
    address, traces = live
    view = opened(address)
    page = view.page
    assert view.count() == "4 of 4"
    assert page.locator("#live").inner_text().endswith("live")
    view.keys("j", "Enter", "ArrowRight")
    before, cursor = chosen(view), page.locator(".token.cursor")
    assert cursor.count() == 1
    lines = traces.read_text().splitlines()
    with traces.open("a") as file:
        file.write(lines[0].replace('"sample":0', '"sample":7').replace("beads", "pearls") + "\n" + lines[1][:50])
    page.locator("#count").get_by_text("5 of 5").wait_for(timeout=60_000)
    assert chosen(view) == before  # what one reads stays where it is
    view.keys("Escape")
    page.locator("#search").fill("pearls")
    page.locator("#count").get_by_text("1 of 5").wait_for(timeout=60_000)
    page.locator("#search").fill("")
    # The run starts again: its file is written anew.
    traces.unlink()
    traces.write_text(lines[2] + "\n")
    page.locator("#count").get_by_text("1 of 1").wait_for(timeout=60_000)
    page.locator("#detail .block.policy").first.wait_for()
    traces.write_text(lines[2] + "\nno trace\n")
    page.locator("#live.failure").wait_for(timeout=60_000)
    assert "line 2 is not a trajectory" in page.locator("#live").inner_text()
    view.errors.clear()
