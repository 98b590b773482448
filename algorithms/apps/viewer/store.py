"""The traces of some runs, read as they grow: the list is kept in memory, the episodes stay in their files."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from aipo_env.errors import DataFormatError, DataNotFoundError
from aipo_env.trajectory import Trajectory
from algorithms.apps.viewer.pieces import TextCutter
from algorithms.apps.viewer.rows import Row, finite, texts_of, tokens_of
from algorithms.apps.viewer.run_files import RunFile, RunInfo, find_run_files

CHUNK = 64
"""Trajectories of a file that go to the page together."""
_TAIL = 256
"""Bytes before the end of what was read that must stay what they were, or the file is read anew."""


class TraceStore:
    """The trajectories of the runs in some files and folders.

    Args:
        paths: files of traces, or folders of runs.
        open_run: tells what is known of a run beside its traces; called once for each file.
        limit: of each file only the newest so many are shown; None for all.

    Raises:
        DataNotFoundError: when there are no traces.
        DataFormatError: when a line is not a trajectory, with the file and the line number.
    """

    def __init__(
        self, paths: Sequence[Path], open_run: Callable[[Path], RunInfo] | None = None, *, limit: int | None = None
    ) -> None:
        self._paths = list(paths)
        self._open_run = open_run or (lambda path: RunInfo())
        self._limit = limit
        self.files: list[TraceFile] = []
        self.refresh()

    def refresh(self) -> bool:
        """Reads what was added since; True if anything changed."""
        known = {file.run.path for file in self.files}
        try:
            found = find_run_files(self._paths)
        except DataNotFoundError:
            if not known:
                raise
            found = []  # a run that is started again removes its files first
        new = [run for run in found if run.path not in known]
        self.files += [TraceFile(run, self._open_run(run.path), self._limit) for run in new]
        changed = [file.refresh() for file in self.files]
        return any(changed) or bool(new)

    @property
    def num_rows(self) -> int:
        """Trajectories that are shown."""
        return sum(len(file.shown) for file in self.files)

    def index(self) -> dict[str, object]:
        """The list, by columns; texts are numbers into `strings`."""
        strings: dict[str, int] = {}

        def number(text: str) -> int:
            return strings.setdefault(text, len(strings))

        columns: dict[str, list[object]] = {}
        for position, file in enumerate(self.files):
            for ordinal in file.shown:
                row = file.rows[ordinal]
                advantages = row.advantages or (None, None)
                values = {
                    "run": position, "ordinal": ordinal, "env": number(row.env), "task": number(row.task),
                    "step": row.step, "group": row.group, "sample": row.sample, "reward": finite(row.reward),
                    "verdict": number(row.verdict), "stop": number(row.stop), "assisted": int(row.assisted),
                    "consults": row.consults, "agents": [number(agent) for agent in row.agents],
                    "level": number(row.level), "prompt": row.tokens[0], "policy": row.tokens[1],
                    "agent": row.tokens[2], "template": row.tokens[3], "error": number(row.error),
                    "withheld": int(row.withheld), "seed": row.seed,
                    "advantage": finite(advantages[0]), "agent_advantage": finite(advantages[1]),
                }  # fmt: skip
                for name, value in values.items():
                    columns.setdefault(name, []).append(value)
        return {
            "chunk": CHUNK,
            "runs": [file.facts() for file in self.files],
            "strings": list(strings),
            "columns": columns,
            "chunks": {f"{i}.{k}": file.key(k) for i, file in enumerate(self.files) for k in file.chunks()},
        }

    def chunks(self) -> Iterator[tuple[str, dict[str, object], dict[str, object]]]:
        """Every chunk: its name, its texts, and the numbers of its tokens."""
        for position, file in enumerate(self.files):
            for number in file.chunks():
                yield f"{position}.{number}", *file.chunk(number)


class TraceFile:
    """One file of traces.

    Args:
        run: the file and its run's name.
        info: what is known of the run beside.
        limit: only the newest so many trajectories are shown.
    """

    def __init__(self, run: RunFile, info: RunInfo, limit: int | None) -> None:
        self.run, self.info, self._limit = run, info, limit
        self.rows: list[Row] = []
        self._read_to = 0
        self._tail = b""
        self._times_read = 0
        self._cutter = None if info.reader is None else TextCutter(info.reader.decode)

    @property
    def shown(self) -> range:
        """The numbers of the trajectories that are shown, from 0 in the order of the file."""
        first = 0 if self._limit is None else max(0, len(self.rows) - self._limit)
        return range(first, len(self.rows))

    def refresh(self) -> bool:
        """Reads the lines that were added; a file that was cut or written anew is read from its beginning."""
        try:
            file = self.run.path.open("rb")
        except FileNotFoundError:
            # A run that is started again removes its file first.
            changed = bool(self.rows)
            self._forget()
            return changed
        with file:
            changed = False
            file.seek(max(0, self._read_to - len(self._tail)))
            if file.read(len(self._tail)) != self._tail:
                self._forget()
                changed = True
            file.seek(self._read_to)
            steps = set()
            for line in file:
                if not line.endswith(b"\n"):  # being written, or cut by a crash
                    break
                if line.strip():
                    row = Row.of(self._parse(line), self._read_to)
                    self.rows.append(row)
                    steps.add(row.step)
                self._read_to += len(line)
                self._tail = line[-_TAIL:]
        for step in steps - {None}:
            self._weigh(step)
        return changed or bool(steps)

    def facts(self) -> dict[str, object]:
        """What the page is told of the run."""
        learner = self.info.learner
        return {
            "name": self.run.name,
            "faults": self.run.faults,
            "notes": list(self.info.notes),
            "pieces": self._cutter is not None,
            "objective": None if learner is None else finite(dict(learner.facts)),
        }

    def chunks(self) -> range:
        """The numbers of the chunks that hold shown trajectories."""
        return range(self.shown.start // CHUNK, -(-self.shown.stop // CHUNK))

    def key(self, number: int) -> str:
        """Changes when the chunk does."""
        rows = [self.rows[i] for i in self._members(number)]
        return f"{zlib.crc32(repr([self._times_read, *((r.offset, r.advantages) for r in rows)]).encode()):08x}"

    def chunk(self, number: int) -> tuple[dict[str, object], dict[str, object]]:
        """A chunk's texts, and the numbers of its tokens, both read from the file."""
        prompts: dict[str, int] = {}
        members = self._members(number)
        texts, tokens = [], []
        with self.run.path.open("rb") as file:
            for ordinal in members:
                row = self.rows[ordinal]
                file.seek(row.offset)
                trajectory = self._parse(file.readline())
                texts.append(texts_of(trajectory, prompts))
                tokens.append(tokens_of(trajectory, self.info, row.advantages, self._cutter))
        first = members.start
        return {"first": first, "prompts": list(prompts), "rows": texts}, {"first": first, "rows": tokens}

    def _members(self, number: int) -> range:
        return range(max(number * CHUNK, self.shown.start), min((number + 1) * CHUNK, self.shown.stop))

    def _weigh(self, step: int | None) -> None:
        """Derives the advantages of a step, whose trajectories are compared with each other."""
        if self.info.learner is None or self.run.faults:
            return
        rows = [row for row in self.rows if row.step == step]
        found = self.info.learner.advantages([row.sample_facts for row in rows])
        for number, row in enumerate(rows):
            row.advantages = None if found is None else found[number]

    def _parse(self, line: bytes) -> Trajectory:
        try:
            trajectory = Trajectory.from_json(json.loads(line))
        except ValueError as error:  # DataFormatError is one, as are the errors of JSON and of UTF-8
            path = os.fspath(self.run.path)
            raise DataFormatError(f"{path}, line {len(self.rows) + 1} is not a trajectory: {error}") from error
        # Whoever wrote the file: texts of confidential tasks are shown nowhere.
        return trajectory.redacted() if trajectory.confidential else trajectory

    def _forget(self) -> None:
        self.rows.clear()
        self._read_to, self._tail = 0, b""
        self._times_read += 1
