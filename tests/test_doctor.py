"""`aipo doctor` says what is here, and what is not, by trying it."""

from __future__ import annotations

import http.server
import importlib.metadata
import json
import threading
from pathlib import Path

import pytest

from aipo_env import doctor
from aipo_env.cli import main
from aipo_env.installation import install_command


def findings(**options: bool) -> dict[str, doctor.Finding]:
    return {f.name: f for f in doctor.examine(**options)}


def test_what_is_installed_and_what_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--offline", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["works"] is True
    found = {f["name"]: f for f in told["findings"]}
    assert f"mpmath {importlib.metadata.version('mpmath')}" in found["core"]["detail"]
    assert found["grading"]["status"] == "ok"
    assert found["policy embedded"]["status"] == "ok"
    assert "knowledge, reasoning, verify" in found["aipo.agents"]["detail"]
    assert main(["doctor", "--offline"]) == 0
    text = capsys.readouterr().out
    assert "ok  grading" in text
    assert "all that is installed works" in text


def test_the_sandbox_is_told_as_the_grader_finds_it() -> None:
    from aipo_env.errors import ConfigurationError
    from aipo_env.grading.code.grader import CodeGrader

    found = findings(offline=True)["code sandbox"]
    with CodeGrader(workers=1) as grader:
        try:
            expected = ("ok", f"full: {', '.join(grader.isolation().in_force)}", "")
        except ConfigurationError as error:
            expected = ("absent", "programs (livecodebench) cannot be graded", str(error))
    assert (found.status, found.detail, found.remedy) == expected


def test_versions_that_do_not_fit_and_packages_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    required = ["numpy>=900", "mpmath>=1", "no-such-package>=1; extra == 'llm'", "rich>=1; extra == 'llm'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: required)
    found = findings(offline=True)
    assert (found["core"].status, "(wanted >=900)" in found["core"].detail) == ("broken", True)
    assert (found["llm"].status, "lacks no-such-package" in found["llm"].detail) == ("absent", True)
    assert found["llm"].remedy == install_command("llm")
    assert main(["doctor", "--offline", "--json"]) == 1


def test_a_plug_in_that_cannot_be_loaded_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "broken_plugin-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[aipo.agents]\noracle = no_such_module:Oracle\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["doctor", "--offline"]) == 1
    out = capsys.readouterr().out
    assert "!!  aipo.agents oracle" in out
    assert "broken-plugin: ModuleNotFoundError" in out
    assert "does not work: aipo.agents oracle" in out


@pytest.mark.parametrize(("status", "expected"), [(200, "ok"), (503, "absent")])
def test_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch, status: int, expected: str) -> None:
    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        found = findings()["hub"]
        server.shutdown()
    assert (found.status, f"127.0.0.1:{server.server_port}" in found.detail) == (expected, True)


def test_local_data_are_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIPO_DATA", str(tmp_path))
    assert findings(offline=True)["AIPO_DATA"].status == "broken"
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text("{}\n")
    found = findings(offline=True)["AIPO_DATA"]
    assert (found.status, "gsm8k/test.jsonl" in found.detail) == ("ok", True)
