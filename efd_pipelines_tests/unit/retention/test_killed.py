"""Whoever lets go may be killed at any moment, and may not be alone: the outcome is the same, and nothing is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.delta_log import read_log
from efd_pipelines.archive.expiry import read_mark
from efd_pipelines.retention.enforce import enforce
from efd_pipelines.retention.pins import TURN
from efd_pipelines.retention.policy import read_policy
from efd_pipelines.retention.records import gone
from efd_pipelines.times import Week
from efd_pipelines_tests.unit.retention.builders import FAST, an_archive_of, weeks_from, weeks_there
from efd_pipelines_tests.unit.tiers.builders import an_archive

WEEKS = weeks_from(Week.parse("2024-01-01"), 2)
NOW = datetime(2024, 6, 1, tzinfo=UTC)
"""Then raw records and 1 s of both weeks are due."""

DUE = {(level, week.key) for level in ("raw", "1s") for week in WEEKS}
MOMENTS = (3, 10, 12, 13, 34)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives in which somebody was killed, at one moment each; `all` was left to finish, `two` had two at once."""
    root = tmp_path_factory.mktemp("killed")
    an_archive_of(root / "template", WEEKS)
    points = [*map(str, MOMENTS), "two", "all"]
    for point in points:
        shutil.copytree(root / "template", root / point)
    command = [sys.executable, "-m", "efd_pipelines_tests.unit.retention.killed", str(root), NOW.isoformat(), *points]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[3])
    ended = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert ended == {**{str(moment): "-9" for moment in MOMENTS}, "two": "0 0", "all": "0"}, done.stderr
    return root


def reports(places: Path, point: str) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(places.glob(f"{point}-*.json"))]


def opened(places: Path, point: str) -> Archive:
    archive = an_archive(str(places / point))
    archive.store.delete(TURN)  # as if the time of a killed process's turn were over
    return archive


def expiries(archive: Archive, level: str) -> list[str]:
    """The week of each commit that let one go, by the table's log."""
    log = read_log(archive.store, archive.relative(FAST, level), 0)
    return sorted(str(made.note["week"]) for made in log if made.note.get("kind") == "expire")


def check_all_is_done(archive: Archive) -> None:
    for level in ("raw", "1s"):
        assert weeks_there(archive, FAST, level) == set()
        assert expiries(archive, level) == [week.key for week in WEEKS]
        assert all(read_mark(archive, level, FAST, week) for week in WEEKS)
    assert weeks_there(archive, FAST, "1m") == {week.key for week in WEEKS}
    told = gone(archive)
    assert {(one.level, one.week) for one in told} == DUE
    assert len(told) == len(DUE)
    assert {one.rows for one in told if one.level == "raw"} == {100}


def test_nobody_in_the_way(places: Path) -> None:
    (report,) = reports(places, "all")
    assert {tuple(one) for one in report["gone"]} == DUE  # type: ignore[attr-defined]
    assert int(str(report["moments"])) > MOMENTS[-1]
    check_all_is_done(opened(places, "all"))


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_repeated_the_outcome_is_the_same(places: Path, moment: int) -> None:
    assert reports(places, str(moment)) == []  # it did not live to tell
    archive = opened(places, str(moment))
    let_go = {("raw", week) for week in expiries(archive, "raw")} | {("1s", week) for week in expiries(archive, "1s")}
    assert {(one.level, one.week) for one in gone(archive)} == let_go  # the ledger finds what it was not told

    done = enforce(archive, policy=read_policy("summit"), now=NOW)

    assert {(one.level, one.week.key) for one in done.gone} == DUE - let_go
    assert (done.refused, done.elsewhere) == ([], 0)
    check_all_is_done(archive)


def test_of_two_at_once_each_week_is_let_go_by_one(places: Path) -> None:
    told = reports(places, "two")
    assert len(told) == 2
    both = [tuple(one) for report in told for one in report["gone"]]  # type: ignore[attr-defined]
    assert sorted(both) == sorted(DUE)
    check_all_is_done(opened(places, "two"))
