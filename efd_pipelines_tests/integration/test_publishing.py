"""Publishing to a real InfluxDB 1.8: what is there is what the archive says, whatever happened on the way."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.tables import commit
from efd_pipelines.cli import main
from efd_pipelines.errors import InfluxUnavailable
from efd_pipelines.publishing import administration, counts
from efd_pipelines.publishing.influx import LineWriter
from efd_pipelines.publishing.lines import serialise
from efd_pipelines.publishing.policy import Publication
from efd_pipelines.publishing.publish import PublishResult, publish
from efd_pipelines.publishing.server import Destination, Influx, InfluxFull, PublishingRefused
from efd_pipelines.servers.influxdb import InfluxServer
from efd_pipelines.settings import load_settings
from efd_pipelines.tiers.build import build_tier
from efd_pipelines.tiers.tier import TIERS
from efd_pipelines_tests.integration.flaky_influx import Answer, flaky
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
    archive_rows(archive, FAST, fast_rows(MONDAY_US + 3300 * SECOND_US, 600))  # of two hours
    for tier, name, kind in (("1s", "influx_1s", ""), ("1m", "influx_1m", "_1m")):
        build_tier(archive, TIERS[tier])
        result = run(archive, server, name)
        expected = expected_of(archive.read(FAST, tier=tier))
        assert points_of(server, database(unique, kind), FAST.text) == expected
        assert (result.points, result.deleted, result.rejected) == (len(expected), 0, 0)
        again = run(archive, server, name)
        assert (again.points, again.unchanged, again.datasets) == (0, 0, 0)


def test_a_late_record_publishes_exactly_its_points(archive: Archive, server: Influx, unique: str) -> None:
    archive_rows(archive, FAST, fast_rows(MONDAY_US + 3500 * SECOND_US, 300))
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


def test_points_that_are_gone_are_deleted_and_no_others(archive: Archive, server: Influx, unique: str) -> None:
    times = [MONDAY_US, MONDAY_US, MONDAY_US + 5]
    first = rows(times, {"text": ["a", "b", "c"], "extra": [1, 2, 3]}, sal_index=[1, 1, 1])
    archive_rows(archive, EVENT, first)
    run(archive, server, "influx_events")
    # An earlier one arrives: all of the microsecond move up by one; and it lacks a field that its place had before.
    late = rows(times[:1], {"text": ["before a"]}, sal_index=[1], first_offset=-5)
    archive_rows(archive, EVENT, late)
    result = run(archive, server, "influx_events")
    assert (result.points, result.unchanged) == (3, 0)  # what is beyond the late record's time was not looked at
    found = points_of(server, database(unique, "_events"), EVENT.text)
    assert [found["1", MONDAY_US * 1000 + n].get("text") for n in range(3)] == ["before a", "a", "b"]
    assert [found["1", MONDAY_US * 1000 + n].get("extra") for n in range(3)] == [None, 1, 2]
    # The commit that brought it is taken back, as healing does with rows that another source has.
    snapshot = archive.snapshot(EVENT)
    of_late = [file for file in snapshot.files() if file.rows == 1]
    commit(
        archive.store,
        snapshot.relative,
        snapshot,
        remove=of_late,
        transactions={},
        schema=snapshot.schema,
        note={"kind": "fill", "run": "test"},
    )
    archive.ledger.catch_up([("raw", EVENT)])
    assert run(archive, server, "influx_events").deleted == 1
    found = points_of(server, database(unique, "_events"), EVENT.text)
    assert {key[1] - MONDAY_US * 1000: (point["text"], point["extra"]) for key, point in found.items()} == {
        0: ("a", 1),
        1: ("b", 2),
        5000: ("c", 3),
    }


def test_a_database_that_was_dropped_is_published_again(archive: Archive, server: Influx, unique: str) -> None:
    archive_rows(archive, FAST, fast_rows(MONDAY_US, 100))
    archive_rows(archive, SLOW, rows([MONDAY_US], {"t": [1.5]}, sal_index=[1]))
    build_tier(archive, TIERS["1s"])
    run(archive, server, "influx_1s")
    before = points_of(server, database(unique), FAST.text)
    administration.drop(server, database(unique))
    result = run(archive, server, "influx_1s", datasets=[SLOW])  # whatever is asked for: nobody else would notice
    assert result.created == [database(unique).bucket]
    assert points_of(server, database(unique), FAST.text) == before
    publication = Publication.named("influx_1s", archive.settings.configuration)
    assert all(one.is_equal and one.there for one in counts.compare(archive, server, publication))


def test_counts_tell_points_that_somebody_deleted(archive: Archive, server: Influx, unique: str) -> None:
    archive_rows(archive, FAST, fast_rows(MONDAY_US, 100))
    build_tier(archive, TIERS["1s"])
    run(archive, server, "influx_1s")
    publication = Publication.named("influx_1s", archive.settings.configuration)
    (one,) = counts.compare(archive, server, publication)
    assert (one.published, one.there, one.rows, one.is_equal) == (200, 200, 200, True)
    server.query(f'DELETE FROM "{FAST.text}" WHERE time < {(MONDAY_US + 10 * SECOND_US) * 1000}', database(unique))
    (one,) = counts.compare(archive, server, publication)
    assert (one.published, one.there, one.is_equal) == (200, 180, False)
    run(archive, server, "influx_1s", again=True)
    assert counts.compare(archive, server, publication)[0].is_equal


def test_a_point_of_another_type_is_kept_and_the_others_published(
    archive: Archive, server: Influx, unique: str
) -> None:
    foreign = Destination(f"{unique}_events_m1m3_2023")
    administration.ensure(server, foreign, None)
    strange = rows([MONDAY_US], {"value": ["a text"]}, sal_index=[9])
    LineWriter(server).write(foreign, serialise(strange.select(["time", "salIndex", "value"]), EVENT.text))
    table = rows(
        MONDAY_US + np.arange(20), {"value": pa.array([None] * 19 + [1.5]), "n": np.arange(20)}, sal_index=[1] * 20
    )
    archive_rows(archive, EVENT, table)
    result = run(archive, server, "influx_events")
    assert (result.points, result.rejected) == (19, 1)
    publication = Publication.named("influx_events", archive.settings.configuration)
    (kept,) = counts.rejected(archive, publication, server.url)
    assert kept.time_us == MONDAY_US + 19
    assert "value=1.5" in kept.line
    assert "type conflict" in kept.reason
    (one,) = counts.compare(archive, server, publication)
    assert (one.published, one.there) == (19, 19)
    # Once the other type is gone, the next change of the slice brings the point, too.
    administration.drop(server, foreign)
    assert run(archive, server, "influx_events").points == 20
    assert counts.rejected(archive, publication, server.url) == []


def always(answer: Answer, number: int) -> Answer:
    return answer


def through_proxy(url: str, **options: Any) -> Influx:
    """The server by the proxy's URL."""
    return Influx(load_settings({"EFD_INFLUX_URL": url}, None), **options)


FAULTS: dict[str, Answer] = {
    "it is too busy": (503, {"Retry-After": "0"}, b'{"error":"hinted handoff queue not empty"}'),
    "it hangs up": (0, {}, b""),
}


@pytest.mark.parametrize(
    ("fault", "after"),
    [("it is too busy", False), ("it hangs up", True)],
)
def test_what_passes_is_waited_for(
    archive: Archive, influx: InfluxServer, server: Influx, unique: str, fault: str, after: bool
) -> None:
    archive_rows(archive, FAST, fast_rows(MONDAY_US, 60))
    build_tier(archive, TIERS["1s"])
    waits: list[float] = []
    with flaky(influx.url, lambda n: FAULTS[fault] if n <= 3 else None, after=after) as (url, bodies):
        through = through_proxy(url)
        publish(archive, through, "influx_1s", writer=LineWriter(through, sleep=waits.append))
    assert len(bodies) == 4
    assert len(waits) == 3
    assert points_of(server, database(unique), FAST.text) == expected_of(archive.read(FAST, tier="1s"))


def test_a_server_that_is_full_or_refuses_is_said_and_nothing_is_lost(
    archive: Archive, influx: InfluxServer, server: Influx, unique: str
) -> None:
    archive_rows(archive, FAST, fast_rows(MONDAY_US, 60))
    build_tier(archive, TIERS["1s"])
    full: Answer = (500, {}, b'{"error":"engine: write /var/lib/influxdb/wal: no space left on device"}')
    refuses: Answer = (401, {}, b'{"error":"authorization failed"}')
    for answer, kind in ((full, InfluxFull), (refuses, PublishingRefused)):
        with flaky(influx.url, functools.partial(always, answer)) as (url, _):
            through = through_proxy(url)
            writer = LineWriter(through, attempts=2, sleep=lambda s: None)
            with pytest.raises(kind) as raised:
                publish(archive, through, "influx_1s", writer=writer)
        assert url in raised.value.message
        assert raised.value.remedy
    with flaky(influx.url, functools.partial(always, (503, {}, b"")), hang_s=2.0) as (url, _):
        slow = through_proxy(url, timeout_s=1.0)
        writer = LineWriter(slow, attempts=2, sleep=lambda s: None)
        with pytest.raises(InfluxUnavailable, match="Timeout"):
            publish(archive, slow, "influx_1s", writer=writer)
    run(archive, server, "influx_1s")
    assert points_of(server, database(unique), FAST.text) == expected_of(archive.read(FAST, tier="1s"))


_KILLED = """
import os, signal, sys
from pathlib import Path
from efd_pipelines.publishing import influx
from efd_pipelines.publishing.publish import publish
from efd_pipelines.publishing.server import Influx
from efd_pipelines_tests.unit.publishing.builders import site

directory, url, unique, after, moment = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
archive = site(directory, url, unique)
sent = influx.LineWriter._send
written = 0

def die_there(self, destination, batch, precision):
    global written
    written += 1
    if moment == "before" and written > after:
        os.kill(os.getpid(), signal.SIGKILL)
    found = sent(self, destination, batch, precision)
    if moment == "after" and written > after:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

influx.LineWriter._send = die_there
from efd_pipelines.publishing import difference, lines
difference.serialise = lambda *a, **k: lines.serialise(*a, **{**k, "batch_lines": 50})
with Influx(archive.settings) as server:
    publish(archive, server, "influx_1s", lease_s=2.0)
"""


@pytest.mark.parametrize(("after", "moment"), [(7, "after")])
def test_killed_in_the_middle_of_a_write_and_repeated_no_point_is_missing_and_none_different(
    archive: Archive, server: Influx, influx: InfluxServer, unique: str, tmp_path: Path, after: int, moment: str
) -> None:
    archive_rows(archive, FAST, fast_rows(MONDAY_US, 400))
    build_tier(archive, TIERS["1s"])
    command = [sys.executable, "-c", _KILLED, str(tmp_path), influx.url, unique, str(after), moment]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    there = points_of(server, database(unique), FAST.text)
    assert len(there) < 800
    # Meanwhile the tier moves on: what the dead process wrote may not be so any more.
    late = fast_rows(MONDAY_US + 30_000_000 + 10_000, 20, seed=5, first_offset=10**6)
    archive_rows(archive, FAST, late)
    build_tier(archive, TIERS["1s"])
    run(archive, server, "influx_1s", lease_s=2.0)
    assert points_of(server, database(unique), FAST.text) == expected_of(archive.read(FAST, tier="1s"))
    assert run(archive, server, "influx_1s").points == 0


def test_the_command_line_publishes_counts_and_administers(
    influx: InfluxServer,
    unique: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive = site(tmp_path, influx.url, unique)
    archive_rows(archive, EVENT, rows([MONDAY_US, MONDAY_US], {"text": ["a", "b"]}, sal_index=[1, 1]))
    monkeypatch.setenv("EFD_INFLUX_URL", influx.url)
    monkeypatch.setenv("EFD_ARCHIVE", str(tmp_path / "archive"))
    monkeypatch.setenv("EFD_CONFIG", str(tmp_path / "efd.yaml"))

    def efd(*arguments: str) -> tuple[int, Any]:
        code = main([*arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, document = efd("publish", "run", "MTM1M3", "--to", "influx_events", "--week", "2023-11-20")
    assert (code, document["points"], document["created"]) == (0, 2, [database(unique, "_events").bucket])
    code, listed = efd("publish", "status", "--count", "--strict")
    assert (code, len(listed)) == (0, 1)
    assert (listed[0]["points"], listed[0]["there"], listed[0]["equal"], listed[0]["behind"]) == (2, 2, True, False)
    assert efd("publish", "rejected") == (0, [])
    with Influx(archive.settings) as server:
        administration.ensure(server, database(unique, "_events"), 30.0)
    code, document = efd("publish", "admin", "--strict")
    ours = [one for one in document["stores"] if one["database"].startswith(unique)]
    assert (code, document["version"], document["healthy"]) == (1, "1.8.10", True)
    assert [(one["days"], one["should_be"], one["right"]) for one in ours] == [(30.0, None, False)]
    code, document = efd("publish", "admin", "--apply", "--strict")
    assert code == 0
    assert all(one["right"] for one in document["stores"])
    assert efd("publish", "run", "--to", "influx_2s")[0] == 2
    monkeypatch.setenv("EFD_INFLUX_URL", "http://127.0.0.1:1")
    code, document = efd("publish", "run")
    assert (code, "127.0.0.1:1" in document["error"]["message"]) == (3, True)
