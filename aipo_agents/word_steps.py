"""Next steps for problems in words."""


def word_step(problem: str, transcript: str) -> str | None:
    """A calculation for a problem, or None."""
    return None
