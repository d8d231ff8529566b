"""Findings: what an audit says, where it is, and what to do about it.

`problems` are what is not as it should be; `notes` are true of the data and no fault of the archive: records that
producers or mirrors delivered twice, numbers that writers never gave, a ledger that was behind. Who finds them:
`audit.py` (metadata), `deep_audit.py` (every file), `recount.py` (Kafka).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

REPORT = "Report it with this output: the archive must not be like this."
RESTORE = "Restore the file from a copy of the store; until then its rows are missing."
RESTORE_LOG = "Restore the table's `_delta_log` from a copy of the store: it says which files count."
REINDEX = "`efd archive reindex` makes the ledger anew from the tables; if it comes back, report it with this output."
LEADING = (
    "The ledger never leads: was the newest of the table's log lost? Then restore its `_delta_log` from a copy of the "
    "store, before anything is drained. If nothing was, `efd archive reindex`."
)
REMOVE = (
    "Find out who writes to the archive. No Delta reader sees it; `efd archive clean` removes it a week after it was "
    "written."
)
DEEPER = "`efd archive verify --deep` says where. " + REPORT


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be, or worth knowing."""

    topic: str
    week: str
    kind: str
    detail: str
    remedy: str


@dataclass(slots=True)
class Audit:
    """What the audit found. `records` came from Kafka, `rows` are kept; both over all weeks asked for.

    `expired` rows were let go, with a mark that says so. `gone` are files that are not in the store, by dataset and
    path: how many of their rows are counted as missing, None where all are.
    """

    topics: int = 0
    records: int = 0
    rows: int = 0
    missing: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    quarantined: int = 0
    expired: int = 0
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    gone: dict[tuple[str, str], int | None] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.problems

    def found(self, topic: str, week: str, kind: str, detail: str, remedy: str = REPORT) -> None:
        self.problems.append(Finding(topic, week, kind, detail, remedy))

    def note(self, topic: str, week: str, kind: str, detail: str, remedy: str = "Nothing to do.") -> None:
        self.notes.append(Finding(topic, week, kind, detail, remedy))

    def kinds(self) -> Iterator[str]:
        """Of the problems, in their order."""
        return (finding.kind for finding in self.problems)


def counted(count: int, singular: str, plural: str = "") -> str:
    """A count with its noun."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def some(names: list[str], shown: int = 3) -> str:
    """The first few of many."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
