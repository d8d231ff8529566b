"""The same call while drains, merges, seals and cleaning go on, and on a sealed week as on an open one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import dask.dataframe as dd
import pandas as pd
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.cleaning import clean, clean_table
from efd_pipelines.archive.merging import merge
from efd_pipelines.archive.sealing import seal
from efd_pipelines.client import EfdArchive
from efd_pipelines.settings import load_settings
from efd_pipelines.times import Week
from efd_pipelines_tests.unit.archive.builders import Topic, schema_of

OLD = schema_of("x", ("count", "int"), ("value", "float"))
NEW = schema_of("x", ("count", "long"), ("value", "double"), ("name", "string"))
WEEK = Week.parse("2026-11-09")
AFTER = WEEK.end + timedelta(days=1)
HOUR_US = 3_600_000_000
NAME = "lsst.sal.Test.x"


@pytest.fixture
def topic(tmp_path: Path) -> Topic:
    """Two weeks of an hourly record in six commits; the schema widens in the middle of the first."""
    archive = Archive(load_settings({}, None, archive=str(tmp_path / "archive")))
    topic = Topic(archive)
    for part in range(6):
        times = [WEEK.start_us + hour * HOUR_US for hour in range(part, 336, 6)]
        numbers = list(range(part, 336, 6))
        if part < 3:
            topic.send(OLD, times, count=numbers, value=[n / 4 for n in numbers])
        else:
            topic.send(NEW, times, count=numbers, value=[n / 4 for n in numbers], name=["x"] * len(times))
        topic.drain()
    return topic


@contextmanager
def asked_all_the_time(archive: EfdArchive, expected: list[int]) -> Iterator[list[object]]:
    """Asks for both weeks in another thread; gives what was not as expected."""
    wrong: list[object] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            found = counts(archive)
            if found[: len(expected)] != expected:
                wrong.append(found)

    def ask_and_note() -> None:
        try:
            ask()
        except BaseException as error:
            wrong.append(error)
            raise

    reader = threading.Thread(target=ask_and_note)
    reader.start()
    try:
        yield wrong
    finally:
        is_over.set()
        reader.join()


def counts(archive: EfdArchive) -> list[int]:
    found = archive.select_time_series(NAME, ["count", "value"], WEEK.start, WEEK.end + timedelta(days=30))
    assert (found["value"] * 4).tolist() == found["count"].tolist()
    return list(found["count"])


def test_rows_stay_the_same_while_drains_merges_seals_and_cleaning_go_on(topic: Topic) -> None:
    archive = EfdArchive(settings=topic.archive.settings)
    expected = list(range(336))
    planned = archive.select(NAME, ["count", "name"], WEEK.start, WEEK.end + timedelta(days=30))
    with asked_all_the_time(archive, expected) as wrong:
        merge(topic.archive, now=AFTER)
        topic.send(NEW, [WEEK.end_us + 8 * 24 * HOUR_US], count=[4000], value=[1000.0], name=["later"])
        topic.drain()
        seal(topic.archive, topic.archive.settings, week=WEEK, now=AFTER)
        clean(topic.archive)
    assert wrong == []
    assert counts(archive) == [*expected, 4000]
    assert planned.to_pandas()["count"].tolist() == expected  # of the snapshot that it was planned from


def test_a_sealed_week_an_open_one_and_both_have_the_same_types_and_rows(topic: Topic) -> None:
    archive = EfdArchive(settings=topic.archive.settings)
    windows = [(WEEK.start, WEEK.end - timedelta(seconds=1)), (WEEK.end, WEEK.end + timedelta(days=7))]
    windows.append((windows[0][1] - timedelta(days=2), windows[1][0] + timedelta(days=2)))
    before = [archive.select(NAME, "*", *window).to_arrow() for window in windows]
    assert seal(topic.archive, topic.archive.settings, week=WEEK, now=AFTER).sealed == 1
    after = [archive.select(NAME, "*", *window).to_arrow() for window in windows]
    for one, other in zip(before, after, strict=True):
        assert one.num_rows
        assert one.equals(other)
    assert {str(table.schema.field("count").type) for table in after} == {"int64"}


def test_dasks_own_reading_of_a_sealed_and_cleaned_week_equals_the_client(topic: Topic) -> None:
    """As docs/archive-format.md promises: a directory as it lies, once what was replaced is gone."""
    seal(topic.archive, topic.archive.settings, week=WEEK, now=AFTER)
    archive = EfdArchive(settings=topic.archive.settings)
    snapshot = topic.archive.snapshot(topic.dataset)
    place = snapshot.store.path(f"{snapshot.relative}/week={WEEK}")
    window = (WEEK.start, WEEK.end - timedelta(seconds=1))
    assert len(dd.read_parquet(place)) > len(archive.select_time_series(NAME, "count", *window))
    assert clean_table(snapshot, days=0).files
    theirs = dd.read_parquet(place).compute(scheduler="synchronous").sort_values("time")
    ours = archive.select(NAME, ["count", "value", "name", "salIndex"], *window).to_pandas()
    assert len(ours) == 168
    theirs = theirs.set_index("time")[list(ours)].astype({"name": ours["name"].dtype})
    theirs.index = pd.DatetimeIndex(theirs.index).as_unit("ns")
    pd.testing.assert_frame_equal(ours, theirs, check_freq=False, check_dtype=False, check_column_type=False)
