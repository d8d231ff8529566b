"""A recording gives back the records that it was made from."""

from __future__ import annotations

import csv
import gzip
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efd_pipelines.errors import NameRejected, UsageError
from efd_pipelines.simulator.fixtures import builtin_topics
from efd_pipelines.simulator.recording import BadRecording, recorded_series, topic_of
from efd_pipelines.simulator.replay import shifted
from efd_pipelines.simulator.series import Series, in_order, windows
from efd_pipelines.times import event_time_us, microseconds
from efd_pipelines_tests.unit.simulator.reading import records_of

NIGHT_NS = 1_690_587_374_165_123_000


def write(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def only(directory: Path) -> Series:
    (series,) = recorded_series(directory)
    return series


@pytest.mark.parametrize(
    ("file", "topic"),
    [
        ("lsst.sal.MTMount.azimuth_20230728T233614.csv.gz", "lsst.sal.MTMount.azimuth"),
        ("lsst.sal.MTMount.logevent_azimuthInPosition_part_2.csv", "lsst.sal.MTMount.logevent_azimuthInPosition"),
        ("lsst.sal.MTCamera.focal_plane_reb_data_x.csv", "lsst.sal.MTCamera.focal_plane_reb_data"),
        ("lsst.sal.Other.logevent_of_something_2023_1.csv", "lsst.sal.Other.logevent_of_something"),
        ("lsst.dm.metric_night.csv", "lsst.dm.metric"),
    ],
)
def test_the_topic_is_told_from_the_files_name(file: str, topic: str) -> None:
    assert topic_of(Path(file), builtin_topics()) == topic


def test_arrays_are_put_together_in_numeric_order(tmp_path: Path) -> None:
    columns = [f"motionControllerState{n}" for n in (0, 1, 10, 11, 12, 13, 14, 15, 2, 3, 4, 5, 6, 7, 8, 9)]
    values = [column.removeprefix("motionControllerState") for column in columns]
    text = f"time,{','.join(columns)},powerState\n{NIGHT_NS},{','.join(values)},1\n"
    write(tmp_path, "lsst.sal.MTMount.logevent_azimuthSystemState_1.csv", text)

    (record,) = records_of(only(tmp_path))

    assert record["motionControllerState"] == list(range(16))
    assert record["powerState"] == 1


def test_an_array_may_have_another_length_than_sal_has_today(tmp_path: Path) -> None:
    write(
        tmp_path,
        "lsst.sal.MTM1M3.hardpointActuatorData_1.csv",
        f"time,measuredForce0,measuredForce1\n{NIGHT_NS},0.7746583819389343,-1.5\n",
    )

    series = only(tmp_path)

    field = series.topic.field("measuredForce")
    assert field is not None
    assert (field.sal_type, field.count, field.units) == ("float", 2, "N")
    assert records_of(series)[0]["measuredForce"] == [float(np.float32(0.7746583819389343)), -1.5]


def test_missing_private_fields_are_made_so_that_the_time_comes_back(tmp_path: Path) -> None:
    times_ns = [NIGHT_NS, NIGHT_NS + 1_000, NIGHT_NS + 2_000]
    write(
        tmp_path,
        "lsst.sal.MTMount.azimuth_1.csv.gz",
        "time,actualPosition\n" + "".join(f"{at},{n}.25\n" for n, at in enumerate(times_ns)),
    )

    records = records_of(only(tmp_path))

    stamps = np.array([record["private_efdStamp"] for record in records])
    assert event_time_us(stamps).tolist() == [at // 1000 for at in times_ns]
    assert [record["private_sndStamp"] - record["private_efdStamp"] for record in records] == [37.0] * 3
    assert [record["private_seqNum"] for record in records] == [1, 2, 3]
    assert {record["private_rcvStamp"] for record in records} == {0.0}
    assert {record["private_identity"] for record in records} == {"MTMount"}


def test_private_fields_of_the_recording_are_kept(tmp_path: Path) -> None:
    write(
        tmp_path,
        "lsst.sal.MTMount.logevent_azimuthInPosition_1.csv",
        "time,inPosition,private_efdStamp,private_identity,private_kafkaStamp,private_origin,private_rcvStamp,"
        "private_revCode,private_seqNum,private_sndStamp\n"
        "1690578851736210000,True,1690578851.7362103,someone,1690578888.7368073,121572,1690578888.7365484,"
        "00000123,3882,1690578888.7362103\n",
    )

    (record,) = records_of(only(tmp_path))

    assert record == {
        "private_sndStamp": 1690578888.7362103,
        "private_rcvStamp": 1690578888.7365484,
        "private_efdStamp": 1690578851.7362103,
        "private_kafkaStamp": 1690578888.7368073,
        "private_seqNum": 3882,
        "private_revCode": "00000123",
        "private_identity": "someone",
        "private_origin": 121572,
        "inPosition": True,
    }


def test_each_writer_counts_for_itself_over_all_files(tmp_path: Path) -> None:
    later = f"time,salIndex,sensorName\n{NIGHT_NS + 5_000},1,a\n"
    earlier = f"time,salIndex,sensorName\n{NIGHT_NS},1,a\n{NIGHT_NS + 1_000},301,b\n{NIGHT_NS + 2_000},1,a\n"
    write(tmp_path, "lsst.sal.ESS.temperature_a.csv", later)
    write(tmp_path, "lsst.sal.ESS.temperature_b.csv", earlier)

    records = [record for series in recorded_series(tmp_path) for record in records_of(series)]

    assert [(record["salIndex"], record["private_seqNum"]) for record in records] == [
        (1, 1),
        (301, 1),
        (1, 2),
        (1, 3),
    ]
    assert [record["private_identity"] for record in records] == ["ESS:1", "ESS:301", "ESS:1", "ESS:1"]


def test_an_empty_cell_is_nan_empty_text_or_null_by_its_type(tmp_path: Path) -> None:
    write(
        tmp_path,
        "lsst.sal.Test.scalars_1.csv",
        "time,salIndex,double0,float0,string0,int0,boolean0,longLong0\n"
        f"{NIGHT_NS},1,,,,,,\n"
        f"{NIGHT_NS + 1000},1,1.5,2.5,x,3,False,4\n",
    )

    empty, full = records_of(only(tmp_path))

    assert math.isnan(empty["double0"])
    assert math.isnan(empty["float0"])
    assert [empty[name] for name in ("string0", "int0", "boolean0", "longLong0")] == ["", None, None, None]
    assert [full[name] for name in ("double0", "float0", "string0", "int0", "boolean0", "longLong0")] == [
        1.5,
        2.5,
        "x",
        3,
        False,
        4,
    ]


def test_integers_of_which_some_are_missing_stay_apart_from_those_that_are_there(tmp_path: Path) -> None:
    write(
        tmp_path,
        "lsst.sal.MTM1M3.hardpointActuatorData_1.csv",
        f"time,encoder0,encoder1\n{NIGHT_NS},7,\n{NIGHT_NS + 1000},8,9\n",
    )

    records = records_of(only(tmp_path))

    assert [(record["encoder0"], record["encoder1"]) for record in records] == [(7, None), (8, 9)]


def test_what_sal_does_not_know_is_inferred(tmp_path: Path) -> None:
    write(
        tmp_path,
        "lsst.sal.Gone.telemetry_1.csv",
        "time,count,value,flag,text,big,nothing\n"
        f'{NIGHT_NS},1,1,True,"a, b",9000000000,\n{NIGHT_NS + 1000},2,0.5,False,007x,1,\n',
    )

    series = only(tmp_path)

    types = {field.name: field.sal_type for field in series.topic.public_fields}
    assert types == {
        "count": "long long",
        "value": "double",
        "flag": "boolean",
        "text": "string",
        "big": "long long",
        "nothing": "string",
    }
    assert records_of(series)[0]["text"] == "a, b"


def test_a_value_that_sals_type_cannot_hold_widens_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        "lsst.sal.Test.scalars_1.csv",
        f"time,salIndex,int0,short0\n{NIGHT_NS},1,9000000000,1.5\n",
    )

    (record,) = records_of(only(tmp_path))

    assert (record["int0"], record["short0"]) == (9000000000, 1.5)


def test_camera_values_keep_their_unions(tmp_path: Path) -> None:
    write(
        tmp_path,
        "lsst.sal.MTCamera.thermal_trim_1.csv",
        "time,timestamp,V,V_state,Source,Agent\n"
        f"{NIGHT_NS},1690587374165,,NOMINAL,ColdHtr0,thermal\n{NIGHT_NS + 1000},1690587374166,2.5,NOMINAL,b,c\n",
    )

    first, second = records_of(only(tmp_path))

    assert (first["timestamp"], first["V"], first["Source"]) == (1690587374165, None, "ColdHtr0")
    assert second["V"] == 2.5
    assert list(first)[-1] == "private_origin"


def test_other_namespaces_get_no_private_fields_and_their_time_is_kafkas(tmp_path: Path) -> None:
    write(tmp_path, "lsst.dm.metric_1.csv", f"time,value\n{NIGHT_NS},1.5\n")

    series = only(tmp_path)

    assert records_of(series) == [{"value": 1.5}]
    stamps = series.kafka_timestamps_ms()
    assert stamps is not None
    assert stamps.tolist() == [NIGHT_NS // 1_000_000]


def test_the_recorded_night_comes_back_bit_for_bit(shared: Path) -> None:
    recorded = {series.topic.name: series for series in recorded_series(shared / "recorded")}
    rows = 0
    for path in sorted((shared / "recorded").glob("*.csv.gz")):
        with gzip.open(path, "rt", newline="") as stream:
            expected = sorted(csv.DictReader(stream), key=lambda row: int(row["time"]))
        series = recorded[topic_of(path, builtin_topics())]
        for text, record in zip(expected, records_of(series), strict=True):
            flat = flattened(record)
            stamp = np.array([record["private_efdStamp"]])
            assert event_time_us(stamp)[0] == int(text.pop("time")) // 1000
            assert {name: type(flat[name])(_read(text[name])) for name in text} == {name: flat[name] for name in text}
        rows += len(expected)
    assert rows == 10_304


def _read(text: str) -> object:
    return {"True": True, "False": False}.get(text, text)


def flattened(record: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, list):
            flat.update({f"{name}{number}": item for number, item in enumerate(value)})
        else:
            flat[name] = value
    return flat


@pytest.mark.parametrize(
    "text",
    ["a,b\n1,2\n", "time,x\nyesterday,2\n", "time,x,x\n1,2,3\n", "time,x\n1,2,3\n", ""],
)
def test_a_file_that_is_no_recording_is_named(tmp_path: Path, text: str) -> None:
    write(tmp_path, "lsst.sal.Test.scalars_1.csv", text)

    with pytest.raises(BadRecording, match="scalars_1"):
        recorded_series(tmp_path)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "lsst.sal.Test.scalars_1.csv.gz").write_bytes(gzip.compress(b"time,x\n1,2\n" * 99)[:-9])

    with pytest.raises(BadRecording, match="scalars_1"):
        recorded_series(tmp_path)


def test_a_directory_without_recordings_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no recordings"):
        recorded_series(tmp_path)


def test_a_file_named_for_no_topic_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "odd name!_1.csv", "time,x\n1,2\n")

    with pytest.raises(NameRejected):
        recorded_series(tmp_path)


def test_shifting_moves_all_stamps_and_keeps_all_distances(shared: Path) -> None:
    before = recorded_series(shared / "recorded")
    when = datetime(2026, 11, 15, 23, 59, 50, tzinfo=UTC)

    after = shifted(before, microseconds(when))

    delta_us = microseconds(when) - min(int(one.times_us[0]) for one in before)
    for old, new in zip(before, after, strict=True):
        assert (new.times_us - old.times_us == delta_us).all()
        stamps = np.asarray(new.columns["private_efdStamp"])
        assert (event_time_us(stamps) == new.times_us).all()
        assert (np.asarray(new.columns["private_sndStamp"]) - stamps == 37.0).all()
        late_before = np.asarray(old.columns["private_kafkaStamp"]) - np.asarray(old.columns["private_sndStamp"])
        late_after = np.asarray(new.columns["private_kafkaStamp"]) - np.asarray(new.columns["private_sndStamp"])
        np.testing.assert_allclose(late_after, late_before, atol=1e-6)
        if "timestamp" in old.columns:
            moved = np.asarray(new.columns["timestamp"]) - np.asarray(old.columns["timestamp"])
            np.testing.assert_allclose(moved, delta_us / 1e6, atol=1e-6)
        for name in ("actualPosition", "measuredForce", "state"):
            if name in old.columns:
                assert new.columns[name] is old.columns[name]


def test_all_topics_come_in_order_of_time_whatever_the_windows(shared: Path) -> None:
    series = recorded_series(shared / "recorded")

    whole = [int(series[which].times_us[row]) for which, row in in_order(series)]
    cut = [int(window[which].times_us[row]) for window in windows(series, 700) for which, row in in_order(window)]

    assert whole == sorted(whole)
    assert cut == whole
    assert all(sum(map(len, window)) < 1500 for window in windows(series, 700))
