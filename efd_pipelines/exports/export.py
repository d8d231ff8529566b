"""Export: topics of a time range as a directory of Parquet that any tool opens.

What belongs here: the order of the work and its result. The steps are the package's other modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from efd_pipelines.archive.ledger import RAW
from efd_pipelines.errors import DataError
from efd_pipelines.exports.destination import MANIFEST, Stage, destination_at
from efd_pipelines.exports.estimate import LIMIT_BYTES, Estimate, Planned, check_room, estimate, plan
from efd_pipelines.exports.manifest import TopicExport, encoded, manifest_of
from efd_pipelines.exports.provenance import provenance_of
from efd_pipelines.exports.ranges import ranges_of, span_text
from efd_pipelines.exports.readme import README, readme
from efd_pipelines.exports.request import Request
from efd_pipelines.exports.selection import Selection, select
from efd_pipelines.exports.sharing import do_all
from efd_pipelines.exports.work import PieceWork, Written

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive


Progress = Callable[[str, int, int], None]
"""Called after each piece with the dataset, the rows written, and about how many there will be."""


class NothingToExport(DataError):
    """No rows in the range asked for."""

    remedy = "`efd archive status` says which weeks each topic has."


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export is: `manifest` is the address of its manifest; `made` is False where it stood already.

    `open_it` has the snippets for Dask, pandas, DuckDB and Polars.
    """

    rows: int
    bytes: int
    files: int
    manifest: str
    directories: tuple[str, ...]
    notes: tuple[str, ...]
    made: bool
    open_it: dict[str, str]
    expires_at: str | None = None

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
            "open_it": self.open_it,
            "expires_at": self.expires_at,
        }


def export(
    archive: Archive,
    topics: Sequence[str] | str,
    start: datetime | str | None = None,
    end: datetime | str | None = None,
    fields: Sequence[str] | None = None,
    tier: str = RAW,
    *,
    out: str,
    resample: str | None = None,
    arrays: str = "archived",
    time_scale: str = "utc",
    day_obs: str | int | None = None,
    exposures: str | None = None,
    visits: str | None = None,
    padding_s: float = 0.0,
    limit_bytes: int | None = LIMIT_BYTES,
    keep_days: float | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Writes rows of topics to `out`, one directory of Parquet files per topic.

    The files of a topic are sorted by time and do not overlap, have 10 to 250 MiB in memory and one schema,
    with units. Records of SAL that were delivered more than once are there once; quarantined and dead rows
    are not. All of the export appears at once, or nothing. The same request again does nothing where the
    export stands and the archive's files for it are the same, goes on where it was interrupted, and renews the
    export where they are not. Where EFD_DASK_SCHEDULER is set, the workers of Dask do the work.

    Args:
        topics: names of datasets, or globs over them.
        start: beginning in UTC.
        end: end in UTC, excluded.
        fields: names of fields or columns, or globs over them; None is all of the message. `time` and `salIndex`
            are always there.
        tier: `raw`, or a tier; topics that it does not summarise are exported as they are.
        out: a directory, or `s3://bucket/prefix`.
        resample: a window as `10s`, instead of a tier: its statistics of telemetry that is faster.
        arrays: `archived`, `flat` (an element a column) or `list` (an array a column).
        time_scale: `utc` (column `time`), `tai` (`tai_time`), or `both`.
        day_obs: an observing day as 20261121, or several as 20261121..20261123, instead of start and end.
        exposures: of an instrument, `lsstcam` or `lsstcam:2026112100001..2026112100050`: only what was sent during
            them, with a column `exposure_id`; `visits` the same.
        padding_s: seconds more on both sides of each exposure.
        limit_bytes: an export that would have more bytes in files is refused; None for no limit.
        keep_days: after which the export may be removed (`efd exports expire`).
        progress: called after each piece of work.

    Raises:
        UsageError: a topic or field that is not there (with the nearest names), a range that is empty or
            reversed, a destination that holds something else, an export above the limit.
        NothingToExport, NoExposures: there are no rows in the range, or no exposures.
        StoreFull, StoreUnavailable, DaskUnavailable, DatabaseUnavailable: nothing became visible.
    """
    request = Request.of(
        topics,
        start,
        end,
        fields,
        tier,
        resample=resample,
        arrays=arrays,
        time_scale=time_scale,
        day_obs=day_obs,
        exposures=exposures,
        visits=visits,
        padding_s=padding_s,
    )
    return make(archive, request, out, limit_bytes=limit_bytes, keep_days=keep_days, progress=progress)


def foresee(archive: Archive, request: Request) -> Estimate:
    """What an export will be, without making it.

    Raises:
        UsageError, NoExposures: the request cannot be meant.
    """
    archive.ledger.catch_up_pending()
    return estimate(plan(select(archive, request)))


def make(
    archive: Archive,
    request: Request,
    out: str,
    *,
    limit_bytes: int | None = LIMIT_BYTES,
    keep_days: float | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """The export of a request; see `export`."""
    destination = destination_at(str(out), archive.settings)
    standing = destination.standing(request.to_json())
    archive.ledger.catch_up_pending()
    selections = select(archive, request, ranges_of(request, archive.settings))
    if standing is not None and destination.is_whole(standing) and _is_current(standing, selections):
        return _result(standing, destination.uri(), made=False)
    planned = plan(selections)
    expected = estimate(planned)
    if not expected.topics:
        raise NothingToExport(_nothing(selections))
    check_room(expected, limit_bytes, destination.free_bytes())
    known = provenance_of(archive, selections)
    with destination.stage(request.to_json()) as stage:
        made = _write(archive, stage, planned, expected, progress)
        if not any(topic.parts for topic in made):
            raise NothingToExport(_nothing(selections))
        manifest = manifest_of(
            request,
            archive.store.root,
            made,
            datetime.now(UTC),
            known,
            where=destination.uri(),
            keep_days=keep_days,
        )
        with stage.create(README) as file:
            file.write(readme(manifest, destination.uri()).encode())
        stage.publish(encoded(manifest))
    return _result(manifest, destination.uri(), made=True)


def _is_current(manifest: dict[str, Any], selections: Sequence[Selection]) -> bool:
    """Whether the export was made of the files that the archive has for it now."""
    held = {topic["dataset"]: (topic["table"], topic["inputs_sha256"]) for topic in manifest["topics"]}
    return held == {one.dataset.text: (one.table, one.inputs) for one in selections}


def _write(
    archive: Archive, stage: Stage, planned: Sequence[Planned], expected: Estimate, progress: Progress | None
) -> list[TopicExport]:
    stage.begin([one.selection.dataset.text for one in planned if one.pieces])
    works = [PieceWork(piece, one.selection.source, one.selection.shape) for one in planned for piece in one.pieces]
    done: dict[str, list[Written]] = {}
    rows = 0
    for work, written in do_all(archive.settings, stage, works):
        done.setdefault(work.piece.dataset, []).append(written)
        rows += written.rows
        if progress is not None:
            progress(work.piece.dataset, rows, max(rows, expected.rows))
    return [_topic(one.selection, done.get(one.selection.dataset.text, [])) for one in planned]


def _topic(selection: Selection, written: Sequence[Written]) -> TopicExport:
    parts = [part for one in sorted(written, key=lambda one: one.number) for part in one.parts]
    return TopicExport(selection, tuple(parts), sum(one.repeated for one in written))


def _nothing(selections: Sequence[Selection]) -> str:
    names = [one.dataset.text for one in selections]
    what = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    if not selections:
        return "What was asked for has no rows"
    first, last = span_text(selections[0].ranges)
    return f"{what}: no rows from {first} to {last}"


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
        open_it=dict(manifest.get("open_it", {})),
        expires_at=manifest.get("expires_at"),
    )
