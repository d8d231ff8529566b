"""Export: topics of a time range as a directory of Parquet that any tool opens.

What belongs here: the order of the work and its result. The steps are the package's other modules.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.ledger import RAW
from efd_pipelines.errors import DataError
from efd_pipelines.exports.destination import MANIFEST, Stage, destination_at
from efd_pipelines.exports.manifest import README, TopicExport, encoded, manifest_of, readme
from efd_pipelines.exports.parts import Part, write_parts
from efd_pipelines.exports.request import Request, Selection, select
from efd_pipelines.exports.stream import Windows
from efd_pipelines.tiers.stale import find_stale
from efd_pipelines.tiers.tier import tier_named

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive


Progress = Callable[[str, int, int], None]
"""Called after each file with the dataset, the rows written, and those expected at most."""


class NothingToExport(DataError):
    """No rows in the range asked for."""

    remedy = "`efd archive status` says which weeks each topic has."


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export is: `manifest` is the address of its manifest; `made` is False where it stood
    already."""

    rows: int
    bytes: int
    files: int
    manifest: str
    directories: tuple[str, ...]
    notes: tuple[str, ...]
    made: bool

    def to_json(self) -> dict[str, Any]:
        """What `efd export --json` prints (interfaces.md)."""
        return {
            "rows": self.rows,
            "bytes": self.bytes,
            "files": self.files,
            "manifest": self.manifest,
            "directories": list(self.directories),
            "notes": list(self.notes),
            "made": self.made,
        }


def export(
    archive: Archive,
    topics: Sequence[str] | str,
    start: datetime | str,
    end: datetime | str,
    fields: Sequence[str] | None = None,
    tier: str = RAW,
    *,
    out: str,
    progress: Progress | None = None,
) -> ExportResult:
    """Writes the rows with start ≤ time < end to `out`, one directory of Parquet files per topic.

    The files of a topic are sorted by time and do not overlap, have 10 to 250 MiB in memory and one schema,
    with units. Records of SAL that were delivered more than once are there once; quarantined and dead rows
    are not. All of the export appears at once, or nothing. The same request again does nothing where the
    export stands and the archive's files for it are the same, and renews the export where they are not.

    Args:
        topics: names of datasets, or globs over them.
        start: beginning in UTC.
        end: end in UTC, excluded.
        fields: names of fields or columns, or globs over them; None is all of the message. `time` and
        `salIndex`
            are always there.
        tier: `raw`, or a tier; topics that it does not summarise are exported as they are.
        out: a directory, or `s3://bucket/prefix`.
        progress: called after each file.

    Raises:
        UsageError: a topic or field that is not there (with the nearest names), a range that is empty or
        reversed,
            a destination that holds something else.
        NothingToExport: there are no rows in the range.
        StoreFull, StoreUnavailable: nothing became visible.
    """
    request = Request.of(topics, start, end, fields, tier)
    destination = destination_at(str(out), archive.settings)
    standing = destination.standing(request.to_json())
    archive.ledger.catch_up_pending()
    selections = select(archive, request)
    if standing is not None and destination.is_whole(standing) and _is_current(standing, selections):
        return _result(standing, destination.uri(), made=False)
    gaps = _gaps(archive, selections)
    with destination.stage(request.to_json()) as stage:
        made = _write(stage, request, selections, gaps, progress)
        if not any(topic.parts for topic in made):
            raise NothingToExport(_nothing(request, selections))
        manifest = manifest_of(request, archive.store.root, made, datetime.now(UTC), _notes(archive, request, made))
        with stage.create(README) as file:
            file.write(readme(manifest, destination.uri()).encode())
        stage.publish(encoded(manifest))
    return _result(manifest, destination.uri(), made=True)


def _is_current(manifest: dict[str, Any], selections: Sequence[Selection]) -> bool:
    """Whether the export was made of the files that the archive has for it now."""
    held = {topic["dataset"]: (topic["table"], topic["inputs_sha256"]) for topic in manifest["topics"]}
    return held == {one.dataset.text: (one.table, one.inputs) for one in selections}


def _write(
    stage: Stage,
    request: Request,
    selections: Sequence[Selection],
    gaps: dict[str, list[dict[str, Any]]],
    progress: Progress | None,
) -> list[TopicExport]:
    expected = sum(one.rows for one in selections)
    written = 0
    made = []
    for one in selections:
        windows = Windows(one, request)
        parts: list[Part] = []
        for part in write_parts(stage, one.dataset.text, one.schema, windows):
            parts.append(part)
            written += part.rows
            if progress is not None:
                progress(one.dataset.text, written, expected)
        made.append(TopicExport(one, tuple(parts), windows.repeated, tuple(gaps.get(one.dataset.text, ()))))
    return made


def _gaps(archive: Archive, selections: Sequence[Selection]) -> dict[str, list[dict[str, Any]]]:
    """What the ledger knows to be missing of each dataset, with when it was noticed."""
    table = archive.ledger.table()
    names = pa.array([one.dataset.text for one in selections], pa.string())
    has_gaps = pc.and_(pc.is_in(table["dataset"], value_set=names), pc.not_equal(table["gaps"], "[]"))
    found: dict[str, list[dict[str, Any]]] = {}
    for row in table.filter(has_gaps).select(["dataset", "gaps", "at"]).to_pylist():
        noticed = {"noticed_at": row["at"].isoformat()}
        found.setdefault(row["dataset"], []).extend({**gap, **noticed} for gap in json.loads(row["gaps"]))
    return found


def _notes(archive: Archive, request: Request, made: Sequence[TopicExport]) -> list[str]:
    """What a reader must know to take the export for what it is."""
    gaps = [topic.selection.dataset.text for topic in made if topic.gaps]
    notes = []
    if gaps:
        notes.append(
            f"The archive lacks records of {', '.join(gaps)}; whether they are of this range is not known"
            " (the gaps are in manifest.json)."
        )
    unbuilt = [topic.selection.dataset for topic in made if topic.selection.table != RAW]
    for stale in find_stale(archive, tier_named(request.tier), unbuilt) if unbuilt else ():
        parts = [part.key for part in stale.slices if part.start_us < request.end_us and part.end_us > request.start_us]
        if parts:
            notes.append(
                f"The {request.tier} tier of {stale.dataset} is not up to date in this range: the archive has moved"
                f" on in {', '.join(parts[:5])}{' …' if len(parts) > 5 else ''}. Build the tier and export again."
            )
    return notes


def _nothing(request: Request, selections: Sequence[Selection]) -> str:
    names = [one.dataset.text for one in selections]
    what = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{what or 'What was asked for'}: no rows from {request.start.isoformat()} to {request.end.isoformat()}"


def _result(manifest: dict[str, Any], where: str, *, made: bool) -> ExportResult:
    filled = [topic for topic in manifest["topics"] if topic["files"]]
    return ExportResult(
        rows=manifest["rows"],
        bytes=manifest["bytes"],
        files=sum(len(topic["files"]) for topic in filled),
        manifest=f"{where}/{MANIFEST}",
        directories=tuple(f"{where}/{topic['directory']}" for topic in filled),
        notes=tuple(manifest["notes"]),
        made=made,
    )
