"""Memory that a process takes with all that it has started, as Linux tells it."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path

_LOOK_S = 0.05


def peak_of_tree(process: subprocess.Popen[str]) -> int:
    """The most bytes that a process and its descendants have at a time, until it ends; shared pages count once."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(_bytes_of, _tree(process.pid))))
        time.sleep(_LOOK_S)
    return peak


def _tree(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        tasks = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
        return [pid, *(one for task in tasks for child in task.split() for one in _tree(int(child)))]
    return []


def _bytes_of(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/smaps_rollup").read_text().split("\nPss:")[1].split()[0]) * 1024
    return 0
