"""Processes that a demo starts end with it, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from efd_pipelines.demo import children
from efd_pipelines.demo.children import run_job, tied_to_us

SLEEPS = "import sys, time; print('running', flush=True); time.sleep(600)"


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_a_child_dies_with_the_process_that_started_it() -> None:
    starts = (
        "import subprocess, sys, time; from efd_pipelines.demo.children import tied_to_us\n"
        f"child = subprocess.Popen(tied_to_us([sys.executable, '-c', {SLEEPS!r}]), stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", starts], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)

    assert gone(child)


def test_a_job_is_heard_line_by_line_and_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
    monkeypatch.setattr(children, "tied_to_us", lambda command: tied_to_us([sys.executable, "-u", "-c", code]))
    lines: list[str] = []

    assert run_job("main", tmp_path / "main.json", tmp_path, {}, lines.append) == 3
    assert lines == ["one", "two"]
    assert (tmp_path / "main.log").read_text() == "one\ntwo\n"


def test_an_interrupted_job_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEPS!r}]); print(child.pid, flush=True); time.sleep(600)"
    )
    monkeypatch.setattr(children, "tied_to_us", lambda command: tied_to_us([sys.executable, "-c", code]))
    pids: list[int] = []

    def interrupt(line: str) -> None:
        if line.isdecimal():
            pids.append(int(line))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job("main", tmp_path / "main.json", tmp_path, {}, interrupt)

    assert gone(pids[0])
