"""What a check found, and the guard over the global random state that all checks share."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np

from aipo_env.errors import AipoError


class ConformanceError(AipoError, AssertionError):
    """A part does not keep its contract; the message lists everything that is wrong, and `findings` has the parts."""

    def __init__(self, subject: str, findings: list[str]) -> None:
        lines = [f"{subject} breaks its contract in {len(findings)} place{'s' * (len(findings) != 1)}:"]
        super().__init__("\n".join([*lines, *(f"  {number}. {text}" for number, text in enumerate(findings, start=1))]))
        self.findings = findings


class Report:
    """Collects what a check finds.

    Args:
        subject: what is being checked, as it stands in the message.
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.remarks: list[str] = []
        self._findings: dict[str, list[str]] = {}

    @property
    def findings(self) -> list[str]:
        """One line for each rule that is broken: the first case, and how many others there are."""
        return [
            cases[0] if len(cases) == 1 else f"{cases[0]} (So in {len(cases) - 1} other cases.)"
            for cases in self._findings.values()
        ]

    def expect(self, holds: bool, finding: str, *, rule: str = "") -> bool:
        """Records a finding unless the condition holds.

        Args:
            holds: whether all is well.
            finding: what was expected, what came, what to do.
            rule: findings of one rule are told by their first one; by default the finding stands for itself.
        """
        if not holds:
            cases = self._findings.setdefault(rule or finding, [])
            if finding not in cases:
                cases.append(finding)
        return holds

    def remark(self, text: str) -> None:
        """Records what is allowed but rarely meant; the same thing only once."""
        if text not in self.remarks:
            self.remarks.append(text)

    def finish(self) -> list[str]:
        """Returns the remarks.

        Raises:
            ConformanceError: there are findings.
        """
        if self.findings:
            raise ConformanceError(self.subject, self.findings)
        return self.remarks

    @contextlib.contextmanager
    def random_state_untouched(self, where: str, *, reseed: int | None = None) -> Iterator[None]:
        """Finds fault with code that draws from, or seeds, the global random states; puts them back afterwards.

        Args:
            where: what runs inside, as it stands in the message.
            reseed: sets the global states before; what reads them then differs from run to run, and shows.
        """
        ours, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 (the global state is the subject)
        if reseed is not None:
            random.seed(reseed)
            np.random.seed(reseed)  # noqa: NPY002
        before = _fingerprint()
        try:
            yield
        finally:
            after = _fingerprint()
            random.setstate(ours)
            np.random.set_state(numpys)  # noqa: NPY002
            for name, was, now in zip(("random", "numpy.random"), before, after, strict=True):
                self.expect(
                    was == now,
                    f"{where} changed the global state of `{name}`. Draw from a generator of your own "
                    "(numpy.random.default_rng(request.seed), the `rng` that you are given), so that runs can be repeated.",
                )


def _fingerprint() -> tuple[object, object]:
    _, keys, position, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), (np.asarray(keys).tobytes(), position, tuple(rest))


def shown(value: object) -> str:
    """A short picture of a value for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
