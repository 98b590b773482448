"""The errors this project raises on purpose.

AipoError
├── UnknownIdError (KeyError)         an environment, agent or split name that does not exist
├── TaskIndexError (IndexError)       a task that its family does not have
├── ConfigurationError (ValueError)   an option, or a combination of options, that cannot work
│   └── UnknownOptionError (TypeError)    an option that nothing takes
├── InvalidActionError (TypeError)    an action of a type that no environment accepts
├── EpisodeStateError (RuntimeError)  a call out of order: `act` before `reset`, after the end, out of turn
├── DataNotFoundError (FileNotFoundError)  a data set that is neither local nor downloadable here
├── DataFormatError (ValueError)      a data or trace file whose rows are not what they should be
├── StorageError (OSError)            a folder or file that cannot be written: a full disk, no permission
├── OutOfMemoryError (MemoryError)    a run that takes more memory than there is
├── MissingDependencyError (ImportError)   a package that this call needs and that is not here
├── ServiceError (ConnectionError)  a model server that is down, overloaded, or talks nonsense
└── GradingError (RuntimeError)       the grading machinery itself failed; never a wrong answer

Every message says what was expected, what came, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aipo_env.protocol import Usage


class AipoError(Exception):
    """Base class of every error that this project raises on purpose."""

    def __str__(self) -> str:
        # KeyError would show the repr of its argument; a message is meant to be read.
        return str(self.args[0]) if self.args else ""


class UnknownIdError(AipoError, KeyError):
    """A name that is not registered; the message suggests the nearest known one."""


class TaskIndexError(AipoError, IndexError):
    """A task index that is none, or beyond the family's tasks."""


class ConfigurationError(AipoError, ValueError):
    """An option, or a combination of options, that cannot work."""


class UnknownOptionError(ConfigurationError, TypeError):
    """An option that nothing takes; worded as Python words an unexpected keyword argument, which libraries look for."""


class InvalidActionError(AipoError, TypeError):
    """An action of a type that no environment accepts."""


class EpisodeStateError(AipoError, RuntimeError):
    """A call out of order: before `reset`, after the end, or out of turn."""


class DataNotFoundError(AipoError, FileNotFoundError):
    """A data set that is neither given as a local file nor reachable on its hub."""


class DataFormatError(AipoError, ValueError):
    """A data or trace file whose rows are not what they should be."""


class StorageError(AipoError, OSError):
    """A folder or file that cannot be written: the disk is full, or it may not be written to."""


class OutOfMemoryError(AipoError, MemoryError):
    """A run that takes more memory than its device has; the message says what takes it."""


class MissingDependencyError(AipoError, ImportError):
    """A package that this call needs is not installed, or another one stands in its place."""


class ServiceError(AipoError, ConnectionError):
    """A service that did not do its work: unreachable, overloaded, cut off, or answering what is no answer.

    Args:
        message: what was asked of whom, what came, what to do.
        transient: whether the same request may succeed later (429, 5xx, a reset), so that a retry makes sense.
        retry_after: seconds that the service asked to wait.
        status: its HTTP status, where there was one.
        usage: what the failed request took all the same, where the service says so.
    """

    def __init__(
        self,
        message: str,
        *,
        transient: bool = True,
        retry_after: float | None = None,
        status: int | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.transient, self.retry_after, self.status, self.usage = transient, retry_after, status, usage


class GradingError(AipoError, RuntimeError):
    """The grading machinery itself failed; this is never the verdict on an answer."""


def unknown_id(kind: str, name: object, known: Iterable[str], hint: str = "") -> UnknownIdError:
    """Builds the error for a name that is not registered, with the nearest known ones.

    Args:
        kind: what the name stands for, as it reads in a sentence ("environment id").
        name: what came.
        known: the names that exist.
        hint: a further sentence on what to do.
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    suggestion = (
        f"Did you mean {' or '.join(repr(n) for n in near)}?" if near else f"Known: {', '.join(names) or 'none'}."
    )
    return UnknownIdError(" ".join(part for part in (f"unknown {kind} {name!r}.", suggestion, hint) if part))
