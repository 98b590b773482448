"""The check of a dialect that somebody else wrote."""

from __future__ import annotations

from aipo_env.dialects import DialectLike, make_dialect
from aipo_env.dialects.base import Dialect, TokenCodec
from aipo_env.episode import Episode, EpisodeConfig
from aipo_env.protocol import Action, Answer, Consult, Malformed, Reply, TokenAction
from aipo_env.tasks.base import Task
from aipo_env.testing.report import Report
from aipo_env.trajectory import Source

_HELPERS = {"verify": "checks a step", "knowledge": "gives a fact"}
_RULES = EpisodeConfig(agents=tuple(_HELPERS), fan_out=2)
_QUERIES = ("is 17+25=43?", 'a "quoted" \\frac{1}{2}\nline', "é数 {}", "x" * 500)
_ANSWERS = ("42", "\\frac{1}{2}", "B")
_RUBBISH = (
    "",
    " ",
    "<",
    "</",
    "{",
    "[",
    "\x00",
    "<think>",
    "</think>",
    '<consult agent="verify">',
    "\\boxed{",
    "x" * 2000,
)


def check_dialect(dialect: DialectLike, codec: TokenCodec | None = None) -> list[str]:
    """Checks that a dialect keeps its contract.

    Args:
        dialect: as for `aipo_env.make`.
        codec: the tokenizer of token-exact episodes; None checks episodes that are text.

    Returns:
        Remarks on what is allowed but rarely meant.

    Raises:
        ConformanceError: listing everything that is wrong.
    """
    made = make_dialect(dialect, codec, _HELPERS, "value")
    report = Report(f"the dialect {made.name!r}")
    _check_actions(made, report)
    for text in _RUBBISH:
        understood = _episode(made).act(text)
        report.expect(
            isinstance(understood, Malformed),
            f"what is no action is an observation with the reason; {text[:40]!r} was understood as {understood!r}.",
            rule="rubbish",
        )
    _check_replies(made, report)
    return report.finish()


def _episode(dialect: Dialect) -> Episode:
    task = Task("check/1", "What is 6 times 7?", "42")
    return Episode(task, dialect.prompt("consult", task.problem), _RULES, dialect=dialect)


def _consults(dialect: Dialect) -> list[Consult]:
    """As many as a turn may hold, two at most."""
    return [Consult("knowledge", "one"), Consult("verify", "two")][: dialect.max_calls]


def _check_actions(dialect: Dialect, report: Report) -> None:
    actions: list[Action] = [Consult("verify", query) for query in _QUERIES]
    actions += [Answer(text, "So ") for text in _ANSWERS]
    actions += [_consults(dialect)]
    for action in actions:
        episode = _episode(dialect)
        turn = episode.read(action)  # raises where an action does not read as itself
        ids = dialect.ids(turn.text)
        if dialect.codec is None:
            report.expect(not ids, "a dialect without a tokenizer makes no ids.")
            continue
        again = episode.read(TokenAction(ids)).reading
        report.expect(
            dialect.text(ids) == turn.text and again == turn.reading,
            f"a turn's ids read as its text does; {turn.text[:80]!r} became {dialect.text(ids)[:80]!r}.",
            rule="ids",
        )


def _check_replies(dialect: Dialect, report: Report) -> None:
    before = _episode(dialect).segments
    said = dialect.render(Answer("7"), _RULES, before) + dialect.render(Consult("knowledge", "q"), _RULES, before)
    spelled = "".join(getattr(getattr(dialect, "chat", None), "markers", ())) + dialect.closing + said
    reserved = frozenset() if dialect.codec is None else dialect.codec.reserved_ids
    controls = []
    for text in ("fine", spelled):
        episode = _episode(dialect)
        asked = _consults(dialect)
        episode.act(asked)
        for name in (consult.agent for consult in asked):
            report.expect(
                episode.turn_of == name, f"replies are due in the order of the calls; it is {episode.turn_of}'s turn."
            )
            episode.reply(Reply(text))
        own = [s for s in episode.segments if s.source is Source.AGENT]
        report.expect(
            [s.agent for s in own] == [consult.agent for consult in asked],
            f"each reply is one AGENT segment with the helper's name; there are {[s.agent for s in own]}.",
        )
        controls.append([i for s in episode.segments for i in s.token_ids if i in reserved])
        again = _episode(dialect)
        again.act(asked)
        for segment in own:
            again.reply(dialect.reply_of(segment))
        report.expect(
            again.segments == episode.segments, "`reply_of` gives a reply of which `reply` makes the same segments."
        )
        episode.act(Answer("42"))
        report.expect(episode.turn_of == "grader", "an answer behind a reply answers.")
    report.expect(controls[0] == controls[1], "no text of a helper's may become a control token, whatever it says.")
