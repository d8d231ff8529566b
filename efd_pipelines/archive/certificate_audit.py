"""Certificates audited: whether what was certified of a sealed week is still what the week holds.

A late record makes a certificate invalid, and that is no fault: the next round seals the week again. A certificate that
is gone, cannot be read, or says something else than a week that nobody has touched since, is one. The plain audit
compares it with the ledger; the deep one with the table, and hashes every file as the certificate did (SHA-256).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efd_pipelines.archive.certificates import (
    Certificate,
    DamagedCertificate,
    certified_weeks,
    is_valid,
    read_certificate,
)
from efd_pipelines.archive.expiry import KIND as EXPIRE
from efd_pipelines.archive.expiry import is_expired
from efd_pipelines.archive.findings import RESTORE, Audit, Finding, counted
from efd_pipelines.archive.ledger_rows import SEALED
from efd_pipelines.archive.slices import DEAD, QUARANTINE, seal_guard
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.entries import Entries
    from efd_pipelines.archive.tables import TableSnapshot

MOST_READ = 10_000
"""So many certificates the plain audit reads where no week is asked for, those of the newest weeks."""

_SEAL_AGAIN = "`efd archive seal --week MONDAY` writes it anew, if the week passes `efd archive verify --deep`."
_BLOCK_BYTES = 8 * 1024 * 1024


def audit_certified(audit: Audit, entries: Entries, archive: Archive, week: str | None) -> None:
    """Compares certificates with what the ledger says of their weeks."""
    weeks = list(_sealed(entries, week))
    with ThreadPoolExecutor(archive.store.asked_at_once) as pool:
        found = list(pool.map(lambda one: _try(archive, one.dataset, one.week), weeks))
    for one, read in zip(weeks, found, strict=True):
        certificate = _readable(audit, one.dataset, one.week, read)
        if one.let_go is not None:
            _audit_expired(audit, one.dataset, one.week, one.let_go, one.rows, certificate)
        if certificate is None or one.let_go is not None:
            continue
        _note_counts(audit, one.dataset, certificate)
        if one.is_touched:
            _note_reopened(audit, one.dataset, one.week)
        elif (certificate.rows, certificate.size_bytes) != (one.rows, one.bytes):
            detail = f"the certificate has {certificate.rows:,} rows in {certificate.size_bytes:,} bytes, the week "
            detail += f"{one.rows:,} in {one.bytes:,}"
            audit.found(one.dataset.text, one.week, "certificate", detail, _SEAL_AGAIN)


@dataclass(frozen=True, slots=True)
class _Week:
    """A week that was sealed, by the ledger: whether touched since, rows and bytes; rows let go, where it was."""

    dataset: Dataset
    week: str
    is_touched: bool
    rows: int
    bytes: int
    let_go: int | None


def _sealed(entries: Entries, week: str | None) -> Iterator[_Week]:
    """The weeks that were sealed, or let go, newest first."""
    import polars as pl

    frame = entries.frame.filter(~pl.col("week").is_in(["", QUARANTINE, DEAD]))
    if week is not None:
        frame = frame.filter(pl.col("week") == week)
    is_seal, is_expiry = pl.col("commit_kind").is_in(["seal", SEALED]), pl.col("commit_kind") == EXPIRE
    weeks = frame.group_by("dataset", "week").agg(
        pl.col("version").filter(is_seal).max().alias("sealed"),
        pl.col("version").filter(~is_seal).max().alias("changed"),
        pl.col("rows").sum(),
        pl.col("bytes").sum(),
        pl.when(is_expiry.any()).then(-pl.col("rows").filter(is_expiry).sum()).alias("let_go"),
    )
    known = pl.col("sealed").is_not_null() | pl.col("let_go").is_not_null()
    found = weeks.filter(known).sort("week", "dataset", descending=[True, False])
    for dataset, of, sealed, changed, rows, size, let_go in found.head(MOST_READ).iter_rows():
        is_touched = changed is not None and (sealed is None or changed > sealed)
        yield _Week(Dataset.parse(dataset), of, is_touched, rows, size, let_go)


def _audit_expired(
    audit: Audit, dataset: Dataset, week: str, let_go: int, late: int, certificate: Certificate | None
) -> None:
    """A week that was let go says so on its certificate; one whose files are gone without that is lost."""
    mark = None if certificate is None else certificate.expired
    # 0: a ledger that was made anew no longer knows how many they were.
    if mark is None or (let_go and mark.get("rows") != let_go):
        said = "no mark" if mark is None else f"a mark of {mark.get('rows')} rows"
        detail = f"{counted(let_go, 'row')} were removed, the certificate has {said}"
        finding = Finding(dataset.text, week, "lost", detail, RESTORE)
        if finding not in audit.problems:  # by the plain audit, when the deep one looks again
            audit.missing += let_go
            audit.problems.append(finding)
        return
    audit.note(dataset.text, week, "expired", f"{counted(int(mark['rows']), 'row')} were let go: {mark.get('reason')}")
    if late:
        detail = f"{counted(late, 'row')} came after the week had expired; tiers do not have them"
        audit.note(dataset.text, week, "late", detail, f"Nothing to do; `efd retention late {dataset}` lists them.")


def _try(archive: Archive, dataset: Dataset, week: str) -> Certificate | DamagedCertificate | None:
    try:
        return read_certificate(archive, dataset, week)
    except DamagedCertificate as error:
        return error


def _readable(
    audit: Audit, dataset: Dataset, week: str, read: Certificate | DamagedCertificate | None
) -> Certificate | None:
    if isinstance(read, DamagedCertificate):
        audit.found(dataset.text, week, "certificate", read.message, read.remedy)
        return None
    if read is None:
        audit.found(dataset.text, week, "certificate", "the week is sealed, its certificate is gone", _SEAL_AGAIN)
    return read


def _note_counts(audit: Audit, dataset: Dataset, certificate: Certificate) -> None:
    """What sealing found in the rows, so that nobody needs to read them again."""
    if certificate.holes_count:
        numbers = counted(certificate.numbers_missing, "number")
        detail = f"{numbers} of writers in {counted(certificate.holes_count, 'hole')}, by the certificate"
        audit.note(dataset.text, certificate.week, "sequence", detail, "The certificate names the writers.")
    if certificate.repeated:
        detail = f"{counted(certificate.repeated, 'row')} more than once, by the certificate"
        audit.note(dataset.text, certificate.week, "repeated", detail)


def _note_reopened(audit: Audit, dataset: Dataset, week: str) -> None:
    remedy = "Nothing to do: the daily round seals the week again."
    audit.note(dataset.text, week, "reopened", "the week was changed after it was sealed", remedy)


def audit_certificates(
    audit: Audit, archive: Archive, dataset: Dataset, snapshot: TableSnapshot, week: str | None
) -> None:
    """Compares certificates with the table and its files."""
    for of in certified_weeks(archive, dataset):
        if week in (None, of):
            certificate = _readable(audit, dataset, of, _try(archive, dataset, of))
            if certificate is not None:
                _audit(audit, dataset, snapshot, certificate, of)


def _audit(audit: Audit, dataset: Dataset, snapshot: TableSnapshot, certificate: Certificate, week: str) -> None:
    def found(detail: str, remedy: str = _SEAL_AGAIN) -> None:
        audit.found(dataset.text, week, "certificate", detail, remedy)

    if (certificate.dataset, certificate.week) != (dataset.text, week):
        found(f"it is that of {certificate.dataset}, week {certificate.week}")
        return
    reached = snapshot.transaction_version(seal_guard(week)) or 0
    if is_expired(snapshot, week):
        late = sum(file.rows for file in snapshot.files({week}))
        _audit_expired(audit, dataset, week, certificate.rows, late, certificate)
        return
    if reached > certificate.seal:
        found(f"it is of seal {certificate.seal}, the week has been sealed {reached} times")
    if not is_valid(certificate, snapshot):
        # Written and not yet committed, or touched since: what it says of files is then history.
        gone = _rows_gone(certificate, snapshot)
        if gone:
            audit.missing += gone
            detail = f"{counted(gone, 'row')} that were certified are gone, and the week has not expired"
            audit.found(dataset.text, week, "lost", detail, RESTORE)
        elif reached == certificate.seal:
            _note_reopened(audit, dataset, week)
        return
    for detail in _contradictions(certificate, snapshot):
        found(detail)
    for file in certificate.files:
        relative = f"{snapshot.relative}/{file.path}"
        if snapshot.store.size(relative) is not None and _sha256(snapshot, relative) != file.sha256:
            found(f"{file.path} does not have the certified SHA-256", RESTORE)


def _rows_gone(certificate: Certificate, snapshot: TableSnapshot) -> int:
    """Certified rows that the week has no more; of history, Kafka's rows may have taken the place since."""
    from_kafka = sum(origin.rows for origin in certificate.origins if origin.partition is not None)
    return max(0, from_kafka - sum(file.rows for file in snapshot.files({certificate.week})))


def _contradictions(certificate: Certificate, snapshot: TableSnapshot) -> Iterator[str]:
    """Where what a certificate says as a whole is not what it says of its files, and these what the table says."""
    files = snapshot.files({certificate.week})
    now = {file.path: (file.slice, file.rows, file.time_min_us, file.time_max_us) for file in files}
    for file in certificate.files:
        if now[file.path] != (file.slice, file.rows, file.time_min_us, file.time_max_us):
            yield f"slice, rows or times of {file.path} are not the table's"
    times = [time for file in files for time in (file.time_min_us, file.time_max_us) if time is not None]
    sums: dict[str, Any] = {
        "rows": sum(file.rows for file in files),
        "size_bytes": sum(file.size_bytes for file in files),
        "time_min_us": min(times, default=None),
        "time_max_us": max(times, default=None),
    }
    for name, value in sums.items():
        if getattr(certificate, name) != value:
            yield f"{name} is {getattr(certificate, name)}, that of its files {value}"
    if sum(origin.rows for origin in certificate.origins) != certificate.rows:
        yield "its origins have other rows than it"
    for origin in certificate.origins:
        reached = snapshot.transaction_version(f"kafka:{origin.source}:{origin.partition}")
        if origin.position is not None and (reached is None or reached < origin.position):
            where = f"{origin.source}, partition {origin.partition}"
            yield f"{where} was read to {origin.position}, the table has {reached}"


def _sha256(snapshot: TableSnapshot, relative: str) -> str:
    digest, store = hashlib.sha256(), snapshot.store
    with store.errors(f"read {relative}"), store.fs.open(store.path(relative), "rb") as data:
        while block := data.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
