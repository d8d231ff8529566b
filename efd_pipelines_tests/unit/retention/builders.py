"""Builders: archives whose weeks are sealed and summarised, made in few commits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.certificates import Certificate, CertifiedFile, Origin, write_certificate
from efd_pipelines.archive.delta_log import Commit
from efd_pipelines.archive.files import sort_rows, write_data_file
from efd_pipelines.archive.ledger import RAW, rows_of
from efd_pipelines.archive.slices import Slice, SliceUnit, seal_guard, slice_starts
from efd_pipelines.archive.tables import commit, open_table
from efd_pipelines.tiers.rows import TableRows
from efd_pipelines.tiers.summary import summarise
from efd_pipelines.tiers.tier import TIERS, Tier
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.tiers.builders import HOUR_US, an_archive, rows

FAST = Dataset("lsst.sal.MTM1M3.hardpointActuatorData")
OTHER = Dataset("lsst.sal.MTMount.azimuth")
SLOW = Dataset("lsst.sal.ESS.temperature")
EVENT = Dataset("lsst.sal.MTM1M3.logevent_heartbeat")
COMMAND = Dataset("lsst.sal.MTM1M3.command_start")
FIRST = Week.parse("2024-01-01")
SOURCE = "cluster/topic"


def weeks_from(first: Week, count: int) -> list[Week]:
    return [Week(first.monday + timedelta(days=7 * n)) for n in range(count)]


def records(weeks: Sequence[Week], *, first_offset: int = 0, hour: int = 30) -> pa.Table:
    """Rows at 20 Hz of five seconds in each week, one of them NaN, across the beginning of an hour."""
    times = np.concatenate([week.start_us + hour * HOUR_US - 2_000_000 + np.arange(100) * 50_000 for week in weeks])
    force = (np.sin(np.arange(len(times)) / 7) * 100).astype(np.float32)
    force[3::50] = np.nan
    columns: dict[str, Any] = {"force": force, "count_of": np.arange(len(times), dtype=np.int64)}
    return rows(times, columns, sal_index=[1] * len(times), first_offset=first_offset)


def archived(archive: Archive, dataset: Dataset, table: pa.Table, *, unit: SliceUnit = SliceUnit.WEEK) -> Commit:
    """One commit of rows, as a drain makes it."""
    return _committed(
        archive,
        RAW,
        dataset,
        table,
        unit,
        {"kind": "drain", "run": "test", "records": table.num_rows},
        {f"kafka:{SOURCE}:0": int(pc.max(table["kafka_offset"]).as_py()) + 1},
    )


def summarised(archive: Archive, dataset: Dataset, table: pa.Table, tier: Tier) -> Commit:
    """One commit of a tier over rows."""
    windows = summarise(TableRows(table), tier.window_us)
    starts = np.unique(slice_starts(windows["time"].cast(pa.int64()).to_numpy(), tier.unit))
    versions = {f"from:{Slice(int(start), tier.unit)}": 0 for start in starts}
    note = {"kind": "tier", "run": "test", "from": 0}
    return _committed(archive, tier.name, dataset, windows, tier.unit, note, versions)


def _committed(
    archive: Archive,
    level: str,
    dataset: Dataset,
    table: pa.Table,
    unit: SliceUnit,
    note: dict[str, Any],
    versions: dict[str, int],
) -> Commit:
    relative = archive.relative(dataset, level)
    snapshot = open_table(archive.store, relative)
    starts = slice_starts(table["time"].cast(pa.int64()).to_numpy(), unit)
    files = []
    for start in np.unique(starts):
        part = Slice(int(start), unit)
        of_slice = sort_rows(table.filter(pa.array(starts == start)))
        files.append(write_data_file(archive.store, relative, part.week.key, part.key, of_slice))
    made = commit(
        archive.store,
        relative,
        snapshot,
        add=files,
        transactions={
            app: (None if snapshot is None else snapshot.transaction_version(app), to) for app, to in versions.items()
        },
        schema=table.schema,
        description={
            "format": 1,
            "slice": unit.value,
            "arrays": "flat",
            "dataset": dataset.text,
            "time_field": "private_efdStamp",
        },
        note=note,
    )
    archive.ledger.append(rows_of(level, dataset, made))
    return made


def certified(archive: Archive, dataset: Dataset, weeks: Sequence[Week]) -> None:
    """Seals weeks as they are: their certificates, and a commit for each."""
    ledger = []
    for week in weeks:
        snapshot = archive.snapshot(dataset)
        files = snapshot.files({week.key})
        certificate = Certificate(
            dataset=dataset.text,
            week=week.key,
            seal=(snapshot.transaction_version(seal_guard(week)) or 0) + 1,
            version=snapshot.version,
            rows=sum(file.rows for file in files),
            size_bytes=sum(file.size_bytes for file in files),
            time_min_us=min(file.time_min_us or 0 for file in files),
            time_max_us=max(file.time_max_us or 0 for file in files),
            origins=(Origin(SOURCE, 0, sum(file.rows for file in files), 0, 0, None),),
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
                    hashlib.sha256(archive.store.read_bytes(f"{snapshot.relative}/{file.path}")).hexdigest(),
                )
                for file in files
            ),
        )
        write_certificate(archive.store, snapshot.relative, certificate)
        made = commit(
            archive.store,
            snapshot.relative,
            snapshot,
            transactions={seal_guard(week): (certificate.seal - 1 or None, certificate.seal)},
            schema=snapshot.schema,
            note={"kind": "seal", "run": "test", "week": week.key},
        )
        ledger += rows_of(RAW, dataset, made)
    archive.ledger.append(ledger)


def sealed_and_summarised(archive: Archive, dataset: Dataset, weeks: Sequence[Week]) -> pa.Table:
    """Weeks of a fast dataset with all tiers; gives the rows."""
    table = records(weeks)
    archived(archive, dataset, table)
    for tier in TIERS.values():
        summarised(archive, dataset, table, tier)
    certified(archive, dataset, weeks)
    return table


def an_archive_of(root: Path, weeks: Sequence[Week], dataset: Dataset = FAST) -> Archive:
    archive = an_archive(str(root))
    sealed_and_summarised(archive, dataset, weeks)
    return archive


def weeks_there(archive: Archive, dataset: Dataset, level: str = RAW) -> set[str]:
    """The weeks of which files count, by deltalake itself."""
    place = archive.store.uri(archive.relative(dataset, level))
    uris = DeltaTable(place, storage_options=archive.store.storage_options).file_uris()
    return {uri.partition("/week=")[2].partition("/")[0] for uri in uris}
