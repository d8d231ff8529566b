"""Drained: what a drain came to, for who started it: records, rows, bytes, and what somebody should know.

Who drains: `drain.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.archive.writing import Written
from efd_pipelines.errors import DataError
from efd_pipelines.topics.names import Dataset


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about one topic that somebody should know."""

    topic: str
    kind: str
    detail: str
    remedy: str


@dataclass(slots=True)
class DrainResult:
    """What a drain did. `by_component_week` counts rows and bytes; its weeks are also quarantine and dead."""

    records: int = 0
    rows: int = 0
    bytes: int = 0
    avro_bytes: int = 0
    commits: int = 0
    dead_letters: int = 0
    quarantined: int = 0
    gaps: int = 0
    seconds: float = 0.0
    topics: int = 0
    by_component_week: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def count(self, dataset: Dataset, written: Written) -> None:
        self.records += written.records
        self.commits += 1
        self.gaps += len(written.commit.note["gaps"])
        self.avro_bytes += written.avro_bytes
        for file in written.commit.added:
            self.rows += file.rows
            self.bytes += file.size_bytes
            self.dead_letters += file.rows if file.week == DEAD else 0
            self.quarantined += file.rows if file.week == QUARANTINE else 0
            counts = self.by_component_week.setdefault((dataset.component, file.week), {})
            for name, value in (("rows", file.rows), ("bytes", file.size_bytes), ("files", 1)):
                counts[name] = counts.get(name, 0) + value


class DrainIncomplete(DataError):
    """Some topics could not be archived; the others were, and nothing was lost."""

    remedy = "Mend what the message names and run again: reading goes on where it stopped."

    result: DrainResult
