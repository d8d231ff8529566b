"""Staleness: which exposures a run takes, by versions and windows alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from efd_pipelines.exposures.results import Provenance
from efd_pipelines.exposures.staleness import NEVER, PATIENCE, Changes, stale, waiting
from efd_pipelines.exposures.windows import Exposures
from efd_pipelines.topics.names import Dataset

AZIMUTH = Dataset.parse("lsst.sal.MTMount.azimuth")
EVENT = Dataset.parse("lsst.sal.MTAOS.logevent_degreeOfFreedom")
OTHER = Dataset.parse("lsst.sal.ESS.temperature")


def windows(*intervals: tuple[int, int]) -> Exposures:
    count = len(intervals)
    begin, end = np.array(intervals, dtype=np.int64).reshape(-1, 2).T
    number = np.arange(count, dtype=np.int64)
    return Exposures(np.full(count, 20261115), number, number + 1000, begin, end)


def changes(*commits: tuple[int, int, int]) -> Changes:
    columns = np.array(commits, dtype=np.int64).reshape(-1, 3).T
    return Changes(*columns)


intervals = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=12)


@given(intervals, intervals)
def test_the_newest_version_is_that_of_the_last_commit_that_touches(
    commits: list[tuple[int, int]], seen: list[tuple[int, int]]
) -> None:
    made = [(version, first, first + length) for version, (first, length) in enumerate(commits)]
    asked = windows(*((begin, begin + length) for begin, length in seen))
    found = changes(*made).newest_version(asked.begin_us, asked.end_us)
    for n, (begin, length) in enumerate(seen):
        touching = [version for version, first, last in made if first <= begin + length and last >= begin]
        assert found[n] == max(touching, default=NEVER)


def due(written: dict[tuple[int, int], Provenance], *commits: tuple[int, int, int], before_us: int = 0) -> list[bool]:
    chosen = windows((100, 200), (300, 400))
    found = stale(chosen, written, "d", {AZIMUTH: before_us}, {AZIMUTH: changes(*commits)})
    return [bool(one) for one in found]


def computed(version: int, begin: int, end: int, digest: str = "d") -> Provenance:
    return Provenance(digest, begin, end, {AZIMUTH.text: version})


def test_an_exposure_that_was_never_computed_is_stale() -> None:
    assert due({(20261115, 1): computed(3, 300, 400)}) == [True, False]


def test_a_later_commit_makes_stale_what_it_touches_and_nothing_else() -> None:
    written = {(20261115, 0): computed(3, 100, 200), (20261115, 1): computed(3, 300, 400)}
    assert due(written, (3, 100, 400)) == [False, False]
    assert due(written, (4, 200, 250)) == [True, False]
    assert due(written, (4, 201, 299)) == [False, False]


def test_looking_back_counts_as_touching() -> None:
    written = {(20261115, 0): computed(3, 100, 200), (20261115, 1): computed(3, 300, 400)}
    assert due(written, (4, 201, 299), before_us=1) == [False, True]


def test_another_window_or_configuration_makes_stale() -> None:
    written = {(20261115, 0): computed(3, 100, 201), (20261115, 1): computed(3, 300, 400, "other")}
    assert due(written, (3, 0, 500)) == [True, True]


def test_a_dataset_that_is_new_in_the_archive_makes_stale() -> None:
    was = Provenance("d", 100, 200, {})
    assert due({(20261115, 0): was, (20261115, 1): was}, (0, 150, 160))[0] is True


NOW = datetime(2026, 11, 16, 3, tzinfo=UTC)


def held_up(ended_ago_s: float, **reached_ago_s: Any) -> bool:
    topics = {"telemetry": AZIMUTH, "other": OTHER, "event": EVENT}

    def us(ago_s: float) -> int:
        return int((NOW - timedelta(seconds=ago_s)).timestamp() * 1e6)

    end = us(ended_ago_s)
    reached = {topics[name]: us(ago_s) for name, ago_s in reached_ago_s.items()}
    return bool(waiting(windows((end - 30_000_000, end)), reached, NOW)[0])


def test_an_exposure_waits_for_telemetry_that_is_on_its_way() -> None:
    assert held_up(60, telemetry=90)
    assert not held_up(60, telemetry=30)
    assert held_up(60, telemetry=30, other=70)


def test_it_does_not_wait_for_events_nor_for_ever() -> None:
    assert not held_up(60, event=4000)
    assert not held_up(60, telemetry=30, event=4000)
    assert not held_up(PATIENCE.total_seconds() + 1, telemetry=PATIENCE.total_seconds() + 2)


def test_a_component_that_is_off_holds_up_nothing() -> None:
    assert not held_up(60, telemetry=30, other=PATIENCE.total_seconds() + 31)
