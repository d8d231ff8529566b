"""Certificates audited: whether what was certified of a sealed week is still what the week holds.

A late record makes a certificate invalid, and that is no fault: the next round seals the week again. A certificate that
is gone, cannot be read, or says something else than a week that nobody has touched since, is one. The plain audit
compares it with the ledger; the deep one with the table, and hashes every file as the certificate did (SHA-256).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from efd_pipelines.archive.certificates import (
    Certificate,
    DamagedCertificate,
    certified_weeks,
    is_valid,
    read_certificate,
)
from efd_pipelines.archive.findings import RESTORE, Audit, counted
from efd_pipelines.archive.ledger_rows import SEALED
from efd_pipelines.archive.slices import DEAD, QUARANTINE, seal_guard
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.entries import Entries
    from efd_pipelines.archive.tables import TableSnapshot

MOST_READ = 10_000
"""So many certificates the plain audit reads where no week is asked for, those of the newest weeks."""
_READ_AT_ONCE = {False: 2, True: 16}

_SEAL_AGAIN = "`efd archive seal --week MONDAY` writes it anew, if the week passes `efd archive verify --deep`."
_BLOCK_BYTES = 8 * 1024 * 1024


def audit_certified(audit: Audit, entries: Entries, archive: Archive, week: str | None) -> None:
    """Compares certificates with what the ledger says of their weeks."""
    weeks = list(_sealed(entries, week))
    with ThreadPoolExecutor(_READ_AT_ONCE[archive.store.is_remote]) as pool:
        found = list(pool.map(lambda one: _try(archive, one[0], one[1]), weeks))
    for (dataset, of, touched, rows, size), read in zip(weeks, found, strict=True):
        certificate = _readable(audit, dataset, of, read)
        if certificate is None:
            continue
        _note_counts(audit, dataset, certificate)
        if touched:
            _note_reopened(audit, dataset, of)
        elif (certificate.rows, certificate.size_bytes) != (rows, size):
            detail = f"the certificate has {certificate.rows:,} rows in {certificate.size_bytes:,} bytes, the week "
            audit.found(dataset.text, of, "certificate", f"{detail}{rows:,} in {size:,}", _SEAL_AGAIN)


def _sealed(entries: Entries, week: str | None) -> Iterator[tuple[Dataset, str, bool, int, int]]:
    """The sealed weeks, newest first: whether touched since, rows and bytes, by the ledger."""
    import polars as pl

    frame = entries.frame.filter(~pl.col("week").is_in(["", QUARANTINE, DEAD]))
    if week is not None:
        frame = frame.filter(pl.col("week") == week)
    is_seal = pl.col("commit_kind").is_in(["seal", SEALED])
    weeks = frame.group_by("dataset", "week").agg(
        pl.col("version").filter(is_seal).max().alias("sealed"),
        pl.col("version").filter(~is_seal).max().alias("changed"),
        pl.col("rows").sum(),
        pl.col("bytes").sum(),
    )
    found = weeks.filter(pl.col("sealed").is_not_null()).sort("week", "dataset", descending=[True, False])
    for dataset, of, sealed, changed, rows, size in found.head(MOST_READ).iter_rows():
        yield Dataset.parse(dataset), of, changed is not None and changed > sealed, rows, size


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
    if reached > certificate.seal:
        found(f"it is of seal {certificate.seal}, the week has been sealed {reached} times")
    if not is_valid(certificate, snapshot):
        # Written and not yet committed, or touched since: what it says of files is then history.
        if reached == certificate.seal:
            _note_reopened(audit, dataset, week)
        return
    for detail in _contradictions(certificate, snapshot):
        found(detail)
    for file in certificate.files:
        relative = f"{snapshot.relative}/{file.path}"
        if snapshot.store.size(relative) is not None and _sha256(snapshot, relative) != file.sha256:
            found(f"{file.path} does not have the certified SHA-256", RESTORE)


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
