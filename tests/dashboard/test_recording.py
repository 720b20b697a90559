"""A recording: the command a person would type, one at a time, cancelled gently."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dashboard import recording
from dashboard.recording import Recorder, Request

# Measures a row, says so, and waits to be interrupted.
WAITING = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
folder.mkdir()
(folder / "ablation.json").write_text(json.dumps({"rows": [{"name": "none", "host_bytes": 1}]}))
print("row none", flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""
STUBBORN = WAITING.replace(
    "import json", "import signal; signal.signal(2, signal.SIG_IGN)\nimport json"
)


def until(condition: Callable[[], bool]) -> None:
    """Waits for a state of another process; the suite's own timeout bounds it."""
    while not condition():
        time.sleep(0.02)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    made = Recorder(tmp_path / "runs", (sys.executable, "-c", WAITING))
    yield made
    if made.current is not None:
        made.current.process.kill()
        made.current.process.wait()
        made.forget()


def test_it_is_the_plain_command(tmp_path: Path) -> None:
    assert Recorder(tmp_path).command == (sys.executable, "-m", "profiler.trace")
    request = Request(model="llama-1b", configs=("none", "U"), extra=("--bits", "4"))
    assert request.arguments("o") == [
        "--layer", "attn0", "--model", "llama-1b", "--configs", "none,U", "--bits", "4",
        "--out", "o",
    ]  # fmt: skip


def test_progress_is_read_from_the_run(recorder: Recorder) -> None:
    current = recorder.start(Request())
    assert current.state == "running"
    until(lambda: current.rows == ["none"] and "row none" in current.log)
    assert recorder.start(Request(model="llama-1b")) is current  # one at a time
    recorder.forget()
    assert recorder.current is current


def test_cancelling_interrupts_and_keeps_what_was_measured(recorder: Recorder) -> None:
    current = recorder.start(Request())
    until(lambda: "row none" in current.log)
    current.cancel()
    assert current.process.wait() == 130
    assert current.state == "cancelled"
    assert current.log.endswith("interrupted")
    assert json.loads((current.folder / "ablation.json").read_text())["rows"]
    recorder.forget()
    assert recorder.current is None


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # ended, not yet reaped
    except psutil.NoSuchProcess:
        return True


def test_no_recording_outlives_the_dashboard(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from dashboard.recording import *\n"
        f"root = Path({str(tmp_path / 'runs')!r})\n"
        f"current = Recorder(root, (sys.executable, '-c', {WAITING!r})).start(Request())\n"
        "while 'row none' not in current.log: time.sleep(0.02)\n"
        "print(current.process.pid)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    until(lambda: _gone(int(done.stdout)))


def test_a_process_that_will_not_end_is_killed(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.command = (sys.executable, "-c", STUBBORN)
    monkeypatch.setattr(recording, "GRACE_S", 0.0)
    current = recorder.start(Request())
    until(lambda: "row none" in current.log)
    current.cancel()
    until(lambda: current.state == "cancelled")
    assert current.process.returncode == -signal.SIGKILL


def test_a_failure_keeps_its_last_words(recorder: Recorder) -> None:
    recorder.command = (sys.executable, "-c", "import sys; sys.exit('error: no such layer')")
    current = recorder.start(Request())
    current.process.wait()
    assert current.state == "failed"
    assert current.log == "error: no such layer"
    assert current.rows == []


def test_a_name_is_never_taken_twice(recorder: Recorder) -> None:
    recorder.command = (sys.executable, "-c", "import os, sys; os.mkdir(sys.argv[-1])")
    folders = set()
    for _ in range(3):
        current = recorder.start(Request())
        assert current.process.wait() == 0
        folders.add(current.folder)
        recorder.forget()
    assert len(folders) == 3
