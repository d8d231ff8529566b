"""Builders of a tier that are killed, or in each other's way: nothing is lost, doubled, or replaced by what is older.

What they build: `test_build.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from efd_pipelines.archive import tables
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.reading import good_files
from efd_pipelines.archive.slices import Slice, SliceUnit
from efd_pipelines.tiers import build, sharing
from efd_pipelines.tiers.build import TierIncomplete, TierResult, build_tier
from efd_pipelines.tiers.stale import StaleDataset, find_stale
from efd_pipelines_tests.unit.tiers.builders import FAST, HOUR_US, MONDAY_US, SECOND_US, an_archive, archive_rows
from efd_pipelines_tests.unit.tiers.built import ONE_SECOND, OTHER, built, computed_from, files, ramp


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return an_archive(str(tmp_path / "archive"))


class Killed(BaseException):
    """A process that ends here."""


def test_the_work_is_shared_by_processes_and_one_that_dies_loses_nothing(tmp_path: Path) -> None:
    alone, shared_out = an_archive(str(tmp_path / "alone")), an_archive(str(tmp_path / "shared"))
    for archive in (alone, shared_out):
        archive_rows(archive, FAST, ramp(MONDAY_US, 6 * 3600, step_us=2 * SECOND_US), unit=SliceUnit.DAY)
    build_tier(alone, ONE_SECOND)
    build_tier(shared_out, ONE_SECOND, processes=2)
    assert list(files(shared_out).values()) == list(files(alone).values())
    work = build._Job.of(alone, ONE_SECOND, StaleDataset(FAST, alone.snapshot(FAST), (), 0, {}), "test").work
    (part, *others) = [Slice(file.time_min_us or 0, SliceUnit.HOUR) for file in files(alone).values()]
    with sharing.sharing(alone.settings, 2) as workers:
        assert isinstance(workers, sharing._Processes)
        with suppress(BrokenProcessPool):
            workers._pool.submit(os._exit, 9).result()
        whole = replace(work, files=good_files(alone.snapshot(FAST)))
        done = list(workers.compute(whole, [[part], others[:1]], lambda _: True))
    assert [computed.files[slices[0]] for slices, computed in done] == list(files(alone).values())[:2]


def test_a_drain_that_was_killed_before_the_ledger_heard_of_it_is_built(archive: Archive) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US, 100))
    with suppress(Killed), archive.ledger.announced("killed", [(RAW, FAST)]):
        archive_rows(archive, FAST, ramp(MONDAY_US + 2 * SECOND_US, 100, first_offset=100), note=False)
        raise Killed
    built(archive)
    assert archive.read(FAST, tier="1s")["count"].to_pylist() == [50] * 4


def test_a_commit_that_reaches_the_ledger_after_a_later_one_is_built(archive: Archive) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US, 100))
    archive_rows(archive, FAST, ramp(MONDAY_US + HOUR_US, 100, first_offset=100), note=False)
    archive_rows(archive, FAST, ramp(MONDAY_US + 2 * HOUR_US, 100, first_offset=200))
    built(archive)
    assert set(files(archive)) == {"2023-11-20T00", "2023-11-20T01", "2023-11-20T02"}
    assert built(archive).commits == 0


def test_a_build_killed_after_its_commit_is_not_repeated_and_not_forgotten(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US, 100))

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(build, "rows_of", die)
        built(archive)
    assert archive.datasets(table="1s") == []
    assert built(archive).commits == 0
    assert archive.datasets(table="1s") == [FAST]


def test_a_build_killed_before_its_commit_leaves_nothing_visible(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US, 100))

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(build, "commit", die)
        built(archive)
    built(archive)
    assert archive.read(FAST, tier="1s")["count"].to_pylist() == [50, 50]
    assert archive.ledger.sql("""SELECT sum(rows) AS rows FROM ledger WHERE "table" = '1s'""")["rows"].to_pylist() == [
        2
    ]


def interrupting(real: Callable[..., Any], other: Callable[[], Any]) -> Callable[..., Any]:
    """`real`, the first time after another has done its work."""
    waiting = [other]

    def interrupted(*arguments: Any, **named: Any) -> Any:
        if waiting:
            waiting.pop()()
        return real(*arguments, **named)

    return interrupted


def test_of_two_builders_one_is_refused_and_goes_on(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US, 100))
    built(archive)
    archive_rows(archive, FAST, ramp(MONDAY_US + 2 * SECOND_US, 100, first_offset=100))
    archive_rows(archive, OTHER, ramp(MONDAY_US, 100))
    others: list[TierResult] = []

    def other() -> None:
        others.append(built(archive, datasets=[FAST]))

    monkeypatch.setattr(build, "commit", interrupting(tables.commit, other))
    result = built(archive)
    assert others[0].slices == 1
    assert (result.slices, result.windows) == (1, 2)
    assert set(archive.datasets(table="1s")) == {FAST, OTHER}
    assert archive.read(FAST, tier="1s")["count"].to_pylist() == [50] * 4
    assert len(archive.files(FAST, tier="1s")) == 1


def test_of_two_builders_one_creates_the_table(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US, 100))
    archive_rows(archive, FAST, ramp(MONDAY_US + HOUR_US, 100, first_offset=100))
    week = {"2023-11-20"}
    monkeypatch.setattr(build, "commit", interrupting(tables.commit, lambda: built(archive, weeks=week)))
    assert built(archive).windows == 0
    assert archive.read(FAST, tier="1s")["count"].to_pylist() == [50] * 4


def test_what_was_computed_from_less_never_replaces_what_was_computed_from_more(archive: Archive) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US, 100))
    old = find_stale(archive, ONE_SECOND)
    archive_rows(archive, FAST, ramp(MONDAY_US + 2 * SECOND_US, 100, first_offset=100))
    built(archive)
    before = files(archive)
    job = build._Job.of(archive, ONE_SECOND, old[0], "old")
    computed = job.work.compute(old[0].slices)
    assert computed.rows == 100
    assert job.commit(computed.files, old[0].examined) == []
    assert files(archive) == before
    assert computed_from(archive, "2023-11-20T00") == 1


@pytest.mark.parametrize("damage", ["gone", "truncated", "overwritten"])
def test_a_damaged_file_is_said_and_holds_up_no_other_dataset(archive: Archive, damage: str) -> None:
    for dataset in (FAST, OTHER):
        archive_rows(archive, dataset, ramp(MONDAY_US, 100))
    (file,) = archive.files(FAST)
    path = Path(file.uri)
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:-100] if damage == "truncated" else whole[:200] + b"\xff" * 3000 + whole[3200:])
    with pytest.raises(TierIncomplete, match=FAST.text) as caught:
        built(archive)
    assert file.path in str(caught.value)
    assert caught.value.result.windows == 2
    assert archive.datasets(table="1s") == [OTHER]
    path.write_bytes(whole)
    assert built(archive).windows == 2
