"""The tidy table of weekly sizes."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from efd_pipelines.archive.ledger_rows import SCHEMA
from efd_pipelines.storage.weekly import (
    WEEKLY_SIZES,
    snapshots,
    sums,
    weekly_parts,
    weekly_sizes,
    weekly_totals,
    weeks_of,
)
from efd_pipelines.times import Week, weeks_between
from efd_pipelines_tests.unit.storage.conftest import entry

FORCES, MOUNT, EVENT = (
    "lsst.sal.MTM1M3.forceActuatorData",
    "lsst.sal.MTMount.azimuth",
    "lsst.sal.MTM1M3.logevent_summaryState",
)
WEEK, NEXT = "2026-11-02", "2026-11-09"
Archives = Callable[..., Any]


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    names = ("week", "store", "topic", "records", "bytes")
    return [tuple(row[name] for name in names) for row in table.to_pylist()]


def test_each_store_has_a_row_per_week_and_topic_in_order(archive_of: Archives) -> None:
    archive = archive_of(
        entry(MOUNT, NEXT, 4, avro=40, parquet=8),
        entry(FORCES, WEEK, 10, avro=100, parquet=30),
        entry(FORCES, WEEK, 2, parquet=5, table="1s", commit_kind="tier"),
        entry(FORCES, WEEK, 5, avro=50, parquet=12),
    )
    table = weekly_sizes(archive)
    assert table.schema.equals(WEEKLY_SIZES)
    assert rows_of(table) == [
        (WEEK, "archive", FORCES, 15, 42),
        (WEEK, "received", FORCES, 15, 150),
        (WEEK, "tier_1s", FORCES, 2, 5),
        (NEXT, "archive", MOUNT, 4, 8),
        (NEXT, "received", MOUNT, 4, 40),
    ]
    assert {row["subsystem"] for row in table.to_pylist()} == {"m1m3", "mount"}


def test_a_ledger_of_an_older_release_tells_history_by_its_texts(archive_of: Archives) -> None:
    archive = archive_of()
    rows = [entry(FORCES, WEEK, 10, avro=100, parquet=30), entry(MOUNT, WEEK, 7, avro=70, parquet=20)]
    texts = ['{"history":0,"versions":[[0,3]]}', '{"history":4,"versions":[[0,3]]}']
    old = [of.as_dict() | {"commit_kind": "sealed", "sealed": text} for of, text in zip(rows, texts, strict=True)]
    table = pa.Table.from_pylist(old, schema=SCHEMA)
    archive.ledger._append_month(old[0]["month"], table.drop_columns(["month", "history"]))
    assert [(row["topic"], row["store"], row["records"]) for row in weekly_sizes(archive).to_pylist()] == [
        (FORCES, "archive", 10),
        (MOUNT, "archive", 7),
        (FORCES, "received", 10),
        (MOUNT, "received", 3),
    ]


def test_history_is_kept_and_was_not_received_and_what_was_let_go_was(archive_of: Archives) -> None:
    archive = archive_of(
        entry(FORCES, WEEK, 10, avro=100, parquet=30),
        entry(FORCES, WEEK, 7, parquet=20, commit_kind="fill"),
        entry(FORCES, WEEK, -17, parquet=-50, commit_kind="expire"),
    )
    assert rows_of(weekly_sizes(archive)) == [(WEEK, "received", FORCES, 10, 100)]


def test_rows_of_no_week_are_in_no_row(archive_of: Archives) -> None:
    archive = archive_of(*(entry(FORCES, week, 3, avro=3) for week in ("quarantine", "dead", "")))
    assert weekly_sizes(archive).num_rows == 0
    assert weekly_totals(archive).num_rows == 0


def test_it_can_be_of_some_weeks_and_stores(archive_of: Archives) -> None:
    weeks = weeks_between(Week.parse("2026-10-05"), Week.parse(NEXT))
    archive = archive_of(*(entry(FORCES, week.key, 1, avro=1, parquet=1) for week in weeks))
    found = weekly_sizes(archive, weeks[1], weeks[2], stores=["received"])
    assert [row[:2] for row in rows_of(found)] == [(weeks[1].key, "received"), (weeks[2].key, "received")]
    assert weeks_of(weekly_sizes(archive)) == weeks


def test_totals_are_sums_over_topics(archive_of: Archives) -> None:
    archive = archive_of(
        entry(FORCES, WEEK, 10, avro=100), entry(EVENT, WEEK, 1, avro=10), entry(EVENT, WEEK, 1, avro=10),
        entry("lsst.sal.MTM1M3.logevent_heartbeat", WEEK, 5, avro=50),
    )  # fmt: skip
    table = weekly_totals(archive, stores=["received"])
    found = {(row["component"], row["kind"]): (row["records"], row["bytes"]) for row in table.to_pylist()}
    assert found == {("MTM1M3", "telemetry"): (10, 100), ("MTM1M3", "event"): (7, 70)}


def test_years_come_in_parts_that_together_equal_a_query_of_the_ledger(
    archive_of: Archives, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("efd_pipelines.storage.weekly._ROWS_AT_ONCE", 40)
    weeks = weeks_between(Week.parse("2024-01-01"), Week.parse("2026-11-09"))
    archive = archive_of(
        *(
            entry(topic, week.key, n + k + 1, avro=7 * n * k + 1, parquet=3 * n + 1, at=at)
            for k, topic in enumerate((FORCES, MOUNT, EVENT))
            for n, week in enumerate(weeks)
            for at in (week.start, datetime(2026, 11, 10, tzinfo=UTC))
        )
    )
    parts = list(weekly_parts(archive))
    ledger, whole = archive.ledger.table(), pa.concat_tables(parts)
    query = "SELECT week, dataset, sum(rows)::BIGINT, sum(avro_bytes)::BIGINT FROM ledger GROUP BY ALL"
    expected = duckdb.execute(query).fetchall()
    found = [(week, topic, *of) for week, store, topic, *of in rows_of(whole) if store == "received"]
    assert ledger.num_rows == 2 * 3 * len(weeks)
    assert sorted(found) == sorted(expected)
    assert len(parts) > 10
    assert sums(whole, ["store"])["records"].to_list() == [sum(row[2] for row in expected)] * 2


def test_what_reports_kept_of_other_stores_is_in_the_table(archive_of: Archives) -> None:
    archive = archive_of(entry(FORCES, WEEK, 10, avro=100))
    row = dict.fromkeys(WEEKLY_SIZES.names, "") | {
        "week": NEXT, "store": "kafka", "topic": FORCES, "records": 3, "bytes": 9, "files": None,
    }  # fmt: skip
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row], WEEKLY_SIZES), buffer)
    archive.store.write_bytes(f"reports/storage/{NEXT}/stores.parquet", buffer.getvalue())
    assert rows_of(snapshots(archive)) == [(NEXT, "kafka", FORCES, 3, 9)]
    assert [row[1] for row in rows_of(weekly_sizes(archive))] == ["archive", "received", "kafka"]
    assert snapshots(archive, last=Week.parse(WEEK)).num_rows == 0


@pytest.mark.parametrize("name", ["week", "store", "topic", "component", "kind", "records", "bytes"])
def test_every_column_says_what_it_is(name: str) -> None:
    assert WEEKLY_SIZES.field(name).metadata[b"description"]
