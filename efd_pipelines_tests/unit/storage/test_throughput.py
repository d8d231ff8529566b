"""The report's figures: from a ledger, and from the published tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from efd_pipelines.errors import StoreUnavailable, UsageError
from efd_pipelines.storage import StorageReport, storage_report
from efd_pipelines.times import Week
from efd_pipelines_tests.unit.storage.conftest import entry, objects

FORCES, MOUNT = "lsst.sal.MTM1M3.forceActuatorData", "lsst.sal.MTMount.azimuth"
WARNING, ACK, METRIC = (
    "lsst.sal.MTM1M3.logevent_forceActuatorWarning",
    "lsst.sal.MTM1M3.ackcmd",
    "lsst.dm.latency",
)
WEEK, NEXT = "2026-11-02", "2026-11-09"
Archives = Callable[..., Any]


def by_component(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["csc"]: row for row in rows}


def published(path: Path) -> dict[str, tuple[float, float]]:
    with path.open() as file:
        return {row["csc"]: (float(row["size_mb"]), float(row["percent_of_total"])) for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    ("section", "table"), [("telemetry", "table1_telemetry_by_csc"), ("events", "table2_events_by_csc")]
)
def test_the_published_topic_sizes_give_the_published_tables(shared: Path, section: str, table: str) -> None:
    expected = published(shared / "seed_tables" / f"{table}.csv")
    report = storage_report(None, sizes=shared / "seed_tables")
    found = by_component(report.to_json()[section])
    for csc, (size_mb, percent) in expected.items():
        assert found.pop(csc)["size_mb"] == pytest.approx(size_mb, abs=3), csc
        assert by_component(report.to_json()[section])[csc]["percent"] == pytest.approx(percent, abs=0.02), csc
    assert found == {}


def test_published_acknowledgements_count_as_telemetry_and_live_ones_do_not(shared: Path, archive_of: Archives) -> None:
    assert storage_report(None, sizes=shared / "seed_tables").to_json()["acks"] == []
    live = storage_report(archive_of(entry(ACK, WEEK, 5, avro=100))).to_json()
    assert (len(live["acks"]), live["telemetry"]) == (1, [])


def test_published_sizes_without_a_table_name_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"table4_telemetry_topics\.csv"):
        storage_report(None, sizes=tmp_path)


@pytest.mark.parametrize(
    "line", ["MTM1M3,MTM1M3.x,many", "MTM1M3,nonsense,5", "MTM1M3,MTM1M3.x", "A,A.b,-3", "A,A.b,nan"]
)
def test_a_published_line_that_is_no_size_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "table4_telemetry_topics.csv").write_text(f"csc,topic,size_mb\nESS,ESS.airFlow,1\n{line}\n")
    (tmp_path / "table5_event_topics.csv").write_text("csc_as_printed,topic,size_mb\n")
    with pytest.raises(UsageError, match="line 3"):
        storage_report(None, sizes=tmp_path)


def test_commits_add_up_and_merges_take_back(archive_of: Archives) -> None:
    archive = archive_of(
        entry(FORCES, WEEK, 100, avro=5_000_000, parquet=2_000_000),
        entry(FORCES, WEEK, 50, avro=2_500_000, parquet=1_000_000),
        entry(FORCES, WEEK, 0, parquet=-800_000, files=-1, commit_kind="merge"),
        entry(FORCES, WEEK, 7, parquet=40_000, table="1s", commit_kind="tier"),
        entry(FORCES, NEXT, 9, avro=90, parquet=9),
    )
    (row,) = storage_report(archive, week=WEEK).to_json()["telemetry"]
    assert row == {
        "csc": "MTM1M3", "size_mb": 7.5, "percent": 100.0, "rows": 150, "messages": 150, "files": 1,
        "avro_mb": 7.5, "parquet_mb": 2.2, "tier_mb": 0.04,
    }  # fmt: skip


def test_filled_history_counts_as_rows_and_not_as_messages(archive_of: Archives) -> None:
    archive = archive_of(entry(FORCES, WEEK, 10, avro=10), entry(FORCES, WEEK, 90, parquet=5, commit_kind="fill"))
    (row,) = storage_report(archive, week=WEEK).to_json()["telemetry"]
    assert (row["rows"], row["messages"]) == (100, 10)


def test_shares_are_of_their_section(archive_of: Archives) -> None:
    archive = archive_of(
        entry(FORCES, WEEK, 1, avro=300), entry(MOUNT, WEEK, 1, avro=100), entry(WARNING, WEEK, 1, avro=100)
    )
    report = storage_report(archive, week=WEEK).to_json()
    assert {row["csc"]: row["percent"] for row in report["telemetry"]} == {"MTM1M3": 75, "MTMount": 25}
    assert [row["percent"] for row in report["events"]] == [100]
    assert [row["percent_of_total"] for row in report["topics"]] == [60, 20, 20]


def test_every_kind_has_its_section(archive_of: Archives) -> None:
    topics = [FORCES, WARNING, "lsst.sal.MTM1M3.command_start", ACK, METRIC]
    report = storage_report(archive_of(*(entry(topic, WEEK, 1, avro=1) for topic in topics))).to_json()
    sections = ["telemetry", "events", "commands", "acks", "metrics"]
    assert [len(report[section]) for section in sections] == [1, 1, 1, 1, 1]
    assert report["metrics"][0]["csc"] == "lsst.dm"


def test_without_a_period_the_newest_week_with_rows_is_reported(archive_of: Archives) -> None:
    archive = archive_of(
        entry(FORCES, WEEK, 1, avro=1),
        entry(FORCES, NEXT, 5, avro=5),
        entry(FORCES, NEXT, -5, commit_kind="expire"),
        entry(FORCES, "quarantine", 5),
    )
    assert storage_report(archive).key == WEEK


def test_a_range_covers_its_weeks_and_no_others(archive_of: Archives) -> None:
    archive = archive_of(*(entry(FORCES, week, 1, avro=10) for week in ("2026-10-26", WEEK, NEXT, "2026-11-16")))
    report = storage_report(archive, start=Week.parse(WEEK), end=Week.parse("2026-11-16"))
    assert report.key == "2026-11-02_2026-11-09"
    assert (report.to_json()["weeks"], report.total("rows")) == ([WEEK, NEXT], 2)


def test_a_range_within_weeks_is_widened_and_says_so(archive_of: Archives) -> None:
    archive = archive_of(entry(FORCES, WEEK, 1, avro=10))
    start, end = datetime(2026, 11, 3, tzinfo=UTC), datetime(2026, 11, 4, tzinfo=UTC)
    report = storage_report(archive, start=start, end=end)
    assert report.key == WEEK
    assert any("whole weeks" in note for note in report.notes)


@pytest.mark.parametrize(
    "period",
    [
        {"week": "2026-11-03"},
        {"week": WEEK, "start": Week.parse(WEEK)},
        {"start": Week.parse(NEXT), "end": Week.parse(WEEK)},
        {"start": datetime(2026, 11, 3, 5, tzinfo=UTC), "end": datetime(2026, 11, 3, 4, tzinfo=UTC)},
        {"end": Week.parse(WEEK)},
        {"week": WEEK, "sizes": Path()},
    ],
)
def test_a_period_that_cannot_be_meant_is_refused(archive_of: Archives, period: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        storage_report(archive_of(), **period)


def test_a_ledger_that_cannot_be_caught_up_is_reported_as_missing(
    archive_of: Archives, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archive_of(entry(FORCES, WEEK, 1, avro=10))

    def fails() -> int:
        raise StoreUnavailable("s3://bucket did not answer")

    monkeypatch.setattr(archive.ledger, "catch_up_pending", fails)
    report = storage_report(archive, week=WEEK)
    assert report.total("rows") == 1
    assert "s3://bucket did not answer" in report.missing[0]
    assert "s3://bucket did not answer" in text_of(archive, report)


def test_rows_of_no_week_are_counted_where_they_arrived(archive_of: Archives) -> None:
    archive = archive_of(
        entry(FORCES, WEEK, 1, avro=10), entry(FORCES, "quarantine", 3), entry(FORCES, "dead", 2),
        entry(FORCES, "dead", 9, at=datetime(2026, 11, 9, tzinfo=UTC)),
    )  # fmt: skip
    report = storage_report(archive, week=WEEK)
    assert report.outside == {"quarantine": 3, "dead": 2}
    assert report.total("rows") == 1


def test_an_archive_without_rows_gives_a_report_that_says_so(archive_of: Archives) -> None:
    report = storage_report(archive_of())
    assert report.total_mb == 0
    assert any("no rows" in note for note in report.notes)
    assert len(report.files) == 4


def test_the_document_is_json_without_nan(shared: Path) -> None:
    document = storage_report(None, sizes=shared / "seed_tables").to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def text_of(archive: Any, report: StorageReport) -> str:
    return objects(archive)[f"reports/storage/{report.key}/throughput.md"].decode()
