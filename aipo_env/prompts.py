"""What the policy is told before the problem."""

from __future__ import annotations

from collections.abc import Mapping

from aipo_env import markup
from aipo_env.errors import ConfigurationError

DESCRIPTIONS: Mapping[str, str] = {
    "verify": "checks a step or claim that you state",
    "knowledge": "gives the fact, definition or rule that you ask for",
    "reasoning": "proposes the next step",
}
"""What the built-in roles do, in the words of the prompt; an agent's own `description` comes first."""

TEMPLATES: Mapping[str, str] = {
    "consult": (
        "Solve the problem. Think step by step and put the final answer in \\boxed{}.\n"
        "When you are stuck you may ask a helper; its reply follows in <feedback> tags:\n"
        "{agents}\n\n"
        "Problem: {problem}\n"
    ),
    "plain": "Solve the problem. Think step by step and put the final answer in \\boxed{}.\n\nProblem: {problem}\n",
    "bare": "{problem}",
}
"""The built-in templates. "consult" is the default of assisted and solo episodes alike."""


def build_prompt(template: str, problem: str, agents: Mapping[str, str]) -> str:
    """Fills a template.

    Args:
        template: the name of a built-in template, or a text with `{problem}` and, if wanted, `{agents}`.
        problem: the task's text; markup in it is made harmless.
        agents: name to description of each helper.
    """
    text = TEMPLATES.get(template, template)
    if "{problem}" not in text:
        raise ConfigurationError(
            f"a prompt template is one of {', '.join(TEMPLATES)} or a text that contains {{problem}}; got {template[:80]!r}."
        )
    lines = "\n".join(
        f"- {markup.consult_open(n)}your question{markup.CONSULT_CLOSE} {d}".rstrip() for n, d in agents.items()
    )
    # The problem goes in last: braces in it are the problem's own.
    before, after = text.replace("{agents}", lines).split("{problem}", 1)
    return before + markup.escape(problem) + after
