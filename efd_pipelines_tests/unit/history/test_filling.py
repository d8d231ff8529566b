"""Filling: what the archive does not have is put there, once, and nothing else changes."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.history.filling import GUARD, Filled, Target, fill
from efd_pipelines.topics.layout import TIME
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.tiers.builders import FAST, MONDAY_US, SECOND_US, archive_rows, rows

NEW = Dataset("lsst.sal.MTMount.azimuth")


def points(first: int, end: int, **fields: Any) -> pa.Table:
    """A point a second, with the private fields that `rows` gives records of the same seconds."""
    seconds = np.arange(first, end)
    times = MONDAY_US + seconds * SECOND_US
    columns: dict[str, Any] = {
        "time": pa.array(times).cast(TIME),
        "private_sndStamp": times / 1e6 + 37.0,
        "private_seqNum": seconds,
        "private_origin": np.full(len(seconds), 4711),
        "value": seconds * 0.5,
    }
    return pa.table(columns | fields)


def kafka(archive: Archive, first: int, end: int) -> None:
    seconds = np.arange(first, end)
    archive_rows(archive, FAST, rows(MONDAY_US + seconds * SECOND_US, {"value": seconds * 0.5}, first_offset=first))


def put(archive: Archive, table: pa.Table, dataset: Dataset = FAST) -> Filled:
    target = Target(dataset, None, "private_efdStamp", "influx:efd")
    return fill(archive, archive.settings, target, table, [])


def kept(archive: Archive, dataset: Dataset = FAST) -> list[tuple[int, str]]:
    """Numbers of the records with where they came from."""
    table = archive.read(dataset).sort_by("private_seqNum")
    return list(zip(table["private_seqNum"].to_pylist(), table["archive_source"].to_pylist(), strict=True))


def test_only_what_is_not_there_is_filled_in_and_kafkas_rows_stay(archive: Archive) -> None:
    kafka(archive, 0, 10)
    kafka(archive, 20, 30)
    found = put(archive, points(5, 25))
    assert (found.rows, found.known) == (10, 10)
    expected = [(n, "influx:efd" if 10 <= n < 20 else "cluster/topic") for n in range(30)]
    assert kept(archive) == expected
    assert put(archive, points(0, 30)).rows == 0
    assert kept(archive) == expected
    assert archive.snapshot(FAST).transaction_version(GUARD) == 1


def test_a_point_that_is_given_twice_is_one_row(archive: Archive) -> None:
    assert put(archive, pa.concat_tables([points(0, 10), points(5, 15)])).rows == 15
    assert len(kept(archive)) == 15


def test_two_records_of_one_time_are_two(archive: Archive) -> None:
    kafka(archive, 0, 1)
    other = points(0, 1, private_origin=pa.array([4712]))
    assert put(archive, other).rows == 1
    assert len(kept(archive)) == 2


def test_two_that_fill_the_same_at_once_fill_it_once(archive: Archive) -> None:
    kafka(archive, 0, 1)
    found: list[Filled] = []
    threads = [threading.Thread(target=lambda: found.append(put(archive, points(0, 200)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.rows for one in found) == [0, 0, 199]
    assert [number for number, _ in kept(archive)] == list(range(200))


def test_a_new_dataset_gets_a_table_like_a_drains(archive: Archive) -> None:
    found = put(archive, points(0, 10), NEW)
    assert found.rows == 10
    description = archive.snapshot(NEW).description
    assert description == {
        "format": 1,
        "dataset": NEW.text,
        "slice": "week",
        "arrays": "flat",
        "time_field": "private_efdStamp",
    }
    names = archive.snapshot(NEW).schema.names
    assert names[0] == "time"
    assert {"kafka_offset", "archive_frame", "archive_reason"} <= set(names)


def test_a_column_grows_where_the_history_is_wider(archive: Archive) -> None:
    table = rows([MONDAY_US], {"value": pa.array([1.5], pa.float32())})
    archive_rows(archive, FAST, table)
    put(archive, points(1, 3, value=pa.array([0.1, 0.2])))
    found = archive.read(FAST)
    assert found.schema.field("value").type == pa.float64()
    assert found["value"].to_pylist() == [1.5, 0.1, 0.2]


def test_the_event_time_is_floored_as_kafkas(archive: Archive) -> None:
    stamp = MONDAY_US / 1e6 + 1.2345678
    put(archive, points(1, 2, private_efdStamp=pa.array([stamp])), NEW)
    assert archive.read(NEW)["time"].cast(pa.int64()).to_pylist() == [int(np.floor(stamp * 1e6))]


@pytest.mark.parametrize("stamp", [0.0, 1e12])
def test_a_stamp_that_is_no_time_leaves_influxdbs(archive: Archive, stamp: float) -> None:
    put(archive, points(1, 2, private_efdStamp=pa.array([stamp])), NEW)
    assert archive.read(NEW)["time"].cast(pa.int64()).to_pylist() == [MONDAY_US + SECOND_US]


def test_the_ledger_knows_what_was_filled_in(archive: Archive) -> None:
    kafka(archive, 0, 5)
    found = put(archive, points(0, 10))
    archive.ledger.append(found.ledger)
    of = archive.ledger.table().filter(pa.compute.equal(archive.ledger.table()["commit_kind"], "fill"))
    assert of.select(["rows", "records", "week"]).to_pylist() == [{"rows": 5, "records": 5, "week": "2023-11-20"}]
