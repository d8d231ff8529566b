"""Reports of archives that have next to nothing, as somebody gets them who has just installed the pipelines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from efd_pipelines.archive.archive import Archive
from efd_pipelines.settings import load_settings
from efd_pipelines.times import this_week
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.cli.conftest import Efd
from efd_pipelines_tests.unit.storage.records import SCHEMA, archived

TOPIC = Dataset.parse("lsst.sal.MTM1M3.made")


def one_topic(root: Path) -> int:
    """An hour of one topic in the last week; the Avro bytes of its records."""
    archive = Archive(load_settings({}, None, archive=str(root / "efd-data" / "archive")))
    begin = this_week().previous().start_us / 1e6
    rows = [
        {"private_efdStamp": begin + n, "drifts": [n / 7] * 3, "steady": 1.5, "steps": n, "exact": 0.25, "name": "x"}
        for n in range(100)
    ]
    return archived(archive, TOPIC, SCHEMA, rows)


def titles(document: dict[str, Any]) -> list[str]:
    """What the sections of a report's page say."""
    (page,) = [Path(file) for file in document["files"] if file.endswith(".html")]
    return re.findall(r"<h2>(.*?)</h2>", page.read_text())


def test_an_archive_that_is_not_there_is_reported_as_empty(efd: Efd) -> None:
    report = efd("report", "storage", "--json").document
    assert (report["total_mb"], report["missing"], report["throughput"], titles(report)) == (0, [], None, [])
    assert "The archive has no rows of this period." in report["notes"]
    growth = efd("report", "growth", "--json").document
    assert "No week is over yet." in growth["notes"]
    anomalies = efd("report", "anomalies", "--json").document
    assert (anomalies["anomalies"], anomalies["notes"]) == ([], ["The archive has no topic yet."])


def test_one_topic_of_one_week_makes_a_whole_report(efd: Efd, tmp_path: Path) -> None:
    sent = one_topic(tmp_path)
    assert efd("annotate", "Mirror <washed>", "--at", f"{this_week().previous()}T12:00:00").code == 0
    report = efd("report", "storage", "--json").document
    assert (report["weeks"], report["messages"], report["total_mb"]) == ([this_week().previous().key], 100, sent / 1e6)
    said = titles(report)
    assert f"came in the week of {this_week().previous()}, the only one" in said[0]
    assert any(title.startswith("MTM1M3 alone sends telemetry: ") for title in said)
    assert "Where the bytes come from: 100 % from MTM1M3, 1 topic in all" in said
    page = next(Path(file) for file in report["files"] if file.endswith(".html")).read_text()
    assert f"1: {this_week().previous()} 12:00 UTC" in page
    assert "Mirror &lt;washed&gt;" in page
    assert [one["text"] for one in efd("annotate", "--list", "--json").document] == ["Mirror <washed>"]
    (line,) = re.findall(r'<path [^>]*class="line line-0"[^>]*>', page)
    (first, level), (last, same) = re.findall(r"([\d.]+),([\d.]+)", line)
    assert (float(last) - float(first) > 100, level) == (True, same)
    growth = efd("report", "growth", "--json").document
    assert any(note.startswith("A week is too few for a trend") for note in growth["notes"])


def test_stores_that_cannot_be_asked_are_named_wherever_the_report_is_read(efd: Efd, tmp_path: Path) -> None:
    sent = one_topic(tmp_path)
    away = {"EFD_INFLUX_URL": "http://127.0.0.1:1", "EFD_CONSDB_URL": "postgresql+psycopg://x@127.0.0.1:1/x"}
    done = efd("report", "storage", "--json", "--strict", **away)
    assert done.code == 1
    report = done.document
    assert report["total_mb"] == sent / 1e6
    assert len(report["missing"]) == 2
    for line, store in zip(sorted(report["missing"]), ("InfluxDB", "PostgreSQL"), strict=True):
        assert line.startswith(store)
        assert "could not be asked" in line
        assert f"Warning: {line}" in done.err
    text, page = (
        next(Path(file) for file in report["files"] if file.endswith(end)).read_text() for end in (".md", ".html")
    )
    assert text.count("> **Missing:**") == page.count("<strong>Missing:</strong>") == 2
