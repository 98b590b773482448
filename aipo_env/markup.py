r"""Text <-> action: the only place that knows the tags.

A policy writes `<consult agent="verify">is 17+25=43?</consult>` to ask, and `\boxed{42}` or `<answer>42</answer>` to
answer. A helper's reply comes back as `<feedback agent="verify">...</feedback>`, a word of the environment as
`<notice>...</notice>`.

The first complete tag of a turn decides what the turn is. If that is an answer, the last complete answer of the turn is
the one that counts, as everywhere in the field; boxes in a row, with nothing but "and", "or" or commas between, are one
answer together, read as the grader reads them. What stands inside a consult, a feedback or a notice that the policy
wrote itself is never an answer; nor is an answer that such a tag, opened inside it, outlives. A closing tag closes the
nearest open one of its kind; what never closes is text, so it hides nothing that stands behind it. A consult that names
no helper opens nothing.

Where the answer is a program, models rarely mark it: they write a fenced code block and end their turn. So there a turn
that neither consults nor marks an answer with a fenced block in it answers by its last fenced block. A turn that was cut
by the token limit does not: its last block is a draft.

Under the extraction "lenient" a turn that neither consults nor marks a value may say it as other harnesses read it:
`The answer is 5.`, `#### 5`, `\boxed 5`, else its last formula or number, which a turn that was cut does not give.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from typing import Literal

from aipo_env.fences import FencedBlock, last_program
from aipo_env.grading.extract import boxes_in_a_row, extract_answer
from aipo_env.protocol import Answer, Consult, Malformed

AnswerForm = Literal["value", "program"]
"""What an answer is: a value (a number, a letter, a formula), or a program."""
Extraction = Literal["boxed", "lenient"]
"""What marks a value: a box or an answer tag alone, or other words too, see the module."""

CONSULT_CLOSE = "</consult>"
FEEDBACK_CLOSE = "</feedback>"
NOTICE_OPEN, NOTICE_CLOSE = "<notice>", "</notice>"
BOX_OPEN, BOX_CLOSE = "\\boxed{", "}"

# Each alternative starts with a literal character: only then does the engine skip all other text at full speed.
_TOKEN = re.compile(
    r"""<(?:(?:(?P<open>consult|feedback)\b[^<>]{0,120}|(?P<bare>notice|answer))>
        |/(?P<close>consult|feedback|notice|answer)>)
    |\\(?:(?P<box>boxed[ ]?\{)
        |(?P<escape>\\(?!boxed)|[{}]))
    |\{
    |\}""",
    re.VERBOSE | re.DOTALL,
)
_AGENT = re.compile(r"""<consult\s+agent\s*=\s*["']?([A-Za-z][A-Za-z0-9_-]{0,63})["']?\s*>""")
_NO_BREAK = re.compile(r"[^\n]")
_FOREIGN = re.compile(r"<(?=/?(?:consult|feedback|answer|notice)\b)", re.IGNORECASE)

_Kind = Literal["consult", "feedback", "notice", "answer", "box"]


@dataclasses.dataclass(slots=True)
class _Open:
    """A tag or a box that has not closed yet."""

    tag: str
    start: int
    inner: int
    answer: tuple[int, int, int, int] | None
    """The last complete answer before it: the one that counts if this closes and is none itself."""
    depth: int = 1
    """Of the braces in a box."""


def consult_open(agent: str) -> str:
    """The tag that opens a consult."""
    return f'<consult agent="{agent}">'


def feedback_open(agent: str) -> str:
    """The tag that opens a helper's reply."""
    return f'<feedback agent="{agent}">'


def escape(text: str) -> str:
    """Makes foreign text (a helper's reply, a task) unable to open or close a tag."""
    return _FOREIGN.sub("&lt;", text)


class ActionParser:
    """Reads one turn of the policy, in time linear in its length.

    Args:
        agents: the names that may be consulted.
        consults: whether a consult tag is an action; in solo episodes it is text like any other.
        answers: what an answer is; a "program" need not be marked, see the module.
        extraction: what marks a value.
        ended: whether the policy ended the turn itself; False where the token limit cut it.
        drafts: whether answers are drafts of a thought, which count for nothing.
    """

    def __init__(
        self,
        agents: Collection[str] = (),
        *,
        consults: bool = True,
        answers: AnswerForm = "value",
        extraction: Extraction = "boxed",
        ended: bool = True,
        drafts: bool = False,
    ) -> None:
        self._agents = agents
        self._consults = consults
        self._answers, self._extraction = answers, extraction
        self._ended, self._drafts = ended, drafts
        self._open: dict[_Kind, list[_Open]] = {"consult": [], "answer": [], "box": [], "feedback": [], "notice": []}
        """What is open, from the outside in."""
        self._nameless = False
        """Whether there was a consult tag that names no helper."""
        self._answer: tuple[int, int, int, int] | None = None
        """The last complete answer: where it and what is in it begin, where both end."""
        self._consult: tuple[str, int, int, int, int] | None = None
        self._inert: list[tuple[int, int]] = []
        """Where consults, feedbacks and notices stand that are no actions."""

    @property
    def consult_span(self) -> tuple[int, int] | None:
        """Where the consult that closed begins, and right behind it, where the turn ends; None where none closed."""
        return None if self._consult is None else (self._consult[1], self._consult[4])

    def parse(self, text: str) -> Consult | Answer | Malformed:
        """The action that this turn is; a parser reads one."""
        for match in _TOKEN.finditer(text):
            self._token(match, match.start(), match.end())
            if self._consult is not None and self._consults:
                break
        consult, answer = self._consult, None if self._drafts else self._answer
        marked: Answer | None = None
        if answer is not None:
            start, inner, inner_end, end = answer
            marked = Answer(text[inner:inner_end].strip(), text[:start])
            boxes = boxes_in_a_row(text[:end]) if self._answers == "value" and text[inner_end] == "}" else None
            if boxes is not None:
                marked = Answer(boxes[1].strip(), text[: boxes[0]])
        elif consult is not None:
            tag, start, inner, inner_end, _ = consult
            return self._consult_action(tag, text[inner:inner_end], text[:start], text)
        if self._answers == "program" and (marked is None or last_program(marked.text) is None):
            block = self._unmarked_program(text if consult is None else text[: consult[1]])
            if block is not None:
                return Answer(text[block.start : block.end].strip(), text[: block.start])
        elif marked is None and self._extraction == "lenient" and not (self._consults and self._open["consult"]):
            value = extract_answer(self._own(text), marked_only=not self._ended)
            if value is not None:
                return Answer(value, text)
        return Malformed(self._reason(), text) if marked is None else marked

    def _reason(self) -> str:
        """Why a turn is no action: what did not close comes first."""
        unclosed = next((reason for kind, reason in _REASONS.items() if self._open[kind]), None)
        if unclosed is not None:
            return unclosed
        if self._nameless and self._consults:
            return f'a consult names its helper: <consult agent="NAME">. Helpers: {self._known}.'
        return _NO_PROGRAM if self._answers == "program" else _NO_ACTION

    def _unmarked_program(self, text: str) -> FencedBlock | None:
        """The last fenced block of a turn; a tag in a program's own text stays in the program."""
        return last_program(self._own(text)) if self._ended and "```" in text else None

    def _own(self, text: str) -> str:
        """The turn with blanks for what the policy wrote in others' names; all positions stay."""
        pieces, position = [], 0
        for start, end in self._inert:
            pieces += [text[position:start], _NO_BREAK.sub(" ", text[start:end])]
            position = end
        return "".join([*pieces, text[position:]])

    @property
    def _known(self) -> str:
        return ", ".join(self._agents) or "none"

    def _consult_action(self, tag: str, query: str, prefix: str, text: str) -> Consult | Malformed:
        match = _AGENT.fullmatch(tag)
        assert match is not None
        if match[1] not in self._agents:
            return Malformed(f"there is no helper called {match[1]!r}. Helpers: {self._known}.", text)
        if not query.strip():
            return Malformed("the consult is empty: write the question between the tags.", text)
        return Consult(match[1], query.strip(), prefix)

    def _token(self, match: re.Match[str], start: int, end: int) -> None:
        group, token = match.lastgroup, match.group()
        boxes = self._open["box"]
        if group == "open" or group == "bare":
            kind: _Kind = match[group]  # type: ignore[assignment]
            if kind == "consult" and _AGENT.fullmatch(token) is None:
                self._nameless = True
                return
            self._open[kind].append(_Open(token, start, end, self._answer))
        elif group == "box":
            boxes.append(_Open(token, start, end, self._answer))
        elif group == "close":
            self._close(match[group], start, end)  # type: ignore[arg-type]
        elif token == "{" and boxes:
            boxes[-1].depth += 1
        elif token == "}" and boxes:
            boxes[-1].depth -= 1
            if not boxes[-1].depth:
                self._close("box", start, end)

    def _close(self, kind: _Kind, start: int, end: int) -> None:
        """Closes the nearest one of a kind; what opened inside it and is open still has become text."""
        if not self._open[kind]:
            return
        closed = self._open[kind].pop()
        is_answer = kind in ("answer", "box")
        for inside in (self._open["answer"], self._open["box"]) if is_answer else self._open.values():
            while inside and inside[-1].start > closed.start:
                inside.pop()
        if is_answer:
            self._answer = (closed.start, closed.inner, start, end)
            return
        self._answer = closed.answer
        if kind == "consult" and self._consults:
            self._consult = (closed.tag, closed.start, closed.inner, start, end)
            return
        while self._inert and self._inert[-1][0] > closed.start:
            self._inert.pop()
        self._inert.append((closed.start, end))


_REASONS: dict[_Kind, str] = {
    "consult": "the consult tag was not closed with </consult>.",
    "answer": "the answer was not closed with </answer>.",
    "box": r"the braces of \boxed{...} were not closed.",
    "feedback": "the turn ends inside a <feedback> that only the environment writes.",
    "notice": "the turn ends inside a <notice> that only the environment writes.",
}
_NO_ACTION = r"the turn holds neither a consult tag nor an answer. Give the answer as \boxed{...}."
_NO_PROGRAM = (
    "the turn holds neither a consult tag nor a program. Give the program as a fenced Python block inside "
    "<answer>...</answer>."
)


def parse(
    text: str,
    agents: Collection[str] = (),
    *,
    consults: bool = True,
    answers: AnswerForm = "value",
    extraction: Extraction = "boxed",
    ended: bool = True,
) -> Consult | Answer | Malformed:
    """The action that a whole turn is; see `ActionParser`."""
    parser = ActionParser(agents, consults=consults, answers=answers, extraction=extraction, ended=ended)
    return parser.parse(text)


def adjacent_consults(
    text: str, end: int, agents: Collection[str], first: Consult, limit: int
) -> tuple[list[Consult], int]:
    """The consults that follow the first one of a turn directly, with nothing but white space between.

    Args:
        text: the whole turn.
        end: where the first consult ends.
        agents: the names that may be consulted.
        first: the first consult.
        limit: consults of the turn at most, the first one included.

    Returns:
        The further consults, each of a helper that the turn has not addressed yet, and the position behind the last.
    """
    more: list[Consult] = []
    asked = {first.agent}
    while len(asked) < limit:
        parser = ActionParser(agents)
        action = parser.parse(text[end:])
        if not isinstance(action, Consult) or action.prefix.strip() or action.agent in asked:
            break
        asked.add(action.agent)
        more.append(action)
        assert parser.consult_span is not None
        end += parser.consult_span[1]
    return more, end


def same_answer(one: Answer, other: Answer, answers: AnswerForm) -> bool:
    """Whether two answers say the same; of programs the code counts, whatever fences stand around it."""
    if answers == "program":
        blocks = last_program(one.text), last_program(other.text)
        codes = (a.text if block is None else block.code for a, block in zip((one, other), blocks, strict=True))
        return len({code.strip() for code in codes}) == 1
    return one.text.strip() == other.text.strip() and other.prefix.endswith(one.prefix)


def render(action: Consult | Answer | Malformed, *, answers: AnswerForm = "value", consults: bool = True) -> str:
    """The text of an action; `parse` is its inverse for every action that `parse` can return.

    Args:
        action: the action.
        answers: what an answer is.
        consults: whether a consult tag is an action.
    """
    if isinstance(action, Consult):
        return f"{action.prefix}{consult_open(action.agent)}{action.query}{CONSULT_CLOSE}"
    if not isinstance(action, Answer):
        return action.text
    boxed = f"{action.prefix}{BOX_OPEN}{action.text}{BOX_CLOSE}"
    tagged = f"{action.prefix}<answer>{action.text}</answer>"
    if answers == "value":
        return boxed if parse(boxed, consults=consults) == Answer(action.text.strip(), action.prefix) else tagged
    for form in (tagged, boxed, action.prefix + action.text):
        if parse(form, consults=consults, answers=answers) == Answer(action.text.strip(), action.prefix):
            return form
    if last_program(action.text) is not None:
        return tagged
    # A program without fences behind a text that has some, or with the tag in it: only fences make it the last one, whole.
    fenced = f"\n```python\n{action.text}\n```\n"
    return action.prefix + (fenced if "</answer>" in action.text else f"<answer>{fenced}</answer>")
