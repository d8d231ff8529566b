"""Portions: every row of a week, twice what was sent twice, in order, and as the frames that came."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.merging import merge
from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.archive.slices import QUARANTINE, SliceUnit
from efd_pipelines.errors import UsageError
from efd_pipelines.exports import stream
from efd_pipelines.restoring.asked import Asked
from efd_pipelines.restoring.frames import FramesOfDataset
from efd_pipelines.restoring.points import PointsOfDataset
from efd_pipelines.restoring.portions import Portion, portions_of
from efd_pipelines.restoring.restore import estimate
from efd_pipelines.restoring.rows import chunks
from efd_pipelines.settings import load_settings
from efd_pipelines.times import Week
from efd_pipelines_tests.unit.archive.builders import Topic, schema_of

WEEK = Week.parse("2026-11-09")
SECOND_US = 1_000_000


@pytest.fixture
def topic(tmp_path: Path) -> Topic:
    """Two hours of a topic whose field becomes wider, then another type; late records, and repeated ones."""
    topic = Topic(Archive(load_settings({}, None, archive=str(tmp_path / "archive"))), unit=SliceUnit.HOUR)
    array = {"type": "array", "items": "double", "default": [0.0, 0.0]}
    versions = [
        schema_of("x", ("value", "float"), ("items", array)),
        schema_of("x", ("value", "double"), ("text", "string")),
        schema_of("x", ("value", "string"), ("items", array)),
    ]
    values = [
        np.array([0.5, np.nan, -0.0, 3.0], np.float32),
        np.array([1e300, np.inf, 1.0, 2.0]),
        ["a", "", "ü\n", '"'],
    ]
    for n, (schema, value) in enumerate(zip(versions, values, strict=True)):
        times = WEEK.start_us + SECOND_US * (np.array([7, 1, 1, 3600]) + 10 * n)
        more = {"text": ["t"] * 4} if n == 1 else {"items": np.arange(8.0).reshape(4, 2)}
        topic.send(schema, times.tolist(), value=value, **more)
        topic.drain(2)
    topic.values.append(topic.values[0])
    topic.stamps_ms.append(topic.stamps_ms[0])
    topic.drain()
    return topic


def frames_of(topic: Topic, portions: list[Portion]) -> dict[int, bytes | None]:
    """Frames by the offset that they had."""
    frames = FramesOfDataset(
        topic.dataset,
        topic.archive.snapshot(topic.dataset),
        WriterSchemas(topic.archive.store),
        lambda schema: topic.schemas.index(schema) + 1,
        with_history=False,
    )
    found: dict[int, bytes | None] = {}
    for portion in portions:
        for rows in chunks(portion):
            values = frames.of(rows)
            offsets = values.rows["kafka_offset"].to_pylist()
            assert offsets == sorted(offsets)
            found.update(zip(offsets, values.frames, strict=True))
    return found


def test_rows_become_the_frames_that_came(topic: Topic) -> None:
    portions = portions_of(topic.archive, [topic.dataset], [WEEK])
    assert len(portions) == 2
    assert frames_of(topic, portions) == dict(enumerate(topic.values))


def test_merging_changes_nothing_of_what_is_given_back(topic: Topic) -> None:
    before = portions_of(topic.archive, [topic.dataset], [WEEK])
    merge(topic.archive, datasets=[topic.dataset])
    after = portions_of(topic.archive, [topic.dataset], [WEEK])
    assert [(one.key, one.number, one.rows) for one in after] == [(one.key, one.number, one.rows) for one in before]
    assert frames_of(topic, after) == dict(enumerate(topic.values))
    # Who planned before the merge reads the files that there were.
    assert frames_of(topic, before) == dict(enumerate(topic.values))


def test_a_portion_larger_than_memory_may_hold_comes_in_windows(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "WINDOW_BYTES", 200)
    portions = portions_of(topic.archive, [topic.dataset], [WEEK])
    parts = [part for portion in portions for part in chunks(portion, "time")]
    assert len(parts) > 4
    rows = pa.concat_tables(parts)
    assert rows["time"].to_pylist() == sorted(rows["time"].to_pylist())
    assert rows.num_rows == len(topic.values)


def test_numbers_rise_and_weeks_without_rows_have_no_portions(topic: Topic) -> None:
    portions = portions_of(topic.archive, [topic.dataset], [WEEK, WEEK.next(), WEEK.previous()])
    numbers = [one.number for one in portions]
    assert numbers == sorted(set(numbers))
    assert {one.week for one in portions} == {WEEK}
    found = estimate(portions, 1000.0)
    assert (found.rows, found.portions, found.quarantined) == (len(topic.values), 2, 0)


def test_the_quarantined_of_a_week_are_those_that_kafka_received_in_it(topic: Topic) -> None:
    topic.send(topic.schemas[0], [0, 1], value=np.array([1, 2], np.float32), items=np.zeros((2, 2)))
    topic.stamps_ms[-2:] = [WEEK.start_us // 1000, WEEK.end_us // 1000]
    topic.drain()
    portions = portions_of(topic.archive, [topic.dataset], [WEEK])
    assert [(one.key, one.rows) for one in portions if one.is_outside] == [(QUARANTINE, 1)]
    inside = portions_of(topic.archive, [topic.dataset], [WEEK], outside=())
    assert [one.key for one in inside] == [one.key for one in portions if not one.is_outside]


def test_points_are_telegrafs(topic: Topic) -> None:
    points, lines = PointsOfDataset(topic.dataset), []
    for portion in portions_of(topic.archive, [topic.dataset], [WEEK]):
        for rows in chunks(portion, "time"):
            for batch, times in points.batches(rows):
                assert list(times) == sorted(times)
                lines += [batch.line(n) for n in range(len(batch))]
    assert len(lines) == len(topic.values)
    assert all(line.startswith(b"lsst.sal.Test.x salIndex=1i,") for line in lines)
    one = next(line for line in lines if b"text=" in line and b"value=1e" in line)
    assert b"value=1e+300" in one or b"value=1e300" in one
    assert not any(b"NaN" in line or b"inf" in line.lower() for line in lines)
    assert points.ambiguous == set()


@pytest.mark.parametrize(
    "asked",
    [
        Asked("ESS", (WEEK,), "tape"),
        Asked("ESS", (WEEK,), "lines"),
        Asked("ESS", (WEEK,), "kafka", values_s=0),
        Asked("ESS", (WEEK,), "influx", prefix="x."),
    ],
)
def test_what_cannot_be_meant_is_refused(asked: Asked) -> None:
    with pytest.raises(UsageError):
        asked.check()


def test_the_database_is_the_efds_or_the_namespaces() -> None:
    assert Asked("ESS", (WEEK,), "influx").database_name == "efd"
    assert Asked("tts@lsst.obsenv", (WEEK,), "influx").database_name == "lsst.obsenv"
    assert Asked("lsst.obsenv", (WEEK,), "influx", database="mine").database_name == "mine"
