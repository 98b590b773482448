"""What F1 shows."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from aipo_env.prompts import DESCRIPTIONS
from algorithms.apps.play import blocks
from algorithms.apps.play.session import PlaySession


def help_text(session: PlaySession, helper_keys: Sequence[str]) -> Text:
    """The rules of the episode and the keys, for the role that the person plays."""
    return _as_policy(session, helper_keys) if session.plays_policy else _as_helper(session)


def _as_policy(session: PlaySession, helper_keys: Sequence[str]) -> Text:
    config, helpers = session.env.config, session.env.agent_names
    text = Text.assemble(("You are the policy.", "bold"), " Solve the problem; the answer decides the reward.\n\n")
    if config.assisted:
        text.append(f"{config.max_turns} turns, of which {config.max_consults} may ask a helper:\n")
        for number, name in enumerate(helpers):
            key = helper_keys[number].upper() if number < len(helper_keys) else ""
            agent = session.env.agents.get(name)
            what = str(getattr(agent, "description", "") or DESCRIPTIONS.get(name, ""))
            text.append(f"  {key:<6}", "bold")
            text.append(f"{name}", f"bold {blocks.helper_color(name, helpers)}")
            text.append(f"  {what}\n")
        text.append("The key asks what is selected, else the last line; lines before it are your thinking. ")
        text.append('So does <consult agent="name">question</consult>, sent with Ctrl+S.\n\n')
    else:
        text.append("This environment is solo: nobody answers, and the first turn is the last.\n\n")
    if config.answers == "program":
        text.append("  F9    ", "bold")
        text.append("answers: the text is the program\n")
    else:
        text.append("  F9    ", "bold")
        text.append("answers: what is selected, else the last line, goes into \\boxed{}\n")
    text.append("  Ctrl+S", "bold")
    text.append("  sends the text as it is\n")
    return text + _everywhere()


def _as_helper(session: PlaySession) -> Text:
    name = session.person.name
    color = blocks.helper_color(name, session.env.agent_names)
    text = Text.assemble(
        ("You are the helper ", "bold"),
        (name, f"bold {color}"),
        (".", "bold"),
        f" {session.policy.name} plays the policy: ",
    )
    text.append("it solves the problem and may ask you. It reads what you say; tags in it are made harmless.\n\n")
    text.append("  Ctrl+S", "bold")
    text.append("  sends the reply\n")
    text.append("  Ctrl+N", "bold")
    text.append("  no answer: the policy sees a notice\n")
    return text + _everywhere()


def _everywhere() -> Text:
    text = Text("  ")
    text.append("Ctrl+O", "bold")
    text.append("  opens the text in your own editor ($EDITOR)\n\nAt the end of an episode: ")
    text.append("N", "bold")
    text.append(" next task, ")
    text.append("R", "bold")
    text.append(" this task again. ")
    text.append("Ctrl+Q", "bold")
    text.append(" or Ctrl+C quits. Tab and the arrow keys scroll the transcript.")
    return text
