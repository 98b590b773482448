"""The notebook runs from top to bottom on a CPU, in a folder of its own."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "aipo_quickstart.ipynb"
MISSING = [name for name in ("nbclient", "ipykernel") if importlib.util.find_spec(name) is None]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the kernel's client closes its sockets late
@pytest.mark.skipif(bool(MISSING) and "AIPO_TEST_DOCS" not in os.environ, reason=f"`make docs` brings {MISSING}")
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbclient
    import nbformat

    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit the notebook without outputs"
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("reward:" in output.get("text", "") for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
