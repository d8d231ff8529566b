"""Publishing to a real InfluxDB 1.8: what is there is what the archive says, whatever happened on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.publishing.publish import PublishResult, publish
from efd_pipelines.publishing.server import Destination, Influx
from efd_pipelines.servers.influxdb import InfluxServer
from efd_pipelines.tiers.build import build_tier
from efd_pipelines.tiers.tier import TIERS
from efd_pipelines_tests.unit.publishing.builders import (
    EVENT,
    FAST,
    MONDAY_US,
    SECOND_US,
    SLOW,
    archive_rows,
    fast_rows,
    rows,
    site,
)

Point = dict[str, Any]


@pytest.fixture
def archive(tmp_path: Path, influx: InfluxServer, unique: str) -> Archive:
    return site(tmp_path, influx.url, unique)


@pytest.fixture
def server(archive: Archive) -> Iterator[Influx]:
    with Influx(archive.settings) as found:
        yield found


def points_of(server: Influx, destination: Destination, measurement: str) -> dict[tuple[str, int], Point]:
    """All points of a measurement, by salIndex and nanoseconds, without the fields that they do not have."""
    found = {}
    for series in server.query(f'SELECT * FROM "{measurement}" GROUP BY "salIndex"', destination):
        for values in series["values"]:
            point = dict(zip(series["columns"], values, strict=True))
            time = point.pop("time")
            found[series["tags"]["salIndex"], time] = {k: v for k, v in point.items() if v is not None}
    return found


def expected_of(table: pa.Table) -> dict[tuple[str, int], Point]:
    """The points that a tier's rows should be."""
    dropped = [name for name in table.column_names if name == "window_size" or name.startswith("first_private_")]
    found = {}
    for row in table.drop_columns(dropped).to_pylist():
        time = row.pop("time")
        index = row.pop("salIndex")
        stamp = round(time.timestamp() * 1e6) * 1000
        found[str(index), stamp] = {k: v for k, v in row.items() if v is not None and v == v}
    return found


def run(archive: Archive, server: Influx, name: str, **options: Any) -> PublishResult:
    return publish(archive, server, name, run="test", **options)


def database(unique: str, kind: str = "") -> Destination:
    return Destination(f"{unique}{kind}_m1m3_2023")


def test_a_tier_is_published_and_reads_back_equal(archive: Archive, server: Influx, unique: str) -> None:
    archive_rows(archive, FAST, fast_rows(MONDAY_US, 4000))
    for tier, name, kind in (("1s", "influx_1s", ""), ("1m", "influx_1m", "_1m")):
        build_tier(archive, TIERS[tier])
        result = run(archive, server, name)
        expected = expected_of(archive.read(FAST, tier=tier))
        assert points_of(server, database(unique, kind), FAST.text) == expected
        assert (result.points, result.deleted, result.rejected) == (len(expected), 0, 0)
        again = run(archive, server, name)
        assert (again.points, again.unchanged, again.datasets) == (0, 0, 0)


def test_a_late_record_publishes_exactly_its_points(archive: Archive, server: Influx, unique: str) -> None:
    archive_rows(archive, FAST, fast_rows(MONDAY_US, 7300))
    build_tier(archive, TIERS["1s"])
    run(archive, server, "influx_1s")
    archive_rows(archive, FAST, fast_rows(MONDAY_US + 3700 * SECOND_US + 50_000, 0.2, seed=9, first_offset=10**6))
    build_tier(archive, TIERS["1s"])
    result = run(archive, server, "influx_1s")
    assert result.points == 2  # one window of each of two devices
    assert result.slices == 1
    assert points_of(server, database(unique), FAST.text) == expected_of(archive.read(FAST, tier="1s"))


def test_slow_telemetry_is_published_as_it_was_sent(archive: Archive, server: Influx, unique: str) -> None:
    times = MONDAY_US + np.arange(50) * SECOND_US + 123_456
    table = rows(times, {"temperature": pa.array(np.arange(50) / 7, pa.float32())}, sal_index=[101] * 50)
    archive_rows(archive, SLOW, table)
    assert run(archive, server, "influx_1s").points == 50
    found = points_of(server, Destination(f"{unique}_environment_2023"), SLOW.text)
    assert sorted(stamp for _, stamp in found) == (times * 1000).tolist()
    values = [found["101", int(time) * 1000]["temperature"] for time in times]
    assert values == [float(np.float32(n / 7)) for n in range(50)]


def test_events_of_one_microsecond_are_points_of_their_own(archive: Archive, server: Influx, unique: str) -> None:
    times = [MONDAY_US, MONDAY_US, MONDAY_US, MONDAY_US + 1]
    table = rows(times, {"text": ["a", "b", "other device", "d"]}, sal_index=[1, 1, 2, 1])
    archive_rows(archive, EVENT, pa.concat_tables([table, table.slice(0, 1)]))  # the first was delivered twice
    assert run(archive, server, "influx_events").points == 4
    found = points_of(server, database(unique, "_events"), EVENT.text)
    assert {key: point["text"] for key, point in found.items()} == {
        ("1", MONDAY_US * 1000): "a",
        ("1", MONDAY_US * 1000 + 1): "b",
        ("2", MONDAY_US * 1000): "other device",
        ("1", MONDAY_US * 1000 + 1000): "d",
    }
