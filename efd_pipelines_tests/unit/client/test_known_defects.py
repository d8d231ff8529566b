"""The known defects of lsst-efd-client (efd-facts §3), each by its name, and that they are not here."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from astropy.time import Time

from efd_pipelines.client import EfdArchive, merge_packed_time_series, resample
from efd_pipelines.errors import UsageError
from efd_pipelines_tests.unit.exports.builders import (
    MONDAY,
    PRIVATE,
    START_US,
    TEMPERATURE,
    ArchiveBuilder,
    at,
    column,
    messages,
    seconds,
)

PACKED = "lsst.sal.ATMCS.mount_AzEl_Encoders"


def test_select_top_n_ignores_time_cut(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 100)))
    found = archive.select_top_n(TEMPERATURE, "private_seqNum", 3, time_cut=Time(at(50).replace(tzinfo=None)))
    assert found["private_seqNum"].tolist() == [49, 48, 47]


def test_select_top_n_ignores_index(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 100), sal_index=[1 + n % 2 for n in range(100)]))
    found = archive.select_top_n(TEMPERATURE, ["salIndex", "private_seqNum"], 3, index=1)
    assert found["salIndex"].tolist() == [1, 1, 1]
    assert found["private_seqNum"].tolist() == [98, 96, 94]


def test_select_top_n_ignores_convert_influx_index(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 100)))
    found = archive.select_top_n(TEMPERATURE, "private_seqNum", 1, convert_influx_index=True)
    assert found.index[0] == pd.Timestamp(at(99)) - pd.Timedelta(seconds=37)


def test_resample_ignores_interp_type() -> None:
    """Uneven steps: by time 2.0, by number of steps 10.0."""
    times = pd.to_datetime(["2026-11-16T00:00:00", "2026-11-16T00:00:10"], utc=True)
    one = pd.DataFrame({"a": [0.0, 20.0]}, index=times)
    other = pd.DataFrame({"b": [5.0], "name": ["x"]}, index=pd.to_datetime(["2026-11-16T00:00:01"], utc=True))
    found = resample(one, other)
    assert found["a"].tolist() == [0.0, 2.0, 20.0]
    assert resample(one, other, "nearest")["a"].tolist() == [0.0, 0.0, 20.0]
    assert found["name"].isna().tolist() == [True, False, True]


def test_packed_time_steps_come_from_the_first_two_rows_alone() -> None:
    """After a gap and with jitter each record's elements are spread over its own time."""
    starts = np.array([100.0, 105.0, 106.0, 107.02, 108.0])  # a gap between the first two
    frame = pd.DataFrame({"cRIO_timestamp": starts, "v0": 0.0, "v1": 1.0})
    found = merge_packed_time_series(frame, "v")
    assert found["times"].tolist() == pytest.approx(
        [100, 100.5, 105, 105.5, 106, 106.51, 107.02, 107.51, 108, 108.5], abs=0.02
    )
    assert found["times"].is_monotonic_increasing


def test_packed_time_steps_of_several_devices_are_mixed() -> None:
    """Records of two devices in turn: each is a second long, whatever comes between."""
    starts = np.array([100.0, 100.1, 101.0, 101.1, 102.0, 102.1])
    frame = pd.DataFrame({"cRIO_timestamp": starts, "salIndex": [1, 2] * 3, "v0": 0.0, "v1": 1.0})
    found = merge_packed_time_series(frame, "v")
    assert (found["times"].to_numpy()[1::2] - found["times"].to_numpy()[::2]).tolist() == pytest.approx([0.5] * 6)


def test_one_packed_row_has_a_time_step_of_zero(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    """The declared rate says how long a record is; on frames alone nobody knows, which is said."""
    columns = [
        *PRIVATE,
        column("cRIO_timestamp", pa.float64(), "second"),
        *(column(f"angle{n}", pa.float64(), "deg", field="angle", element=n) for n in range(4)),
    ]
    times = seconds(10, 11)
    rows = messages(times, columns=columns)
    rows = rows.set_column(rows.column_names.index("cRIO_timestamp"), "cRIO_timestamp", [times / 1e6 + 37])
    builder.add(PACKED, rows)
    found = archive.select_packed_time_series(PACKED, "angle", MONDAY, at(20))
    index: Any = found.index
    offsets = (index - pd.Timestamp(at(10))).total_seconds()
    assert offsets.tolist() == pytest.approx([0, 0.25, 0.5, 0.75], abs=1e-6)  # 1 Hz is declared
    assert found.attrs["units"] == {"angle": "deg"}
    frame = pd.DataFrame({"cRIO_timestamp": [100.0], "v0": 0.0, "v1": 1.0})
    with pytest.raises(UsageError, match="how far its elements are apart"):
        merge_packed_time_series(frame, "v")


def test_get_schema_raises_on_malformed_units(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    odd = [*PRIVATE, column("a", pa.float64(), "furlong per fortnight!"), column("b", pa.float64(), "m/s")]
    builder.add("lsst.sal.Test.odd", messages(seconds(0, 5), columns=odd))
    found = archive.get_schema("lsst.sal.Test.odd").set_index("name")
    assert found.loc["a", "units"] == "furlong per fortnight!"
    assert found.loc["a", "aunits"] is None
    assert str(found.loc["b", "aunits"]) == "m / s"


def test_edges_are_cut_to_milliseconds(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    """A start 0.4 ms after a row leaves it out, an end 0.4 ms after one takes it in."""
    builder.add(TEMPERATURE, messages(START_US + np.array([100, 1_000_100, 2_000_100])))
    start, end = at(0.0005), at(1.0005)
    assert archive.select_time_series(TEMPERATURE, "private_seqNum", start, end)["private_seqNum"].tolist() == [1]
    exact = archive.select_time_series(TEMPERATURE, "private_seqNum", at(0.0001), at(2.0001))
    assert exact["private_seqNum"].tolist() == [0, 1, 2]


def test_fields_are_not_quoted(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    odd = [*PRIVATE, column("time-stamp of", pa.float64()), column("select", pa.int32())]
    builder.add("lsst.sal.Test.odd", messages(seconds(0, 5), columns=odd))
    found = archive.select_time_series("lsst.sal.Test.odd", ["time-stamp of", "select"], MONDAY, at(10))
    assert list(found) == ["time-stamp of", "select"]
    assert len(found) == 5


def test_one_question_for_a_whole_night_times_out(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    """It comes in batches, and a form that would not fit is refused with its size."""
    builder.add(TEMPERATURE, messages(seconds(0, 2 * 86400, 60)))
    found = archive.select(TEMPERATURE, "*", MONDAY, timedelta(days=2))
    assert len(list(found.batches())) >= 2
    with pytest.raises(UsageError, match="more than the limit"):
        found.to_pandas(limit="10 KiB")
