"""Staleness: which exposures a run takes, by versions and windows alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from efd_pipelines.exposures.results import Provenance
from efd_pipelines.exposures.staleness import NEVER, PATIENCE, Changes, Need, stale, versions_after, waiting
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


NEEDS = [Need("angle", "a", (AZIMUTH,)), Need("both", "b", (AZIMUTH, OTHER)), Need("heat", "h", (OTHER,))]
DIGESTS = {need.name: need.digest for need in NEEDS}


def due(
    written: dict[tuple[int, int], Provenance], *commits: tuple[int, int, int], reach: tuple[int, int] = (0, 0)
) -> list[list[str]]:
    chosen = windows((100, 200), (300, 400))
    seen = {AZIMUTH: changes(*commits), OTHER: changes()}
    found = stale(chosen, written, NEEDS, {AZIMUTH: reach, OTHER: (0, 0)}, seen)
    return [[need.name for need, is_due in zip(NEEDS, row, strict=True) if is_due] for row in found]


def computed(version: int, begin: int, end: int, **digests: str) -> Provenance:
    return Provenance({**DIGESTS, **digests}, begin, end, {AZIMUTH.text: version})


ALL = ["angle", "both", "heat"]
OF_AZIMUTH = ["angle", "both"]


def test_an_exposure_that_was_never_computed_is_stale() -> None:
    assert due({(20261115, 1): computed(3, 300, 400)}) == [ALL, []]


def test_a_later_commit_makes_stale_what_it_touches_and_what_reads_it_and_nothing_else() -> None:
    written = {(20261115, 0): computed(3, 100, 200), (20261115, 1): computed(3, 300, 400)}
    assert due(written, (3, 100, 400)) == [[], []]
    assert due(written, (4, 200, 250)) == [OF_AZIMUTH, []]
    assert due(written, (4, 201, 299)) == [[], []]


def test_looking_back_or_ahead_counts_as_touching() -> None:
    written = {(20261115, 0): computed(3, 100, 200), (20261115, 1): computed(3, 300, 400)}
    assert due(written, (4, 202, 299), reach=(1, 0)) == [[], OF_AZIMUTH]
    assert due(written, (4, 201, 298), reach=(0, 1)) == [OF_AZIMUTH, []]


def test_another_window_makes_all_stale_and_another_configuration_what_changed_in_it() -> None:
    written = {(20261115, 0): computed(3, 100, 201), (20261115, 1): computed(3, 300, 400, heat="other")}
    assert due(written, (3, 0, 500)) == [ALL, ["heat"]]


def test_a_column_that_is_new_in_the_configuration_is_the_only_one_that_is_stale() -> None:
    was = Provenance({"angle": "a", "both": "b"}, 100, 200, {AZIMUTH.text: 3})
    assert due({(20261115, 0): was, (20261115, 1): computed(3, 300, 400)}) == [["heat"], []]


def test_a_configuration_that_nobody_knows_any_more_makes_all_stale() -> None:
    was = Provenance({}, 100, 200, {AZIMUTH.text: 3})
    assert due({(20261115, 0): was, (20261115, 1): computed(3, 300, 400)}) == [ALL, []]


def test_a_dataset_that_is_new_in_the_archive_makes_stale() -> None:
    written = {(20261115, 0): Provenance(DIGESTS, 100, 200, {}), (20261115, 1): Provenance(DIGESTS, 300, 400, {})}
    assert due(written, (0, 150, 160)) == [OF_AZIMUTH, []]


def test_a_topic_keeps_its_version_while_a_column_of_it_was_left_as_it_is() -> None:
    now = {AZIMUTH.text: 9, OTHER.text: 7}
    some = np.array([True, True, False])
    assert versions_after({AZIMUTH.text: 3}, now, NEEDS, some) == {AZIMUTH.text: 9}
    assert versions_after({AZIMUTH.text: 3, OTHER.text: 2}, now, NEEDS, ~some) == {AZIMUTH.text: 3, OTHER.text: 2}
    assert versions_after({}, now, NEEDS, np.ones(3, dtype=bool)) == now


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
