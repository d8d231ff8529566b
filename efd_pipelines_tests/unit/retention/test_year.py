"""A simulated year: what the policy says is gone is gone, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.status import status
from efd_pipelines.retention.enforce import enforce
from efd_pipelines.retention.plan import plan
from efd_pipelines.retention.policy import read_policy
from efd_pipelines.retention.records import by_level, gone, reasons
from efd_pipelines_tests.unit.retention.builders import (
    COMMAND,
    EVENT,
    FAST,
    FIRST,
    SLOW,
    an_archive_of,
    archived,
    certified,
    records,
    weeks_from,
    weeks_there,
)

WEEKS = weeks_from(FIRST, 56)
NOW = datetime(2025, 1, 27, 9, tzinfo=UTC)
KEPT = {"raw": pd.DateOffset(months=1), "1s": pd.DateOffset(months=3), "1m": pd.DateOffset(years=1)}
NEVER = (SLOW, EVENT, COMMAND)


def expected(level: str) -> set[str]:
    """The weeks that the Summit keeps, by the calendar of pandas."""
    if level not in KEPT:
        return {week.key for week in WEEKS}
    ends = {week.key: pd.Timestamp(week.key, tz="UTC") + timedelta(days=7) for week in WEEKS}
    return {key for key, end in ends.items() if end + KEPT[level] > pd.Timestamp(NOW)}


def content(archive: Archive, level: str) -> pd.DataFrame:
    """What a level has of the weeks that are to stay."""
    weeks = expected(level)
    frame: pd.DataFrame = archive.read(FAST, tier=level, weeks=weeks).to_pandas()
    return frame


def test_after_a_year_each_level_has_what_the_policy_keeps(tmp_path: Path) -> None:
    archive = an_archive_of(tmp_path / "archive", WEEKS)
    for dataset in NEVER:
        archived(archive, dataset, records(WEEKS))
        certified(archive, dataset, WEEKS[:2])
    policy = read_policy("summit")
    before = {level: content(archive, level) for level in ("raw", "1s", "1m", "1h")}
    versions = {dataset: archive.snapshot(dataset).version for dataset in NEVER}

    planned = plan(archive, policy=policy, now=NOW, depth="metadata")
    done = enforce(archive, policy=policy, now=NOW, run="a run")

    assert [*planned.refused, *done.refused] == []
    assert done.gone == planned.going
    for level in ("raw", "1s", "1m", "1h"):
        assert weeks_there(archive, FAST, level) == expected(level), level
        pd.testing.assert_frame_equal(content(archive, level), before[level])
    assert {level: of["weeks"] for level, of in by_level(gone(archive)).items()} == {"raw": 51, "1s": 42, "1m": 3}
    assert {dataset: archive.snapshot(dataset).version for dataset in NEVER} == versions
    assert all(weeks_there(archive, dataset) == {week.key for week in WEEKS} for dataset in NEVER)
    assert all(
        mark is not None and mark.policy == "summit" and mark.run == "a run" for mark in reasons(archive, gone(archive))
    )
    let_go = {one.week for one in status(archive) if one.expired}
    assert let_go == {week.key for week in WEEKS} - expected("raw")
    for deep in (False, True):
        audit = verify(archive, deep=deep, datasets=[FAST])
        assert [problem for problem in audit.problems if problem.kind != "value"] == []

    again = enforce(archive, policy=policy, now=NOW)

    assert (again.gone, again.refused) == ([], [])
