"""What is typed -> a turn: asking a helper, answering, or sending it as it is."""

from __future__ import annotations

from collections.abc import Callable

from aipo_env import markup
from aipo_env.fences import last_program
from aipo_env.markup import AnswerForm
from aipo_env.protocol import Answer, Consult

Selection = tuple[int, int]
"""Start and end of what is selected, in characters; equal where nothing is."""


def ask(text: str, selection: Selection, agent: str, render: Callable[[Consult], str] = markup.render) -> str:
    """The turn that asks a helper: what is selected, else the last line, is the query; what stands before is thinking.

    Empty where there is nothing to ask. `render` writes it in the episode's dialect.
    """
    before, query = _split(text, selection)
    return before + render(Consult(agent, query)) if query else ""


def answer(text: str, selection: Selection, form: AnswerForm) -> str:
    r"""The turn that answers.

    A value is what is selected, else the last line, and goes into `\boxed{}`; a program is the whole text, unless it has a
    fenced block already. A text that has an answer's markup is sent as it is. Empty where there is nothing.
    """
    if not text.strip() or "\\boxed" in text or "<answer>" in text:
        return text.strip()
    if form == "program":
        program = text.strip("\n")
        if last_program(program) is None:
            program = f"```python\n{program}\n```"
        return f"<answer>\n{program}\n</answer>"
    before, value = _split(text, selection)
    return markup.render(Answer(value, before)) if value else ""


def _split(text: str, selection: Selection) -> tuple[str, str]:
    """What stands before, and the selection or the last line."""
    start, end = sorted(selection)
    if start < end:
        return text[:start], text[start:end].strip()
    kept = text.rstrip()
    line = kept.rfind("\n") + 1
    return kept[:line], kept[line:].strip()
