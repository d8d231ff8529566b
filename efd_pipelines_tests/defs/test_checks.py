"""Checks: last night is archived or it is not, and whoever reads it knows what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import dagster as dg
import pyarrow as pa
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import Audit, Finding
from efd_pipelines.archive.ledger import SCHEMA
from efd_pipelines.defs.checks import (
    CHECKS,
    archive_checks,
    every_record_once,
    last_night,
    no_clock_errors,
    no_dead_letters,
    no_gaps,
)
from efd_pipelines.resources import Deployment
from efd_pipelines.times import this_week
from efd_pipelines_tests.defs.builders import FAST, archived, at, waiting

NOW = at("2026-11-21T15:00:00")
NIGHTS_END = at("2026-11-21T12:00:00")


def test_a_night_with_nothing_waiting_is_archived() -> None:
    assert last_night([], NOW).passed


def test_records_that_came_after_the_night_do_not_matter() -> None:
    found = last_night([waiting("lsst.sal.ESS.temperature", last_at=NIGHTS_END + timedelta(minutes=5))], NOW)
    assert found.passed
    assert found.metadata["records_waiting"].value == 100


@pytest.mark.parametrize(
    ("last_at", "told"), [(None, "never"), (NIGHTS_END - timedelta(seconds=1), "2026-11-21 11:59 UTC")]
)
def test_a_topic_that_was_not_read_since_the_night_ended_is_late(last_at: datetime | None, told: str) -> None:
    found = last_night([waiting("lsst.sal.ESS.temperature", last_at=last_at)], NOW)
    assert not found.passed
    said = f"of 1 topic. Most waits of lsst.sal.ESS.temperature: 100 records, read last: {told}."
    assert said in str(found.description)
    late = found.metadata["late"]
    assert isinstance(late, dg.TableMetadataValue)
    assert late.records[0].data["topic"] == "lsst.sal.ESS.temperature"


def test_the_slow_topics_have_two_hours_after_the_night() -> None:
    read = NIGHTS_END - timedelta(minutes=20)
    soon = NIGHTS_END + timedelta(hours=1)
    assert last_night([waiting("lsst.sal.ESS.temperature", last_at=read)], soon).passed
    assert not last_night([waiting("lsst.sal.ESS.temperature", last_at=read)], soon + timedelta(hours=1)).passed


def gap(noticed: datetime) -> dict[str, object]:
    return {
        "topic": "lsst.sal.ESS.temperature",
        "source": "c/t",
        "partition": 0,
        "first": 10,
        "end": 15,
        "reason": "gone",
        "noticed": noticed.isoformat(),
    }


def test_gaps_of_the_last_week_fail_and_older_ones_are_counted() -> None:
    recent, old = gap(NOW - timedelta(days=6)), gap(NOW - timedelta(days=8))
    found = no_gaps([recent, old], NOW)
    assert not found.passed
    assert (found.metadata["offsets_missing"].value, found.metadata["gaps_ever"].value) == (5, 2)
    assert no_gaps([old], NOW).passed


def test_dead_letters_warn(archive: Archive) -> None:
    archived(archive, FAST, this_week())
    assert no_dead_letters(archive, datetime.now(UTC)).passed
    archived(archive, FAST, "2023-11-20", 4, first_offset=10)
    with set_aside(archive, "dead"):
        found = no_dead_letters(archive, datetime.now(UTC))
        assert no_dead_letters(archive, datetime.now(UTC) + timedelta(days=8)).passed
    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.WARN
    assert found.metadata["dead_letters"].value == 14


def test_a_log_that_lost_its_end_fails_and_nothing_is_missing() -> None:
    found = no_gaps([{**gap(NOW), "kind": "truncated", "records": 5}], NOW)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert found.metadata["offsets_missing"].value == 0


def test_impossible_times_warn_until_they_have_gone_home(archive: Archive) -> None:
    archived(archive, FAST, this_week())
    now = datetime.now(UTC)
    assert no_clock_errors(archive, now).passed
    with set_aside(archive, "quarantine"):
        found = no_clock_errors(archive, now)
        assert no_clock_errors(archive, now + timedelta(days=8)).passed
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert found.metadata["quarantined"].value == 10
    with set_aside(archive, "quarantine", home=True):
        assert no_clock_errors(archive, now).passed


@contextmanager
def set_aside(archive: Archive, week: str, *, home: bool = False) -> Iterator[None]:
    """The ledger as if all rows had gone there, and been brought home since."""
    there = [{**row, "week": week} for row in archive.ledger.table().to_pylist()]
    back = [{**row, "rows": -row["rows"], "version": 9} for row in there] if home else []
    ledger = pa.Table.from_pylist([*there, *back], schema=SCHEMA)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(archive.ledger), "table", lambda self, months=None, columns=None: ledger)
        yield


def test_rows_that_are_not_there_fail() -> None:
    lost = Finding("lsst.sal.ESS.temperature", "", "lost", "10 records, 9 rows", "Report it.")
    found = every_record_once(Audit(topics=1, records=10, rows=9, problems=[lost]))
    assert not found.passed
    said = "1 problem: 1 lost. The first is lost: lsst.sal.ESS.temperature: 10 records, 9 rows. Report it."
    assert said in str(found.description)
    known = Finding("lsst.sal.ESS.temperature", "", "gap", "offsets 1 to 3", "Kafka no longer has them.")
    assert every_record_once(Audit(topics=1, records=10, rows=10, problems=[known])).passed


@pytest.mark.usefixtures("kafka_is_set")
def test_all_checks_are_evaluated_in_one_run(
    archive: Archive, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived(archive, FAST, this_week())
    monkeypatch.setattr("efd_pipelines.archive.backlog.backlog", lambda archive, settings: [])
    from efd_pipelines.defs.archive import raw_archive
    from efd_pipelines.defs.sources import kafka, kafka_topics

    definitions = dg.Definitions(
        assets=[kafka, kafka_topics, raw_archive],
        asset_checks=[archive_checks],
        jobs=[dg.define_asset_job("verify", selection=dg.AssetSelection.checks(archive_checks))],
        resources={"deployment": Deployment()},
    )
    job = definitions.resolve_job_def("verify")
    result = job.execute_in_process(instance=instance)
    outcome = {evaluation.check_name: evaluation.passed for evaluation in result.get_asset_check_evaluations()}
    assert set(outcome) == set(CHECKS)
    assert outcome["last_night"]
    assert outcome["no_gaps"]

    def unreachable(*given: object) -> None:
        raise AssertionError("a backfill asks once an hour")

    monkeypatch.setattr("efd_pipelines.archive.backlog.backlog", unreachable)
    again = job.execute_in_process(instance=instance, tags={"dagster/backfill": "abc"})
    assert {one.check_name: one.passed for one in again.get_asset_check_evaluations()} == outcome
