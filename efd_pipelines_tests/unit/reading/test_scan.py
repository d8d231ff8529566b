"""Scans: the rows that a plain reader of all files gives, from few bytes, each record once, in the order of time."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from efd_pipelines.archive.reading import count_once
from efd_pipelines.archive.slices import DEAD, QUARANTINE, SliceUnit
from efd_pipelines.errors import UsageError
from efd_pipelines.reading.estimate import estimate
from efd_pipelines.reading.footers import FOOTERS
from efd_pipelines.reading.ranges import ByteRange, MissingFile, coalesced
from efd_pipelines.reading.scan import Scan, Tally
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.exports.builders import (
    ESS,
    START_US,
    TEMPERATURE,
    ArchiveBuilder,
    column,
    messages,
    seconds,
)

DAY = 24 * 3600
END_US = START_US + 8 * DAY * 1_000_000


@pytest.fixture
def builder(tmp_path: Path) -> ArchiveBuilder:
    """Nine days over a week's end: two devices, a late column, repeated records, and rows set aside."""
    builder = ArchiveBuilder(str(tmp_path / "archive"))
    for day in range(6, 9):
        times = seconds(day * DAY, day * DAY + 300)
        builder.add(TEMPERATURE, messages(times, sal_index=[1 + n % 2 for n in range(300)], first_seq=day * 1000))
    late = [*ESS, column("added", pa.float64())]
    builder.add(TEMPERATURE, messages(seconds(7 * DAY + 100.5, 7 * DAY + 110), columns=late, first_seq=20_000))
    again = messages(seconds(7 * DAY, 7 * DAY + 20), sal_index=[1 + n % 2 for n in range(20)], first_seq=7000)
    builder.add(
        TEMPERATURE, again.set_column(again.column_names.index("kafka_offset"), "kafka_offset", [range(90_000, 90_020)])
    )
    builder.add(TEMPERATURE, messages(seconds(7 * DAY, 7 * DAY + 5), first_seq=9000), place=QUARANTINE)
    builder.add(TEMPERATURE, messages(seconds(7 * DAY, 7 * DAY + 7), first_seq=9100), place=DEAD)
    return builder


def scan_of(builder: ArchiveBuilder, columns: list[str] | None, start: float, end: float, **options: object) -> Scan:
    dataset = Dataset(TEMPERATURE)
    first, last = START_US + round(start * 1e6), START_US + round(end * 1e6)
    return Scan.of(builder.archive.snapshot(dataset), dataset, columns, first, last, **options)  # type: ignore[arg-type]


def plainly(builder: ArchiveBuilder, columns: list[str], start: float, end: float) -> pa.Table:
    """The same rows by the archive's own reading."""
    rows = builder.archive.read(Dataset(TEMPERATURE), None, START_US + round(start * 1e6), START_US + round(end * 1e6))
    rows = rows.sort_by([("time", "ascending"), ("salIndex", "ascending"), ("kafka_offset", "ascending")])
    return count_once(rows).select(columns)


@pytest.mark.parametrize(("start", "end"), [(0, 9 * DAY), (7 * DAY + 3.5, 7 * DAY + 106), (6 * DAY, 6 * DAY + 1)])
def test_rows_are_those_of_all_files_once_in_order(builder: ArchiveBuilder, start: float, end: float) -> None:
    columns = ["time", "salIndex", "temperatureItem1", "sensorName", "added"]
    tally = Tally()
    found = scan_of(builder, columns, start, end).table(tally)
    assert found.equals(plainly(builder, columns, start, end))
    assert tally.rows == found.num_rows


def test_repeated_records_are_counted(builder: ArchiveBuilder) -> None:
    tally = Tally()
    assert scan_of(builder, ["temperatureItem0"], 7 * DAY, 7 * DAY + 50).table(tally).num_rows == 50
    assert tally.repeated == 20


def test_only_one_device_where_it_is_named(builder: ArchiveBuilder) -> None:
    found = scan_of(builder, ["temperatureItem0", "salIndex"], 0, 9 * DAY, device=("salIndex", 2)).table()
    assert set(found["salIndex"].to_pylist()) == {2}
    assert found.num_rows == 450


def test_the_last_rows_are_read_from_the_end(builder: ArchiveBuilder) -> None:
    tally = Tally()
    columns = ["time", "salIndex"]
    found = scan_of(builder, columns, 0, 9 * DAY).latest(5, tally)
    assert found.equals(plainly(builder, columns, 0, 9 * DAY).slice(910 - 5))
    whole = Tally()
    scan_of(builder, columns, 0, 9 * DAY).table(whole)
    assert tally.traffic.bytes < whole.traffic.bytes


def test_a_part_of_a_scan_gives_the_rows_of_its_time(builder: ArchiveBuilder) -> None:
    scan = scan_of(builder, ["time", "salIndex"], 0, 9 * DAY)
    edges = [START_US + n * DAY * 1_000_000 // 2 for n in range(19)]
    parts = [scan.between(a, b).table() for a, b in itertools.pairwise(edges)]
    assert pa.concat_tables(parts).equals(scan.table())


def test_row_groups_outside_the_window_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("efd_pipelines.archive.files.ROW_GROUP_BYTES", 100_000)
    builder = ArchiveBuilder(str(tmp_path / "archive"))
    builder.add(TEMPERATURE, messages(seconds(0, 20_000)), unit=SliceUnit.WEEK)
    whole, hour = Tally(), Tally()
    dataset = Dataset(TEMPERATURE)
    snapshot = builder.archive.snapshot(dataset)
    Scan.of(snapshot, dataset, ["temperatureItem0"], START_US, END_US).table(whole)
    found = Scan.of(snapshot, dataset, ["temperatureItem0"], START_US + 5_000_000_000, START_US + 5_600_000_000)
    assert found.table(hour).num_rows == 600
    assert hour.traffic.bytes < whole.traffic.bytes / 5


def test_a_footer_is_read_once(builder: ArchiveBuilder) -> None:
    first, second = Tally(), Tally()
    scan_of(builder, ["temperatureItem0"], 6 * DAY, 6 * DAY + 300).table(first)
    scan_of(builder, ["temperatureItem0"], 6 * DAY, 6 * DAY + 300).table(second)
    assert second.traffic.bytes < first.traffic.bytes
    assert FOOTERS._held_bytes > 0


def test_much_is_cut_into_parts_without_losing_rows(builder: ArchiveBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = scan_of(builder, ["time", "salIndex", "sensorName"], 0, 9 * DAY).table()
    monkeypatch.setattr("efd_pipelines.reading.scan.PART_BYTES", 500)
    batches = list(scan_of(builder, ["time", "salIndex", "sensorName"], 0, 9 * DAY).batches())
    assert pa.concat_tables(batches).equals(expected)
    assert len(batches) > 20


def test_an_estimate_is_near_what_is_read(builder: ArchiveBuilder) -> None:
    scan = scan_of(builder, ["time", "temperatureItem0", "sensorName"], 6 * DAY, 9 * DAY)
    found, rows = estimate(scan), scan.table()
    assert found.rows == pytest.approx(rows.num_rows, rel=0.1)
    assert found.bytes == pytest.approx(rows.nbytes, rel=0.5)
    assert found.files == 5
    assert estimate(scan_of(builder, ["time"], 100 * DAY, 101 * DAY)).rows == 0


def test_a_file_that_is_gone_is_named(builder: ArchiveBuilder) -> None:
    scan = scan_of(builder, ["temperatureItem0"], 6 * DAY, 6 * DAY + 10)
    Path(scan.store.path(f"{scan.relative}/{scan.files[0].path}")).unlink()
    with pytest.raises(MissingFile, match=r"week=.*parquet is not there"):
        scan.table()


def test_an_unknown_column_is_refused_with_the_nearest(builder: ArchiveBuilder) -> None:
    with pytest.raises(UsageError, match="did you mean temperatureItem1"):
        scan_of(builder, ["temperatureItm1"], 0, 1)


def test_ranges_are_joined_while_little_is_read_for_nothing() -> None:
    apart = [ByteRange(0, 1000), ByteRange(1100, 2000), ByteRange(2000, 2500), ByteRange(5000, 6000)]
    assert coalesced(apart) == [ByteRange(0, 2500), ByteRange(5000, 6000)]
    assert coalesced(apart, waste=1.0) == [ByteRange(0, 6000)]
    assert coalesced(apart, most_gap=50) == [ByteRange(0, 1000), ByteRange(1100, 2500), ByteRange(5000, 6000)]
    rng = np.random.default_rng(1)
    for _ in range(50):
        starts = np.sort(rng.choice(10_000_000, 20, replace=False))
        ranges = [ByteRange(int(s), int(s) + 1000) for s in starts]
        joined = coalesced(ranges)
        needed = len({b for r in ranges for b in range(r.start, r.end, 100)}) * 100
        assert sum(one.size for one in joined) <= 1.5 * needed + 2000
        assert all(any(j.start <= r.start and r.end <= j.end for j in joined) for r in ranges)
