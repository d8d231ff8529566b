"""The client's calls give what lsst-efd-client gives against a real InfluxDB with the same records.

By default lsst-efd-client's own questions in InfluxQL (efd-facts §3) are asked here; with EFD_TEST_SCALE=1 that client
itself asks them, from an environment of its own. Differences are listed in docs/client.md, each with its reason; those
that show here: types are the declared ones (InfluxDB has float64 and int64 only), a row of which all chosen fields are
NaN is there (InfluxDB has no NaN, and then no row), and an answer without rows has its columns.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from astropy.time import Time, TimeDelta

from efd_pipelines.client import EfdArchive
from efd_pipelines.servers import cache
from efd_pipelines.servers.influxdb import InfluxServer
from efd_pipelines.settings import load_settings
from efd_pipelines_tests.integration.efd_client_battery import as_argument
from efd_pipelines_tests.integration.influx_points import write_points
from efd_pipelines_tests.unit.exports.builders import MONDAY, PRIVATE, ArchiveBuilder, column, messages, seconds

ESS = "lsst.sal.ESS.temperature"
PACKED = "lsst.sal.ATMCS.mount_AzEl_Encoders"
EVENT = "lsst.sal.MTMount.logevent_summaryState"
LENGTH = 10
SCALE = os.environ.get("EFD_TEST_SCALE") == "1"


def temperatures() -> pa.Table:
    """Two devices, one after the other in time; a NaN now and then; texts, one with a quote."""
    columns = [
        column("salIndex", pa.int32()),
        *PRIVATE,
        *(column(f"temperatureItem{n}", pa.float32(), "deg_C", field="temperatureItem", element=n) for n in range(12)),
        column("sensorName", pa.string()),
    ]
    rows = messages(seconds(0, 300, 0.5), columns=columns, sal_index=[1 + n % 2 for n in range(600)])
    random = np.random.default_rng(7)
    for n in range(12):
        values = random.normal(10, 5, 600).astype(np.float32)
        values[random.random(600) < 0.05] = np.nan
        place = rows.column_names.index(f"temperatureItem{n}")
        rows = rows.set_column(place, rows.schema.field(place), [values])
    place = rows.column_names.index("sensorName")
    return rows.set_column(place, rows.schema.field(place), [['a "quoted" name'] * 300 + ["ä, b=c"] * 300])


def packed() -> pa.Table:
    """A record a second, ten elements in each, with the instant of the first in TAI."""
    columns = [
        *PRIVATE,
        column("cRIO_timestamp", pa.float64(), "second"),
        *(column(f"angle{n}", pa.float64(), "deg", field="angle", element=n) for n in range(LENGTH)),
        *(column(f"speed{n}", pa.float64(), "deg/s", field="speed", element=n) for n in range(LENGTH)),
    ]
    times = seconds(0.5, 120.5)
    rows = messages(times, columns=columns)
    starts = times / 1e6 + 37 - 0.25
    values = {"cRIO_timestamp": starts}
    for n in range(LENGTH):
        values |= {f"angle{n}": np.sin(starts + n / LENGTH), f"speed{n}": np.cos(starts + n / LENGTH)}
    for name, of in values.items():
        place = rows.column_names.index(name)
        rows = rows.set_column(place, rows.schema.field(place), [of])
    return rows


def events() -> pa.Table:
    columns = [*PRIVATE, column("summaryState", pa.int32()), column("isLocal", pa.bool_())]
    rows = messages(seconds(0, 5 * 86400, 3600 * 7 + 0.123456), columns=columns[:-1])
    return rows.add_column(5, columns[-1], [[n % 3 == 0 for n in range(rows.num_rows)]])


@pytest.fixture
def database(influx: InfluxServer, unique: str) -> str:
    for topic, rows in ((ESS, temperatures()), (PACKED, packed()), (EVENT, events())):
        write_points(influx, unique, topic, rows)
    return unique


@pytest.fixture
def ours(tmp_path: Path) -> EfdArchive:
    builder = ArchiveBuilder(str(tmp_path / "archive"))
    for topic, rows in ((ESS, temperatures()), (PACKED, packed()), (EVENT, events())):
        half = rows.num_rows // 2  # in two commits
        builder.add(topic, rows.slice(half))
        builder.add(topic, rows.slice(0, half))
    return EfdArchive(settings=builder.archive.settings)


def time(after_s: float, scale: str = "utc") -> dict[str, str]:
    moment = Time((MONDAY + timedelta(seconds=after_s)).replace(tzinfo=None), scale="utc")
    return {"time": getattr(moment, scale).isot, "scale": scale}


def call(name: str, method: str, **args: Any) -> dict[str, Any]:
    return {"name": name, "method": method, "args": args}


def series(name: str, topic: str, fields: Any, start: Any, end: Any, **args: Any) -> dict[str, Any]:
    return call(name, "select_time_series", topic_name=topic, fields=fields, start=start, end=end, **args)


CALLS = [
    call("topics", "get_topics"),
    call("fields", "get_fields", topic_name=ESS),
    call("fields of a packed topic", "get_fields", topic_name=PACKED),
    series("one field", ESS, "temperatureItem3", time(10), time(20)),
    series("some fields", ESS, ["temperatureItem3", "salIndex", "sensorName"], time(140.25), time(170)),
    series("all fields", ESS, "*", time(0), time(60)),
    series("all fields of an event", EVENT, "*", time(0), time(6 * 86400)),
    series("both ends belong to it", EVENT, "summaryState", time(0), time(0.001)),
    series("one device", ESS, ["temperatureItem0", "private_seqNum"], time(0), time(30), index=2),
    series("device 0 is all", ESS, "temperatureItem0", time(0), time(30), index=0),
    series("a duration", ESS, "temperatureItem0", time(5), {"seconds": 12.5}),
    series("a window", ESS, "temperatureItem0", time(50), {"seconds": 20}, is_window=True),
    series("times in TAI", ESS, "temperatureItem0", time(10, "tai"), time(20, "tai")),
    series("index in TAI", ESS, "temperatureItem0", time(10), time(20), convert_influx_index=True),
    series("after all rows", ESS, "temperatureItem0", time(5000), time(6000)),
    call("the last rows", "select_top_n", topic_name=ESS, fields=["salIndex", "sensorName"], num=5),
    call("the last before", "select_top_n", topic_name=ESS, fields="salIndex", num=5, time_cut=time(100)),
    call("the last of one device", "select_top_n", topic_name=ESS, fields="private_seqNum", num=4, index=1),
    call("the last event", "select_top_n", topic_name=EVENT, fields=["summaryState", "isLocal"], num=1),
    call(
        "packed",
        "select_packed_time_series",
        topic_name=PACKED,
        base_fields=["angle", "speed"],
        start=time(10),
        end=time(40),
    ),
    call(
        "one packed field",
        "select_packed_time_series",
        topic_name=PACKED,
        base_fields="angle",
        start=time(0),
        end=time(99),
    ),
]


class InfluxQL:
    """lsst-efd-client's questions and what it makes of the answers, without lsst-efd-client."""

    def __init__(self, url: str, database: str) -> None:
        self._url = url
        self._database = database

    def answer(self, call: dict[str, Any]) -> Any:
        arguments = {name: as_argument(value) for name, value in call["args"].items()}
        return getattr(self, call["method"])(**arguments)

    def get_topics(self) -> list[str]:
        return [row[0] for row in self._rows("SHOW MEASUREMENTS")[1]]

    def get_fields(self, topic_name: str) -> list[str]:
        return [row[0] for row in self._rows(f"SHOW FIELD KEYS FROM {self._from(topic_name)}")[1]]

    def select_time_series(
        self,
        topic_name: str,
        fields: Any,
        start: Time,
        end: Any,
        is_window: bool = False,
        index: int = 0,
        convert_influx_index: bool = False,
    ) -> pd.DataFrame:
        begin = start.tai if convert_influx_index else start.utc
        if isinstance(end, TimeDelta):
            first, last = (begin - end / 2, begin + end / 2) if is_window else (begin, begin + end)
        else:
            first, last = begin, end.tai if convert_influx_index else end.utc
        where = f"time >= '{first.isot}Z' AND time <= '{last.isot}Z'"
        where += f" AND salIndex = {index}" if index else ""
        frame = self._frame(f"SELECT {_listed(fields)} FROM {self._from(topic_name)} WHERE {where}")
        if convert_influx_index and len(frame):
            index_tai: Any = frame.index
            utc = Time(index_tai.tz_localize(None).to_numpy(), scale="tai").utc
            frame.index = pd.DatetimeIndex(utc.to_value("datetime64")).tz_localize("UTC")
        return frame

    def select_top_n(
        self, topic_name: str, fields: Any, num: int, time_cut: Time | None = None, index: int = 0
    ) -> pd.DataFrame:
        conditions = [f"time < '{time_cut.isot}Z'"] if time_cut else []
        conditions += [f"salIndex = {index}"] if index else []
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        end = f"GROUP BY * ORDER BY DESC LIMIT {num}"
        return self._frame(f"SELECT {_listed(fields)} FROM {self._from(topic_name)}{where} {end}")

    def select_packed_time_series(self, topic_name: str, base_fields: Any, start: Time, end: Time) -> pd.DataFrame:
        """Elements evenly from each record's own instant, by the time between the first two records."""
        bases = [base_fields] if isinstance(base_fields, str) else base_fields
        names = [f"{base}{n}" for base in bases for n in range(LENGTH)]
        rows = self.select_time_series(topic_name, [*names, "cRIO_timestamp"], start, end)
        instants = rows["cRIO_timestamp"].to_numpy()
        step = (instants[1] - instants[0]) / LENGTH
        times = (instants[:, None] + np.arange(LENGTH) * step).ravel()
        columns = {base: rows[[f"{base}{n}" for n in range(LENGTH)]].to_numpy().ravel() for base in bases}
        utc = Time(times, format="unix_tai", scale="tai").utc.to_value("datetime64")
        return pd.DataFrame({**columns, "times": times}, index=pd.DatetimeIndex(utc).tz_localize("UTC"))

    def _from(self, topic: str) -> str:
        return f'"{self._database}"."autogen"."{topic}"'

    def _rows(self, query: str) -> tuple[list[str], list[list[Any]]]:
        answer = httpx.get(f"{self._url}/query", params={"db": self._database, "q": query}, timeout=60)
        answer.raise_for_status()
        results = answer.json()["results"][0].get("series")
        return (results[0]["columns"], results[0]["values"]) if results else ([], [])

    def _frame(self, query: str) -> pd.DataFrame:
        names, rows = self._rows(query)
        if not rows:
            return pd.DataFrame()
        frame = pd.DataFrame(rows, columns=names)
        return frame.set_index(pd.to_datetime(frame["time"], utc=True, format="ISO8601")).drop(columns="time")


def _listed(fields: Any) -> str:
    return fields if isinstance(fields, str) else ", ".join(fields)


def as_answer(found: Any) -> Any:
    """A frame as the battery writes it."""
    if not isinstance(found, pd.DataFrame):
        return found
    index: Any = found.index
    columns = {name: [_plain(value) for value in found[name].tolist()] for name in found}
    return {"index": index.as_unit("ns").astype(np.int64).tolist() if len(found) else [], "columns": columns}


def _plain(value: Any) -> Any:
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else value


def same(name: str, ours: Any, theirs: Any) -> None:
    """Frame by frame, but for the differences that are listed above."""
    if not isinstance(theirs, dict):
        assert ours == theirs, name
        return
    if not theirs["index"]:
        assert not ours["index"], name
        return
    assert list(ours["columns"]) == list(theirs["columns"]), name
    rows = list(zip(*ours["columns"].values(), strict=True))
    kept = [n for n, row in enumerate(rows) if any(value is not None for value in row)]
    np.testing.assert_allclose([ours["index"][n] for n in kept], theirs["index"], rtol=0, atol=1000, err_msg=name)
    for of, values in theirs["columns"].items():
        mine = [ours["columns"][of][n] for n in kept]
        if of == "times":
            np.testing.assert_allclose(mine, values, rtol=0, atol=1e-6, err_msg=name)
        else:
            assert mine == values, f"{name}: {of}"


def our_answer(archive: EfdArchive, call: dict[str, Any]) -> Any:
    arguments = {name: as_argument(value) for name, value in call["args"].items()}
    return as_answer(getattr(archive, call["method"])(**arguments))


def test_calls_give_what_influxdb_gives_to_lsst_efd_clients_questions(
    ours: EfdArchive, influx: InfluxServer, database: str
) -> None:
    reference = InfluxQL(influx.url, database)
    for one in CALLS:
        same(one["name"], our_answer(ours, one), as_answer(reference.answer(one)))


@pytest.mark.skipif(not SCALE, reason="EFD_TEST_SCALE=1 installs lsst-efd-client in an environment of its own")
@pytest.mark.timeout(600)
def test_calls_give_what_lsst_efd_client_gives(ours: EfdArchive, influx: InfluxServer, database: str) -> None:
    place = cache.installed("lsst-efd-client", f"0.13.1-{cache.platform()}", _install)
    battery = Path(__file__).with_name("efd_client_battery.py")
    answered = subprocess.run(
        [place / "venv" / "bin" / "python", battery, str(influx.port("clients")), database],
        input=json.dumps(CALLS),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    for one, theirs in zip(CALLS, json.loads(answered.stdout), strict=True):
        same(one["name"], our_answer(ours, one), theirs)


def _install(into: Path) -> None:
    """lsst-efd-client with what it was released with: numpy 1.23, which nothing else here can use."""
    uv = str(Path(sys.executable).with_name("uv"))
    environment = into / "venv"
    subprocess.run([uv, "venv", "--quiet", "--python", "3.11", "--relocatable", environment], check=True)
    subprocess.run(
        [
            uv,
            "pip",
            "install",
            "--quiet",
            "--python",
            environment / "bin" / "python",
            "lsst-efd-client==0.13.1",
            "requests",
        ],
        check=True,
    )


def test_what_the_archive_lacks_comes_from_another_sites_influxdb(
    tmp_path: Path, influx: InfluxServer, database: str
) -> None:
    """An archive that ends with a week: the next is the other server's, and the answer says so."""
    builder = ArchiveBuilder(str(tmp_path / "archive"))
    rows = temperatures()
    week_before = pa.array(rows["time"].cast(pa.int64()).to_numpy() - 7 * 86_400_000_000).cast(rows["time"].type)
    builder.add(ESS, rows.set_column(0, "time", week_before))
    environ = {"EFD_HISTORY_INFLUX_URL": influx.url, "EFD_HISTORY_DATABASE": database}
    archive = EfdArchive(settings=load_settings(environ, None, archive=builder.root))

    start = MONDAY - timedelta(days=7)
    found = archive.select(ESS, ["temperatureItem3", "sensorName"], start, start + timedelta(days=8))
    whole = found.to_arrow()
    assert [one.name for one in found.provenance().sources] == ["archive", f"influx:{database}"]
    assert whole.num_rows == 1200
    ours, theirs = whole.slice(0, 600), whole.slice(600)
    assert theirs.schema.types == ours.schema.types
    assert theirs["sensorName"].to_pylist() == ours["sensorName"].to_pylist() == rows["sensorName"].to_pylist()
    without_nan = [None if math.isnan(value) else value for value in rows["temperatureItem3"].to_pylist()]
    assert theirs["temperatureItem3"].to_pylist() == without_nan
    one_device = archive.select(ESS, "temperatureItem3", MONDAY, timedelta(days=1), index=2)
    assert one_device.to_arrow().num_rows == 300
    assert one_device.latest(3)["time"].to_pylist() == rows["time"].to_pylist()[-5::2]

    packed_rows = archive.select_time_series(PACKED, "angle3", MONDAY, timedelta(seconds=60))
    assert len(packed_rows) == 60
    assert packed_rows.attrs["efd"]["sources"][0]["name"] == f"influx:{database}"
