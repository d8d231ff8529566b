"""Rates by the hour and latencies, against the records themselves."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efd_pipelines.archive.ages import Ages, packed_ages
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.sealing import seal
from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.settings import load_settings
from efd_pipelines.storage.latency import latencies
from efd_pipelines.storage.rates import rates, rates_section
from efd_pipelines.storage.throughput import measure
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.storage.conftest import entry
from efd_pipelines_tests.unit.storage.records import SUMMARY_STATE, archived

WEEK = Week.parse("2026-11-02")
LATER = datetime(2026, 11, 20, tzinfo=UTC)
DATASET = Dataset.parse("lsst.sal.MTM1M3.made")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(load_settings({}, None, archive=str(tmp_path / "archive")))


def at(hours: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    begin = WEEK.start_us / 1e6
    return [{"private_efdStamp": begin + 3600 * hour, "salIndex": 1, "summaryState": 2} for hour in np.sort(hours)]


@pytest.mark.parametrize("unit", [SliceUnit.HOUR, SliceUnit.DAY, SliceUnit.WEEK])
def test_hours_add_up_to_what_came_and_slices_of_an_hour_are_exact(archive: Archive, unit: SliceUnit) -> None:
    random = np.random.default_rng(2)
    hours = np.concatenate([random.uniform(30, 31, 300), random.uniform(0, 168, 168)])
    size = archived(archive, DATASET, SUMMARY_STATE, at(hours), unit=unit)
    found = rates(archive, measure(archive, WEEK), LATER)
    assert found is not None
    assert len(found.hours_mb_s) == 168
    assert found.hours_mb_s.sum() * 3600 * 1e6 == pytest.approx(size)
    assert found.mean_mb_s == pytest.approx(size / (7 * 86400) / 1e6)
    if unit is SliceUnit.HOUR:
        counted, _ = np.histogram(hours, bins=np.arange(169))
        assert found.hours_mb_s * 3600 * 1e6 == pytest.approx(counted * size / len(hours))
        assert found.peak_at == datetime(2026, 11, 3, 6, tzinfo=UTC)
        assert found.topics[0].peak_records_s == pytest.approx(counted.max() / 3600)


def test_what_is_not_among_the_largest_is_spread_evenly(archive: Archive) -> None:
    archive.ledger.append([entry("lsst.sal.ESS.pressure", WEEK.key, 10, avro=168_000_000)])
    found = rates(archive, measure(archive, WEEK), LATER, most=0)
    assert found is not None
    assert found.hours_mb_s == pytest.approx(np.full(168, 1 / 3600))
    assert "10 MB/s" in rates_section(found).title


def test_a_running_week_has_the_hours_that_have_begun(archive: Archive) -> None:
    archive.ledger.append([entry("lsst.sal.ESS.pressure", WEEK.key, 10, avro=1000)])
    found = rates(archive, measure(archive, WEEK), datetime(2026, 11, 2, 2, 30, tzinfo=UTC))
    assert found is not None
    assert len(found.hours_mb_s) == 3
    assert found.hours_mb_s == pytest.approx(np.full(3, 1000 / (2.5 * 3600) / 1e6))
    assert found.mean_mb_s == pytest.approx(1000 / (2.5 * 3600) / 1e6)


def test_latencies_are_of_commits_and_of_kafkas_stamps(archive: Archive) -> None:
    archived(archive, DATASET, SUMMARY_STATE, at(np.array([1.0, 2.0, 3.0])), kafka_lag_s=0.25)
    kafka, stored = latencies(archive, measure(archive, WEEK))
    assert kafka.records == stored.records == 3
    assert kafka.seconds == pytest.approx((0.25,) * 4)
    rows = archive.ledger.table()
    age_s = (rows["at"].to_pylist()[0] - rows["time_min"].to_pylist()[0]).total_seconds()
    assert stored.seconds[-1] == pytest.approx(age_s)
    assert stored.seconds[0] == pytest.approx(age_s - 3600, abs=200)


def test_latencies_are_known_after_the_week_is_sealed(archive: Archive) -> None:
    for n, name in enumerate(("made", "made2", "made3")):
        hours = np.linspace(10.0 * n, 10.0 * n + 5, 200)
        archived(archive, Dataset.parse(f"lsst.sal.MTM1M3.{name}"), SUMMARY_STATE, at(hours), kafka_lag_s=0.25)
    _, before = latencies(archive, measure(archive, WEEK))
    assert seal(archive, archive.settings, week=WEEK, now=LATER).sealed == 3
    _, after = latencies(archive, measure(archive, WEEK))
    assert {row["commit_kind"] for row in archive.ledger.table().to_pylist()} == {"sealed"}
    assert (after.records, after.unknown) == (before.records, 0) == (600, 0)
    assert after.seconds == pytest.approx(before.seconds, rel=0.1)
    # A late record opens the week again; sealed anew, it keeps what was known and what came.
    first, second = Ages.of([0, 5], [10, 80], [100, 7]), Ages.of([10], [4000], [333])
    assert packed_ages(second, packed_ages(first)) == packed_ages(Ages.together([first, second]))


def test_long_periods_have_no_hours(archive: Archive) -> None:
    archive.ledger.append([entry("lsst.sal.ESS.pressure", WEEK.key, 10, avro=1000)])
    report = measure(archive, start=Week.parse("2026-08-03"), end=WEEK.next())
    assert rates(archive, report, LATER) is None


def test_quantiles_of_very_many_stretches_are_those_of_their_records() -> None:
    random = np.random.default_rng(5)
    least = random.exponential(600.0, 30_000)
    most, records = least + random.exponential(3600.0, 30_000), random.integers(1, 50, 30_000)
    found = Ages.of(least.tolist(), most.tolist(), records.tolist()).quantiles([0.5, 0.9, 0.99, 1.0])
    ages = np.repeat(least, records) + random.random(records.sum()) * np.repeat(most - least, records)
    assert found[:3] == pytest.approx(np.quantile(ages, [0.5, 0.9, 0.99]), rel=0.02)
    assert found[3] == most.max()
