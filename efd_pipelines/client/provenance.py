"""Provenance: where the rows of an answer came from, and what is known to be missing among them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from efd_pipelines.reading.completeness import Completeness


@dataclass(frozen=True, slots=True)
class Source:
    """A stretch of an answer and what gave it: `archive`, `tier 1s`, or `influx:<database>`.

    `version` is that of the table, None for another server.
    """

    name: str
    start: datetime
    end: datetime
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """What an answer is made of.

    `aggregation` says of a tier what was aggregated, None where rows are records. `repeated` records were left out, as
    far as they have been read. `stale` are stretches of which the tier does not have the latest records yet.
    """

    dataset: str
    sources: tuple[Source, ...]
    completeness: Completeness
    aggregation: str | None = None
    repeated: int = 0
    stale: tuple[tuple[datetime, datetime], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values, for metadata."""
        known = self.completeness
        return {
            "dataset": self.dataset,
            "sources": [
                {"name": one.name, "from": one.start.isoformat(), "to": one.end.isoformat(), "version": one.version}
                for one in self.sources
            ],
            "aggregation": self.aggregation,
            "complete": known.is_complete and not self.stale,
            "missing": str(known),
            "gaps": [
                {
                    "kind": gap.kind,
                    "records": gap.missing,
                    "from": None if gap.after is None else gap.after.isoformat(),
                    "to": None if gap.before is None else gap.before.isoformat(),
                }
                for gap in known.gaps
            ],
            "dead": known.dead,
            "quarantined": known.quarantined,
            "expired": list(known.expired),
            "read_until": None if known.read_until is None else known.read_until.isoformat(),
            "repeated": self.repeated,
            "stale": [[start.isoformat(), end.isoformat()] for start, end in self.stale],
        }

    def __str__(self) -> str:
        parts = [f"{self.dataset} from {', '.join(dict.fromkeys(one.name for one in self.sources)) or 'nowhere'}"]
        if self.aggregation:
            parts.append(self.aggregation)
        parts.append(str(self.completeness))
        if self.repeated:
            parts.append(f"{self.repeated:,} repeated records counted once")
        if self.stale:
            parts.append(f"{len(self.stale)} stretches not summarised anew yet")
        return "; ".join(parts)

    def metadata(self) -> dict[str, str]:
        """As Arrow's metadata of a schema."""
        return {"efd": json.dumps(self.to_json())}
