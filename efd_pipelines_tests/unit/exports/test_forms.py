"""What of the archive an export has, and in which form: days, exposures, windows, lists, time scales."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from astropy.time import Time

from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.errors import NameRejected, UsageError
from efd_pipelines.exports import export
from efd_pipelines.exports.ranges import NoExposures
from efd_pipelines.exports.request import Request
from efd_pipelines.exposures.consdb import write_exposures
from efd_pipelines_tests.unit.exports.builders import (
    FORCES,
    PRIVATE,
    START_US,
    TEMPERATURE,
    ArchiveBuilder,
    at,
    column,
    messages,
    seconds,
)
from efd_pipelines_tests.unit.exports.test_export import manifest_of, small_files

FORCE_COLUMNS = [*PRIVATE, *(column(f"zForce{n}", pa.float32(), "N", field="zForce", element=n) for n in range(3))]
TAI_UTC_S = 37


def exported(builder: ArchiveBuilder, out: Path, topic: str, *times: Any, **more: Any) -> pa.Table:
    export(builder.archive, topic, *times, out=str(out), **more)
    return pq.read_table(out / topic)


def test_an_observing_day_begins_at_noon(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 3 * 86_400, 3600)))
    found = exported(builder, tmp_path / "one", TEMPERATURE, day_obs=20261116)
    assert [found["time"][n].as_py() for n in (0, -1)] == [
        datetime(2026, 11, 16, 12, tzinfo=UTC),
        datetime(2026, 11, 17, 11, tzinfo=UTC),
    ]
    two = exported(builder, tmp_path / "two", TEMPERATURE, day_obs="20261116..20261117")
    assert two.num_rows == 48


def exposures(builder: ArchiveBuilder, spans: list[tuple[float, float | None]]) -> list[int]:
    """Writes exposures with these seconds after the Monday into ConsDB; their numbers."""
    tai = timedelta(seconds=TAI_UTC_S)
    naive = [
        tuple(None if second is None else (at(second) + tai).replace(tzinfo=None) for second in span) for span in spans
    ]
    rows = [
        {
            "day_obs": 20261115,
            "seq_num": n,
            "exposure_id": 2026111500000 + n,
            "exposure_name": f"e{n}",
            "obs_start": begin,
            "obs_end": end,
        }
        for n, (begin, end) in enumerate(naive, 1)
    ]
    write_exposures(builder.archive.settings.require_consdb(), "cdb_lsstcam", rows)
    return [2026111500000 + n for n in range(1, len(rows) + 1)]


def test_rows_of_exposures_carry_their_number_and_those_between_are_left_out(
    builder: ArchiveBuilder, tmp_path: Path
) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 120)))
    numbers = exposures(builder, [(10, 20), (30.5, 40), (100, None)])
    result = export(builder.archive, TEMPERATURE, at(0), at(120), exposures="lsstcam", out=str(tmp_path / "out"))
    found = pq.read_table(tmp_path / "out" / TEMPERATURE)
    second = (pc.cast(found["time"], pa.int64()).to_numpy() - START_US) // 1_000_000
    assert second.tolist() == [*range(10, 21), *range(31, 41)]
    assert found["exposure_id"].to_pylist() == [numbers[0]] * 11 + [numbers[1]] * 10
    assert "1 exposures that have not ended" in result.notes[0]
    windows = manifest_of(tmp_path / "out")["windows"]
    assert [one["exposure_id"] for one in windows] == numbers[:2]


def test_visits_by_number_need_no_times_and_may_be_padded(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 120)))
    numbers = exposures(builder, [(10, 20), (30, 40), (60, 70)])
    asked = f"lsstcam:{numbers[1]}..{numbers[2]}"
    found = exported(builder, tmp_path / "out", TEMPERATURE, visits=asked, padding_s=1.0)
    second = (pc.cast(found["time"], pa.int64()).to_numpy() - START_US) // 1_000_000
    assert second.tolist() == [*range(29, 42), *range(59, 72)]
    assert set(found["visit_id"].to_pylist()) == set(numbers[1:])


def test_exposures_that_are_not_there_are_told(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 120)))
    exposures(builder, [(10, 20)])
    with pytest.raises(NoExposures, match="has no exposures 7 to 9 of lsstcam"):
        export(builder.archive, TEMPERATURE, exposures="lsstcam:7..9", out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_windows_are_the_statistics_of_what_is_in_them(
    builder: ArchiveBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = seconds(0, 7200, 0.5)
    rows = messages(times, columns=FORCE_COLUMNS)
    builder.add(FORCES, rows, unit=SliceUnit.HOUR)
    builder.add(FORCES, rows.slice(0, 500), unit=SliceUnit.HOUR)  # repeated
    small_files(monkeypatch)
    found = exported(builder, tmp_path / "out", FORCES, at(5), at(7000), ["zForce1"], resample="7s").to_pandas()
    frame = rows.to_pandas().set_index("time")["zForce1"]
    expected = frame.resample("7s", origin="epoch").agg(["min", "max", "mean", "median", "std", "count"])
    begin = pd.Timestamp(-(-(START_US + 5_000_000) // 7_000_000) * 7_000_000, unit="us", tz="UTC")
    expected = expected[(expected.index >= begin) & (expected.index < at(7000))]
    assert len(found) == len(expected) > 900
    assert found["time"].tolist() == expected.index.tolist()
    assert found["count"].tolist() == expected["count"].tolist()
    for ours, theirs in [("min", "min"), ("max", "max"), ("mean", "mean"), ("median", "median"), ("stdev", "std")]:
        np.testing.assert_allclose(found[f"{ours}_zForce1"], expected[theirs], rtol=1e-6)
    assert list(found.columns[:3]) == ["time", "window_size", "count"]
    assert manifest_of(tmp_path / "out")["topics"][0]["resampled_s"] == 7.0


def test_what_is_slower_than_a_window_is_exported_as_it_is(builder: ArchiveBuilder, tmp_path: Path) -> None:
    event = "lsst.sal.MTM1M3.logevent_heartbeat"
    builder.add(event, messages(seconds(0, 5), columns=PRIVATE))
    assert exported(builder, tmp_path / "out", event, at(0), at(9), resample="10s").num_rows == 5


def test_flattened_arrays_become_lists(builder: ArchiveBuilder, tmp_path: Path) -> None:
    rows = messages(seconds(0, 9), columns=FORCE_COLUMNS)
    builder.add(FORCES, rows)
    found = exported(builder, tmp_path / "out", FORCES, at(0), at(9), arrays="list")
    expected = np.stack([rows[f"zForce{n}"].to_numpy() for n in range(3)], axis=1)
    assert np.array_equal(np.stack(found["zForce"].to_pylist()), expected)
    assert found.column_names == ["time", *(one.name for one in PRIVATE), "zForce"]
    assert found.schema.field("zForce").metadata[b"units"] == b"N"


def test_a_message_without_the_array_has_no_list(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(FORCES, messages(seconds(0, 3), columns=PRIVATE))
    builder.add(FORCES, messages(seconds(3, 6), columns=FORCE_COLUMNS, first_seq=3))
    found = exported(builder, tmp_path / "out", FORCES, at(0), at(9), arrays="list")
    assert [value is None for value in found["zForce"].to_pylist()] == [True] * 3 + [False] * 3


def test_lists_become_columns_by_their_declared_length(
    builder: ArchiveBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from efd_pipelines.exports import selection

    rows = messages(seconds(0, 9), columns=[*PRIVATE, column("limits", pa.list_(pa.float32()), "V")])
    builder.add(FORCES, rows)
    monkeypatch.setattr(selection, "_lengths", lambda archive, dataset: {"limits": 4})
    found = exported(builder, tmp_path / "out", FORCES, at(0), at(9), arrays="flat")
    for n in range(3):
        assert found[f"limits{n}"].to_pylist() == [one[n] for one in rows["limits"].to_pylist()]
    assert found["limits3"].null_count == 9


def test_a_list_of_unknown_length_stays_one(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(FORCES, messages(seconds(0, 9), columns=[*PRIVATE, column("limits", pa.list_(pa.float32()))]))
    with pytest.raises(UsageError, match="length of the array limits is not declared"):
        exported(builder, tmp_path / "out", FORCES, at(0), at(9), arrays="flat")


@pytest.mark.parametrize("scale", ["tai", "both"])
def test_tai_is_astropys(builder: ArchiveBuilder, tmp_path: Path, scale: str) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 9)))
    found = exported(builder, tmp_path / "out", TEMPERATURE, at(0), at(9), time_scale=scale)
    expected = Time(at(0).replace(tzinfo=None), scale="utc").tai.to_datetime()
    assert found["tai_time"][0].as_py() == expected
    assert ("time" in found.column_names) == (scale == "both")
    statistics = pq.read_metadata(next((tmp_path / "out" / TEMPERATURE).iterdir())).row_group(0)
    place = found.column_names.index("tai_time")
    assert statistics.column(place).statistics.has_min_max


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "No times are given"),
        ({"start": "2026-11-16"}, "Only one end"),
        ({"day_obs": "20261116", "start": "2026-11-16"}, "Both times and an observing day"),
        ({"day_obs": "20261332"}, "no observing day"),
        ({"day_obs": "20261117..20261116"}, "end before they begin"),
        ({"day_obs": "20261116", "resample": "10s", "tier": "1s"}, "Both a tier and a window"),
        ({"day_obs": "20261116", "resample": "soon"}, "no window"),
        ({"day_obs": "20261116", "resample": "2d"}, "no window"),
        ({"day_obs": "20261116", "arrays": "long"}, "no arrays"),
        ({"day_obs": "20261116", "time_scale": "lst"}, "no time scale"),
        ({"day_obs": "20261116", "exposures": "lsstcam", "visits": "lsstcam"}, "Both exposures and visits"),
        ({"exposures": "lsstcam"}, "No times are given"),
        ({"exposures": "lsstcam:9..7"}, "no exposures"),
        ({"day_obs": "20261116", "padding_s": 3.0}, "padding is given without"),
        ({"day_obs": "20261116", "exposures": "lsstcam", "padding_s": -1.0}, "padding of -1.0 s"),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Request.of("a.b", **wrong)


def test_an_instrument_that_is_no_name_is_refused() -> None:
    with pytest.raises(NameRejected):
        Request.of("a.b", day_obs="20261116", exposures="lsst;cam")
