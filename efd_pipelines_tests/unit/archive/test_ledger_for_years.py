"""The ledger after ten years: it stays small, and what a tick asks takes as long as in the first year."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.backlog import _mean_sizes
from efd_pipelines.archive.certificates import Certificate, CertifiedFile
from efd_pipelines.archive.collapse import collapsed
from efd_pipelines.archive.files import write_data_file
from efd_pipelines.archive.ledger import RAW, SCHEMA, Ledger, LedgerRow
from efd_pipelines.archive.ledger_table import RELATIVE
from efd_pipelines.archive.merging import crowded
from efd_pipelines.archive.positions import ledger_positions
from efd_pipelines.archive.tables import commit, open_table
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset

FIRST = Week.parse("2021-09-13")
WEEKS = 522
HOUR_US = 3_600_000_000
IS_WHOLE = "EFD_TEST_SCALE" in os.environ
TOPICS = 20 if IS_WHOLE else 1
DRAINS = 24 if IS_WHOLE else 4
"""A day."""
OF_A_WEEK = 7 * (DRAINS + 1)


def weeks(count: int) -> list[Week]:
    found = [FIRST]
    while len(found) < count:
        found.append(found[-1].next())
    return found


def rows_of_week(dataset: Dataset, week: Week, version: int, *, sealed: bool = True) -> list[dict[str, Any]]:
    """What drains make of a week with a slice per day, merged and sealed."""
    source = f"uYbF2mQ8Tg2bZQ1Xr4nQWw/{dataset.name:x>22}:0"
    rows: list[dict[str, Any]] = []

    def add(kind: str, of_slice: str, hour: int, names: list[str], **of: int) -> None:
        row = LedgerRow(
            table=RAW, dataset=dataset, version=version + len(rows), week=week.key, slice=of_slice, commit_kind=kind,
            rows=of.get("rows", 0), bytes=2 * of.get("rows", 0), files=of.get("files", 0), avro_bytes=of.get("rows", 0),
            time_min_us=week.start_us + hour * HOUR_US,
            time_max_us=week.start_us + (hour + 1) * HOUR_US - 1 - version % 977,
            records=of.get("rows", 0), positions={source: (version + len(rows)) * 100} if kind == "drain" else {},
            epochs={}, gaps=[], schemas=[], at_us=week.start_us + hour * HOUR_US, run="r", names=names,
        )  # fmt: skip
        rows.append(row.as_dict())

    for day in range(7):
        key = f"{week}.{day}"
        hashes = [f"{hash((dataset.text, week.key, day, n)) & (2**128 - 1):032x}" for n in range(DRAINS + 1)]
        for n in range(DRAINS):
            add("drain", key, day * 24 + n, [f"+{hashes[n]}"], rows=100, files=1)
        add("merge", key, day * 24, [f"+{hashes[-1]}", *(f"-{one}" for one in hashes[:-1])], files=1 - DRAINS)
    if sealed:
        add("seal", "", 0, [])
    return rows


def certificate_of(rows: list[dict[str, Any]], week: str) -> Certificate:
    mine = [row for row in rows if row["week"] == week and row["commit_kind"] == "merge"]
    files = tuple(
        CertifiedFile(f"week={week}/{row['slice']}-{json.loads(row['names'])[0][1:]}.parquet", row["slice"], 0, 0,
                      None, None, "") for row in mine
    )  # fmt: skip
    return Certificate(
        dataset="", week=week, seal=1, version=0, rows=100 * DRAINS * 7, size_bytes=200 * DRAINS * 7,
        time_min_us=rows[0]["time_min"],
        time_max_us=rows[-1]["time_max"], origins=(), schemas=(), gaps=(), repeated=0, superseded=0, holes_count=0,
        numbers_missing=0, holes=(), files=files,
    )  # fmt: skip


def ledger_of(archive: Archive, years: list[Week]) -> None:
    """A ledger of topics that were sealed week by week, the last one running."""
    made: list[dict[str, Any]] = []
    for n in range(TOPICS):
        dataset, version = Dataset(f"lsst.sal.Test.topic{n}"), 0
        for week in years[:-1]:
            rows = rows_of_week(dataset, week, version)
            version += len(rows)
            found, left = collapsed(rows, lambda key, of=rows: certificate_of(of, key))  # type: ignore[misc]
            assert left == 0
            made += found
        made += rows_of_week(dataset, years[-1], version, sealed=False)
    table = pa.Table.from_pylist(made, schema=SCHEMA)
    files = []
    for month in sorted(set(table["month"].to_pylist())):
        part = table.filter(pc.equal(table["month"], month)).drop_columns(["month"])
        files.append(write_data_file(archive.store, RELATIVE, month, "c", part, partition="month"))
    commit(
        archive.store,
        RELATIVE,
        None,
        add=files,
        transactions={},
        schema=part.schema,
        note={"kind": "append"},
        partition="month",
    )


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Archive]:
    from efd_pipelines.settings import load_settings

    found = {}
    for count in (52, WEEKS):
        root = tmp_path_factory.mktemp("years") / "archive"
        found[count] = Archive(load_settings({}, None, archive=str(root)))
        ledger_of(found[count], weeks(count))
    return found


def size_of(archive: Archive) -> int:
    snapshot = open_table(archive.store, RELATIVE, partition="month")
    assert snapshot is not None
    return sum(file.size_bytes for file in snapshot.files())


def test_a_dataset_stays_small(archives: dict[int, Archive]) -> None:
    """A row a week, and those of the week that runs."""
    ten = archives[WEEKS]
    assert ten.ledger.table(columns=["rows"]).num_rows == TOPICS * (WEEKS - 1 + OF_A_WEEK)
    print(f"{size_of(ten) / TOPICS / 1e6:.2f} MB a dataset in ten years")
    assert size_of(ten) / TOPICS < 3_000_000


TICKS: dict[str, Callable[[Archive], Any]] = {
    "drain": lambda archive: (ledger_positions(archive), _mean_sizes(archive)),
    "merge": lambda archive: crowded(archive, months=["2022-08", "2022-09", "2031-08", "2031-09"]),
    "tiers": lambda archive: archive.ledger.changes(RAW, dict.fromkeys(archive.datasets(), 10**9)),
    "log": lambda archive: archive.ledger.known_versions([(RAW, of) for of in archive.datasets()[:1]]),
}


@pytest.mark.parametrize("tick", TICKS)
def test_a_tick_stays_fast(archives: dict[int, Archive], tick: str) -> None:
    """A tick reads a file a month more, and little of it."""
    took = dict.fromkeys(archives, math.inf)
    for _ in range(5):  # in turns: what else the machine does makes processor time longer, too
        for count, archive in archives.items():
            fresh = Archive(archive.settings)
            fresh.ledger = Ledger(archive.store)
            started = time.process_time()
            TICKS[tick](fresh)
            took[count] = min(took[count], time.process_time() - started)
    print(f"{tick}: {took[52] * 1e3:.0f} ms after a year, {took[WEEKS] * 1e3:.0f} ms after ten")
    assert took[WEEKS] < 6 * took[52] + 0.1
