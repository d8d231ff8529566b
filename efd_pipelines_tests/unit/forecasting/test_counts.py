"""Counts by half day: what was archived is counted where it belongs, and not forgotten when its week is sealed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.ledger_table import LedgerTable
from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.forecasting.anomalies import anomaly_report
from efd_pipelines.forecasting.counts import DIRECTORY, counts
from efd_pipelines.forecasting.half_days import PARTS
from efd_pipelines_tests.unit.tiers.builders import (
    EVENT,
    FAST,
    HOUR_US,
    MONDAY_US,
    SECOND_US,
    an_archive,
    archive_rows,
    rows,
)

MONDAY = date(2023, 11, 20)
NIGHT, DAY = PARTS.index("night"), PARTS.index("day")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return an_archive(str(tmp_path / "archive"))


def sent(archive: Archive, hours: float, count: int, first_offset: int, dataset: object = EVENT) -> None:
    """One record a second from so many hours after Monday on."""
    times = MONDAY_US + int(hours * HOUR_US) + np.arange(count) * SECOND_US
    table = rows(times, {"value": np.arange(count, dtype=np.float64)}, first_offset=first_offset)
    archive_rows(archive, dataset, table, unit=SliceUnit.WEEK)  # type: ignore[arg-type]


def test_the_night_and_the_day_are_counted_apart(archive: Archive) -> None:
    sent(archive, 3, 100, 0)
    sent(archive, 15, 40, 100)
    sent(archive, 25, 7, 140)
    found = counts(archive, MONDAY + timedelta(days=1), days=3)
    assert found.topics == (EVENT.text,)
    assert (found.components, found.kinds) == (("MTM1M3",), ("event",))
    assert found.records[1, 0, [NIGHT, DAY]].tolist() == [100, 40]
    assert found.records[2, 0, [NIGHT, DAY]].tolist() == [7, 0]
    assert not found.records[0].any()


def test_a_commit_over_noon_is_spread_over_both_sides(archive: Archive) -> None:
    sent(archive, 11.5, 3600, 0)
    found = counts(archive, MONDAY, days=1)
    assert found.records[0, 0, [NIGHT, DAY]] == pytest.approx([1800, 1800], abs=1)


def test_rates_are_those_of_the_configuration(archive: Archive) -> None:
    sent(archive, 3, 10, 0)
    sent(archive, 3, 10, 0, FAST)
    assert counts(archive, MONDAY, days=1).declared_hz.tolist() == [50.0, 0.1]


def test_what_was_counted_is_known_when_the_ledger_has_one_row_of_its_week(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent(archive, 3, 100, 0)
    before = counts(archive, MONDAY, days=1).records
    whole = LedgerTable.in_parts

    def sealed(ledger: LedgerTable, columns: list[str], weeks: set[str]) -> Iterator[pl.DataFrame]:
        spread = pl.lit(MONDAY_US + 6 * 24 * HOUR_US).cast(pl.Datetime("us", "UTC"))
        for part in whole(ledger, columns, weeks):
            yield part.with_columns(pl.lit("sealed").alias("commit_kind"), spread.alias("time_max"))

    monkeypatch.setattr(LedgerTable, "in_parts", sealed)
    assert (counts(archive, MONDAY, days=1).records == before).all()


def test_a_late_record_is_counted_with_its_day(archive: Archive) -> None:
    sent(archive, 3, 100, 0)
    counts(archive, MONDAY, days=1)
    sent(archive, 4, 5, 100)
    assert counts(archive, MONDAY + timedelta(days=3), days=5).records[1, 0, NIGHT] == 105


def test_the_report_is_kept_and_says_what_it_does_not_know(archive: Archive) -> None:
    sent(archive, 3, 100, 0)
    report = anomaly_report(archive, MONDAY)
    assert (report.anomalies, report.topics, report.days_known) == ((), 1, 1)
    assert "Only 1 day is known" in report.notes[0]
    (file,) = report.files
    assert Path(file.removeprefix("file://")).name == "2023-11-20.json"
    kept = pq.read_table(Path(archive.store.path(DIRECTORY)) / "2023-11-20.parquet")
    assert kept.to_pylist() == [{"topic": EVENT.text, "part": NIGHT, "records": 100.0, "bytes": 0.0}]
