"""Writing lines to a real InfluxDB 1.8: what is written is there, what is not is said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from efd_pipelines.publishing import administration
from efd_pipelines.publishing.influx import LineWriter
from efd_pipelines.publishing.lines import serialise
from efd_pipelines.publishing.server import Destination, DestinationMissing, Influx, column, quoted
from efd_pipelines.servers.influxdb import InfluxServer
from efd_pipelines.settings import load_settings
from efd_pipelines.topics.layout import TIME

NOON_US = 1_700_481_600_000_000


@pytest.fixture
def server(influx: InfluxServer) -> Iterator[Influx]:
    with Influx(load_settings({"EFD_INFLUX_URL": influx.url}, None)) as found:
        yield found


@pytest.fixture
def destination(server: Influx, unique: str) -> Destination:
    found = Destination(unique, "tier_1s")
    assert administration.ensure(server, found, None)
    return found


def rows(count: int, **columns: object) -> pa.Table:
    times = pa.array(NOON_US + 1_000_000 * np.arange(count)).cast(TIME)
    return pa.table({"time": times, **columns})


def test_points_read_back_equal(server: Influx, destination: Destination) -> None:
    random = np.random.default_rng(3)
    bits = random.integers(0, 2**64, 500, dtype=np.uint64).view(np.float64)
    doubles = np.where(np.isfinite(bits), bits, -0.0)
    strange = ['a "b" \\', "two\nlines", "", "ünïcode ✓", "x,y=z "] * 100
    table = rows(
        500,
        salIndex=pa.array(np.arange(500) % 3, pa.int32()),
        single=random.normal(size=500).astype(np.float32),
        double=doubles,
        integer=random.integers(-(2**63), 2**63 - 1, 500),
        boolean=np.arange(500) % 2 == 0,
        text=strange,
    )
    for compresses in (False, True):
        written = LineWriter(server, compresses=compresses).write(destination, serialise(table, "lsst.sal.X y,z"))
        assert (written.points, written.fields, written.rejected) == (500, 2500, [])
    found = {
        (str(series["tags"]["salIndex"]), time): row
        for series in server.query(f'SELECT * FROM {quoted("lsst.sal.X y,z")} GROUP BY "salIndex"', destination)
        for time, row in zip(column(series, "time"), _records(series), strict=True)
    }
    assert len(found) == 500
    for n, row in enumerate(table.to_pylist()):
        point = found[str(row["salIndex"]), (NOON_US + 1_000_000 * n) * 1000]
        assert point["double"].hex() == doubles[n].hex()
        assert point["single"].hex() == row["single"].hex()
        assert (point["integer"], point["boolean"], point["text"]) == (row["integer"], row["boolean"], row["text"])


def _records(series: object) -> list[dict[str, Any]]:
    assert isinstance(series, dict)
    names = series["columns"]
    return [
        {name: float(value) if name in ("single", "double") else value for name, value in zip(names, row, strict=True)}
        for row in series["values"]
    ]


def test_points_that_conflict_are_named_and_the_others_written(server: Influx, destination: Destination) -> None:
    first = rows(1, x=pa.array([1.5]))
    LineWriter(server).write(destination, serialise(first, "m"))
    table = rows(
        200,
        x=pa.array([n if n % 7 == 3 else None for n in range(200)], pa.int64()),
        y=pa.array(np.arange(200), pa.int64()),
        s=["x=,x=1 trap"] * 200,
    )
    written = LineWriter(server).write(destination, serialise(table, "m"))
    bad = [n for n in range(200) if n % 7 == 3]
    assert sorted(one.row for one in written.rejected) == bad
    assert all("x" in one.reason and "float" in one.reason for one in written.rejected)
    assert written.rejected[0].line.startswith("m x=")
    assert written.points == 200 - len(bad)
    assert _count(server, destination, "y") == 200 - len(bad)


def test_points_beyond_retention_are_not_called_rejected(server: Influx, unique: str) -> None:
    short = Destination(unique, "short")
    administration.ensure(server, short, 1.0)
    written = LineWriter(server).write(short, serialise(rows(5, x=np.arange(5.0)), "m"))
    assert (written.points, written.expired, written.rejected) == (0, 5, [])


def test_a_database_that_is_not_there_is_said(server: Influx, unique: str) -> None:
    with pytest.raises(DestinationMissing, match="not found"):
        LineWriter(server).write(Destination(unique, "rp"), serialise(rows(1, x=[1.0]), "m"))


def test_retention_is_set_changed_and_seen(server: Influx, unique: str) -> None:
    destination = Destination(unique, "tier_1m")
    assert administration.ensure(server, destination, 90.0)
    assert not administration.ensure(server, destination, 90.0)
    assert administration.find(server, destination) == administration.Store(destination, 90.0)
    administration.ensure(server, destination, 365.0)
    assert administration.find(server, destination) == administration.Store(destination, 365.0)
    administration.ensure(server, destination, None)
    assert administration.find(server, destination) == administration.Store(destination, None)
    policies = server.query(f"SHOW RETENTION POLICIES ON {quoted(unique)}")[0]
    assert dict(zip(column(policies, "name"), column(policies, "shardGroupDuration"), strict=True))["tier_1m"] == (
        "168h0m0s"
    )
    administration.drop(server, destination)
    assert administration.find(server, destination) is None


def test_health(server: Influx) -> None:
    found = administration.health(server)
    assert (found.version, found.is_healthy) == ("1.8.10", True)


def _count(server: Influx, destination: Destination, field: str) -> int:
    series = server.query(f'SELECT count("{field}") FROM "m"', destination)
    return int(column(series[0], "count")[0]) if series else 0


def test_line_protocol_of_the_other_api_is_the_same(influx: InfluxServer, unique: str, server: Influx) -> None:
    destination = Destination(unique, "rp")
    administration.ensure(server, destination, None)
    (batch,) = serialise(rows(10, y=np.arange(10)), "m")
    answer = httpx.post(
        f"{influx.url}/api/v2/write",
        params={"bucket": destination.bucket, "precision": "ns"},
        content=bytes(batch.data),
    )
    assert answer.status_code == 204
    assert _count(server, destination, "y") == 10
