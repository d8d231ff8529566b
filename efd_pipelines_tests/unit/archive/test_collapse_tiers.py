"""Tiers' rows of the ledger collapse, too, when the archive's week has: one row says what hundreds said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.collapse import collapse
from efd_pipelines.archive.files import write_data_file
from efd_pipelines.archive.ledger import rows_of
from efd_pipelines.archive.ledger_table import LedgerTable
from efd_pipelines.archive.reindex import reindex
from efd_pipelines.archive.sealing import seal
from efd_pipelines.archive.slices import SliceUnit, slice_starts
from efd_pipelines.archive.tables import commit, open_table
from efd_pipelines.settings import load_settings
from efd_pipelines.storage.weekly import weekly_sizes
from efd_pipelines.times import Week, from_microseconds
from efd_pipelines.topics.layout import TIME
from efd_pipelines_tests.unit.archive.builders import Topic, schema_of

WEEK = Week.parse("2026-11-16")
OVER = WEEK.next().start + timedelta(days=9)
HOUR_US = 3_600_000_000
SCHEMA = schema_of("x", ("value", "double"))
TIER = "1h"


@dataclass
class Summed:
    """A topic of two weeks and a tier of it, whose slices were computed again and again."""

    topic: Topic

    @property
    def archive(self) -> Archive:
        return self.topic.archive

    def compute(self, hours: list[int], kind: str = "tier", into_ledger: bool = True) -> None:
        """A commit of the tier: windows at these hours since the week's beginning, in place of what the slices had."""
        relative = self.archive.relative(self.topic.dataset, TIER)
        snapshot = open_table(self.archive.store, relative)
        times = np.array([WEEK.start_us + hour * HOUR_US for hour in hours], np.int64)
        added, slices = [], set()
        starts = slice_starts(times, SliceUnit.DAY)
        for start in np.unique(starts).tolist():
            of = times[starts == start]
            week = Week.containing(from_microseconds(start)).key
            table = pa.table({"time": pa.array(of).cast(TIME), "value": np.full(len(of), float(self.count(snapshot)))})
            key = f"{np.datetime64(start, 'us').astype('datetime64[D]')}"
            slices.add((week, key))
            if kind == "tier":
                added.append(write_data_file(self.archive.store, relative, week, key, table))
        there = [] if snapshot is None else [f for f in snapshot.files() if (f.week, f.slice) in slices]
        made = commit(
            self.archive.store, relative, snapshot, add=added, remove=there, transactions={},
            schema=pa.schema([("time", TIME), ("value", pa.float64())]), note={"kind": kind},
            description={"dataset": self.topic.dataset.text},
        )  # fmt: skip
        if into_ledger:
            self.archive.ledger.append(rows_of(TIER, self.topic.dataset, made))

    def count(self, snapshot: Any) -> int:
        return 0 if snapshot is None else int(snapshot.version) + 1

    def rows(self, week: Week = WEEK) -> list[dict[str, Any]]:
        table = self.archive.ledger.table()
        of = pc.and_(pc.equal(table["table"], TIER), pc.equal(table["week"], week.key))
        found: list[dict[str, Any]] = table.filter(of).to_pylist()
        return found

    def answers(self) -> dict[str, Any]:
        archive = Archive(self.archive.settings)
        latest = archive.ledger.latest()
        return {
            "sizes": weekly_sizes(archive, WEEK, WEEK.next(), stores=[f"tier_{TIER}"]).to_pylist(),
            "latest": latest.filter(pc.equal(latest["table"], TIER)).to_pylist(),
            "versions": archive.ledger.known_versions([(TIER, self.topic.dataset)])[TIER, self.topic.dataset.text],
        }

    def held(self) -> tuple[int, int, int]:
        snapshot = open_table(self.archive.store, self.archive.relative(self.topic.dataset, TIER))
        assert snapshot is not None
        files = snapshot.files({WEEK.key})
        return sum(f.rows for f in files), sum(f.size_bytes for f in files), len(files)


@pytest.fixture
def made(tmp_path: Path) -> Summed:
    archive = Archive(load_settings({}, None, archive=str(tmp_path / "archive")))
    found = Summed(Topic(archive))
    for day in (0, 3, 8):
        found.topic.send(SCHEMA, [WEEK.start_us + day * 24 * HOUR_US], value=np.zeros(1))
        found.topic.drain()
    for hours in ([1, 2, 3], [2, 3, 30], [100, 101], [30, 31], [167, 168, 169], [169]):
        found.compute(hours)
    return found


def sealed(made: Summed) -> None:
    """Seals the archive's week, which collapses it, and the tier's week with it."""
    archive = Archive(made.archive.settings)
    assert seal(archive, archive.settings, week=WEEK, now=OVER).problems == []


def test_a_tiers_week_becomes_one_row_and_nobody_learns_anything_else(made: Summed) -> None:
    before, rows, later = made.answers(), made.rows(), made.rows(WEEK.next())
    assert len(rows) > 5
    sealed(made)
    (row,) = made.rows()
    assert (row["rows"], row["bytes"], row["files"]) == made.held()
    assert row["commit_kind"] == "sealed"
    assert made.rows(WEEK.next()) == later
    assert made.answers() == before
    assert made.archive.ledger.catch_up([(TIER, made.topic.dataset)]) == 0


def test_who_goes_by_versions_does_the_week_again_where_anything_changed(made: Summed) -> None:
    newest = max(row["version"] for row in made.rows())
    sealed(made)
    behind = made.archive.ledger.changes(TIER, {made.topic.dataset: newest - 1}).to_pylist()
    (change,) = [row for row in behind if row["week"] == WEEK.key]
    assert (change["first_us"], change["last_us"]) == (WEEK.start_us + HOUR_US, WEEK.start_us + 167 * HOUR_US)
    ahead = made.archive.ledger.changes(TIER, {made.topic.dataset: newest}).to_pylist()
    assert [row for row in ahead if row["week"] == WEEK.key] == []


def test_what_is_computed_later_stands_beside_it_until_the_next_round(made: Summed) -> None:
    sealed(made)
    made.compute([31, 32])
    assert len(made.rows()) == 2
    before = made.answers()
    assert collapse(Archive(made.archive.settings)).weeks == 1
    (row,) = made.rows()
    assert (row["rows"], row["bytes"], row["files"]) == made.held()
    assert made.answers() == before
    assert collapse(Archive(made.archive.settings)).weeks == 0


def test_a_week_that_is_not_what_the_table_holds_is_left(made: Summed) -> None:
    made.compute([50], into_ledger=False)
    sealed(made)
    assert len(made.rows()) > 5
    made.archive.ledger.catch_up([(TIER, made.topic.dataset)])
    assert collapse(Archive(made.archive.settings)).weeks == 1
    (row,) = made.rows()
    assert (row["rows"], row["bytes"], row["files"]) == made.held()


def test_that_a_week_was_let_go_stays_told(made: Summed) -> None:
    rows = sum(row["rows"] for row in made.rows())
    made.compute(list(range(0, 168, 24)), kind="expire")
    sealed(made)
    first, *others = sorted(made.rows(), key=lambda row: int(row["version"]))
    assert (first["commit_kind"], first["rows"]) == ("sealed", rows)
    assert {row["commit_kind"] for row in others} == {"expire"}
    assert sum(row["rows"] for row in others) == -rows
    assert collapse(Archive(made.archive.settings)).weeks == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_that_is_killed_in_between_loses_nothing(
    made: Summed, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    done: Callable[..., None] = LedgerTable._replace
    before = made.answers()
    sealed_rows: list[int] = []

    def killed(*args: Any) -> None:
        sealed_rows.append(1)
        if len(sealed_rows) == 1 or when == "after":  # the first is the archive's
            done(*args)
        if len(sealed_rows) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LedgerTable, "_replace", killed)
        with pytest.raises(KeyboardInterrupt):
            sealed(made)
    assert made.answers() == before
    assert collapse(Archive(made.archive.settings)).weeks == (1 if when == "before" else 0)
    assert made.answers() == before
    assert len(made.rows()) == 1


def test_rows_that_are_appended_again_do_not_count(made: Summed) -> None:
    stray = made.rows()
    sealed(made)
    before = made.answers()
    table = pa.Table.from_pylist(stray, schema=made.archive.ledger.table().schema)
    made.archive.ledger._append_month(stray[0]["month"], table.drop_columns(["month"]))
    assert made.answers() == before


def test_a_reindexing_gives_the_same_rows(made: Summed) -> None:
    sealed(made)
    before = Archive(made.archive.settings).ledger.table()
    found = reindex(Archive(made.archive.settings))
    assert (found.changed, found.dropped, found.problems) == (0, 0, [])
    assert Archive(made.archive.settings).ledger.table().equals(before)
