"""`aipo report`: what training runs did, as one page, as Markdown or as JSON."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from aipo_env.console import command, print_json
from aipo_env.errors import ConfigurationError
from algorithms.apps.html_pages import write_page
from algorithms.apps.report import build_page, find_runs, read_run, to_json, to_markdown
from algorithms.apps.report.summary import check_num_samples


@command(
    "aipo report runs/mine",
    "aipo report runs/aipo runs/mask --out compared.html  # overlaid, with what differs",
    "aipo report runs/mine --json | jq '.runs[0].final'",
)
def report(
    runs: tuple[Path, ...],
    /,
    *,
    out: Path | None = None,
    format: Literal["html", "markdown"] = "html",
    samples: int = 4,
    open_browser: Annotated[bool, Parameter(name="open")] = False,
    json: bool = False,
) -> int:
    """Report on training runs: curves, final values, configuration, versions, transcripts early and late.

    Writes one HTML page that opens from disk, without a server, a script or a network. Several runs are overlaid and compared.

    Args:
        runs: folders that `aipo train --out` wrote, or a folder of such folders.
        out: the file; report.html in the first folder if left out, and standard output for Markdown.
        format: "markdown" has the tables alone.
        samples: transcripts of the first traced step of each run, and of the last.
        open_browser: show the page in the browser.
        json: prints one JSON object instead: "runs" with name, path, final, config, versions and curves, and
            "config_differences".
    """
    if json and (out is not None or format != "html"):
        raise ConfigurationError("--json prints to standard output: leave --out and --format out, or leave --json out.")
    if open_browser and (json or format != "html"):
        raise ConfigurationError(
            "--open shows the HTML page, and none is written: leave --open out, or --json and --format."
        )
    check_num_samples(samples)
    found = [read_run(name, folder, samples) for name, folder in find_runs(runs).items()]
    if json:
        print_json(to_json(found))
        return 0
    if format == "markdown" and out is None:
        sys.stdout.write(to_markdown(found))
        return 0
    page = out or runs[0] / "report.html"
    write_page(page, [to_markdown(found) if format == "markdown" else build_page(found)])
    print(f"{page}: {len(found)} run{'s' if len(found) > 1 else ''}, {page.stat().st_size / 1e3:.0f} kB")
    if open_browser:
        webbrowser.open(page.absolute().as_uri())
    return 0
