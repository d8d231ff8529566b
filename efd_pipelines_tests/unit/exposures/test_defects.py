"""The dozen proven defects of the present service (efd-facts.md §5.4): a test for each that would fail with it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from efd_pipelines.errors import StoreUnavailable
from efd_pipelines.exposures.stretches import Stretches
from efd_pipelines.times import microseconds
from efd_pipelines_tests.unit.exposures.builders import (
    AZIMUTH,
    NIGHT,
    TEMPERATURE,
    Build,
    a_column,
    an_exposure,
    azimuth,
    table_of,
    times,
)

NAN = float("nan")
VISITS = "[exposure_efd, visit1_efd]"
VECTORS = "[exposure_efd_unpivoted, visit1_efd_unpivoted]"


def samples_at(start: datetime, offsets_s: list[float], **fields: Any) -> pa.Table:
    time_us = microseconds(start) + np.round(np.array(offsets_s) * 1e6).astype(np.int64)
    return table_of(time_us, {name: np.array(values, dtype=np.float64) for name, values in fields.items()})


def a_vector(name: str = "forces", function: str = "mean", **more: Any) -> str:
    column = a_column(name, function, store_unpivoted="True", **more)
    return column.replace("[exposure_efd]", VECTORS)


def test_1_a_start_offset_on_the_column_is_honoured(observatory_with: Build) -> None:
    observatory = observatory_with(a_column("value", "most_recent_value", start_offset=-0.5))
    observatory.archives(AZIMUTH, samples_at(NIGHT, [-1799.0], actualPosition=[7.0]))
    observatory.exposes(an_exposure(NIGHT))
    observatory.joins()
    assert observatory.value() == 7.0


def test_2_a_perfect_ramp_leaves_no_residual(observatory_with: Build) -> None:
    observatory = observatory_with(
        a_column(function="rms_from_polynomial_fit", function_args='{"degree": 4, "fit_basis": "index"}')
    )
    ramp = np.linspace(10.0, 20.0, 31)
    observatory.archives(AZIMUTH, table_of(times(NIGHT, 31, 1.0), {"actualPosition": ramp}))
    observatory.exposes(an_exposure(NIGHT))
    observatory.joins()
    assert 0.0 <= observatory.value() < 1e-12


def test_3_an_exposure_at_the_edge_of_what_a_run_looks_at_is_computed_whole(observatory_with: Build) -> None:
    observatory = observatory_with(a_column("n", "count"))
    observatory.archives(AZIMUTH, table_of(times(NIGHT, 60, 1.0), {"actualPosition": np.ones(60)}))
    observatory.exposes(an_exposure(NIGHT, 30.0))
    for start, end in ((NIGHT + timedelta(seconds=20), None), (None, NIGHT + timedelta(seconds=5))):
        assert observatory.joins(start=start, end=end, recompute=True).exposures == 1
        assert observatory.value("n") == 31.0


def test_4_a_read_that_fails_writes_no_null_and_is_done_again(
    observatory_with: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    observatory = observatory_with(a_column())
    observatory.archives(AZIMUTH, samples_at(NIGHT, [1.0], actualPosition=[5.0]))
    observatory.exposes(an_exposure(NIGHT))

    def fails(*_: object) -> Any:
        raise StoreUnavailable("The store did not answer")

    monkeypatch.setattr(Stretches, "_parts", fails)
    with pytest.raises(StoreUnavailable):
        observatory.joins()
    assert observatory.rows() == []
    monkeypatch.undo()
    assert observatory.joins().exposures == 1
    assert observatory.value() == 5.0


def test_5_zero_is_a_value_of_a_visits_vector(observatory_with: Build) -> None:
    observatory = observatory_with(a_vector(fields=["force"]))
    observatory.archives(AZIMUTH, table_of(times(NIGHT, 3, 1.0), {"force": np.zeros((3, 2))}))
    observatory.exposes(an_exposure(NIGHT))
    assert observatory.joins().visits == 1
    rows = observatory.rows("visit1_efd_unpivoted")
    assert [(row["property"], row["field"], row["value"]) for row in rows] == [
        ("forces", "force0", 0.0),
        ("forces", "force1", 0.0),
    ]


def test_6_a_packed_series_may_have_more_than_three_fields(observatory_with: Build) -> None:
    names = ["a", "b", "c", "d"]
    packed = a_column("all", "max", fields=names).replace("packed_series: False", "packed_series: True")
    observatory = observatory_with(packed, *(a_column(f"only_{n}", "max", fields=[n]) for n in names))
    fields = {name: np.full((3, 5), float(n)) for n, name in enumerate(names)}
    observatory.archives(AZIMUTH, table_of(times(NIGHT + timedelta(seconds=10), 3, 1.0), fields))
    observatory.exposes(an_exposure(NIGHT))
    observatory.joins()
    (row,) = observatory.rows()
    assert [row[name] for name in ("all", "only_a", "only_d")] == [3.0, 0.0, 3.0]


def test_7_nan_drops_an_element_and_not_the_sample(observatory_with: Build) -> None:
    observatory = observatory_with(a_column(fields=["item0", "item1"]), a_column("n", "count", fields=["item"]))
    item = np.array([[1.0, 2.0], [10.0, NAN]])
    observatory.archives(AZIMUTH, table_of(times(NIGHT, 2, 1.0), {"item": item}))
    observatory.exposes(an_exposure(NIGHT))
    observatory.joins()
    assert (observatory.value(), observatory.value("n")) == (pytest.approx(13 / 3), 3.0)


def of_two_topics(name: str, function: str, **more: Any) -> str:
    second = f"  - name: {TEMPERATURE}\n    fields:\n    - name: actualPosition\n"
    return a_column(name, function, **more) + second


def test_8_all_topics_of_a_column_count(observatory_with: Build) -> None:
    observatory = observatory_with(
        of_two_topics("mean", "mean"),
        of_two_topics("latest", "most_recent_value"),
        of_two_topics("means", "max", pre_aggregate_interval="1s"),
        a_column("one"),
    )
    observatory.archives(AZIMUTH, samples_at(NIGHT, [1.0, 2.0, 9.0], actualPosition=[1.0, 2.0, 3.0]))
    observatory.archives(TEMPERATURE, samples_at(NIGHT, [4.0, 8.0], actualPosition=[10.0, 14.0]))
    observatory.exposes(an_exposure(NIGHT))
    observatory.joins()
    (row,) = observatory.rows()
    assert (row["mean"], row["latest"], row["means"], row["one"]) == (6.0, 3.0, 14.0, 2.0)
    (provenance,) = observatory.rows("exposure_efd_provenance")
    assert (provenance["mean"], provenance["one"]) == (5, 3)


def test_8_a_topic_that_is_not_there_leaves_the_column_to_the_other(observatory_with: Build) -> None:
    observatory = observatory_with(of_two_topics("value", "mean"))
    observatory.archives(AZIMUTH, samples_at(NIGHT, [1.0], actualPosition=[3.0]))
    observatory.exposes(an_exposure(NIGHT))
    result = observatory.joins()
    assert observatory.value() == 3.0
    assert result.warnings == {"value": f"{TEMPERATURE} is not in the archive"}
    observatory.archives(TEMPERATURE, samples_at(NIGHT, [2.0], actualPosition=[5.0]))
    assert observatory.joins().exposures == 1
    assert observatory.value() == 4.0


def test_9_and_10_joins_that_overlap_neither_kill_each_other_nor_say_failed(observatory_with: Build) -> None:
    observatory = observatory_with(a_column())
    observatory.archives(AZIMUTH, azimuth(600))
    observatory.exposes(*(an_exposure(NIGHT + timedelta(seconds=40 * n), seq_num=n) for n in range(10)))
    with ThreadPoolExecutor(3) as pool:
        results = [one.result() for one in [pool.submit(observatory.joins, recompute=True) for _ in range(3)]]
    assert [result.exposures for result in results] == [10, 10, 10]
    assert [row["value"] for row in observatory.rows()] == [15.0 + 40 * n for n in range(10)]


def test_11_every_function_may_be_pre_aggregated_and_topics_are_read_once(
    observatory_with: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = ("mean", "stddev", "median", "count", "min")
    observatory = observatory_with(*(a_column(name, name, pre_aggregate_interval="1s") for name in functions))
    offsets, values = [0.1, 0.2, 0.3, 1.5, 2.5], [1.0, 2.0, 3.0, 10.0, 12.0]
    observatory.archives(AZIMUTH, samples_at(NIGHT, offsets, actualPosition=values))
    observatory.exposes(an_exposure(NIGHT))
    reads: list[int] = []
    parts = Stretches._parts

    def counted(self: Stretches, *given: Any) -> Any:
        reads.append(1)
        return parts(self, *given)

    monkeypatch.setattr(Stretches, "_parts", counted)
    observatory.joins()
    (row,) = observatory.rows()
    means = np.array([2.0, 10.0, 12.0])
    expected = (means.mean(), means.std(ddof=1), np.median(means), 3.0, 1.0)
    assert tuple(row[name] for name in functions) == pytest.approx(expected)
    assert len(reads) == 1


def test_12_the_same_instant_of_several_indices_is_several_samples(observatory_with: Build) -> None:
    observatory = observatory_with(
        a_vector("each", "count", topic=TEMPERATURE, fields=["item"]),
        a_column("n", "count", topic=TEMPERATURE, fields=["item"]),
    )
    item, index = np.zeros((4, 2)), np.array([1, 2, 1, 2], dtype=np.int32)
    time_us = microseconds(NIGHT) + np.array([1, 1, 2, 2]) * 1_000_000
    observatory.archives(TEMPERATURE, table_of(time_us, {"salIndex": index, "item": item}))
    observatory.exposes(an_exposure(NIGHT))
    observatory.joins()
    assert observatory.value("n") == 8.0
    assert [row["value"] for row in observatory.rows("exposure_efd_unpivoted")] == [4.0, 4.0]
