"""The terminal of `aipo play`. Needs the package textual."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

from rich.text import Text
from textual.app import App, SuspendNotSupported
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Footer, Static, TextArea

from aipo_env.console import INTERRUPTED
from aipo_env.episode import Episode
from aipo_env.errors import ConfigurationError
from aipo_env.protocol import ConsultRequest
from aipo_env.trajectory import Segment, Source
from algorithms.apps.play import blocks, turns
from algorithms.apps.play.editor import edit
from algorithms.apps.play.help_text import help_text
from algorithms.apps.play.session import PlaySession

State = Literal["asked", "waiting", "over", "fault"]
"""The person's turn; somebody else's; the episode is over; it cannot go on now."""

HELPER_KEYS = ("f2", "f3", "f4", "f5", "f8")
"""The keys that ask helpers, in the environment's order; the editor needs F6 and F7, and F1, F9 and F10 have a meaning."""

CSS = """
#head { height: 1; background: $panel; color: $text; padding: 0 1; }
#task { width: 1fr; text-wrap: nowrap; text-overflow: ellipsis; }
#budgets { width: auto; max-width: 100%; padding: 0 0 0 2; }
#transcript { padding: 0 1; scrollbar-size-vertical: 1; }
.block { height: auto; margin: 1 0 0 0; padding: 0 0 0 1; border-left: thick $primary; }
#bottom { height: auto; border-top: solid $panel; }
#ask { height: auto; padding: 0 1; }
.over #ask { padding: 1 1; }
#editor { height: 7; border: round $panel; padding: 0 1; background: $surface; }
#editor:focus { border: round $accent; }
.program #editor { height: 14; }
HelpScreen { align: center middle; }
#help { width: 92; max-width: 95%; height: auto; max-height: 90%; padding: 1 2; border: round $accent; background: $surface; }
"""


class HelpScreen(ModalScreen[None]):
    """What the keys do, and how an episode goes."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f1,q,enter", "dismiss", "close")]

    def __init__(self, text: Text) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> Iterable[Widget]:
        """One box of text."""
        with VerticalScroll(id="help"):
            yield Static(self._text)


class PlayApp(App[int]):
    """A person plays one role of the episodes of a session; returns the exit code.

    Args:
        session: what is played.
    """

    TITLE = "aipo play"
    CSS = CSS
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f9", "answer", "answer", priority=True, key_display="F9"),
        Binding("ctrl+s,f10", "send", "send", priority=True, key_display="^S"),
        Binding("ctrl+o", "edit", "editor", priority=True, key_display="^O"),
        Binding("ctrl+n", "decline", "no answer", priority=True, key_display="^N"),
        Binding("n", "next", "next task", key_display="N"),
        Binding("r", "again", "this task again", key_display="R"),
        Binding("t", "retry", "try again", key_display="T"),
        Binding("f1", "help", "help", priority=True, key_display="F1"),
        Binding("q", "leave", "quit", show=False),
        Binding("ctrl+q", "leave", "quit", priority=True, key_display="^Q"),
        Binding("ctrl+c", "interrupt", "quit", show=False, priority=True),
    ]

    def __init__(self, session: PlaySession) -> None:
        super().__init__()
        self.session = session
        self.state: State = "waiting"
        self._shown: list[Segment] = []
        self._seconds = 0
        self._fault = ""
        keys = self._bindings.key_to_bindings
        if session.plays_policy and session.env.config.assisted:
            for key, name in zip(HELPER_KEYS, session.env.agent_names, strict=False):
                keys[key] = [Binding(key, f"ask('{name}')", f"ask {name}", priority=True, key_display=key.upper())]
        # The order of the line of keys: helpers first, then those of this class, which Textual puts behind its own.
        order = [*HELPER_KEYS, *(key for binding in self.BINDINGS for key in getattr(binding, "key", "").split(","))]
        self._bindings.key_to_bindings = {key: keys[key] for key in dict.fromkeys([*order, *keys]) if key in keys}
        session.person.notify = self._asked

    @property
    def episode(self) -> Episode:
        """The running episode."""
        return self.session.episode

    @property
    def editor(self) -> TextArea:
        """Where the person writes."""
        return self.query_one("#editor", TextArea)

    def compose(self) -> Iterable[Widget]:
        """A line on the state of the episode, the transcript, and below who is asked what."""
        with Horizontal(id="head"):
            yield Static(id="task", markup=False)
            yield Static(id="budgets", markup=False)
        yield VerticalScroll(id="transcript")
        with Vertical(id="bottom"):
            yield Static(id="ask", markup=False)
            program = self.session.env.config.answers == "program" and self.session.plays_policy
            yield TextArea(
                id="editor",
                show_line_numbers=program,
                tab_behavior="indent" if program else "focus",
                soft_wrap=not program,
            )
        yield Footer()

    def on_mount(self) -> None:
        """Starts the first episode."""
        self.screen.set_class(self.session.env.config.answers == "program", "program")
        self.set_interval(1.0, self._tick)
        self.editor.focus()
        self._start()

    # -- the episode ------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._shown = []
        self.query_one("#transcript").remove_children()
        self._go_on()

    def _go_on(self) -> None:
        self.run_worker(self._play(), exclusive=True)

    async def _play(self) -> None:
        self._fault = await self.session.play(self._changed)
        self._enter("fault" if self._fault else "over")

    def _changed(self) -> None:
        """The episode has changed; somebody will be waited for, most often not the person."""
        self._enter("waiting")

    def _asked(self) -> None:
        self._enter("asked")

    def _enter(self, state: State) -> None:
        before, self.state, self._seconds = self.state, state, 0
        self._show_segments()
        self.query_one("#task", Static).update(f"{self.session.env.game.env_id} · {self.episode.task.id}")
        self.query_one("#budgets", Static).update(self._budgets())
        self.query_one("#ask", Static).update(self._ask())
        self.query_one("#bottom").set_class(state == "over", "over")
        editor = self.editor
        # While somebody else is at it, the person may write ahead.
        editor.display = state in ("asked", "waiting")
        if state in ("over", "fault"):
            self.query_one("#transcript").focus()
        elif before in ("over", "fault"):
            editor.focus()
        self.refresh_bindings()

    def _tick(self) -> None:
        self._seconds += 1
        if self.state == "waiting" and self._seconds > 1:
            self.query_one("#ask", Static).update(self._ask())

    # -- what is shown ----------------------------------------------------------------------------------------------

    def _visible(self) -> list[Segment]:
        """The segments that the person may see: a helper that sees the query alone gets the rest at the end."""
        segments = self.episode.segments
        if self.session.plays_policy or self.episode.config.helper_view == "transcript" or self.episode.done:
            return list(segments)
        name = self.session.person.name
        return [s for s in segments if s.agent == name and s.source is Source.AGENT]

    def _show_segments(self) -> None:
        visible = self._visible()
        scroll = self.query_one("#transcript", VerticalScroll)
        if visible[: len(self._shown)] != self._shown:
            scroll.remove_children()
            self._shown = []
        new = visible[len(self._shown) :]
        helpers = self.session.env.agent_names
        for segment in new:
            color = blocks.segment_color(segment, helpers)
            label = blocks.segment_label(segment, self.session.person.name, self.session.policy.name)
            text = Text.assemble((f"{label}\n", f"bold {color}"), blocks.segment_text(segment, helpers))
            block = Static(text, markup=False)
            block.add_class("block")
            block.styles.border_left = ("thick", color)
            scroll.mount(block)
        if new and len(visible) > 1:
            scroll.scroll_end(animate=False)
        self._shown = visible

    def _budgets(self) -> str:
        episode, config = self.episode, self.episode.config
        parts = []
        if done := self.session.finished:
            parts.append(f"correct {sum(t.verdict == 'correct' for t in done)} of {len(done)}")
        if config.assisted:
            parts += [
                f"turn {episode.turn} of {config.max_turns}",
                f"consults {episode.num_consults} of {config.max_consults}",
            ]
            if config.consult_cost:
                parts.append(f"each costs {config.consult_cost:g}")
        else:
            parts.append("solo: one turn, nobody answers")
        return " · ".join([*parts, f"{max(0, episode.chars_left):,} characters left"])

    def _ask(self) -> Text:
        if self.state == "over":
            return self._verdict()
        if self.state == "fault":
            return Text(f"The episode cannot go on now. {self._fault}", style=blocks.NOTICE_COLOR)
        asked = self.session.person.asked
        if self.state == "asked" and isinstance(asked, ConsultRequest):
            name = self.session.person.name
            color = blocks.helper_color(name, self.session.env.agent_names)
            return Text.assemble((f"{self.session.policy.name} asks you, {name}: ", "bold " + color), asked.query)
        if self.state == "asked":
            first = self.episode.turn == 0
            return Text("Your turn." + (" Write, and ask, answer or send it; F1 explains." if first else ""))
        names = list(self.episode.requests)
        who = " and ".join(names) if names else self.session.policy.name
        return Text(f"waiting for {who}" + (f" ({self._seconds} s)" if self._seconds > 1 else ""), style="italic dim")

    def _verdict(self) -> Text:
        episode = self.episode
        verdict = "" if episode.grade is None else episode.grade.verdict.value
        good = verdict == "correct"
        color = blocks.POLICY_COLOR if good else blocks.NOTICE_COLOR
        head = verdict.replace("_", " ").upper() if verdict else f"NO ANSWER ({episode.stop_reason})"
        text = Text.assemble((f"{head}", f"bold {color}"), f"   reward {episode.reward:g}")
        if not good and episode.config.answers == "value" and isinstance(episode.task.gold, str):
            text.append(f"   the answer is {episode.task.gold}")
        if episode.grade is not None and not good and episode.config.answers == "program":
            text.append(f"   {episode.grade.rule}")
        return text

    # -- what the person does ---------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Which keys have a meaning now; the others are not shown."""
        asked, policy = self.state == "asked", self.session.plays_policy
        if isinstance(self.screen, HelpScreen):
            return action in ("help", "interrupt", "dismiss")
        rules = {
            "ask": asked and policy,
            "answer": asked and policy,
            "send": asked,
            "edit": asked,
            "decline": asked and not policy,
            "next": self.state in ("over", "fault"),
            "again": self.state == "over",
            "retry": self.state == "fault",
        }
        return rules.get(action, True)

    def _selection(self) -> turns.Selection:
        start, end = (
            len(self.editor.get_text_range((0, 0), location))
            for location in (self.editor.selection.start, self.editor.selection.end)
        )
        return start, end

    def action_ask(self, name: str) -> None:
        """Asks a helper what the editor says."""

        def ask() -> None:
            episode = self.episode
            turn = turns.ask(
                self.editor.text,
                self._selection(),
                name,
                lambda consult: episode.dialect.render(consult, episode.config, episode.segments),
            )
            self._say(turn, f"Write what {name} is asked, then press the key.")

        self._once_typed(ask)

    def action_answer(self) -> None:
        """Answers with what the editor says."""

        def answer() -> None:
            turn = turns.answer(self.editor.text, self._selection(), self.episode.config.answers)
            self._say(turn, "Write the answer, then press the key.")

        self._once_typed(answer)

    def action_send(self) -> None:
        """Sends what the editor says as it is: a turn, or a helper's reply."""

        def send() -> None:
            self._say(self.editor.text if self.editor.text.strip() else "", "There is nothing to send yet.")

        self._once_typed(send)

    def action_decline(self) -> None:
        """Says that there is no answer; the policy sees a notice."""
        self.session.person.say(None)
        self.editor.clear()

    def _once_typed(self, act: Callable[[], None]) -> None:
        """Acts when the editor has taken the keys before this one: it gets them through a queue, and our keys do not."""
        self.editor.call_later(act)

    def _say(self, text: str, empty: str) -> None:
        if not text:
            self.notify(empty, severity="warning", timeout=4)
        elif self.session.person.say(text):
            self.editor.clear()

    def action_edit(self) -> None:
        """Opens the text in the person's own editor."""
        self._once_typed(self._edit)

    def _edit(self) -> None:
        program = self.session.plays_policy and self.episode.config.answers == "program"
        try:
            with self.suspend():
                text = edit(self.editor.text, ".py" if program else ".md")
        except (ConfigurationError, SuspendNotSupported) as error:
            self.notify(str(error) or "this terminal cannot be lent to an editor.", severity="warning", markup=False)
            return
        self.editor.text = text.removesuffix("\n")
        self.editor.move_cursor(self.editor.document.end)

    def action_next(self) -> None:
        """The next task."""
        self.session.next()
        self._start()

    def action_again(self) -> None:
        """The same task once more."""
        self.session.again()
        self._start()

    def action_retry(self) -> None:
        """Tries the turn again that could not be taken."""
        self._go_on()

    def action_help(self) -> None:
        """Shows what the keys do, or closes it."""
        if isinstance(self.screen, HelpScreen):
            self.pop_screen()
        else:
            self.push_screen(HelpScreen(help_text(self.session, HELPER_KEYS)))

    def action_leave(self) -> None:
        """Ends the program; an episode that is not over is given up."""
        self.exit(0)

    def action_interrupt(self) -> None:
        """Ctrl-C: copies what is selected; without a selection ends the program."""
        if self.state == "asked" and not self.editor.selection.is_empty:
            self.editor.action_copy()
        else:
            self.exit(INTERRUPTED)
