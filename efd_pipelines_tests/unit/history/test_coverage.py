"""Coverage: what the archive lacks of a week, told by the offsets of its rows."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.history.coverage import EDGE_US, missing_intervals
from efd_pipelines.history.intervals import Interval
from efd_pipelines.times import Week
from efd_pipelines_tests.unit.tiers.builders import FAST, HOUR_US, MONDAY_US, archive_rows, rows

WEEK = Week.containing(MONDAY_US)
MINUTE_US = 60_000_000
DAY_US = 24 * HOUR_US
WEEK_US = 7 * DAY_US


def kafka_rows(times: object, offsets: object, *, source: str = "cluster/topic", partition: int = 0) -> pa.Table:
    """Rows at times (µs after Monday) with offsets."""
    at, of = np.asarray(times, np.int64), np.asarray(offsets, np.int64)
    table = rows(MONDAY_US + at, {"value": np.zeros(len(at))})
    for name, values in {
        "kafka_offset": pa.array(of),
        "archive_source": pa.array([source] * len(at)),
        "kafka_partition": pa.array(np.full(len(at), partition, np.int32)),
    }.items():
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(name), values)
    return table


def put(archive: Archive, table: pa.Table, unit: SliceUnit = SliceUnit.DAY, week: str | None = None) -> None:
    archive_rows(archive, FAST, table, unit=unit, week=week)


def missing(
    archive: Archive, week: Week = WEEK, drained_us: int | None = None, now: datetime | None = None
) -> list[tuple[float, float]]:
    """What is missing, in hours after Monday, the edges taken off again."""
    found = missing_intervals(archive.snapshot(FAST), week, drained_us=drained_us, now=now)
    return [trimmed(one) for one in found]


def trimmed(one: Interval) -> tuple[float, float]:
    start = one.start_us - MONDAY_US
    end = one.end_us - MONDAY_US
    start += EDGE_US if start % WEEK_US else 0
    end -= EDGE_US if end % WEEK_US else 0
    return round(start / HOUR_US, 6), round(end / HOUR_US, 6)


def every_minute(first_h: float, end_h: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(first_h * HOUR_US, end_h * HOUR_US, MINUTE_US).astype(np.int64)


def whole_week() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A row each minute of the week, and for an hour before and after it."""
    return every_minute(-1, 169)


def test_without_a_table_the_whole_week_is_missing() -> None:
    assert missing_intervals(None, WEEK) == [Interval(MONDAY_US, MONDAY_US + WEEK_US)]


def test_of_the_running_week_nothing_is_missing_that_has_not_been() -> None:
    now = datetime.fromisoformat("2023-11-20T06:00:00+00:00")
    assert missing_intervals(None, WEEK, now=now) == [Interval(MONDAY_US, MONDAY_US + 6 * HOUR_US)]
    assert missing_intervals(None, WEEK.next(), now=now) == []


def test_a_hole_of_offsets_is_missing_and_silence_is_not(archive: Archive) -> None:
    times = whole_week()
    silent = (times > 30 * HOUR_US) & (times < 60 * HOUR_US)
    lost = (times > 100 * HOUR_US) & (times < 110 * HOUR_US)
    offsets = np.arange(len(times)) - np.cumsum(silent)
    keep = ~silent & ~lost
    put(archive, kafka_rows(times[keep], offsets[keep]))
    assert missing(archive) == [(100.0, 110.0)]


def test_what_is_after_the_last_row_is_missing_until_the_backlog_has_been_read(archive: Archive) -> None:
    put(archive, kafka_rows(every_minute(-1, 24), range(25 * 60)))
    last = round(24 - 1 / 60, 6)
    assert missing(archive) == [(last, 168.0)]
    assert missing(archive, drained_us=MONDAY_US + 48 * HOUR_US) == [(48.0, 168.0)]
    assert missing(archive, drained_us=MONDAY_US + WEEK_US + HOUR_US) == []


def test_a_silent_week_between_two_is_covered_when_no_offset_is_between(archive: Archive) -> None:
    put(archive, kafka_rows([-DAY_US, WEEK_US + DAY_US], [10, 11]), SliceUnit.WEEK)
    assert missing(archive) == []


def test_a_lost_week_between_two_is_missing(archive: Archive) -> None:
    put(archive, kafka_rows([-DAY_US, WEEK_US + DAY_US], [10, 12]), SliceUnit.WEEK)
    assert missing(archive) == [(0.0, 168.0)]


def test_before_the_archive_began_everything_is_missing(archive: Archive) -> None:
    put(archive, kafka_rows([2 * DAY_US, WEEK_US + DAY_US], [10, 11]), SliceUnit.WEEK)
    assert missing(archive) == [(0.0, 48.0)]
    assert missing(archive, WEEK.previous()) == [(-168.0, 0.0)]


def test_a_hole_in_one_partition_is_missing_though_others_have_rows(archive: Archive) -> None:
    times = whole_week()
    put(archive, kafka_rows(times, range(len(times))))
    lost = (times > 10 * HOUR_US) & (times < 11 * HOUR_US)
    other = kafka_rows(times[~lost] + 1, np.arange(len(times))[~lost], partition=1)
    put(archive, other)
    assert (10.0, 11.0) in [(round(start, 3), round(end, 3)) for start, end in missing(archive)]


def test_what_a_partition_had_before_its_first_row_is_missing_though_others_have_rows(archive: Archive) -> None:
    times = whole_week()
    put(archive, kafka_rows(times, range(len(times))))
    late = times > 50 * HOUR_US
    put(archive, kafka_rows(times[late] + 1, np.arange(len(times))[late], partition=1))
    assert [(round(start, 1), round(end, 1)) for start, end in missing(archive)] == [(0.0, 50.0)]


def test_disorder_across_slices_is_no_hole(archive: Archive) -> None:
    times = whole_week()
    swapped = times.copy()
    swapped[60], swapped[59] = times[59], times[60]
    put(archive, kafka_rows(swapped, range(len(times))), SliceUnit.HOUR)
    assert missing(archive) == []


def test_between_two_lives_of_a_topic_something_may_be_missing(archive: Archive) -> None:
    put(archive, kafka_rows(every_minute(-1, 20), range(21 * 60)))
    put(archive, kafka_rows(every_minute(30, 169), range(139 * 60), source="cluster/another"))
    assert missing(archive) == [(round(20 - 1 / 60, 6), 30.0)]


def test_rows_of_history_cover_nothing(archive: Archive) -> None:
    put(archive, kafka_rows([-DAY_US, WEEK_US + DAY_US], [10, 12]), SliceUnit.WEEK)
    filled = kafka_rows([DAY_US], [0], source="influx:efd")
    nothing = pa.nulls(1, pa.int64())
    filled = filled.set_column(filled.column_names.index("kafka_offset"), filled.schema.field("kafka_offset"), nothing)
    relative = archive.relative(FAST)
    from efd_pipelines.archive.files import write_data_file
    from efd_pipelines.archive.tables import commit, open_table

    file = write_data_file(archive.store, relative, WEEK.key, f"{WEEK}W", filled)
    snapshot = open_table(archive.store, relative)
    commit(archive.store, relative, snapshot, add=[file], transactions={"fill": (None, 1)}, schema=filled.schema)
    assert missing(archive) == [(0.0, 168.0)]


def test_offsets_in_quarantine_and_among_the_dead_were_read(archive: Archive) -> None:
    times = whole_week()
    offsets = np.arange(len(times))
    bad = offsets == 600
    put(archive, kafka_rows(times[~bad], offsets[~bad]))
    assert len(missing(archive)) == 1
    put(archive, kafka_rows([0], [600]), week="quarantine")
    assert missing(archive) == []
