"""Expired weeks: told from lost ones by everybody, and nobody puts anything of them back."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from efd_pipelines.archive import tables
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.certificates import read_certificate, write_certificate
from efd_pipelines.archive.cleaning import clean
from efd_pipelines.archive.ledger import RAW, rows_of
from efd_pipelines.archive.merging import merge
from efd_pipelines.archive.reindex import reindex
from efd_pipelines.archive.sealing import seal, unsealed_weeks
from efd_pipelines.archive.status import status
from efd_pipelines.archive.tables import commit
from efd_pipelines.errors import StaleWriter
from efd_pipelines.history.filling import Target, fill
from efd_pipelines.retention import enforce as enforcing
from efd_pipelines.retention.enforce import enforce
from efd_pipelines.retention.plan import judged, plan
from efd_pipelines.retention.policy import read_policy
from efd_pipelines.retention.records import gone, late_windows, without_tiers
from efd_pipelines.storage.throughput import measure
from efd_pipelines.tiers.stale import find_stale
from efd_pipelines.tiers.tier import TIERS
from efd_pipelines.times import Week
from efd_pipelines_tests.unit.retention.builders import (
    FAST,
    an_archive_of,
    archived,
    records,
    weeks_from,
    weeks_there,
)

OLD, NEW = WEEKS = weeks_from(Week.parse("2024-01-01"), 2)
NOW = datetime(2024, 2, 9, tzinfo=UTC)
"""Then raw records of the first week are due, and nothing else."""

SUMMIT = read_policy("summit")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return an_archive_of(tmp_path / "archive", WEEKS)


def expired(archive: Archive) -> Archive:
    done = enforce(archive, policy=SUMMIT, now=NOW, run="a run")
    assert [(one.level, one.week) for one in done.gone] == [(RAW, OLD)]
    return archive


def late(archive: Archive) -> None:
    archived(archive, FAST, records([OLD], first_offset=10_000, hour=50).slice(0, 45))


def kinds(archive: Archive, **options: Any) -> list[str]:
    return sorted(verify(archive, **options).kinds())


def test_an_expired_week_is_not_lost(archive: Archive) -> None:
    expired(archive)
    for deep in (False, True):
        audit = verify(archive, deep=deep)
        assert audit.problems == []
        assert (audit.records, audit.rows, audit.expired, audit.missing) == (200, 100, 100, 0)
        (note,) = [note for note in audit.notes if note.kind == "expired"]
        assert (note.week, "100 rows were let go: raw is kept for 1 month" in note.detail) == (OLD.key, True)
    (of_old,) = [one for one in status(archive) if one.week == OLD.key]
    assert (of_old.expired, of_old.rows, of_old.files) == (True, 0, 0)
    certificate = read_certificate(archive, FAST, OLD)
    assert certificate is not None
    assert certificate.rows == 100
    assert certificate.expired is not None
    assert certificate.expired["run"] == "a run"
    assert certificate.expired["covered_by"]["1s"]["records"] == 100


def test_a_week_whose_mark_is_gone_is_lost(archive: Archive) -> None:
    expired(archive)
    certificate = read_certificate(archive, FAST, OLD)
    assert certificate is not None
    write_certificate(archive.store, archive.relative(FAST), dataclasses.replace(certificate, expired=None))
    for deep in (False, True):
        audit = verify(archive, deep=deep)
        assert (list(audit.kinds()), audit.missing) == (["lost"], 100)


@pytest.mark.parametrize("kind", ["expire", "merge"])
def test_a_week_whose_files_vanished_without_the_guard_is_lost(archive: Archive, kind: str) -> None:
    snapshot = archive.snapshot(FAST)
    made = commit(
        archive.store,
        snapshot.relative,
        snapshot,
        remove=snapshot.files({OLD.key}),
        transactions={},
        schema=snapshot.schema,
        note={"kind": kind, "run": "who knows", "week": OLD.key},
    )
    archive.ledger.append(rows_of(RAW, FAST, made))
    assert "lost" in kinds(archive, deep=True)
    if kind == "expire":
        assert kinds(archive) == ["lost"]


def test_late_records_of_an_expired_week_are_kept_as_they_are(archive: Archive) -> None:
    expired(archive)
    late(archive)
    before = {tier: archive.snapshot(FAST, tier).version for tier in TIERS}

    assert unsealed_weeks(archive, archive.settings, NOW) == []
    result = seal(archive, archive.settings, week=OLD, now=NOW)
    assert (result.expired, result.sealed, result.problems) == (1, 0, [])
    assert all(find_stale(archive, tier) == [] for tier in TIERS.values())
    refused = plan(archive, policy=SUMMIT, now=NOW).refused
    assert [(one.kind, one.one.rows) for one in refused] == [("late", 45)]
    assert enforce(archive, policy=SUMMIT, now=NOW).gone == []

    assert archive.read(FAST, weeks=[OLD]).num_rows == 45
    assert {tier: archive.snapshot(FAST, tier).version for tier in TIERS} == before
    windows = late_windows(archive, FAST, OLD, TIERS["1s"])
    assert [(one.records, one.sal_index) for one in windows] == [(20, 1), (20, 1), (5, 1)]
    assert windows[0].time == datetime(2024, 1, 3, 1, 59, 58, tzinfo=UTC)
    assert late_windows(archive, FAST, NEW, TIERS["1s"]) == []
    for deep in (False, True):
        audit = verify(archive, deep=deep)
        assert (audit.problems, audit.rows) == ([], 145)
        assert "late" in {note.kind for note in audit.notes}


def test_history_does_not_fill_an_expired_week(archive: Archive) -> None:
    expired(archive)
    rows = records(WEEKS, hour=60)
    points = rows.select(["time", "salIndex", "private_sndStamp", "private_seqNum", "private_origin", "force"])
    filled = fill(archive, archive.settings, Target(FAST, None, None, "influx:efd"), points, [])
    assert filled.rows == 100
    assert weeks_there(archive, FAST) == {NEW.key}


@pytest.mark.parametrize(
    ("level", "app_id"), [(RAW, "fill"), (RAW, f"slice:{OLD}W"), (RAW, f"seal:{OLD}"), ("1s", "from:2024-01-02T06")]
)
def test_who_began_before_and_would_put_rows_back_is_refused(archive: Archive, level: str, app_id: str) -> None:
    snapshot = archive.snapshot(FAST, level)
    files = snapshot.files({OLD.key})
    reached = snapshot.transaction_version(app_id)
    now = NOW if level == RAW else datetime(2024, 4, 10, tzinfo=UTC)
    enforce(archive, policy=SUMMIT, now=now)
    assert OLD.key not in weeks_there(archive, FAST, level)
    with pytest.raises(StaleWriter):
        commit(
            archive.store,
            snapshot.relative,
            snapshot,
            add=files,
            transactions={app_id: (reached, (reached or 0) + 1)},
            schema=snapshot.schema,
            note={"kind": "fill", "run": "slow"},
        )
    assert OLD.key not in weeks_there(archive, FAST, level)


def test_a_record_that_comes_while_a_week_is_looked_at_keeps_it(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def then_drained(*given: Any, **options: Any) -> Any:
        evidence = judged(*given, **options)
        late(archive)
        return evidence

    monkeypatch.setattr(enforcing, "judged", then_drained)
    done = enforce(archive, policy=SUMMIT, now=NOW)
    assert (done.gone, [one.kind for one in done.refused]) == ([], ["unsealed"])
    assert archive.read(FAST, weeks=[OLD]).num_rows == 145
    certificate = read_certificate(archive, FAST, OLD)
    assert certificate is not None
    assert certificate.expired is None


def test_commits_to_other_weeks_do_not_hinder(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    def then_drained(*given: Any, **options: Any) -> Any:
        evidence = judged(*given, **options)
        archived(archive, FAST, records(weeks_from(Week.parse("2024-02-05"), 1), first_offset=10_000))
        return evidence

    monkeypatch.setattr(enforcing, "judged", then_drained)
    assert len(enforce(archive, policy=SUMMIT, now=NOW).gone) == 1
    assert weeks_there(archive, FAST) == {NEW.key, "2024-02-05"}


def test_files_leave_the_store_a_week_later_and_nothing_else_does(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(archive.store.uri(archive.relative(FAST)))
    then = time.time() - 8 * 86_400
    with monkeypatch.context() as patched:
        patched.setattr(tables, "time", SimpleNamespace(time=lambda: then))
        expired(archive)
    assert clean(archive, datasets=[FAST]).files == 0  # written just now, by the clock of the files
    for path in root.rglob("*"):
        os.utime(path, (then, then))
    kept = {path for path in root.rglob("*") if path.is_file() and f"week={OLD}" not in str(path)}
    assert clean(archive, datasets=[FAST]).files == 1
    assert {path for path in root.rglob("*") if path.is_file()} == kept
    assert (root / "_certificates" / f"{OLD}.json").exists()
    assert (root / f"week={OLD}").is_dir()
    assert verify(archive, deep=True).problems == []


def test_merging_leaves_expired_weeks_alone(archive: Archive) -> None:
    expired(archive)
    late(archive)
    archived(archive, FAST, records([OLD], first_offset=20_000, hour=51).slice(0, 5))
    merge(archive, now=NOW)
    assert archive.read(FAST, weeks=[OLD]).num_rows == 50
    assert verify(archive, deep=True).problems == []


def test_what_expired_is_known_from_the_logs(archive: Archive) -> None:
    expired(archive)
    before = gone(archive)
    shutil.rmtree(archive.store.path("ledger"))
    result = reindex(archive)
    assert result.problems == []
    assert [(one.level, one.week, one.rows, one.run) for one in gone(archive)] == [
        (one.level, one.week, one.rows, one.run) for one in before
    ]
    assert verify(archive).problems == []


def test_what_expired_is_known_when_even_the_log_has_forgotten(archive: Archive) -> None:
    expired(archive)
    archived(archive, FAST, records(weeks_from(Week.parse("2024-02-05"), 1), first_offset=10_000))
    snapshot = archive.snapshot(FAST)
    snapshot.delta.create_checkpoint()
    log = Path(archive.store.uri(snapshot.relative)) / "_delta_log"
    for path in sorted(log.glob("*.json"))[:-1]:
        path.unlink()
    shutil.rmtree(archive.store.path("ledger"))
    reindex(archive)
    assert [(one.level, one.week) for one in gone(archive)] == [(RAW, OLD.key)]
    (of_old,) = [one for one in status(archive) if one.week == OLD.key]
    assert of_old.expired
    assert reindex(archive).changed == 0


def test_what_was_let_go_and_is_nowhere_is_noticed(archive: Archive) -> None:
    expired(archive)
    assert without_tiers(archive, gone(archive)) == []
    for tier in TIERS:
        snapshot = archive.snapshot(FAST, tier)
        made = commit(
            archive.store,
            snapshot.relative,
            snapshot,
            remove=snapshot.files({OLD.key}),
            transactions={},
            schema=snapshot.schema,
            note={"kind": "tier", "run": "an accident"},
        )
        archive.ledger.append(rows_of(tier, FAST, made))
    assert [one.week for one in without_tiers(archive, gone(archive))] == [OLD.key]


def test_expiry_and_a_week_that_was_never_sealed(archive: Archive) -> None:
    week = Week.parse("2023-11-06")
    archived(archive, FAST, records([week], first_offset=10_000))
    done = enforce(archive, policy=SUMMIT, now=NOW)
    assert [(one.one.week, one.kind) for one in done.refused] == [(week, "unsealed")]
    assert isinstance(archive.read(FAST, weeks=[week]), pa.Table)


def test_the_storage_report_tells_what_came_from_what_is_kept(archive: Archive) -> None:
    expired(archive)
    report = measure(archive, OLD)
    (row,) = report.to_json()["topics"]
    assert (row["rows"], row["messages"], row["parquet_mb"]) == (0, 100, 0.0)
    assert row["tier_mb"] > 0
    assert any("1 weeks of topics were let go" in note for note in report.notes)
