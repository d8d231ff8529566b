"""Pins: what must never expire does not, whoever changes the list at the same time."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.errors import UsageError
from efd_pipelines.retention import enforce as enforcing
from efd_pipelines.retention import pins as module
from efd_pipelines.retention.enforce import enforce
from efd_pipelines.retention.pins import DamagedPins, pin, pins, unpin
from efd_pipelines.retention.plan import judged, plan
from efd_pipelines.retention.policy import read_policy
from efd_pipelines.times import Week
from efd_pipelines_tests.unit.retention.builders import FAST, OTHER, an_archive_of, weeks_from, weeks_there
from efd_pipelines_tests.unit.tiers.builders import an_archive

WEEKS = weeks_from(Week.parse("2024-01-01"), 4)
NOW = datetime(2024, 6, 1, tzinfo=UTC)
SUMMIT = read_policy("summit")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return an_archive(str(tmp_path / "archive"))


def kept(archive: Archive) -> set[str]:
    enforce(archive, policy=SUMMIT, now=NOW)
    assert weeks_there(archive, FAST, "1s") == weeks_there(archive, FAST)  # a pin keeps every level
    return weeks_there(archive, FAST)


def test_a_pinned_night_that_lies_in_two_weeks_keeps_both(tmp_path: Path) -> None:
    archive = an_archive_of(tmp_path / "archive", WEEKS)
    made = pin(archive.store, why="earthquake", night=20240114)  # Sunday noon to Monday noon, UTC
    assert [week.key for week in made.weeks()] == ["2024-01-08", "2024-01-15"]
    assert kept(archive) == {"2024-01-08", "2024-01-15"}
    refused = plan(archive, policy=SUMMIT, now=NOW).refused
    assert {one.kind for one in refused} == {"pinned"}
    assert f"unpin {made.name}" in refused[0].remedy
    unpin(archive.store, made.name)
    assert kept(archive) == set()


def test_a_night_within_a_week_keeps_that_week_alone(tmp_path: Path) -> None:
    archive = an_archive_of(tmp_path / "archive", WEEKS)
    pin(archive.store, why="first light", night=20240115)
    assert kept(archive) == {"2024-01-15"}


def test_topics_are_pinned_for_all_weeks_or_for_one(tmp_path: Path) -> None:
    archive = an_archive_of(tmp_path / "archive", WEEKS)
    pin(archive.store, why="only others", topic="lsst.sal.MTMount.*")
    pin(archive.store, why="bump test", topic="lsst.sal.MTM1M3.*", week="2024-01-22")
    assert kept(archive) == {"2024-01-22"}
    first, second = pins(archive.store)
    assert first.holds(OTHER, WEEKS[0])
    assert not second.holds(OTHER, WEEKS[3])


def test_a_pin_that_comes_while_a_week_is_looked_at_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = an_archive_of(tmp_path / "archive", WEEKS)

    def then_pinned(*given: object, **options: object) -> object:
        evidence = judged(*given, **options)  # type: ignore[arg-type]
        if not pins(archive.store):
            pin(archive.store, why="in time", week=WEEKS[0].key)
        return evidence

    monkeypatch.setattr(enforcing, "judged", then_pinned)
    assert kept(archive) == {WEEKS[0].key}
    assert archive.snapshot(FAST).transaction_version(f"expire:{WEEKS[0]}") is None


def test_many_that_pin_at_once_all_succeed(archive: Archive) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda n: pin(archive.store, why=f"reason {n}", topic=f"topic{n}"), range(8)))
    assert {one.name for one in pins(archive.store)} == {one.name for one in made}
    assert len(archive.store.list(module.DIRECTORY)) == 8  # each change can be read for ever


def test_a_list_that_cannot_be_read_lets_nothing_go(tmp_path: Path) -> None:
    archive = an_archive_of(tmp_path / "archive", WEEKS)
    pin(archive.store, why="earthquake", week=WEEKS[0].key)
    newest = archive.store.list(module.DIRECTORY)[-1]
    archive.store.write_bytes(f"{module.DIRECTORY}/{newest}", json.dumps({"pins": [{"week": 3}]}).encode())
    for attempt in (plan, enforce):
        with pytest.raises(DamagedPins):
            attempt(archive, policy=SUMMIT, now=NOW)
    assert weeks_there(archive, FAST) == {week.key for week in WEEKS}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"week": "2024-01-02"},
        {"night": 20241301},
        {"week": "2024-01-01", "night": 20240101},
        {"topic": "x", "why": " "},
    ],
)
def test_wrong_use_is_refused(archive: Archive, given: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        pin(archive.store, **{"why": "reason", **given})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="There is no pin"):
        unpin(archive.store, "nothing")
    assert pins(archive.store) == []
