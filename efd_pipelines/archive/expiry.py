"""Expiry: letting a week of a dataset, or of its tier, go, so that everybody can tell that from a loss.

One commit removes the week's files under the guards `seal:<Monday>` and `expire:<Monday>`, and those of whoever might
put something of them back (merges, fillings, builders of tiers). The certificate stays, marked with when and why. A
week has expired where its table has the guard; a mark without it is what a killed process left, and means nothing.
What is removed leaves the store when cleaning finds it a week later, like any replaced file. Late records of an expired
week are kept as they are: it is neither sealed nor healed nor summarised again.
Whether a week may go, `efd_pipelines.retention` decides; nothing here asks.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from efd_pipelines.archive.certificates import (
    Certificate,
    CertifiedFile,
    DamagedCertificate,
    certified_weeks,
    is_valid,
    parse_certificate,
    path_of,
    read_certificate,
    write_certificate,
)
from efd_pipelines.archive.delta_log import Commit
from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.ledger import RAW, LedgerRow, relative_of, rows_of
from efd_pipelines.archive.slices import expire_guard, seal_guard, slice_guard
from efd_pipelines.archive.tables import TableSnapshot, commit, open_table
from efd_pipelines.errors import ArchiveError, StaleWriter
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.store import Store
    from efd_pipelines.times import Week

_log = logging.getLogger(__name__)
KIND = "expire"
_COMMITS = 20
_FILL = "fill"


class NotAsCertified(ArchiveError):
    """A week that is not, or no longer, what its certificate says."""

    remedy = "Nothing was removed. The daily round seals the week again; it can expire after that."


Partition = tuple[str, int | None]
"""A source and the number of a partition."""


@dataclass(frozen=True, slots=True)
class Mark:
    """That a week was let go: when, by which run, and why; what it had.

    `policy` and `reason` are for people; `covered_by` names what has it at a coarser window, with the versions of
    those tables that were looked at.
    """

    at: str
    run: str
    policy: str
    reason: str
    rows: int
    size_bytes: int
    files: int
    covered_by: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Mark:
        """A mark as a certificate carries it; what a later release adds is left out.

        Raises:
            DamagedCertificate: it is none.
        """
        try:
            return cls(**{name: document[name] for name in cls.__slots__})
        except (KeyError, TypeError) as error:
            raise DamagedCertificate(f"The mark of an expired week cannot be read ({error!r})") from error


def is_expired(snapshot: TableSnapshot, week: Week | str) -> bool:
    """Whether a week of a table was let go; late records may have come since."""
    return snapshot.transaction_version(expire_guard(week)) is not None


def expired_weeks(archive: Archive, table: str = RAW) -> dict[str, set[str]]:
    """The expired weeks of each dataset that has some, by the ledger."""
    found = archive.ledger.sql(_EXPIRED, wanted=pa.table({"table": [table]}))
    weeks: dict[str, set[str]] = {}
    for row in found.to_pylist():
        weeks.setdefault(row["dataset"], set()).add(row["week"])
    return weeks


_EXPIRED = """SELECT DISTINCT dataset, week FROM ledger JOIN wanted USING ("table") WHERE commit_kind = 'expire'"""


def offsets_let_go(archive: Archive, dataset: Dataset, snapshot: TableSnapshot) -> dict[Partition, list[range]]:
    """The offsets between which the rows of expired weeks came from Kafka, by source and partition.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    found: dict[Partition, list[range]] = {}
    for week in certified_weeks(archive, dataset):
        if not is_expired(snapshot, week):
            continue
        try:
            certificate = read_certificate(archive, dataset, week)
        except DamagedCertificate as error:
            _log.warning("%s", error.message)
            continue
        for origin in () if certificate is None or certificate.expired is None else certificate.origins:
            if origin.first is not None and origin.last is not None:
                span = range(origin.first, origin.last + 1)
                found.setdefault((origin.source, origin.partition), []).append(span)
    return found


def read_mark(archive: Archive, table: str, dataset: Dataset, week: Week | str) -> Mark | None:
    """The mark on a week's certificate, in force or not; None where there is none.

    Raises:
        DamagedCertificate: it is there and cannot be read.
        StoreUnavailable: the store did not answer.
    """
    certificate = _certificate(archive.store, relative_of(table, dataset), week)
    return None if certificate is None or certificate.expired is None else Mark.parse(certificate.expired)


def _certificate(store: Store, relative: str, week: Week | str) -> Certificate | None:
    data = store.try_read(path_of(relative, week))
    return None if data is None else parse_certificate(data, path_of(relative, week))


def certified(archive: Archive, dataset: Dataset, week: Week | str, snapshot: TableSnapshot) -> Certificate:
    """The valid certificate of a sealed week.

    Raises:
        NotAsCertified: it has none, or has changed since.
    """
    try:
        certificate = read_certificate(archive, dataset, week)
    except DamagedCertificate as error:
        raise NotAsCertified(error.message, remedy=error.remedy) from error
    if certificate is None:
        raise NotAsCertified(f"{dataset}, week of {week}, is not sealed")
    if not is_valid(certificate, snapshot):
        raise NotAsCertified(f"{dataset}, week of {week}, was changed after it was sealed")
    return certificate


def certificate_of_tier(snapshot: TableSnapshot, dataset: Dataset, week: str, sha256: Mapping[str, str]) -> Certificate:
    """What a week of a tier holds, as it is kept when the week is let go; tiers have none before.

    Args:
        sha256: of each of its files, by path.
    """
    files = snapshot.files({week})
    times = [time_us for file in files for time_us in (file.time_min_us, file.time_max_us) if time_us is not None]
    return Certificate(
        dataset=dataset.text,
        week=week,
        seal=0,
        version=snapshot.version,
        rows=sum(file.rows for file in files),
        size_bytes=sum(file.size_bytes for file in files),
        time_min_us=min(times, default=None),
        time_max_us=max(times, default=None),
        origins=(),
        schemas=(),
        gaps=(),
        repeated=0,
        superseded=0,
        holes_count=0,
        numbers_missing=0,
        holes=(),
        files=tuple(
            CertifiedFile(
                file.path,
                file.slice,
                file.rows,
                file.size_bytes,
                file.time_min_us,
                file.time_max_us,
                sha256[file.path],
            )
            for file in files
        ),
    )


def expire(
    archive: Archive,
    table: str,
    dataset: Dataset,
    certificate: Certificate,
    *,
    policy: str,
    reason: str,
    covered_by: Mapping[str, Any],
    rows: list[LedgerRow],
    run: str = "",
    last_look: Callable[[], None] | None = None,
) -> Mark:
    """Lets a week of a dataset go: the one that a certificate describes, as long as it still does.

    Safe to be killed and repeated, and to be done by two at once: one does it.

    Args:
        table: `raw`, or a tier.
        certificate: of raw data the week's own, of a tier `certificate_of_tier`.
        rows: the ledger's rows of the commit are added to them; the table must have been announced (`ledger.py`).
        last_look: called right before the commit; what it raises leaves everything as it was.

    Raises:
        StaleWriter: another let it go, or others commit all the time; nothing was removed.
        NotAsCertified: the week has changed; nothing was removed.
        StoreUnavailable: the store did not answer; the guard tells whether anything was removed.
    """
    relative = relative_of(table, dataset)
    mark = Mark(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        run=run,
        policy=policy,
        reason=reason,
        rows=certificate.rows,
        size_bytes=certificate.size_bytes,
        files=len(certificate.files),
        covered_by=covered_by,
    )
    marked = replace(certificate, expired=dataclasses.asdict(mark))
    # Before the guard: whoever sees it raised finds the mark.
    write_certificate(archive.store, relative, marked)
    try:
        made = _commit(archive, table, relative, marked, last_look)
    except ArchiveError:
        _take_back(archive.store, relative, certificate, marked)
        raise
    rows += rows_of(table, dataset, made)
    if _certificate(archive.store, relative, certificate.week) != marked:  # a second sealer was late with its own
        write_certificate(archive.store, relative, marked)
    return mark


def _take_back(store: Store, relative: str, before: Certificate, marked: Certificate) -> None:
    """Removes a mark that did not come into force, if it is still there."""
    if _certificate(store, relative, before.week) != marked:
        return
    snapshot = open_table(store, relative)
    if snapshot is None or is_expired(snapshot, before.week):
        return
    if before.seal:
        write_certificate(store, relative, before)
    else:
        store.delete(path_of(relative, before.week))


def _commit(
    archive: Archive, table: str, relative: str, certificate: Certificate, last_look: Callable[[], None] | None
) -> Commit:
    """The commit, tried again where others committed to other weeks meanwhile."""
    week = certificate.week
    for _ in range(_COMMITS):
        snapshot = open_table(archive.store, relative)
        if snapshot is None:
            raise ArchiveError(f"{relative} is in the ledger, and has no table")
        if is_expired(snapshot, week):
            raise StaleWriter(f"{relative}: the week of {week} has expired already")
        files = _certified_files(snapshot, certificate)
        if last_look is not None:
            last_look()
        try:
            return commit(
                archive.store,
                relative,
                snapshot,
                remove=files,
                transactions=_guards(snapshot, table, week, files),
                schema=snapshot.schema,
                note={"kind": KIND, "week": week, **_why(certificate)},
                retries=0,
            )
        except StaleWriter as error:
            _log.info("%s", error.message)  # somebody committed to another week, or to this one: look again
    raise StaleWriter(f"{relative}: others commit all the time")


def _why(certificate: Certificate) -> dict[str, Any]:
    mark = certificate.expired or {}
    return {name: mark[name] for name in ("run", "policy", "reason", "covered_by")}


def _certified_files(snapshot: TableSnapshot, certificate: Certificate) -> Sequence[DataFile]:
    """The week's files, which must be those of the certificate."""
    files = snapshot.files({certificate.week})
    now = {(file.path, file.size_bytes) for file in files}
    if not files or now != {(file.path, file.size_bytes) for file in certificate.files}:
        raise NotAsCertified(f"{snapshot.relative}: the week of {certificate.week} has changed")
    if certificate.seal and snapshot.transaction_version(seal_guard(certificate.week)) != certificate.seal:
        raise NotAsCertified(f"{snapshot.relative}: the week of {certificate.week} was sealed again")
    return files


def _guards(
    snapshot: TableSnapshot, table: str, week: str, files: Sequence[DataFile]
) -> dict[str, tuple[int | None, int]]:
    """What the commit raises: a writer that began before it, and would add rows of the week, is then refused."""
    keys = sorted({file.slice for file in files})
    raised = [expire_guard(week)]
    if table == RAW:
        raised += [seal_guard(week), _FILL, *(slice_guard(key) for key in keys)]
    guards: dict[str, tuple[int | None, int]] = {}
    for app_id in raised:
        reached = snapshot.transaction_version(app_id)
        guards[app_id] = (reached, (reached or 0) + 1)
    if table != RAW:
        for key in keys:  # a version of the archive's table: repeated, it refuses a builder all the same
            reached = snapshot.transaction_version(f"from:{key}")
            guards[f"from:{key}"] = (reached, reached or 0)
    return guards
