"""Certificates: what a sealed week holds, file by file, so that it can be proved in twenty years without this project.

`<table>/_certificates/<Monday>.json` is written when a week is sealed (`sealing.py`) and replaced when it is sealed
again. It is valid while the files that count of its week are those that it names, and `seal:<Monday>` stands where it
says: any later commit that touches the week, be it a late record, makes it invalid. When a week is let go, its
certificate stays, with a mark that says when and why (`expiry.py`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efd_pipelines.archive.ledger import RAW, relative_of
from efd_pipelines.archive.slices import seal_guard
from efd_pipelines.archive.store import Store
from efd_pipelines.errors import ArchiveError
from efd_pipelines.times import Week

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.tables import TableSnapshot
    from efd_pipelines.topics.names import Dataset

FORMAT = 1
HOLES_LISTED = 100
"""So many holes in the writers' numbers are in a certificate; how many there are, it always says."""


class DamagedCertificate(ArchiveError):
    """A certificate that cannot be read."""

    remedy = "`efd archive seal` writes it anew; `efd archive verify --deep` says whether the week is as it should be."


@dataclass(frozen=True, slots=True)
class CertifiedFile:
    """One file of the week, by its path in the table; times of its rows in UTC microseconds."""

    path: str
    slice: str
    rows: int
    size_bytes: int
    time_min_us: int | None
    time_max_us: int | None
    sha256: str


@dataclass(frozen=True, slots=True)
class Origin:
    """What the week has of one partition of one source: rows, and the first and last offset of them.

    `position` is up to where the partition was archived when the week was sealed. Of history only `rows` are known.
    """

    source: str
    partition: int | None
    rows: int
    first: int | None
    last: int | None
    position: int | None


@dataclass(frozen=True, slots=True)
class Certificate:
    """A sealed week of a dataset.

    `seal` counts how often it has been sealed, `version` is the table's when its files were read. `repeated` are rows
    whose record stands more than once (retries, mirrors), `superseded` those of history that Kafka's replaced.
    `holes` are of the writers' own numbers; `holes_count` and `numbers_missing` are of all, `holes` of the first 100.
    `expired` is the mark of a week that was let go (`expiry.Mark`); it is in force once the table's guard says so.
    """

    dataset: str
    week: str
    seal: int
    version: int
    rows: int
    size_bytes: int
    time_min_us: int | None
    time_max_us: int | None
    origins: tuple[Origin, ...]
    schemas: tuple[int, ...]
    gaps: tuple[Mapping[str, Any], ...]
    repeated: int
    superseded: int
    holes_count: int
    numbers_missing: int
    holes: tuple[Mapping[str, Any], ...]
    files: tuple[CertifiedFile, ...]
    expired: Mapping[str, Any] | None = None

    def to_json(self) -> bytes:
        document = {"format": FORMAT, **dataclasses.asdict(self)}
        return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode()


def path_of(relative: str, week: Week | str) -> str:
    """Where a week's certificate lies, relative to the store's root; `relative` is the table's place."""
    return f"{relative}/_certificates/{week}.json"


def write_certificate(store: Store, relative: str, certificate: Certificate) -> None:
    store.write_bytes(path_of(relative, certificate.week), certificate.to_json())


def read_certificate(archive: Archive, dataset: Dataset, week: Week | str) -> Certificate | None:
    """The certificate of a week, valid or not; None where it has none.

    Raises:
        DamagedCertificate: it is there and cannot be read.
        StoreUnavailable: the store did not answer.
    """
    relative = relative_of(RAW, dataset)
    data = archive.store.try_read(path_of(relative, week))
    return None if data is None else parse_certificate(data, path_of(relative, week))


def certified_weeks(archive: Archive, dataset: Dataset) -> Sequence[str]:
    """The weeks that have a certificate, sorted."""
    names = archive.store.list(f"{relative_of(RAW, dataset)}/_certificates")
    return [name.removesuffix(".json") for name in names if name.endswith(".json")]


def parse_certificate(data: bytes, name: str = "certificate") -> Certificate:
    """A certificate from its JSON; what a later format adds is left out."""
    try:
        document = json.loads(data)
        known = {field.name for field in dataclasses.fields(Certificate)}
        values = {key: value for key, value in document.items() if key in known}
        values |= {key: tuple(values[key]) for key in ("schemas", "gaps", "holes")}
        values["files"] = tuple(CertifiedFile(**file) for file in document["files"])
        values["origins"] = tuple(Origin(**origin) for origin in document["origins"])
        return Certificate(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCertificate(f"{name} cannot be read ({error!r})") from error


def is_valid(certificate: Certificate, snapshot: TableSnapshot) -> bool:
    """Whether a certificate still says what its week holds, by the table as it is now."""
    if snapshot.transaction_version(seal_guard(certificate.week)) != certificate.seal:
        return False
    now = {(file.path, file.size_bytes) for file in snapshot.files({certificate.week})}
    return now == {(file.path, file.size_bytes) for file in certificate.files}
