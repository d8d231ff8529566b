"""Quarantine: rows that went home stay whole, and keep by how much their clock was wrong."""

from __future__ import annotations

import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.quarantine import quarantined, release
from efd_pipelines.archive.sealing import seal
from efd_pipelines.archive.slices import QUARANTINE
from efd_pipelines.times import FIRST_WEEK, Week
from efd_pipelines_tests.unit.archive.builders import Topic, schema_of

WEEK = Week.parse("2026-10-12")
PLAIN = schema_of("x", ("count", "int"))
HOUR_US = 3_600_000_000
AHEAD_US = 400 * 86_400_000_000


@pytest.fixture
def topic(archive: Archive) -> Topic:
    """Five rows of a week, and three of a writer whose clock was 400 days ahead."""
    topic = Topic(archive)
    topic.send(PLAIN, [WEEK.start_us + n for n in range(5)], count=list(range(5)))
    topic.send(PLAIN, [WEEK.start_us + AHEAD_US + n for n in range(3)], sal_index=2, count=[7, 8, 9])
    topic.stamps_ms[-3:] = [WEEK.start_us // 1000 + 5] * 3
    topic.drain()
    return topic


def test_released_rows_reopen_their_week_and_keep_their_correction_when_it_is_sealed(topic: Topic) -> None:
    archive = topic.archive
    assert seal(archive, archive.settings, week=WEEK).sealed == 1
    assert release(archive, topic.dataset, AHEAD_US).rows == 3
    again = seal(archive, archive.settings, week=WEEK)
    assert (again.sealed, again.rows, again.problems) == (1, 8, [])
    table = archive.read(topic.dataset)
    corrections = dict(zip(table["count"].to_pylist(), table["archive_clock_error"].to_pylist(), strict=True))
    assert corrections == {**dict.fromkeys(range(5)), **dict.fromkeys((7, 8, 9), AHEAD_US)}
    assert verify(archive, deep=True).problems == []


def test_a_clock_may_be_an_hour_ahead_of_kafkas_and_show_the_first_week_at_the_earliest(archive: Archive) -> None:
    topic, received_us = Topic(archive), WEEK.start_us + 5_000_000
    times = [received_us + HOUR_US, received_us + HOUR_US + 1, FIRST_WEEK.start_us, FIRST_WEEK.start_us - 1]
    topic.send(PLAIN, times, count=[0, 1, 2, 3])
    topic.stamps_ms = [received_us // 1000] * 4
    topic.drain()
    weeks = {file.week: file.rows for file in archive.snapshot(topic.dataset).files()}
    assert weeks == {WEEK.key: 1, FIRST_WEEK.key: 1, QUARANTINE: 2}
    assert sorted(archive.read(topic.dataset)["count"].to_pylist()) == [0, 2]


def test_writers_are_told_apart(topic: Topic) -> None:
    (one,) = quarantined(topic.archive)
    assert (one.topic, one.identity, one.sal_index, one.cause, one.count) == (
        topic.dataset.text,
        "tester",
        2,
        "ahead",
        3,
    )
    assert one.clock_error_s == pytest.approx(AHEAD_US / 1e6, abs=1)


def test_a_correction_that_leaves_a_time_impossible_moves_nothing(topic: Topic) -> None:
    for error_us in (AHEAD_US // 2, 10 * AHEAD_US):
        done = release(topic.archive, topic.dataset, error_us)
        assert (done.rows, done.stayed, done.commits) == (0, 3, 0)
    assert len(topic.archive.snapshot(topic.dataset).files({QUARANTINE})) == 1
