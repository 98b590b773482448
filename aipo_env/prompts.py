"""What the policy is told before the problem."""

from __future__ import annotations

from collections.abc import Mapping

from aipo_env import markup
from aipo_env.errors import ConfigurationError
from aipo_env.markup import AnswerForm

DESCRIPTIONS: Mapping[str, str] = {
    "verify": "checks a step or claim that you state",
    "knowledge": "gives the fact, definition or rule that you ask for",
    "reasoning": "proposes the next step",
}
"""What the built-in roles do, in the words of the prompt; an agent's own `description` comes first."""


_TAGS = "When you are stuck you may ask a helper; its reply follows in <feedback> tags:"
_CALLS = "When you are stuck you may ask a helper by a function call:"


def _templates(task: str) -> Mapping[str, str]:
    return {
        "consult": (f"{task}\n{_TAGS}\n{{agents}}\n\nProblem: {{problem}}\n"),
        "plain": f"{task}\n\nProblem: {{problem}}\n",
        "bare": "{problem}",
    }


TEMPLATES = _templates("Solve the problem. Think step by step and put the final answer in \\boxed{}.")
"""The built-in templates. "consult" is the default of assisted and solo episodes alike."""
PROGRAM_TEMPLATES = _templates(
    "Solve the problem with a Python program. Think step by step and give the whole program at the end, in a fenced block "
    "inside answer tags:\n<answer>\n```python\n# the program\n```\n</answer>"
)
"""The same for problems whose answer is a program."""


def templates(answers: AnswerForm) -> Mapping[str, str]:
    """The built-in templates by name, for this kind of answer."""
    return PROGRAM_TEMPLATES if answers == "program" else TEMPLATES


def invites(template: str) -> bool:
    """Whether a template, or the built-in one of that name, speaks of the helpers."""
    return "{agents}" in TEMPLATES.get(template, template)


def build_prompt(
    template: str, problem: str, agents: Mapping[str, str], *, answers: AnswerForm = "value", calls: bool = False
) -> str:
    """Fills a template.

    Args:
        template: the name of a built-in template, or a text with `{problem}` and, if wanted, `{agents}`.
        problem: the task's text; markup in it is made harmless.
        agents: name to description of each helper.
        answers: what an answer is.
        calls: whether helpers are functions, and not asked in tags.
    """
    text = templates(answers).get(template, template)
    if "{problem}" not in text:
        raise ConfigurationError(
            f"a prompt template is one of {', '.join(TEMPLATES)} or a text that contains {{problem}}; got {template[:80]!r}."
        )
    lines = "\n".join(
        (f"- {n}: {d}" if calls else f"- {markup.consult_open(n)}your question{markup.CONSULT_CLOSE} {d}").rstrip()
        for n, d in agents.items()
    )
    text = text.replace(_TAGS, _CALLS) if calls else text
    # The problem goes in last: braces in it are the problem's own.
    before, after = text.replace("{agents}", lines).split("{problem}", 1)
    return before + (problem if calls else markup.escape(problem)) + after
