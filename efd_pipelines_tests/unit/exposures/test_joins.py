"""Joins: which samples an exposure gets, and what becomes of them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from efd_pipelines.exposures import computing, joins
from efd_pipelines.exposures.stretches import Stretches
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.exposures.builders import (
    AZIMUTH,
    NIGHT,
    TEMPERATURE,
    Build,
    a_column,
    an_exposure,
    table_of,
    times,
    utc,
)

NAN = float("nan")


def samples_at(start: datetime, offsets_s: list[float], values: list[float], **fields: Any) -> pa.Table:
    time_us = times(start, 1, 1.0)[0] + np.round(np.array(offsets_s) * 1e6).astype(np.int64)
    return table_of(time_us, {"actualPosition": np.array(values, dtype=np.float64), **fields})


def test_values_agree_with_pandas(observatory_with: Build) -> None:
    functions = ("mean", "stddev", "min", "max", "median", "count")
    observatory = observatory_with(*(a_column(name, name) for name in functions))
    rng = np.random.default_rng(1)
    time_us = times(NIGHT, 20 * 600, 0.05)
    values = rng.standard_normal(len(time_us)) * 3 + 70
    values[rng.random(len(values)) < 0.01] = NAN
    observatory.archives(AZIMUTH, table_of(time_us, {"actualPosition": values}))
    starts = [NIGHT + timedelta(seconds=37.5 * n) for n in range(15)]
    observatory.exposes(*(an_exposure(start, 30.0, seq_num=n) for n, start in enumerate(starts)))
    result = observatory.joins()
    series = pd.Series(values, index=pd.to_datetime(time_us, unit="us", utc=True))
    for row, start in zip(observatory.rows(), starts, strict=True):
        inside = series[start : start + timedelta(seconds=30)]
        assert row["mean"] == pytest.approx(inside.mean(), rel=1e-13)
        assert row["stddev"] == pytest.approx(inside.std(), rel=1e-12)
        assert (row["min"], row["max"], row["count"]) == (inside.min(), inside.max(), inside.count())
        assert row["median"] == inside.median()
    assert (result.exposures, result.columns, result.values, result.nulls) == (15, 6, 90, 0)


def test_the_37_seconds_between_tai_and_utc_are_not_forgotten(observatory_with: Build) -> None:
    observatory = observatory_with(a_column(function="mean"))
    observatory.archives(AZIMUTH, samples_at(NIGHT, [5.0, 42.0], [1.0, 999.0]))
    observatory.exposes(an_exposure(NIGHT, 30.0))
    observatory.joins()
    assert observatory.value() == 1.0


def test_both_edges_belong_to_the_window_to_the_microsecond(observatory_with: Build) -> None:
    observatory = observatory_with(a_column("lowest", "min"), a_column("highest", "max"), a_column("n", "count"))
    observatory.archives(
        AZIMUTH, samples_at(NIGHT, [-0.000001, 0.0, 15.0, 30.0, 30.000001], [-9.0, 1.0, 2.0, 3.0, 99.0])
    )
    observatory.exposes(an_exposure(NIGHT, 30.0))
    observatory.joins()
    assert [observatory.value(name) for name in ("lowest", "highest", "n")] == [1.0, 3.0, 3.0]


def test_a_window_across_monday_midnight_gets_the_samples_of_both_weeks(observatory_with: Build) -> None:
    monday = utc("2026-11-16T00:00:00")
    observatory = observatory_with(a_column(function="mean"), a_column("n", "count"))
    observatory.archives(AZIMUTH, samples_at(monday, [-10.0, -5.0, 0.0, 5.0], [1.0, 2.0, 3.0, 10.0]))
    files = observatory.archive.files(Dataset.parse(AZIMUTH))
    assert {file.week for file in files} == {"2026-11-09", "2026-11-16"}
    observatory.exposes(an_exposure(monday - timedelta(seconds=15), 30.0))
    for week in (Week.parse("2026-11-09"), Week.parse("2026-11-16")):
        result = observatory.joins(week=week, recompute=True)
        assert result.by_week == {"2026-11-09": joins.WeekJoin(exposures=1, values=2, nulls=0)}
        assert (observatory.value(), observatory.value("n")) == (4.0, 4.0)


def test_a_zero_length_exposure_gets_what_was_at_its_instant(observatory_with: Build) -> None:
    observatory = observatory_with(a_column("n", "count"))
    observatory.archives(AZIMUTH, samples_at(NIGHT, [-1.0, 0.0, 1.0], [1.0, 2.0, 3.0]))
    observatory.exposes(an_exposure(NIGHT, 0.0))
    observatory.joins()
    assert observatory.value("n") == 1.0


def test_padding_widens_the_window(observatory_with: Build) -> None:
    observatory = observatory_with(a_column("n", "count"), padding_s=2.0)
    observatory.archives(AZIMUTH, samples_at(NIGHT, [-2.1, -2.0, 5.0, 32.0, 32.1], [1.0] * 5))
    observatory.exposes(an_exposure(NIGHT, 30.0))
    observatory.joins()
    assert observatory.value("n") == 3.0


def test_a_record_that_came_twice_counts_once(observatory_with: Build) -> None:
    observatory = observatory_with(a_column(function="mean"), a_column("n", "count"))
    rows = samples_at(NIGHT, [1.0, 2.0], [1.0, 4.0])
    observatory.archives(AZIMUTH, rows)
    observatory.archives(AZIMUTH, rows.slice(0, 1))
    observatory.exposes(an_exposure(NIGHT))
    observatory.joins()
    assert (observatory.value(), observatory.value("n")) == (2.5, 2.0)


def test_elements_of_fields_count_alike_and_nan_drops_the_element_alone(observatory_with: Build) -> None:
    item = np.array([[1.0, 2.0], [10.0, NAN]])
    observatory = observatory_with(
        a_column("both", fields=["item0", "item1"]),
        a_column("whole", fields=["item"]),
        a_column("n", "count", fields=["item"]),
    )
    observatory.archives(AZIMUTH, samples_at(NIGHT, [1.0, 2.0], [0.0, 0.0], item=item))
    observatory.exposes(an_exposure(NIGHT))
    observatory.joins()
    assert observatory.value("both") == observatory.value("whole") == pytest.approx(13 / 3)
    assert observatory.value("n") == 3.0


def test_a_dataset_that_keeps_lists_gives_the_same(observatory_with: Build) -> None:
    lists = pa.array([[1.0, 2.0], [10.0, None]], pa.list_(pa.float32()))
    observatory = observatory_with(a_column("whole", fields=["item"]), a_column("second", "max", fields=["item1"]))
    observatory.archives(AZIMUTH, samples_at(NIGHT, [1.0, 2.0], [0.0, 0.0], item=lists))
    observatory.exposes(an_exposure(NIGHT))
    observatory.joins()
    assert observatory.value("whole") == pytest.approx(13 / 3)
    assert observatory.value("second") == 2.0


def test_a_subset_takes_the_rows_of_its_indices_and_not_the_index_itself(observatory_with: Build) -> None:
    def column(name: str, subset: object) -> str:
        fields = ["salIndex", "item0"]
        return a_column(name, topic=TEMPERATURE, fields=fields, subset_field="salIndex", subset_value=subset)

    observatory = observatory_with(
        column("one", 112),
        column("either", "[112, 301]"),
        column("none", 5),
        a_column("all_of_them", topic=TEMPERATURE, fields=["item0"]),
    )
    index = np.array([112, 301, 112, 1], dtype=np.int32)
    item = np.array([[10.0], [20.0], [12.0], [100.0]], dtype=np.float32)
    table = samples_at(NIGHT, [1.0, 1.0, 2.0, 2.0], [0.0] * 4, salIndex=index, item=item)
    observatory.archives(TEMPERATURE, table)
    observatory.exposes(an_exposure(NIGHT))
    observatory.joins()
    (row,) = observatory.rows()
    assert (row["one"], row["either"], row["none"], row["all_of_them"]) == (11.0, 14.0, None, 35.5)


def test_the_same_instant_of_two_indices_is_two_samples(observatory_with: Build) -> None:
    observatory = observatory_with(a_column("n", "count", topic=TEMPERATURE, fields=["item0"]))
    table = samples_at(NIGHT, [1.0, 1.0], [0.0, 0.0], salIndex=np.array([1, 2], dtype=np.int32), item=np.zeros((2, 1)))
    observatory.archives(TEMPERATURE, table)
    observatory.exposes(an_exposure(NIGHT))
    observatory.joins()
    assert observatory.value("n") == 2.0


def test_samples_of_several_indices_are_taken_in_the_order_of_time(observatory_with: Build) -> None:
    observatory = observatory_with(
        a_column("n", "count", topic=TEMPERATURE, fields=["item0"]),
        a_column("last", "most_recent_value", topic=TEMPERATURE, fields=["item0"]),
    )
    index = np.array([1, 1, 1, 2, 2, 2], dtype=np.int32)
    item = np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
    table = samples_at(NIGHT, [20.0, 50.0, 60.0, 1.0, 2.0, 3.0], [0.0] * 6, salIndex=index, item=item)
    observatory.archives(TEMPERATURE, table)
    observatory.exposes(an_exposure(NIGHT))
    observatory.joins()
    assert (observatory.value("n"), observatory.value("last")) == (4.0, 1.0)


def test_a_most_recent_value_looks_back_across_the_week_and_never_past_the_end(observatory_with: Build) -> None:
    monday = utc("2026-11-16T00:00:10")
    observatory = observatory_with(
        a_column("hour", "most_recent_value", start_offset=-1),
        a_column("inside", "most_recent_value"),
        a_column("ten_minutes", "most_recent_value", function_args="{start_offset: -0.16666667}"),
    )
    observatory.archives(AZIMUTH, samples_at(monday, [-3601.0, -1800.0, 30.5], [1.0, 2.0, 3.0]))
    observatory.exposes(an_exposure(monday, 30.0))
    observatory.joins()
    (row,) = observatory.rows()
    assert (row["hour"], row["inside"], row["ten_minutes"]) == (2.0, None, None)


def test_pre_aggregated_values_are_those_of_the_intervals(observatory_with: Build) -> None:
    observatory = observatory_with(
        a_column("mean_of_means", pre_aggregate_interval="1s"),
        a_column("stddev_of_means", "stddev", pre_aggregate_interval="1s"),
        a_column("highest", "max", pre_aggregate_interval="1s"),
    )
    observatory.archives(AZIMUTH, samples_at(NIGHT, [0.1, 0.2, 0.3, 1.5], [1.0, 2.0, 3.0, 10.0]))
    observatory.exposes(an_exposure(NIGHT))
    observatory.joins()
    (row,) = observatory.rows()
    assert row["mean_of_means"] == 6.0
    assert row["stddev_of_means"] == pytest.approx(np.std([2.0, 10.0], ddof=1))
    assert row["highest"] == 10.0


def test_columns_that_cannot_be_computed_do_not_hold_up_the_others(observatory_with: Build) -> None:
    observatory = observatory_with(
        a_column("good"),
        a_column("misspelt", fields=["actualPositon"]),
        a_column("absent", topic="lsst.sal.MTDome.azimuth"),
        a_column("vector", store_unpivoted="True").replace("[exposure_efd]", "[exposure_efd_unpivoted]"),
        a_column("packed").replace("packed_series: False", "packed_series: True"),
    )
    observatory.archives(AZIMUTH, samples_at(NIGHT, [1.0], [5.0]))
    observatory.exposes(an_exposure(NIGHT))
    result = observatory.joins()
    (row,) = observatory.rows()
    assert (row["good"], row["misspelt"], row["absent"], row["packed"]) == (5.0, None, None, None)
    assert "vector" not in row
    assert (result.columns, result.values, result.nulls) == (2, 2, 0)
    assert "did you mean actualPosition" in result.skipped["misspelt"]
    assert result.skipped["absent"] == "lsst.sal.MTDome.azimuth is not in the archive"
    assert "is no array, and no packed series" in result.skipped["packed"]
    assert [row["value"] for row in observatory.rows("exposure_efd_unpivoted")] == [5.0]
    assert observatory.joins().exposures == 0


def test_no_samples_are_null_and_a_constant_is_no_spread(observatory_with: Build) -> None:
    observatory = observatory_with(a_column(), a_column("spread", "stddev"))
    observatory.archives(AZIMUTH, samples_at(NIGHT, [1.0, 2.0], [0.0, 0.0]))
    observatory.exposes(an_exposure(NIGHT, seq_num=1), an_exposure(NIGHT + timedelta(hours=1), seq_num=2))
    result = observatory.joins()
    assert [(row["value"], row["spread"]) for row in observatory.rows()] == [(0.0, 0.0), (None, None)]
    assert (result.values, result.nulls) == (2, 2)


def test_stretches_and_batches_change_no_value(observatory_with: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    observatory = observatory_with(a_column(), a_column("last", "most_recent_value", start_offset=-1))
    rng = np.random.default_rng(3)
    time_us = times(NIGHT - timedelta(hours=1), 3 * 3600, 1.0)
    observatory.archives(AZIMUTH, table_of(time_us, {"actualPosition": rng.standard_normal(len(time_us))}))
    starts = [NIGHT + timedelta(seconds=40 * n) for n in range(80)]
    observatory.exposes(*(an_exposure(start, 55.0, seq_num=n) for n, start in enumerate(starts)))
    observatory.joins()
    whole = [(row["value"], row["last"]) for row in observatory.rows()]
    assert all(isinstance(value, float) for pair in whole for value in pair)
    monkeypatch.setattr(computing, "VALUES_AT_ONCE", 500)
    monkeypatch.setattr(joins, "WINDOWS_AT_ONCE", 7)
    assert observatory.joins(recompute=True).exposures == 80
    assert [(row["value"], row["last"]) for row in observatory.rows()] == whole


def test_a_topic_is_read_once_for_windows_that_touch(observatory_with: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    observatory = observatory_with(a_column(), a_column("highest", "max"), a_column("other", fields=["demand"]))
    time_us = times(NIGHT, 600, 1.0)
    fields = {name: np.arange(600.0) for name in ("actualPosition", "demand", "unused")}
    observatory.archives(AZIMUTH, table_of(time_us, fields))
    observatory.exposes(*(an_exposure(NIGHT + timedelta(seconds=40 * n), seq_num=n) for n in range(10)))
    reads: list[list[str]] = []
    parts = Stretches._parts

    def counted(self: Stretches, *given: Any) -> Any:
        reads.append(self.schema.names)
        return parts(self, *given)

    monkeypatch.setattr(Stretches, "_parts", counted)
    observatory.joins()
    (columns,) = reads
    assert {"time", "actualPosition", "demand"} < set(columns)
    assert "unused" not in columns


def test_late_samples_make_exactly_the_exposures_stale_that_they_touch(observatory_with: Build) -> None:
    observatory = observatory_with(a_column())
    observatory.archives(AZIMUTH, samples_at(NIGHT, [1.0, 101.0], [1.0, 3.0]))
    observatory.exposes(an_exposure(NIGHT, seq_num=1), an_exposure(NIGHT + timedelta(seconds=100), seq_num=2))
    assert observatory.joins().exposures == 2
    again = observatory.joins()
    assert (again.exposures, again.unchanged) == (0, 2)
    observatory.archives(AZIMUTH, samples_at(NIGHT, [102.0], [5.0]))
    late = observatory.joins()
    assert (late.exposures, late.unchanged) == (1, 1)
    assert [row["value"] for row in observatory.rows()] == [1.0, 4.0]


def test_rows_merged_into_one_file_make_nothing_stale(observatory_with: Build) -> None:
    observatory = observatory_with(a_column())
    observatory.archives(AZIMUTH, samples_at(NIGHT, [1.0], [1.0]))
    observatory.exposes(an_exposure(NIGHT))
    observatory.joins()
    observatory.archives(AZIMUTH, samples_at(NIGHT, [2.0], [1.0]), kind="merge")
    assert observatory.joins().exposures == 0


def test_a_commit_whose_ledger_entry_was_lost_is_found(observatory_with: Build) -> None:
    observatory = observatory_with(a_column())
    observatory.archives(AZIMUTH, samples_at(NIGHT, [1.0], [1.0]))
    observatory.exposes(an_exposure(NIGHT))
    observatory.joins()
    observatory.archives_and_dies(AZIMUTH, samples_at(NIGHT, [2.0], [5.0]))
    assert observatory.joins().exposures == 1
    assert observatory.value() == 3.0


def test_a_changed_end_or_configuration_recomputes(observatory_with: Build) -> None:
    observatory = observatory_with(a_column())
    observatory.archives(AZIMUTH, samples_at(NIGHT, [1.0, 29.0], [1.0, 5.0]))
    observatory.exposes(an_exposure(NIGHT, 30.0))
    observatory.joins()
    observatory.exposes(an_exposure(NIGHT, 20.0))
    assert observatory.joins().exposures == 1
    assert observatory.value() == 1.0
    observatory.configures(a_column(function="max"), a_column("n", "count"))
    assert observatory.joins().exposures == 1
    assert observatory.value("n") == 1.0


def test_what_has_not_ended_or_is_not_archived_yet_is_left_for_the_next_run(observatory_with: Build) -> None:
    observatory = observatory_with(a_column())
    observatory.archives(AZIMUTH, table_of(times(NIGHT, 60, 1.0), {"actualPosition": np.ones(60)}))
    observatory.exposes(
        an_exposure(NIGHT, 30.0, seq_num=1),
        an_exposure(NIGHT + timedelta(seconds=40), 30.0, seq_num=2),
        an_exposure(NIGHT + timedelta(seconds=80), None, seq_num=3),
    )
    result = observatory.joins(now=NIGHT + timedelta(seconds=90))
    assert (result.exposures, result.waiting, result.unended) == (1, 1, 1)
    assert [row["seq_num"] for row in observatory.rows()] == [1]
    late = table_of(times(NIGHT + timedelta(seconds=60), 60, 1.0), {"actualPosition": np.full(60, 4.0)})
    observatory.archives(AZIMUTH, late)
    result = observatory.joins(now=NIGHT + timedelta(seconds=95))
    assert (result.exposures, result.waiting, result.unended) == (1, 0, 1)
    assert observatory.rows()[1]["value"] == pytest.approx((20 * 1.0 + 11 * 4.0) / 31)


def test_provenance_says_from_what_each_value_was_computed(observatory_with: Build) -> None:
    observatory = observatory_with(a_column(), a_column("spread", "stddev"), a_column("none", topic="lsst.sal.X.y"))
    version = observatory.archives(AZIMUTH, samples_at(NIGHT, [1.0, 2.0, 3.0], [1.0, NAN, 2.0]))
    observatory.exposes(an_exposure(NIGHT, 30.0))
    observatory.joins(run="r1")
    (row,) = observatory.rows("exposure_efd_provenance")
    assert (row["value"], row["spread"], row["none"]) == (2, 2, None)
    assert json.loads(row["versions"]) == {AZIMUTH: version}
    assert (row["run"], row["config_version"]) == ("r1", "1.0.0")
    assert str(row["window_begin"]).startswith("2026-11-17 02:00:00")
    assert str(row["window_end"]).startswith("2026-11-17 02:00:30")


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({}, [1, 2, 3]),
        ({"day_obs": 20261115}, [1, 2]),
        ({"week": Week.parse("2026-11-09")}, [1]),
        ({"week": Week.parse("2026-11-16")}, [1, 2, 3]),
        ({"start": utc("2026-11-16T00:00:20")}, [2, 3]),
        ({"end": utc("2026-11-16T01:00:00")}, [1]),
        ({"start": utc("2026-11-16T00:00:00"), "end": utc("2026-11-16T01:00:00.000001")}, [1, 2]),
    ],
)
def test_exposures_are_chosen_by_day_week_and_time(
    observatory_with: Build, options: dict[str, Any], chosen: list[int]
) -> None:
    observatory = observatory_with(a_column())
    observatory.archives(AZIMUTH, samples_at(NIGHT, [1.0], [1.0]))
    observatory.exposes(
        an_exposure(utc("2026-11-15T23:59:50"), 20.0, day_obs=20261115, seq_num=1),
        an_exposure(utc("2026-11-16T01:00:00"), 20.0, day_obs=20261115, seq_num=2),
        an_exposure(utc("2026-11-17T01:00:00"), 20.0, day_obs=20261116, seq_num=3),
    )
    assert observatory.joins(**options).exposures == len(chosen)
    assert [row["seq_num"] for row in observatory.rows()] == chosen
