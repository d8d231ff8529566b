"""Healing: each hole from the best source that has it, once, whoever is killed and however many do it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.tables import commit
from efd_pipelines.history.asked import Asked, finished_weeks
from efd_pipelines.history.healing import estimate, heal
from efd_pipelines.history.intervals import Interval, seconds_of
from efd_pipelines.history.lines import LineHistory
from efd_pipelines.history.results import HealResult
from efd_pipelines.history.sources import HistorySource, Piece
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.tiers.builders import MONDAY_US, SECOND_US

WEEK = Week.containing(MONDAY_US)
AZIMUTH = Dataset("lsst.sal.MTMount.azimuth")
ELEVATION = Dataset("lsst.sal.MTMount.elevation")


def file_of(path: Path, first: int, end: int) -> LineHistory:
    """Points of two topics, one a second from so many seconds after Monday."""
    lines = [
        f"{dataset} value={n}.25,private_seqNum={n}i,private_sndStamp={MONDAY_US / 1e6 + n + 37},private_origin=1i "
        f"{(MONDAY_US + n * SECOND_US) * 1000}\n"
        for dataset in (AZIMUTH, ELEVATION)
        for n in range(first, end)
    ]
    path.write_text("".join(lines))
    return LineHistory(path)


class Witness:
    """A source that notes what it is asked for."""

    def __init__(self, source: HistorySource) -> None:
        self.source = source
        self.asked: list[Interval] = []

    @property
    def name(self) -> str:
        return self.source.name

    def datasets(self) -> frozenset[Dataset]:
        return self.source.datasets()

    def about(self, dataset: Dataset, intervals: Any) -> int:
        return self.source.about(dataset, intervals)

    def pieces(self, dataset: Dataset, interval: Interval) -> Iterator[Piece]:
        self.asked.append(interval)
        yield from self.source.pieces(dataset, interval)


def healed(archive: Archive, *sources: HistorySource, **options: Any) -> HealResult:
    return heal(archive, archive.settings, component="MTMount", weeks=[WEEK], sources=sources, **options)


def numbers(archive: Archive, dataset: Dataset = AZIMUTH) -> list[int]:
    return sorted(archive.read(dataset, ["private_seqNum"])["private_seqNum"].to_pylist())


def test_a_healer_that_is_killed_after_its_commit_fills_nothing_twice(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = file_of(tmp_path / "a.lp", 0, 100)

    def die(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(Asked, "note", die)
        with pytest.raises(KeyboardInterrupt):
            healed(archive, source)
    before = healed(archive, source)
    assert before.known > 0
    assert numbers(archive) == numbers(archive, ELEVATION) == list(range(100))
    assert verify(archive, deep=True).problems == []


def test_healers_at_once_fill_everything_once(archive: Archive, tmp_path: Path) -> None:
    sources = [file_of(tmp_path / f"{n}.lp", 0, 300) for n in range(3)]
    threads = [threading.Thread(target=healed, args=(archive, source), kwargs={"again": True}) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers(archive) == numbers(archive, ELEVATION) == list(range(300))
    assert verify(archive, deep=True).problems == []


def test_the_next_source_is_asked_only_for_what_the_first_has_not(archive: Archive, tmp_path: Path) -> None:
    first = Witness(file_of(tmp_path / "first.lp", 0, 1000))
    second = Witness(file_of(tmp_path / "second.lp", 0, 5000))
    result = healed(archive, first, second)
    assert result.by_source == {"file:first.lp": 2000, "file:second.lp": 8000}
    assert numbers(archive) == list(range(5000))
    assert seconds_of(first.asked) == 7 * 86_400
    assert seconds_of(second.asked) < 7 * 86_400
    first.asked.clear()
    second.asked.clear()
    assert healed(archive, first, second).rows == 0
    assert first.asked == second.asked == []


def test_a_week_that_was_expired_stays_so(archive: Archive, tmp_path: Path) -> None:
    source = file_of(tmp_path / "a.lp", 0, 10)
    healed(archive, source)
    snapshot = archive.snapshot(AZIMUTH)
    files = snapshot.files({WEEK.key})
    transactions = {f"expire:{WEEK}": (None, 1)}
    commit(archive.store, snapshot.relative, snapshot, remove=files, transactions=transactions, schema=snapshot.schema)
    assert healed(archive, source, again=True).rows == 0


def test_topics_that_are_not_covered_are_left_alone(archive: Archive, tmp_path: Path) -> None:
    topics = archive.settings.configuration.topics.model_copy(update={"exclude": (ELEVATION.text,)})
    configuration = archive.settings.configuration.model_copy(update={"topics": topics})
    settings = archive.settings.model_copy(update={"configuration": configuration})
    heal(archive, settings, component="MTMount", weeks=[WEEK], sources=[file_of(tmp_path / "a.lp", 0, 10)])
    assert archive.datasets() == [AZIMUTH]


def test_how_much_there_is_to_do_is_told_before_and_while_it_is_done(archive: Archive, tmp_path: Path) -> None:
    source = file_of(tmp_path / "a.lp", 0, 100)
    before = estimate(archive, archive.settings, component="MTMount", weeks=[WEEK], sources=[source])
    assert (before.datasets, before.missing_s, before.values) == (2, 2 * 7 * 86_400, 800)
    seen: list[HealResult] = []
    done = healed(archive, source, progress=seen.append)
    assert done.values == 800
    assert [one.asked_s for one in seen] == sorted(one.asked_s for one in seen)
    assert done.asked_s == done.missing_s == before.missing_s
    assert finished_weeks(archive.store, "MTMount") == {WEEK}
    assert estimate(archive, archive.settings, component="MTMount", weeks=[WEEK], sources=[source]).values == 0


class Large:
    """A source that has 50 points a second of 800 fields, as MTM1M3's have them, all week long."""

    name = "influx:large"

    def datasets(self) -> frozenset[Dataset]:
        return frozenset({AZIMUTH, ELEVATION})

    def about(self, dataset: Dataset, intervals: Any) -> int:
        return int(seconds_of(intervals) * 50 * 800)

    def pieces(self, dataset: Dataset, interval: Interval) -> Iterator[Piece]:
        raise AssertionError("an estimate asks for nothing")


def test_an_estimate_says_how_long_the_rate_that_is_allowed_takes(archive: Archive) -> None:
    settings = archive.settings.model_copy(update={"history_values_s": 200_000.0})
    found = estimate(archive, settings, component="MTMount", weeks=[WEEK], sources=[Large()])
    # Two such topics take 2.8 days: of the schedule's six hours a day eleven days.
    assert found.values == 2 * 7 * 86_400 * 50 * 800
    assert found.hours == pytest.approx(67.2)


def test_without_a_source_nothing_is_done(archive: Archive) -> None:
    assert heal(archive, archive.settings, component="MTMount", weeks=[WEEK]) == HealResult()
