"""Retention on S3: pins are made once, weeks go once, and what went leaves the bucket."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.delta_log import read_log
from efd_pipelines.archive.expiry import read_mark
from efd_pipelines.retention.enforce import enforce
from efd_pipelines.retention.pins import pin, pins
from efd_pipelines.retention.policy import read_policy
from efd_pipelines.retention.records import gone, reasons
from efd_pipelines.servers.s3 import S3Server
from efd_pipelines.times import Week
from efd_pipelines_tests.unit.retention.builders import FAST, sealed_and_summarised, weeks_from, weeks_there
from efd_pipelines_tests.unit.tiers.builders import an_archive

WEEKS = weeks_from(Week.parse("2024-01-01"), 3)
NOW = datetime(2024, 3, 1, tzinfo=UTC)


@pytest.fixture
def archive(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Archive:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    archive = an_archive(f"{bucket}/archive", s3_endpoint=s3.endpoint, s3_region=s3.region)
    sealed_and_summarised(archive, FAST, WEEKS)
    return archive


def test_weeks_go_once_and_pinned_ones_stay(archive: Archive) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda topic: pin(archive.store, why="a trial", topic=topic, week=WEEKS[2].key), ("*", "x*")))
    assert len(pins(archive.store)) == 2
    again = an_archive(archive.settings.archive, s3_endpoint=archive.settings.s3_endpoint)

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda one: enforce(one, policy=read_policy("summit"), now=NOW), (archive, again)))

    assert sorted(one.week for each in done for one in each.gone) == WEEKS[:2]
    assert weeks_there(archive, FAST) == {WEEKS[2].key}
    log = read_log(archive.store, archive.relative(FAST), 0)
    assert sorted(made.note["week"] for made in log if made.note.get("kind") == "expire") == [
        week.key for week in WEEKS[:2]
    ]
    assert all(read_mark(archive, "raw", FAST, week) is not None for week in WEEKS[:2])
    found = gone(archive)
    assert [(one.level, one.rows) for one in found] == [("raw", 100)] * 2
    assert all(mark is not None and mark.policy == "summit" for mark in reasons(archive, found))
    for deep in (False, True):
        audit = verify(archive, deep=deep)
        assert (audit.problems, audit.rows, audit.expired) == ([], 100, 200)
