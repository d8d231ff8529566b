"""Sealing: closing a week of a dataset for good, a day after it has ended.

Every slice becomes one file, all files of the week have the same columns; each is read once more and audited; then
the certificate is written (`certificates.py`) and the guard `seal:<Monday>` raised. Nothing keeps late records from
the week: they make the certificate invalid, and the next round seals it again. A week in which something is wrong is
not sealed, and the result says what.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from efd_pipelines.archive.certificates import (
    HOLES_LISTED,
    Certificate,
    DamagedCertificate,
    is_valid,
    read_certificate,
    write_certificate,
)
from efd_pipelines.archive.collapse import collapse
from efd_pipelines.archive.delta_log import Commit
from efd_pipelines.archive.expiry import is_expired
from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.form import Survey, form_of, survey
from efd_pipelines.archive.inspection import Inspection, NotSealable
from efd_pipelines.archive.ledger import RAW, LedgerRow, rows_of
from efd_pipelines.archive.merging import FAN_IN, Merger, MergeResult
from efd_pipelines.archive.sequences import Hole, has_sequence
from efd_pipelines.archive.slices import seal_guard
from efd_pipelines.archive.tables import TableSnapshot, commit
from efd_pipelines.errors import ArchiveError, StaleWriter, UsageError
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import Settings

__all__ = ["NotOver", "NotSealable", "SealProblem", "SealResult", "due_at", "seal", "unsealed_weeks"]

_log = logging.getLogger(__name__)
_ATTEMPTS = 5
_COMMITS = 20
_DATASETS_ANNOUNCED = 64

Progress = Callable[[int, int], None]
"""Called with datasets done and datasets to do."""


class NotOver(UsageError):
    """A week that may still get records in the ordinary way."""


@dataclass(frozen=True, slots=True)
class SealProblem:
    """A dataset whose week could not be sealed; those of the others were."""

    topic: str
    week: str
    detail: str
    remedy: str


@dataclass(slots=True)
class SealResult:
    """What sealing did. `already` counts the datasets whose certificate was valid; rows and bytes are of all sealed.

    `expired` counts those of which the week was let go: late records do not seal it again.
    """

    week: str = ""
    sealed: int = 0
    already: int = 0
    expired: int = 0
    rows: int = 0
    bytes: int = 0
    files: int = 0
    holes: int = 0
    superseded: int = 0
    seconds: float = 0.0
    merged: MergeResult = field(default_factory=MergeResult)
    certificates: list[Certificate] = field(default_factory=list)
    problems: list[SealProblem] = field(default_factory=list)

    def count(self, certificate: Certificate) -> None:
        self.sealed += 1
        self.rows += certificate.rows
        self.bytes += certificate.size_bytes
        self.files += len(certificate.files)
        self.holes += certificate.holes_count
        self.superseded += certificate.superseded
        self.certificates.append(certificate)


def seal(
    archive: Archive,
    settings: Settings,
    *,
    week: Week,
    components: Collection[str] | None = None,
    datasets: Collection[Dataset] | None = None,
    now: datetime | None = None,
    run: str = "",
    progress: Progress | None = None,
) -> SealResult:
    """Seals a week of all datasets that have rows in it; those whose certificate is valid are left as they are.

    Safe to be killed, repeated, and run beside drains and other rounds.

    Raises:
        NotOver: the week ended less than a day ago.
        StoreUnavailable: what was sealed before stands.
    """
    started = time.monotonic()
    at = datetime.now(UTC) if now is None else now
    due = due_at(week, settings)
    if at < due:
        raise NotOver(
            f"The week of {week} can be sealed from {due:%Y-%m-%d %H:%M} UTC on",
            remedy="Its late records are still being read; seal it then.",
        )
    archive.prepare()
    archive.ledger.catch_up_pending()
    result = SealResult(week.key)
    wanted = [
        dataset
        for dataset in archive.ledger.datasets_with_rows(week.key)
        if (components is None or dataset.component in components) and (datasets is None or dataset in datasets)
    ]
    sealer = _Sealer(archive, week, run, result)
    for start in range(0, len(wanted), _DATASETS_ANNOUNCED):
        part = wanted[start : start + _DATASETS_ANNOUNCED]
        with archive.ledger.announced(run, [(RAW, dataset) for dataset in part]) as rows:
            for n, dataset in enumerate(part):
                sealer.seal(dataset, rows)
                if progress:
                    progress(start + n + 1, len(wanted))
    # Another round may be at it: then the next one finds whether there is still need.
    with contextlib.suppress(StaleWriter):
        collapse(archive)
    result.seconds = time.monotonic() - started
    return result


def due_at(week: Week, settings: Settings) -> datetime:
    """From when on a week may be sealed."""
    return week.next().start + timedelta(hours=settings.configuration.sealing.after_h)


def unsealed_weeks(archive: Archive, settings: Settings, now: datetime | None = None) -> list[Week]:
    """The weeks that may be sealed and of which, by the ledger, something is not, or was touched since."""
    at = datetime.now(UTC) if now is None else now
    archive.ledger.catch_up_pending()
    found = archive.ledger.sql(_UNSEALED)["week"].to_pylist()
    weeks = [Week.parse(key) for key in found]
    return [week for week in weeks if due_at(week, settings) <= at]


_UNSEALED = """
    WITH of AS (
        SELECT dataset, week, arg_max(commit_kind, version) AS last, sum(rows) AS rows,
               bool_or(commit_kind = 'expire') AS expired FROM ledger
        WHERE "table" = 'raw' AND week NOT IN ('', 'quarantine', 'dead') GROUP BY ALL
    )
    SELECT DISTINCT week FROM of WHERE last NOT IN ('seal', 'sealed') AND rows > 0 AND NOT expired ORDER BY week
"""


class _Sealer:
    """Seals one week, dataset by dataset."""

    def __init__(self, archive: Archive, week: Week, run: str, result: SealResult) -> None:
        self._archive = archive
        self._week = week.key
        self._run = run
        self._result = result
        self._merger = Merger(archive, run, result.merged)

    def seal(self, dataset: Dataset, rows: list[LedgerRow]) -> None:
        """Seals the week of one dataset; adds the commits' ledger rows."""
        try:
            for _ in range(_ATTEMPTS):
                try:
                    self._seal(dataset, rows)
                    return
                except StaleWriter as error:
                    _log.info("%s", error.message)
            raise NotSealable(
                f"{dataset} changed all the time", remedy="Look who writes to this week; the next round tries again."
            )
        except ArchiveError as error:
            self._result.problems.append(SealProblem(dataset.text, self._week, error.message, error.remedy))

    def _seal(self, dataset: Dataset, rows: list[LedgerRow]) -> None:
        snapshot = self._merger.opened(dataset)
        if is_expired(snapshot, self._week):
            self._result.expired += 1
            return
        before = _readable(self._archive, dataset, self._week)
        if before is not None and is_valid(before, snapshot):
            self._result.already += 1
            return
        self._bring_into_form(dataset, rows)
        snapshot = self._merger.opened(dataset)
        files = snapshot.files({self._week})
        if not files:
            return
        certificate = self._certificate(dataset, snapshot, files, before, rows)
        # Before the guard: whoever sees the guard raised finds the certificate.
        write_certificate(self._archive.store, snapshot.relative, certificate)
        made = self._raise_guard(dataset, certificate)
        rows += rows_of(RAW, dataset, made)
        self._result.count(certificate)

    def _raise_guard(self, dataset: Dataset, certificate: Certificate) -> Commit:
        """Commits the seal to a table in which the week's files are those that were certified.

        A drain may have added a late record while they were read: the week would be sealed by a certificate that does
        not have it, and no round would look at it again.

        Raises:
            StaleWriter: the week changed, or another sealed it.
        """
        certified = {file.path for file in certificate.files}
        for _ in range(_COMMITS):
            snapshot = self._merger.opened(dataset)
            if {file.path for file in snapshot.files({self._week})} != certified:
                raise StaleWriter(f"{dataset}: the week of {self._week} changed while it was read")
            try:
                return commit(
                    snapshot.store,
                    snapshot.relative,
                    snapshot,
                    transactions={seal_guard(self._week): (certificate.seal - 1 or None, certificate.seal)},
                    schema=snapshot.schema,
                    note={"kind": "seal", "run": self._run, "week": self._week},
                    retries=0,
                )
            except StaleWriter as error:
                _log.info("%s", error.message)  # somebody committed to another week, or to this one: look again
        raise StaleWriter(f"{dataset}: others commit all the time")

    def _bring_into_form(self, dataset: Dataset, rows: list[LedgerRow]) -> None:
        """One file per slice, all of them with the columns of the week."""
        snapshot = self._merger.opened(dataset)
        surveys = [survey(snapshot, file) for file in snapshot.files({self._week})]
        if not surveys:
            return
        form = form_of(snapshot, surveys, self._merger.schemas)
        by_slice: dict[str, list[Survey]] = {}
        for one in surveys:
            by_slice.setdefault(one.file.slice, []).append(one)
        for key, parts in sorted(by_slice.items()):
            if not _is_in_form(parts, form):
                self._merge_all(dataset, key, form, rows)

    def _merge_all(self, dataset: Dataset, key: str, form: pa.Schema, rows: list[LedgerRow]) -> None:
        while True:
            snapshot = self._merger.opened(dataset)
            parts = [survey(snapshot, file) for file in snapshot.files({self._week}) if file.slice == key]
            if _is_in_form(parts, form):
                return
            parts.sort(key=lambda one: (one.file.size_bytes, one.file.path))
            if self._merger.replace(dataset, snapshot, parts[:FAN_IN], form, rows) is None:
                raise NotSealable(f"{dataset}, slice {key} cannot be brought into the form of its week")

    def _certificate(
        self,
        dataset: Dataset,
        snapshot: TableSnapshot,
        files: Sequence[DataFile],
        before: Certificate | None,
        rows: Sequence[LedgerRow],
    ) -> Certificate:
        """Reads all files once more, and certifies what is in them.

        `before` is the week's last certificate, `rows` are of this run's commits, which the ledger may not have yet.

        Raises:
            NotSealable, DamagedFile: something is not as it should be.
        """
        inspected = Inspection(snapshot, numbered=has_sequence(dataset))
        certified = [inspected.inspect(file) for file in files]
        times = [time_us for file in files for time_us in (file.time_min_us, file.time_max_us) if time_us is not None]
        holes = inspected.sequences.holes()
        known = -1 if before is None else before.version
        gaps, left_out = _since(self._archive, dataset, self._week, known)
        left_out |= {row.version: -row.rows for row in rows if _is_merge(row, dataset, self._week, known)}
        superseded = sum(left_out.values())
        if before is not None:
            gaps, superseded = [*before.gaps, *gaps], superseded + before.superseded
        return Certificate(
            dataset=dataset.text,
            week=self._week,
            seal=(snapshot.transaction_version(seal_guard(self._week)) or 0) + 1,
            version=snapshot.version,
            rows=sum(file.rows for file in files),
            size_bytes=sum(file.size_bytes for file in files),
            time_min_us=min(times, default=None),
            time_max_us=max(times, default=None),
            origins=inspected.origins(),
            schemas=tuple(sorted(inspected.schemas)),
            gaps=tuple(gaps),
            repeated=inspected.repeated,
            superseded=superseded,
            holes_count=len(holes),
            numbers_missing=sum(hole.count for hole in holes),
            holes=tuple(_hole(hole) for hole in holes[:HOLES_LISTED]),
            files=tuple(certified),
        )


def _is_in_form(parts: Sequence[Survey], form: pa.Schema) -> bool:
    return len(parts) == 1 and parts[0].is_merged and parts[0].columns.equals(form, check_metadata=True)


def _readable(archive: Archive, dataset: Dataset, week: str) -> Certificate | None:
    """The week's certificate; one that cannot be read is as good as none."""
    try:
        return read_certificate(archive, dataset, week)
    except DamagedCertificate as error:
        _log.warning("%s", error.message)
        return None


def _hole(hole: Hole) -> Mapping[str, Any]:
    return {name: getattr(hole, name) for name in Hole.__slots__}


def _since(
    archive: Archive, dataset: Dataset, week: str, version: int
) -> tuple[list[Mapping[str, Any]], dict[int, int]]:
    """What the ledger knows of commits after a version to a week: gaps noticed with its rows, history rows left out."""
    found = archive.ledger.sql(
        """
        SELECT ledger.version, gaps,
               CASE commit_kind WHEN 'merge' THEN -rows
                                WHEN 'sealed' THEN IF(wanted.version < 0, CAST(sealed->'superseded' AS BIGINT), 0)
                                ELSE 0 END AS left_out
        FROM ledger JOIN wanted USING (dataset, week)
        WHERE "table" = 'raw' AND ledger.version > wanted.version ORDER BY ledger.version
        """,
        wanted=pa.table({"dataset": [dataset.text], "week": [week], "version": [version]}),
    ).to_pylist()
    # A merge is of one slice, and has one row.
    return [gap for row in found for gap in json.loads(row["gaps"])], {row["version"]: row["left_out"] for row in found}


def _is_merge(row: LedgerRow, dataset: Dataset, week: str, after: int) -> bool:
    return (row.dataset, row.week, row.commit_kind) == (dataset, week, "merge") and row.version > after
