"""The archive on a real broker, registry and store: what comes in is what stands there.

When something breaks: `test_archive_faults.py`. When a log changes its history: `test_archive_generations.py`.
"""

from __future__ import annotations

import csv
import gzip
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.dead_letters import dead_frames, dead_letters
from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.reading import read_file, wanted_schema
from efd_pipelines.archive.slices import QUARANTINE
from efd_pipelines.archive.status import status
from efd_pipelines.servers.registry import RegistryServer
from efd_pipelines.settings import Settings
from efd_pipelines.simulator import faulty
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.simulator.replay import replay
from efd_pipelines.simulator.sal import SalField, SalTopic
from efd_pipelines.times import Week, microseconds
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.faults.processes import environment
from efd_pipelines_tests.integration.conftest import MakeSettings
from efd_pipelines_tests.integration.produced import LAST_WEEK, NOW, produce, rows_and_records


def recorded_columns(path: Path) -> dict[str, list[str]]:
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.reader(file))
    return {name: [row[n] for row in rows[1:]] for n, name in enumerate(rows[0])}


@pytest.mark.timeout(300)
def test_recorded_records_come_back_bit_for_bit(settings: Settings, archive: Archive, shared: Path) -> None:
    produced = replay(settings, shared / "recorded")
    drained = drain(archive, settings)
    assert (drained.records, drained.rows, drained.dead_letters) == (produced.records, produced.records, 0)
    for path in sorted((shared / "recorded").glob("*.csv.gz")):
        recorded = recorded_columns(path)
        table = archive.read(Dataset.parse(path.name.rpartition("_")[0]))
        order = np.argsort(np.array(recorded["time"], dtype=np.int64), kind="stable")
        by_time = table.take(pc.sort_indices(table, sort_keys=[("time", "ascending"), ("kafka_offset", "ascending")]))
        assert by_time["time"].cast(pa.int64()).to_numpy().tolist() == [int(recorded["time"][n]) // 1000 for n in order]
        for name, texts in recorded.items():
            if name != "time":
                assert_same_values(by_time[name], [texts[n] for n in order], f"{path.name}: {name}")


def assert_same_values(column: pa.ChunkedArray, texts: list[str], where: str) -> None:
    """Bit for bit in the column's own type; an empty text is a string, or no value."""
    if pa.types.is_boolean(column.type):
        assert column.to_pylist() == [text == "True" for text in texts], where
    elif pa.types.is_string(column.type):
        assert column.to_pylist() == texts, where
    elif pa.types.is_integer(column.type):
        assert column.to_pylist() == [int(text) for text in texts], where
    else:
        kind = column.type.to_pandas_dtype()
        values = column.to_numpy()
        expected = np.array([float(text) if text else np.nan for text in texts], dtype=np.float64).astype(kind)
        assert values.astype(kind).tobytes() == expected.tobytes(), where


@pytest.mark.timeout(300)
def test_weeks_quarantine_and_the_dead_become_visible_in_one_commit(settings: Settings, archive: Archive) -> None:
    topic = builtin_topic("MTMount.azimuth")
    with SalProducer(settings) as producer:
        producer.prepare([topic])
        producer.send([random_series(topic, 5, microseconds(NOW))])
        producer.send([random_series(topic, 4, microseconds(LAST_WEEK), first=6)])
        faulty.send_at(producer, topic, datetime(1970, 1, 2, tzinfo=UTC), 2, first=10)
        faulty.send_at(producer, topic, datetime(2090, 1, 2, tzinfo=UTC), 1, first=12)
        faulty.send_random_bytes(producer, topic, 3)
    drain(archive, settings)
    snapshot = archive.snapshot(Dataset.parse(topic.name))
    by_week: dict[str, int] = {}
    for file in snapshot.files():
        by_week[file.week] = by_week.get(file.week, 0) + file.rows
    weeks = {Week.containing(NOW).key: 5, Week.containing(LAST_WEEK).key: 4}
    assert by_week == {**weeks, "quarantine": 3, "dead": 3}
    assert snapshot.version == 0


@pytest.mark.timeout(300)
def test_a_late_record_lands_in_its_week(local_settings: Settings) -> None:
    topic = builtin_topic("Test.scalars")
    archive = Archive(local_settings)
    produce(local_settings, topic, 5)
    drain(archive, local_settings)
    late = NOW - timedelta(days=400)
    produce(local_settings, topic, 1, late, first=6)
    drain(archive, local_settings)
    weeks = {week.week: week.rows for week in status(archive)}
    assert weeks == {Week.containing(late).key: 1, Week.containing(NOW).key: 5}


@pytest.mark.timeout(300)
def test_times_that_cannot_be_are_quarantined_whole(local_settings: Settings) -> None:
    topic = builtin_topic("MTMount.azimuth")
    with SalProducer(local_settings) as producer:
        producer.prepare([topic])
        for year in (1970, 2090):
            faulty.send_at(producer, topic, datetime(year, 6, 1, tzinfo=UTC), 2, first=year)
    archive = Archive(local_settings)
    result = drain(archive, local_settings)
    assert (result.records, result.quarantined, result.dead_letters) == (4, 4, 0)
    snapshot = archive.snapshot(Dataset.parse(topic.name))
    schema = wanted_schema(snapshot, ["time", "actualPosition"])
    rows = pa.concat_tables([read_file(snapshot, file, schema) for file in snapshot.files({QUARANTINE})])
    assert sorted({time.year for time in rows["time"].to_pylist()}) == [1970, 2090]
    assert archive.read(Dataset.parse(topic.name)).num_rows == 0


@pytest.mark.timeout(300)
def test_poison_is_kept_among_the_dead_and_the_rest_is_archived(settings: Settings, archive: Archive) -> None:
    topic, healthy = builtin_topic("MTMount.elevation"), builtin_topic("Test.arrays")
    with SalProducer(settings) as producer:
        producer.prepare([topic, healthy])
        garbage = faulty.send_random_bytes(producer, topic, 4, seed=3)
        unknown = faulty.send_unregistered(producer, random_series(topic, 2, microseconds(NOW)))
        cut = faulty.send_truncated(producer, random_series(topic, 3, microseconds(NOW), first=3))
        long = faulty.send_overlong(producer, random_series(topic, 1, microseconds(NOW), first=6))
        faulty.send_tombstones(producer, topic, 2)
        producer.send(
            [random_series(topic, 10, microseconds(NOW), first=7), random_series(healthy, 10, microseconds(NOW))]
        )
    result = drain(archive, settings)
    assert (result.records, result.dead_letters, result.problems) == (32, 12, [])
    kept = dead_frames(archive, Dataset.parse(topic.name))["archive_frame"].to_pylist()
    assert sorted(kept, key=repr) == sorted([*garbage, *unknown, *cut, *long, None, None], key=repr)
    reasons = {letters.reason for letters in dead_letters(archive)}
    assert any("2000000001" in reason for reason in reasons)
    assert archive.read(Dataset.parse(topic.name)).num_rows == 10
    assert archive.read(Dataset.parse(healthy.name)).num_rows == 10
    assert rows_and_records(archive) == (32, 32)


@pytest.mark.timeout(300)
def test_a_topic_that_begins_with_poison_gets_its_table(local_settings: Settings) -> None:
    topic = builtin_topic("MTMount.elevation")
    archive = Archive(local_settings)
    with SalProducer(local_settings) as producer:
        producer.prepare([topic])
        faulty.send_random_bytes(producer, topic, 2)
    drain(archive, local_settings)
    produce(local_settings, topic, 3)
    drain(archive, local_settings)
    assert archive.read(Dataset.parse(topic.name), ["actualPosition"]).num_rows == 3
    assert rows_and_records(archive) == (5, 5)


@pytest.mark.timeout(300)
def test_fields_that_differ_only_in_case_keep_their_values_apart(local_settings: Settings) -> None:
    fields = [SalField("Source", "string"), SalField("source", "double"), SalField("time", "double")]
    topic = SalTopic.of("lsst.sal.Test.sources", fields)
    series = produce(local_settings, topic, 4)
    archive = Archive(local_settings)
    drain(archive, local_settings)
    table = archive.read(Dataset.parse(topic.name))
    assert table["Source"].to_pylist() == list(series.columns["Source"])
    for column, field in (("source__", "source"), ("time__", "time")):
        assert np.array_equal(table[column].to_numpy(), np.asarray(series.columns[field]), equal_nan=True)


@pytest.mark.timeout(300)
def test_a_field_that_grows_wider_keeps_old_and_new_values(local_settings: Settings) -> None:
    name = "lsst.sal.Test.widening"
    archive = Archive(local_settings)
    narrow = produce(local_settings, SalTopic.of(name, [SalField("count", "int"), SalField("level", "float")]), 5)
    drain(archive, local_settings)
    wide = produce(
        local_settings,
        SalTopic.of(name, [SalField("count", "long long"), SalField("level", "double"), SalField("new", "int")]),
        5,
        first=6,
    )
    drain(archive, local_settings)
    table = archive.read(Dataset.parse(name))
    assert (table.schema.field("count").type, table.schema.field("level").type) == (pa.int64(), pa.float64())
    expected = [*np.asarray(narrow.columns["count"]).tolist(), *np.asarray(wide.columns["count"]).tolist()]
    assert sorted(table["count"].to_pylist()) == sorted(expected)
    assert table["new"].null_count == 5
    levels = [*np.asarray(narrow.columns["level"], np.float32).astype(float), *np.asarray(wide.columns["level"])]
    assert np.array_equal(np.sort(table["level"].to_numpy()), np.sort(levels), equal_nan=True)
    assert rows_and_records(archive) == (10, 10)


@pytest.mark.timeout(300)
def test_topics_whose_records_pass_two_thousand_columns_keep_lists(local_settings: Settings) -> None:
    topic = SalTopic.of("lsst.sal.Test.wide", [SalField("values", "float", 1500), SalField("others", "double", 800)])
    series = produce(local_settings, topic, 3)
    archive = Archive(local_settings)
    drain(archive, local_settings)
    table = archive.read(Dataset.parse(topic.name))
    assert table.schema.field("values").type == pa.list_(pa.float32())
    found = np.array(table["values"].to_pylist(), dtype=np.float32)
    assert np.array_equal(found, np.asarray(series.columns["values"], np.float32), equal_nan=True)


@pytest.mark.timeout(120)
def test_topics_of_other_names_are_archived_or_left_alone(local_settings: Settings) -> None:
    odd = [
        "lsst.sal..x",
        "lsst.sal._hidden._delta_log",
        "lsst.sal.Te-st.a.b",
        "connect-status",
        "tts.lsst.sal.Test.odd",
    ]
    with SalProducer(local_settings) as producer:
        producer.create([(name, 1, {}) for name in odd])
        for name in odd:
            producer.put(name, b"\xffno frame", b"")
    archive = Archive(local_settings)
    result = drain(archive, local_settings)
    assert (result.records, result.dead_letters) == (4, 4)
    assert {dataset.text for dataset in archive.datasets()} == {
        "lsst.sal..x",
        "lsst.sal._hidden._delta_log",
        "lsst.sal.Te-st.a.b",
        "tts@lsst.sal.Test.odd",
    }
    assert rows_and_records(archive) == (4, 4)


@pytest.mark.timeout(120)
def test_the_mirror_of_the_summit_is_the_summits_dataset(site: MakeSettings, registry: RegistryServer) -> None:
    settings = site(profile="usdf")
    produce(settings, builtin_topic("Test.scalars"), 5)
    archive = Archive(settings)
    drain(archive, settings)
    assert [dataset.text for dataset in archive.datasets()] == ["lsst.sal.Test.scalars"]


@pytest.mark.timeout(120)
def test_a_drain_does_without_pandas(local_settings: Settings) -> None:
    topic = builtin_topic("MTM1M3.forceActuatorData")
    for when in (NOW, LAST_WEEK):
        produce(local_settings, topic, 1500, when)
    script = """
import sys
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.drain import drain
from efd_pipelines.settings import load_settings
settings = load_settings(env_file=None)
print([drain(Archive(settings), settings).records for _ in range(2)], "pandas" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(local_settings), check=True, capture_output=True, text=True
    )
    assert done.stdout == "[3000, 0] False\n"
