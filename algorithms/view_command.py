"""`aipo view`: the trace viewer, with the tokenizer and the objective of each run where they can be found."""

from __future__ import annotations

import json
import os
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from aipo_env.console import command
from aipo_env.errors import AipoError, ConfigurationError, DataNotFoundError
from aipo_env.installation import install_command
from aipo_env.run_record import RunRecord, record_path
from algorithms.apps.html_pages import write_page
from algorithms.apps.viewer import RunInfo, TokenReader, TraceStore, build_page, make_server

if TYPE_CHECKING:
    from algorithms.token_weights import TokenWeights

_LARGE = 200 * 1024 * 1024
"""Bytes above which a page is slow to open."""


@command(
    "aipo view runs/mine --open",
    "aipo view runs/before runs/after --out compared.html  # two checkpoints, side by side",
    "aipo view runs/mine --serve  # follows a run that goes on",
)
def view(
    runs: tuple[Path, ...] = (),
    /,
    *,
    out: Path | None = None,
    serve: bool = False,
    port: int = 8470,
    policy: str | None = None,
    limit: int | None = None,
    open_browser: Annotated[bool, Parameter(name="open")] = False,
) -> int:
    """Look at trajectories: who wrote each token, what the policy thought of it, and how the learner weighed it.

    Writes one HTML page that opens from disk, without a server and without a network. With --serve it is shown to this
    machine alone, and follows a run that goes on.

    Args:
        runs: folders of runs (`aipo train`, `aipo rollout`, `aipo eval`, `aipo demo`), or .jsonl files of traces.
        out: the page; view.html in the folder of the first run if left out.
        serve: serve it on 127.0.0.1 until Ctrl-C.
        port: with --serve; 0 takes a free one.
        policy: names the tokenizer where nothing beside the traces does, as for `aipo rollout`.
        limit: of each file only the newest so many trajectories.
        open_browser: show it in the browser.
    """
    if not runs:
        raise ConfigurationError(
            "name at least one run: a folder that a command wrote with --out, or a .jsonl file of traces."
        )
    if limit is not None and limit < 1:
        raise ConfigurationError(f"--limit must be at least 1, got {limit}; leave it out for all trajectories.")
    if serve and out is not None:
        raise ConfigurationError("--out names a page, and --serve writes none: leave one of them out.")
    store = TraceStore(runs, lambda path: run_info(path, policy), limit=limit)
    title = "aipo view: " + ", ".join(run.name or os.fspath(run) for run in runs)
    if serve:
        return _serve(store, title, port, open_browser)
    page = out or (runs[0] if runs[0].is_dir() else runs[0].parent) / "view.html"
    write_page(page, build_page(store, title))
    size = page.stat().st_size
    print(f"{page}: {store.num_rows} trajectories, {size / 1e6:.1f} MB")
    if size > _LARGE:
        print("aipo: a page of this size opens slowly; --limit 10000 or --serve is quicker.", file=sys.stderr)
    if open_browser:
        webbrowser.open(page.absolute().as_uri())
    return 0


def _serve(store: TraceStore, title: str, port: int, open_browser: bool) -> int:
    server = make_server(store, title, port)
    address = f"http://127.0.0.1:{server.server_port}/"
    print(f"{store.num_rows} trajectories at {address} (Ctrl-C ends it)", flush=True)
    if open_browser:
        webbrowser.open(address)
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        pass  # the way to end it
    finally:
        server.server_close()
    return 0


def run_info(traces: Path, policy: str | None = None) -> RunInfo:
    """What lies beside a file of traces: the tokenizer's name and, of a training run, the objective.

    Args:
        traces: the file.
        policy: the name of the tokenizer, where nothing tells it.
    """
    notes: list[str] = []
    learner = _learner(traces, notes)
    reader = _reader(traces, policy, notes)
    return RunInfo(reader, learner, tuple(notes))


def _learner(traces: Path, notes: list[str]) -> TokenWeights | None:
    config = traces.with_name("config.json")
    if not config.is_file():
        return None
    try:
        from algorithms.token_weights import TokenWeights

        return TokenWeights.read(config)
    except ModuleNotFoundError as error:
        notes.append(f"Advantages and coefficients need the package {error.name!r}: {install_command('train')}")
    except AipoError as error:
        notes.append(str(error))
    return None


def _reader(traces: Path, policy: str | None, notes: list[str]) -> TokenReader | None:
    record = None
    try:
        if record_path(traces).is_file():
            record = RunRecord.read(record_path(traces))
        name = policy or _tokenizer_name(traces, record)
        if not name:
            return None
        from algorithms.rollout_command import load_codec

        codec = load_codec(name)
    except ModuleNotFoundError as error:
        notes.append(f"The texts of single tokens need the package {error.name!r}: {install_command('train')}")
        return None
    except (AipoError, OSError) as error:
        notes.append(str(error))
        return None
    if record is not None and record.tokenizer not in (None, codec.fingerprint):
        notes.append(f"The tokenizer of {name!r} is not the one of the run; name that one with --policy.")
        return None
    return TokenReader(codec.decode, lambda token: str(codec.tokenizer.convert_ids_to_tokens(token)))


def _tokenizer_name(traces: Path, record: RunRecord | None) -> str:
    """What the run record, the configuration of a training run or the policy that it saved say."""
    if record is not None and record.tokenizer_name:
        return record.tokenizer_name
    config = traces.with_name("config.json")
    try:
        row = json.loads(config.read_text(encoding="utf-8"))
        if isinstance(row, dict) and isinstance(row.get("policy"), str):
            # The saved policy is there at the end of the run, wherever it is looked at.
            saved = traces.with_name("policy")
            return os.fspath(saved) if (saved / "tokenizer.json").is_file() else str(row["policy"])
    except FileNotFoundError:
        pass
    except ValueError as error:
        raise DataNotFoundError(f"{config} does not tell the tokenizer ({error}). Name it with --policy.") from error
    return ""
