"""Provenance: what else is known of what an export was made of: certificates of its weeks, gaps, tiers that lag.

For the manifest. What the rows themselves are made of (versions, files, request) the selection knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from efd_pipelines.archive.audit import gaps as recorded_gaps
from efd_pipelines.archive.certificates import is_valid, read_certificate
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.exports.selection import Selection
from efd_pipelines.tiers.stale import find_stale
from efd_pipelines.tiers.tier import tier_named
from efd_pipelines.times import microseconds

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

_SIDE_BY_SIDE = 16
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Provenance:
    """What is known of the archive that each dataset's rows came from, by dataset.

    `certificates` has an entry for each week with files: whether it is sealed, and by which seal.
    """

    gaps: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    certificates: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def provenance_of(archive: Archive, selections: Sequence[Selection]) -> Provenance:
    """Looks it up.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    gaps = _gaps(archive, selections)
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as threads:
        sealed = list(threads.map(lambda one: _certificates(archive, one), selections))
    certificates = {one.dataset.text: found for one, found in zip(selections, sealed, strict=True)}
    return Provenance(gaps, certificates, tuple(_notes(archive, selections, gaps)))


def _gaps(archive: Archive, selections: Sequence[Selection]) -> dict[str, list[Mapping[str, Any]]]:
    """What the ledger knows to be missing of each dataset in the times of the export."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    ranges = {one.dataset.text: one.ranges for one in selections}
    if not ranges:
        return found
    for gap in recorded_gaps(archive, [one.dataset for one in selections]):
        of = ranges[gap["topic"]]
        first, last = _us(gap["from"], -(2**62)), _us(gap["to"], 2**62)
        if first < of.end_us and last >= of.start_us:
            kept = {key: _text(value) for key, value in gap.items() if key != "topic"}
            found.setdefault(gap["topic"], []).append(kept)
    return found


def _us(when: datetime | None, otherwise: int) -> int:
    return otherwise if when is None else microseconds(when)


def _text(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _certificates(archive: Archive, selection: Selection) -> list[dict[str, Any]]:
    """Of each week with files of the export, whether it is sealed; tiers have no certificates."""
    if selection.table != RAW:
        return []
    found = []
    for week in sorted({file.week for file in selection.files}):
        certificate = read_certificate(archive, selection.dataset, week)
        if certificate is None or not is_valid(certificate, selection.snapshot):
            found.append({"week": week, "sealed": False})
            continue
        facts = {"seal": certificate.seal, "table_version": certificate.version, "rows": certificate.rows}
        found.append({"week": week, "sealed": True, **facts, "holes": certificate.holes_count})
    return found


def _notes(
    archive: Archive, selections: Sequence[Selection], gaps: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[str]:
    """What a reader must know to take the export for what it is."""
    notes = []
    if gaps:
        notes.append(
            f"The archive lacks records of {', '.join(sorted(gaps))} in or around this range"
            " (the gaps are in manifest.json)."
        )
    for table in sorted({one.table for one in selections} - {RAW}):
        notes += _lagging(archive, table, [one for one in selections if one.table == table])
    windows = selections[0].ranges.windows if selections else None
    if windows is not None and windows.unended:
        notes.append(f"{windows.unended} exposures that have not ended are not here.")
    return notes


def _lagging(archive: Archive, table: str, selections: Sequence[Selection]) -> list[str]:
    ranges = {one.dataset: one.ranges for one in selections}
    notes = []
    for stale in find_stale(archive, tier_named(table), [one.dataset for one in selections]):
        of = ranges[stale.dataset]
        parts = [part.key for part in stale.slices if of.within(part.start_us, part.end_us)]
        if parts:
            notes.append(
                f"The {table} tier of {stale.dataset} is not up to date in this range: the archive has moved"
                f" on in {', '.join(parts[:_SHOWN])}{' …' if len(parts) > _SHOWN else ''}."
                " Build the tier and export again."
            )
    return notes
