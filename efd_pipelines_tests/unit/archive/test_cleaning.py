"""Cleaning: what was replaced goes after a week, what counts never does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pandas as pd
import pytest

from efd_pipelines.archive import cleaning, tables
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.cleaning import clean
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.merging import merge
from efd_pipelines.archive.sealing import seal
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines_tests.unit.archive.builders import Topic
from efd_pipelines_tests.unit.archive.small_files import WEEK, topic_with

DAY_S = 86_400
LATER = datetime(2027, 1, 1, tzinfo=UTC)

Merge = Callable[[Topic, float], None]


@pytest.fixture
def merge_days_ago(monkeypatch: pytest.MonkeyPatch) -> Merge:
    """Merges and seals as if so many days ago; all files are as old as their commits."""

    def run(topic: Topic, days: float) -> None:
        then = time.time() - days * DAY_S
        with monkeypatch.context() as patched:
            patched.setattr(tables, "time", SimpleNamespace(time=lambda: then))
            merge(topic.archive, now=LATER)
            seal(topic.archive, topic.archive.settings, week=WEEK, now=LATER)
        for path in root_of(topic).rglob("*"):
            os.utime(path, (then, then))

    return run


def root_of(topic: Topic) -> Path:
    return Path(topic.archive.store.uri(topic.relative))


def there(topic: Topic) -> set[str]:
    return {str(path.relative_to(root_of(topic))) for path in root_of(topic).glob("week=*/*")}


def counting(topic: Topic) -> set[str]:
    return {file.path for file in topic.archive.snapshot(topic.dataset).files()}


def test_replaced_files_go_after_a_week(archive: Archive, merge_days_ago: Merge) -> None:
    topic = topic_with(archive, 5)
    merge_days_ago(topic, 8)
    before = archive.read(topic.dataset)
    assert len(there(topic)) == 6
    assert clean(archive).files == 5
    assert there(topic) == counting(topic)
    assert archive.read(topic.dataset).equals(before)
    assert clean(archive).files == 0


def test_replaced_files_stay_for_a_week(archive: Archive, merge_days_ago: Merge) -> None:
    topic = topic_with(archive, 5)
    merge_days_ago(topic, 6.9)
    assert clean(archive).files == 0
    assert len(there(topic)) == 6


def test_what_was_written_long_ago_and_replaced_a_moment_ago_stays(archive: Archive, merge_days_ago: Merge) -> None:
    topic = topic_with(archive, 5)
    merge_days_ago(topic, 0)
    long_ago = time.time() - 30 * DAY_S
    for path in root_of(topic).rglob("*"):
        os.utime(path, (long_ago, long_ago))
    assert clean(archive).files == 0
    assert len(there(topic)) == 6


def test_replaced_files_go_even_when_a_checkpoint_has_forgotten_them(archive: Archive, merge_days_ago: Merge) -> None:
    """Why a lite vacuum is not enough: delta-rs drops what was removed from the table's state."""
    topic = topic_with(archive, 5)
    merge_days_ago(topic, 8)
    snapshot = archive.snapshot(topic.dataset)
    assert len(snapshot.delta.vacuum(retention_hours=168, dry_run=True)) == 5
    snapshot.delta.create_checkpoint()
    assert archive.snapshot(topic.dataset).delta.vacuum(retention_hours=168, dry_run=True) == []
    assert clean(archive).files == 5


def test_orphans_of_killed_writers_go_when_they_are_old(archive: Archive, merge_days_ago: Merge) -> None:
    topic = topic_with(archive, 5)
    week = root_of(topic) / f"week={WEEK}"
    for name in ("2026-11-16-0123456789abcdef0123456789abcdef.parquet", ".tmp-0123456789abcdef"):
        (week / name).write_bytes(b"left behind")
    merge_days_ago(topic, 8)
    (week / "2026-11-16-fedcba9876543210fedcba9876543210.parquet").write_bytes(b"about to be committed")
    (week / ".tmp-fedcba9876543210").write_bytes(b"being written")
    certificate = (root_of(topic) / "_certificates" / f"{WEEK}.json").read_bytes()
    logs = sorted(path.name for path in (root_of(topic) / "_delta_log").iterdir())
    clean(archive)
    left = {path.rpartition("/")[2] for path in there(topic) - counting(topic)}
    assert left == {"2026-11-16-fedcba9876543210fedcba9876543210.parquet", ".tmp-fedcba9876543210"}
    assert (root_of(topic) / "_certificates" / f"{WEEK}.json").read_bytes() == certificate
    assert sorted(path.name for path in (root_of(topic) / "_delta_log").iterdir()) == logs


def test_a_table_that_is_being_written_to_is_left_for_the_next_time(archive: Archive, merge_days_ago: Merge) -> None:
    topic = topic_with(archive, 5)
    merge_days_ago(topic, 8)
    with archive.ledger.announced("run", [(RAW, topic.dataset)]):
        assert clean(archive).busy == 1
        assert len(there(topic)) == 6
    assert clean(archive).files == 5


def test_a_file_that_counts_again_when_it_is_about_to_go_stays(
    archive: Archive, merge_days_ago: Merge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows have the same name: a writer that the listing did not know of may have committed it."""
    topic = topic_with(archive, 5)
    again = archive.snapshot(topic.dataset).files()[0]
    merge_days_ago(topic, 8)
    look = cleaning._written_before

    def look_and_commit(snapshot: TableSnapshot, *given: Any) -> Any:
        found = list(look(snapshot, *given))
        if snapshot.relative == topic.relative:
            fresh = archive.snapshot(topic.dataset)
            tables.commit(archive.store, topic.relative, fresh, add=[again], transactions={}, schema=fresh.schema)
        return found

    monkeypatch.setattr(cleaning, "_written_before", look_and_commit)
    assert clean(archive).files == 4
    assert again.path in there(topic) & counting(topic)


def test_a_sealed_and_cleaned_week_reads_as_a_plain_directory(archive: Archive, merge_days_ago: Merge) -> None:
    topic = topic_with(archive, 5)
    rows = archive.read(topic.dataset).num_rows
    merge_days_ago(topic, 8)
    directory = root_of(topic) / f"week={WEEK}"
    assert len(pd.read_parquet(directory)) == 2 * rows
    clean(archive)
    assert len(pd.read_parquet(directory)) == rows
    with duckdb.connect() as connection:
        assert connection.sql(f"SELECT count(*) FROM '{directory}/*.parquet'").fetchall() == [(rows,)]


def test_the_ledger_is_cleaned_too(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    topic_with(archive, 3)
    ledger = Path(archive.store.uri("ledger/commits"))
    then = time.time() - timedelta(days=8).total_seconds()
    with monkeypatch.context() as patched:
        patched.setattr(tables, "time", SimpleNamespace(time=lambda: then))
        patched.setattr("efd_pipelines.archive.ledger_table._MAX_SMALL_FILES", 0)
        archive.ledger.compact()
    for path in ledger.rglob("*"):
        os.utime(path, (then, then))
    rows = archive.ledger.table().num_rows
    assert len(list(ledger.glob("month=*/*"))) == 4
    clean(archive)
    assert len(list(ledger.glob("month=*/*"))) == 1
    assert archive.ledger.table().num_rows == rows
