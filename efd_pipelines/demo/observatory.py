"""What a demo simulates: each run the next minutes of one deterministic observatory.

The first begins a minute and a half before the last Monday 00:00 UTC, so that telemetry and an exposure cross the
boundary of two weeks. Where the next begins is written down before a record is produced: a demo that was killed
half-way goes on after its window and never sends a record twice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from efd_pipelines.times import parse_time, this_week

SEED = 20260125
BEFORE_MONDAY = timedelta(seconds=90)
_FILE = "simulated.json"


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of simulated time, the end excluded."""

    start: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        return (self.end - self.start).total_seconds()

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d %H:%M:%S} to {self.end:%Y-%m-%d %H:%M:%S} UTC"


def next_window(directory: Path, seconds: float, now: datetime | None = None) -> Window:
    """The window after those that have been simulated in this directory, taken: nobody gets it again."""
    file = directory / _FILE
    now = now or datetime.now(UTC)
    start = parse_time(json.loads(file.read_text())["next"]) if file.exists() else first_start(seconds, now)
    window = Window(start, start + timedelta(seconds=seconds))
    _take_until(file, window.end)
    return window


def first_start(seconds: float, now: datetime) -> datetime:
    """A minute and a half before the last Monday whose window is over by now."""
    monday = this_week(now)
    if monday.start - BEFORE_MONDAY + timedelta(seconds=seconds) > now:
        monday = monday.previous()
    return monday.start - BEFORE_MONDAY


def _take_until(file: Path, end: datetime) -> None:
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps({"next": end.isoformat()}) + "\n")
    temporary.replace(file)
