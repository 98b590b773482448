"""The token-exact record of an episode, and its JSON Lines form.

A `Trajectory` is a list of `Segment`s. Concatenating their ids gives exactly the sequence that the sampler saw; who
wrote a token is known where the token is made and is never derived from text again.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from aipo_env.errors import DataFormatError


class Source(enum.IntEnum):
    """Who put a token into the context."""

    PROMPT = 0
    """The task and the instructions; never trained on."""
    POLICY = 1
    """Sampled by the policy."""
    AGENT = 2
    """A helper's reply, with the tags around it: alone, the policy must be able to write both."""
    TEMPLATE = 3
    """Put there by the environment: notices, turn markers, tokens sampled past the end of an action."""


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """A run of consecutive tokens with one source.

    In text-only episodes `token_ids` is empty and `text` is the record.
    """

    source: Source
    text: str
    token_ids: tuple[int, ...] = ()
    """The ids as they stood in the sampler's context."""
    logprobs: tuple[float, ...] = ()
    """One per token, natural logarithm. POLICY: the sampler's. AGENT: log mu, 0.0 where mu is unknown. Others: empty."""
    agent: str = ""
    """For AGENT, and for TEMPLATE notices about a helper: the helper's name."""
    mu_known: bool = False
    """AGENT only: whether `logprobs` is the helper's own sampling distribution over this very tokenizer."""
    given_thoughts: bool = dataclasses.field(default=False, kw_only=True)
    """With `mu_known`: the helper thought first, and mu is conditional on thoughts that are no part of the record."""
    credit: float = dataclasses.field(default=1.0, kw_only=True, compare=False)
    """AGENT only: how much of what the episode earned the reply is credited with (`algorithms.reply_credit`)."""
    withheld: tuple[int, int] | None = None
    """In the record of a confidential task, where text and ids are left out: how many characters and tokens there were."""

    def __post_init__(self) -> None:
        if self.logprobs and len(self.logprobs) != len(self.token_ids):
            raise DataFormatError(
                f"a segment needs one log-probability per token: {len(self.token_ids)} ids came with "
                f"{len(self.logprobs)} log-probabilities. Pass none, or one for each id."
            )

    @property
    def num_chars(self) -> int:
        """Characters of the text, also where it is left out."""
        return len(self.text) if self.withheld is None else self.withheld[0]

    @property
    def num_tokens(self) -> int:
        """Tokens, also where the ids are left out."""
        return len(self.token_ids) if self.withheld is None else self.withheld[1]

    def redacted(self) -> Segment:
        """The segment without its text, ids and log-probabilities."""
        return Segment(
            self.source, "", agent=self.agent, mu_known=self.mu_known, withheld=(self.num_chars, self.num_tokens)
        )

    def to_json(self) -> dict[str, object]:
        """The segment as a JSON object; fields at their defaults are left out."""
        row: dict[str, object] = {"source": self.source.name.lower(), "text": self.text}
        if self.token_ids:
            row["token_ids"] = list(self.token_ids)
        if self.logprobs:
            row["logprobs"] = list(self.logprobs)
        if self.agent:
            row["agent"] = self.agent
        if self.mu_known:
            row["mu_known"] = True
        if self.given_thoughts:
            row["given_thoughts"] = True
        if self.credit != 1:
            row["credit"] = self.credit
        if self.withheld is not None:
            row["withheld"] = list(self.withheld)
        return row

    @classmethod
    def from_json(cls, row: dict[str, object]) -> Segment:
        """The inverse of `to_json`; raises DataFormatError on anything else."""
        try:
            return cls(
                source=Source[str(row["source"]).upper()],
                text=str(row["text"]),
                token_ids=tuple(int(i) for i in row.get("token_ids", ())),  # type: ignore[attr-defined]
                logprobs=tuple(float(x) for x in row.get("logprobs", ())),  # type: ignore[attr-defined]
                agent=str(row.get("agent", "")),
                mu_known=bool(row.get("mu_known", False)),
                given_thoughts=bool(row.get("given_thoughts", False)),
                credit=float(row.get("credit", 1.0)),  # type: ignore[arg-type]
                withheld=None if row.get("withheld") is None else _pair(row["withheld"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataFormatError(
                "a segment needs 'source' (prompt, policy, agent or template) and 'text', and lists of numbers as "
                f"'token_ids' and 'logprobs'; {str(row)[:200]} has not: {error!r}."
            ) from error


def _pair(value: object) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"'withheld' is a pair of characters and tokens, got {value!r}")
    return int(value[0]), int(value[1])


@dataclasses.dataclass(slots=True, repr=False)
class Trajectory:
    """One finished (or cut) episode."""

    env_id: str
    task_id: str
    segments: list[Segment]
    reward: float = 0.0
    reward_parts: dict[str, float] = dataclasses.field(default_factory=dict)
    stop_reason: str = ""
    """Why it ended: "answer", "no_answer" (solo), "max_turns", "max_chars", "length" (the sampler's token limit),
    "timeout" or "error" (in a rollout), or "" while it runs."""
    assisted: bool = True
    """Whether helpers answered (False: a solo rollout)."""
    self_help: bool = False
    """Whether, with nobody to answer, the policy wrote the replies in the helpers' places."""
    verdict: str = ""
    """The grader's verdict on the answer; "" when there was none to grade."""
    num_consults: int = 0
    seed: int | None = None
    group: int = 0
    """Index of the prompt's group in its batch."""
    sample: int = 0
    """Index of this sample in its group."""
    task_index: int | None = None
    """The task's index in its family: with it the episode can be played again."""
    metadata: dict[str, object] = dataclasses.field(default_factory=dict)
    """JSON-serialisable facts about the task or the run (level, subject, model, sampling settings)."""
    confidential: bool = False
    """Whether the task's texts must not be written down; `TraceWriter` then writes `redacted()`."""

    def __repr__(self) -> str:
        """All fields; of a confidential task no text, since a `repr` ends up in logs."""
        shown = self.redacted() if self.confidential else self
        fields = (f"{field.name}={getattr(shown, field.name)!r}" for field in dataclasses.fields(self))
        return f"{type(self).__name__}({', '.join(fields)})"

    @property
    def outcome(self) -> float:
        """The reward without what help cost."""
        return self.reward - self.reward_parts.get("consult_cost", 0.0)

    @property
    def withheld(self) -> bool:
        """Whether its texts are left out."""
        return any(segment.withheld is not None for segment in self.segments)

    @property
    def token_ids(self) -> list[int]:
        """Every id in order: exactly what the sampler saw."""
        return [i for segment in self.segments for i in segment.token_ids]

    @property
    def sources(self) -> list[Source]:
        """The source of each token, aligned with `token_ids`."""
        return [segment.source for segment in self.segments for _ in segment.token_ids]

    @property
    def logprobs(self) -> list[float]:
        """One value per token, aligned with `token_ids`; 0.0 where a segment carries none."""
        return [x for s in self.segments for x in (s.logprobs or (0.0,) * len(s.token_ids))]

    @property
    def text(self) -> str:
        """The whole transcript."""
        return "".join(segment.text for segment in self.segments)

    def count(self, source: Source) -> int:
        """How many tokens have this source, also where the ids are left out."""
        return sum(s.num_tokens for s in self.segments if s.source is source)

    def redacted(self) -> Trajectory:
        """A copy without any text of the episode, nor the ids that spell one.

        Not the prompt alone: policy, helpers and notices may quote it, and so may the message of a fault, of which the kind
        is kept. What is left says which task it was, how it ended, and who wrote how much.
        """
        metadata = dict(self.metadata)
        if "error" in metadata:
            metadata["error"] = kind_of_fault(str(metadata["error"]))
        return dataclasses.replace(self, segments=[s.redacted() for s in self.segments], metadata=metadata)

    def to_json(self) -> dict[str, object]:
        """The trajectory as a JSON object, with all its texts."""
        row: dict[str, object] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            row[field.name] = [s.to_json() for s in value] if field.name == "segments" else value
        for name in ("confidential", "self_help"):
            if not row[name]:
                del row[name]
        return row

    @classmethod
    def from_json(cls, row: dict[str, object]) -> Trajectory:
        """The inverse of `to_json`; unknown keys are an error, so that a newer file is not read half."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(row, dict) or not {"env_id", "task_id", "segments"} <= row.keys() or row.keys() - known:
            raise DataFormatError(
                f"a trajectory is an object with 'env_id', 'task_id', 'segments' and no keys beside {sorted(known)}; "
                f"came: {str(row)[:200]}. Was this file written by another version?"
            )
        values = dict(row)
        segments = values.pop("segments")
        if not isinstance(segments, list):
            raise DataFormatError(f"'segments' must be a list, got {type(segments).__name__}.")
        return cls(segments=[Segment.from_json(s) for s in segments], **values)  # type: ignore[arg-type]


def kind_of_fault(message: str) -> str:
    """The kind of a fault without its words, which may quote what a server was sent: "ServiceError: (withheld)"."""
    kind, colon, _ = message.partition(":")
    if not kind.isidentifier():
        return "(withheld)"
    return f"{kind}: (withheld)" if colon else kind


class TraceWriter:
    """Appends trajectories to a JSON Lines file, one flushed line each, so that a crash loses none that was finished.

    Opening an existing file whose last line was cut (a crash, a full disk) removes that line first. Of a confidential
    trajectory no text is written (`Trajectory.redacted`).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _drop_cut_line(self.path)
        self._file: IO[str] = self.path.open("a", encoding="utf-8")

    def write(self, trajectory: Trajectory) -> None:
        """Appends one trajectory and flushes it to the operating system."""
        row = (trajectory.redacted() if trajectory.confidential else trajectory).to_json()
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
        try:
            line.encode()
        except UnicodeEncodeError:
            # A lone surrogate, which a model's JSON may carry, has no UTF-8 form.
            line = json.dumps(row, separators=(",", ":"))
        self._file.write(line + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file; writing afterwards is an error."""
        self._file.close()

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def write_traces(path: str | os.PathLike[str], trajectories: Iterable[Trajectory]) -> None:
    """Appends trajectories to a JSON Lines file."""
    with TraceWriter(path) as writer:
        for trajectory in trajectories:
            writer.write(trajectory)


def read_traces(path: str | os.PathLike[str]) -> Iterator[Trajectory]:
    """Yields the trajectories of a JSON Lines file.

    A last line without its newline is what a crash leaves behind; it is skipped if it cannot be read. Damage anywhere else is
    an error.

    Raises:
        DataFormatError: with the file and the line number.
    """
    return (trajectory for _, trajectory in numbered_traces(path, cut=True))


def numbered_traces(path: str | os.PathLike[str], *, cut: bool = False) -> Iterator[tuple[int, Trajectory]]:
    """As `read_traces`, with the line numbers.

    Args:
        path: the file.
        cut: whether a last line without its newline counts if it can be read.
    """
    # As bytes: a crash may cut a line inside a character.
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            whole = line.endswith(b"\n")
            if not line.strip() or not (whole or cut):
                continue
            try:
                trajectory = Trajectory.from_json(json.loads(line))
            except ValueError as error:  # DataFormatError is one, as are the errors of JSON and of UTF-8
                if not whole:
                    return
                raise DataFormatError(f"{os.fspath(path)}, line {number} is not a trajectory: {error}") from error
            yield number, trajectory


def _drop_cut_line(path: Path) -> None:
    """Truncates a file behind its last newline."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return
        position = end
        while position > 0:
            start = max(0, position - 65536)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                file.truncate(start + newline + 1)
                return
            position = start
        file.truncate(0)
