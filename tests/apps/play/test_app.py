"""The screen of `aipo play`, driven by keys as a person would."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

pytest.importorskip("textual", reason="the extra 'play' is not installed")

from textual import events
from textual.pilot import Pilot
from textual.widgets import Static

import aipo_env
from aipo_env import Reply, read_traces
from algorithms.apps.play.app import HelpScreen, PlayApp
from algorithms.apps.play.person import Person
from algorithms.apps.play.session import PlaySession
from tests.apps.play.test_session import Scripted, make
from tests.grading_code.support import needs_sandbox
from tests.helpers import Recorder
from tests.tasks.small_data import for_this_machine, write_small_data

Script = Callable[[PlayApp, Pilot[int]], Awaitable[None]]


def drive(session: PlaySession, script: Script, size: tuple[int, int] = (100, 36)) -> int | None:
    """Runs the program without a terminal; returns its exit code."""
    app = PlayApp(session)

    async def main() -> None:
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.state != "waiting")
            await script(app, pilot)

    asyncio.run(main())
    session.close()
    return app.return_value


async def until(pilot: Pilot[int], condition: Callable[[], bool], seconds: float = 60) -> None:
    for _ in range(int(seconds / 0.02)):
        await pilot.pause(0.02)
        if condition():
            return
    raise AssertionError("it did not come to that")


def screen(app: PlayApp) -> str:
    """What stands on the screen, as text."""
    svg = app.export_screenshot(simplify=True)
    rows: dict[str, str] = {}
    for y, text in re.findall(r'<text[^>]* y="([\d.]+)"[^>]*>(.*?)</text>', svg):
        rows[y] = rows.get(y, "") + text
    text = "\n".join(rows.values())
    for entity, character in (
        ("&#160;", " "),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", '"'),
        ("&#x27;", "'"),
        ("&amp;", "&"),
    ):
        text = text.replace(entity, character)
    return text


def test_a_task_is_solved_by_keys_alone(tmp_path: Path) -> None:
    env = aipo_env.make("rulebook-consult")
    gold = env.tasks.task(3).gold
    query = str(env.tasks.task(3).metadata["expression"])

    async def script(app: PlayApp, pilot: Pilot[int]) -> None:
        # The line of keys is drawn a moment later than the rest.
        await until(pilot, lambda: "ask verify" in screen(app))
        shown = screen(app)
        assert "rulebook-consult" in shown
        assert "turn 0 of 8" in shown
        assert "consults 0 of 4" in shown
        assert f"Compute {query}" in shown
        for key in ("ask verify", "ask knowledge", "ask reasoning", "answer", "send", "help", "quit"):
            assert key in shown
        await pilot.press("f3")
        assert (app.state, app.episode.turn) == ("asked", 0), "there is nothing to ask yet"
        await pilot.press(*query)
        await pilot.press("f3")
        await until(pilot, lambda: app.state == "asked" and app.episode.num_consults == 1)
        await pilot.pause()
        shown = screen(app)
        reply = app.episode.segments[2].text.removeprefix('<feedback agent="knowledge">').removesuffix("</feedback>")
        assert reply in shown
        assert "consults 1 of 4" in shown
        assert app.editor.text == ""
        await pilot.press(*"so it is", "enter", *gold, "f9")
        await until(pilot, lambda: app.state == "over")
        await until(pilot, lambda: "next task" in screen(app))
        shown = screen(app)
        assert "CORRECT" in shown
        assert "reward 1" in shown
        assert "correct 1 of 1" in shown
        assert "ask verify" not in shown
        await pilot.press("n")
        await until(pilot, lambda: app.state == "asked")
        assert app.episode.task.id == env.tasks.task(4).id
        await pilot.press("ctrl+q")

    session = PlaySession(env, Person("policy"), task_index=3, traces=tmp_path / "traces.jsonl")
    assert drive(session, script) == 0
    (trajectory,) = read_traces(tmp_path / "traces.jsonl")
    assert [segment.text for segment in trajectory.segments[1::2]] == [
        f'<consult agent="knowledge">{query}</consult>',
        f"so it is\n\\boxed{{{gold}}}",
    ]
    assert (trajectory.verdict, trajectory.metadata["person"]) == ("correct", "policy")


def test_markup_by_hand_a_wrong_answer_and_the_task_again() -> None:
    async def script(app: PlayApp, pilot: Pilot[int]) -> None:
        app.editor.text = '<consult agent="reasoning">what now?</consult>'
        await pilot.press("ctrl+s")
        await until(pilot, lambda: app.state == "asked" and app.episode.num_consults == 1)
        app.editor.text = "I do not know."
        await pilot.press("f10")
        await until(pilot, lambda: app.state == "asked" and app.episode.turn == 2)
        await pilot.pause()
        shown = screen(app)
        assert "reasoning says so" in shown
        assert "notice" in shown
        app.editor.text = "\\boxed{77}"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: app.state == "over")
        await pilot.pause()
        assert "WRONG" in screen(app)
        assert "the answer is 8" in screen(app)
        await pilot.press("r")
        await until(pilot, lambda: app.state == "asked")
        await pilot.pause()
        assert app.episode.task.id == "sums/7"
        assert "reasoning says so" not in screen(app)
        await pilot.press("ctrl+c")

    assert drive(PlaySession(make(), Person("policy"), task_index=7), script) == 130


def test_sources_have_their_colours() -> None:
    from algorithms.apps.play.blocks import HELPER_COLORS, POLICY_COLOR, helper_color

    async def script(app: PlayApp, pilot: Pilot[int]) -> None:
        for number, key in enumerate(("f2", "f3", "f4", "f5")):
            app.editor.text = "x"
            await pilot.press(key)
            await until(pilot, lambda n=number: app.state == "asked" and app.episode.num_consults == n + 1)  # type: ignore[misc]
        found = [block.styles.border_left[1].hex.lower() for block in app.query(".block")]
        own = helper_color("oracle", app.session.env.agent_names)
        helpers = [*HELPER_COLORS.values(), own]
        assert found[1::2] == [POLICY_COLOR] * 4
        assert found[2::2] == helpers
        assert len(set(found)) == 6

    agents = {name: Recorder("yes", name) for name in ("verify", "knowledge", "reasoning", "oracle")}
    drive(PlaySession(make(agents=agents), Person("policy")), script)


def test_what_a_helper_says_cannot_draw_on_the_screen() -> None:
    async def script(app: PlayApp, pilot: Pilot[int]) -> None:
        app.editor.text = "x"
        await pilot.press("f2")
        await until(pilot, lambda: app.state == "asked" and app.episode.num_consults == 1)
        await pilot.pause()
        assert "[red]no[/] [@click=app.leave]x[/]" in screen(app)

    hostile = Recorder(Reply("[red]no[/] [@click=app.leave]x[/] \x1b[2J\x07"), "verify")
    drive(PlaySession(make(agents={"verify": hostile}), Person("policy")), script)


def test_a_person_answers_a_policy(tmp_path: Path) -> None:
    person = Person("knowledge")
    ask = '<consult agent="knowledge">what is 1@2?</consult>'
    policy = Scripted(ask, ask, "\\boxed{8}", ConnectionError("gone"), "\\boxed{9}")

    async def script(app: PlayApp, pilot: Pilot[int]) -> None:
        await pilot.pause()
        shown = screen(app)
        assert "scripted asks you, knowledge: what is 1@2?" in shown
        assert "ask verify" not in shown
        await pilot.press(*"it is 8", "ctrl+s")
        await until(pilot, lambda: app.state == "asked" and app.episode.num_consults == 1)
        await pilot.pause()
        assert "knowledge (you)" in screen(app)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: app.state == "over")
        await pilot.press("n")
        await until(pilot, lambda: app.state == "fault")
        await pilot.pause()
        assert "cannot go on now. ConnectionError: gone" in screen(app)
        await pilot.press("t")
        await until(pilot, lambda: app.state == "over")
        await pilot.press("q")

    env = make(agents={"verify": Recorder(), "knowledge": person})
    session = PlaySession(env, person, policy, task_index=7, traces=tmp_path / "traces.jsonl")
    assert drive(session, script) == 0
    first, second = read_traces(tmp_path / "traces.jsonl")
    assert next(s.text for s in first.segments if s.agent) == '<feedback agent="knowledge">it is 8</feedback>'
    assert (first.verdict, second.verdict) == ("correct", "correct")


def test_a_helper_that_sees_the_query_alone_sees_no_problem() -> None:
    person = Person("knowledge")
    policy = Scripted('<consult agent="knowledge">what is @?</consult>', "\\boxed{8}")

    async def script(app: PlayApp, pilot: Pilot[int]) -> None:
        await pilot.pause()
        assert "what is @?" in screen(app)
        assert "7+1=" not in screen(app)
        await pilot.press(*"a sum", "ctrl+s")
        await until(pilot, lambda: app.state == "over")
        await pilot.pause()
        assert "7+1=" in screen(app)

    drive(PlaySession(make(agents={"knowledge": person}, helper_view="query"), person, policy, task_index=7), script)


def test_help_is_about_the_role_and_the_environment() -> None:
    async def script(app: PlayApp, pilot: Pilot[int]) -> None:
        await pilot.press("f1")
        await pilot.pause()
        assert isinstance(app.screen, HelpScreen)
        text = str(app.screen.query_one("#help Static", Static).render())
        assert "You are the policy." in text
        assert "3 turns, of which 2 may ask a helper" in text
        assert re.search(r"F2\s+shout\s+says it loudly", text)
        await pilot.press("f9")
        assert app.episode.turn == 0
        await pilot.press("f1")
        assert not isinstance(app.screen, HelpScreen)

    shout = Recorder("YES", "shout")
    shout.description = "says it loudly"  # type: ignore[attr-defined]
    drive(PlaySession(make(agents={"shout": shout}, max_turns=3, max_consults=2), Person("policy")), script)


def test_an_editor_that_is_not_there_loses_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    from aipo_env.errors import ConfigurationError
    from algorithms.apps.play.editor import edit

    async def script(app: PlayApp, pilot: Pilot[int]) -> None:
        app.editor.text = "kept"
        await pilot.press("ctrl+o")
        await pilot.pause()
        assert (app.state, app.editor.text) == ("asked", "kept")

    drive(PlaySession(make(), Person("policy")), script)
    for command, message in ((None, "set EDITOR"), ("no-such-editor", "failed"), ("false", "failed")):
        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.delenv("EDITOR", raising=False)
        if command is not None:
            monkeypatch.setenv("EDITOR", command)
        with pytest.raises(ConfigurationError, match=message):
            edit("kept", ".md")


class Slow:
    name = "verify"

    async def respond(self, request: object) -> Reply:
        await asyncio.sleep(30)
        return Reply("late")


def test_writing_ahead_and_leaving_while_a_helper_is_busy() -> None:
    async def script(app: PlayApp, pilot: Pilot[int]) -> None:
        app.editor.text = "x"
        await pilot.press("f2")
        await until(pilot, lambda: app.state == "waiting" and bool(app.episode.requests))
        await pilot.pause()
        assert "waiting for verify" in screen(app)
        await pilot.press("y", "f2", "f9", "ctrl+s")
        assert (app.state, app.editor.text, app.episode.turn) == ("waiting", "y", 1)
        await pilot.press("ctrl+q")

    assert drive(PlaySession(make(agents={"verify": Slow()}), Person("policy")), script) == 0


FAMILIES = ["math500", "gsm8k", "aime24", "aime25", "gpqa-diamond", "livecodebench", "rulebook", "rg/chain_sum"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", "-consult"])
@pytest.mark.parametrize("name", for_this_machine(FAMILIES))
def test_every_family_can_be_played(name: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIPO_DATA", str(write_small_data(tmp_path)))
    if name.startswith("rg/"):
        pytest.importorskip("reasoning_gym", reason="the extra 'rg' is not installed")

    async def script(app: PlayApp, pilot: Pilot[int]) -> None:
        if suffix:
            app.editor.text = "is 1+1=2?"
            await pilot.press("f2")
            await until(pilot, lambda: app.state == "asked" and app.episode.num_consults == 1)
        await pilot.press("A" if name.startswith("gpqa") else "1", "f9")
        await until(pilot, lambda: app.state == "over")

    session = PlaySession(aipo_env.make(f"{name}{suffix}"), Person("policy"), task_index=0)
    drive(session, script)
    assert session.finished[0].stop_reason == "answer"
    assert session.finished[0].verdict in ("correct", "wrong")


@needs_sandbox
def test_a_program_is_written_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIPO_DATA", str(write_small_data(tmp_path)))

    async def script(app: PlayApp, pilot: Pilot[int]) -> None:
        await pilot.press(*"n = int(input())", "enter", *"if True:", "enter", "tab", *"print(n)", "f9")
        await until(pilot, lambda: app.state == "over")
        await pilot.pause()
        assert "WRONG" in screen(app)
        assert "code.wrong" in screen(app)
        await pilot.press("r")
        await until(pilot, lambda: app.state == "asked")
        await pilot.press(*"n = int(input())", "enter", *"if True:", "enter", "tab", *"print(2 * n)", "f9")
        await until(pilot, lambda: app.state == "over")
        await pilot.pause()
        assert "CORRECT" in screen(app)

    drive(PlaySession(aipo_env.make("livecodebench-consult"), Person("policy"), task_index=0), script)


def test_keys_that_come_at_once_are_taken_in_their_order(tmp_path: Path) -> None:
    """As when a text is pasted, or typed fast, with the key that sends it close behind."""
    session = PlaySession(make(), Person("policy"), task_index=3, seed=3, traces=tmp_path / "traces.jsonl")

    async def script(app: PlayApp, pilot: Pilot[int]) -> None:
        for character in "1234567890":
            app.post_message(events.Key(character, character))
        app.post_message(events.Key("f9", None))
        await until(pilot, lambda: app.state == "over")
        await pilot.press("q")

    drive(session, script)
    (trajectory,) = read_traces(tmp_path / "traces.jsonl")
    assert trajectory.segments[1].text == r"\boxed{1234567890}"
