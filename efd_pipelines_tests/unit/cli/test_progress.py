"""Progress: a bar with rate and time left on a terminal, silence everywhere else, stdout never."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from efd_pipelines.cli.progress import Gauge

WORK = """
import time
from efd_pipelines.cli.progress import Gauge
with Gauge("Archiving", "records") as gauge:
    for n in range(1, 11):
        gauge.part(n * 1000, 10_000)
        time.sleep(0.1)
    gauge.step("lsst.sal.MTMount.azimuth", 3, 4)
    time.sleep(0.2)
print("done")
"""


def test_a_terminal_shows_what_how_much_how_fast_and_what_is_left() -> None:
    terminal, ours = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", WORK],
        stdout=subprocess.PIPE,
        stderr=ours,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "100", "TERM": "xterm"},
    )
    os.close(ours)
    shown = os.read(terminal, 100_000).decode(errors="replace")
    os.close(terminal)

    assert done.stdout == "done\n"
    assert "Archiving" in shown
    assert "10,000 of 10,000 records" in shown
    assert "/s" in shown
    assert "left" in shown
    assert "lsst.sal.MTMount.azimuth" in shown


def test_what_is_no_terminal_is_spared(capsys: pytest.CaptureFixture[str]) -> None:
    with Gauge("Archiving", "records", total=10) as gauge:
        gauge.count(5)
        gauge.part(6, 10)
        gauge.step("more", 7, 10)

    assert capsys.readouterr() == ("", "")
