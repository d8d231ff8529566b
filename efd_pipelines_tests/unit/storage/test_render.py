"""The report's files."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from efd_pipelines.storage import storage_report
from efd_pipelines.storage.chart import headline
from efd_pipelines.storage.render import markdown, megabytes
from efd_pipelines.times import Week
from efd_pipelines_tests.unit.storage.conftest import entry, objects

TOPICS = [
    "lsst.sal.MTM1M3.forceActuatorData",
    "lsst.sal.MTMount.azimuth",
    "lsst.sal.GIS.logevent_systemStatus",
]
WEEKS = ["2026-11-02", "2026-11-09"]
Archives = Callable[..., Any]


@pytest.fixture
def archive(archive_of: Archives) -> Any:
    rows = [
        entry(topic, week, 10 * n, avro=10**6 * n, parquet=10**5 * n)
        for n, topic in enumerate(TOPICS, start=1)
        for week in WEEKS
    ]
    return archive_of(*rows)


def test_files_are_a_table_a_picture_a_page_and_a_text_in_the_weeks_directory(archive: Any) -> None:
    report = storage_report(archive, week=WEEKS[0])
    names = ["throughput.parquet", "throughput.png", "throughput.html", "throughput.md"]
    assert list(report.files) == [archive.store.uri(f"reports/storage/{WEEKS[0]}/{name}") for name in names]
    assert objects(archive)[f"reports/storage/{WEEKS[0]}/throughput.png"].startswith(b"\x89PNG")


def test_making_it_again_changes_no_byte(archive: Any) -> None:
    storage_report(archive, week=WEEKS[0])
    first = dict(objects(archive))
    storage_report(archive, week=WEEKS[0])
    assert objects(archive) == first


def test_the_table_has_a_row_per_week_store_and_topic_in_bytes(archive: Any) -> None:
    storage_report(archive, start=Week.parse(WEEKS[0]), end=Week.parse("2026-11-16"))
    (content,) = [data for name, data in objects(archive).items() if name.endswith(".parquet")]
    table = pq.read_table(io.BytesIO(content))
    rows = {(row["week"], row["store"], row["topic"]): row["bytes"] for row in table.to_pylist()}
    assert set(rows) == {
        (week, store, topic) for week in WEEKS for store in ("received", "archive") for topic in TOPICS
    }
    assert (rows[WEEKS[1], "received", TOPICS[0]], rows[WEEKS[1], "archive", TOPICS[0]]) == (10**6, 10**5)
    assert table.schema.field("bytes").metadata[b"unit"] == b"byte"


def test_sizes_are_labelled_and_local_time_stands_beside_utc(archive: Any) -> None:
    text = markdown(storage_report(archive, week=WEEKS[0]))
    assert "Avro bytes received from Kafka" in text
    assert "| Avro (MB) | Parquet (MB) |" in text
    assert "2026-11-02 00:00 to 2026-11-09 00:00 UTC (2026-11-01 21:00 to 2026-11-08 21:00 in Chile)" in text


def test_the_text_holds_each_component_with_its_figures(archive: Any) -> None:
    lines = markdown(storage_report(archive, week=WEEKS[0])).splitlines()
    assert "| MTMount | 20 | 20 | 2 | 0.2 | 0 | 66.67 % |" in lines
    assert "| GIS | 30 | 30 | 3 | 0.3 | 0 | 100.00 % |" in lines


def test_the_headline_says_what_one_sees(archive: Any, shared: Path) -> None:
    assert headline(storage_report(archive, week=WEEKS[0])).startswith("MTMount sends 67 % of the telemetry: 2 of 3 MB")
    published = headline(storage_report(None, sizes=shared / "seed_tables"))
    assert published.startswith("MTM1M3 sends 84 % of the telemetry: 353,699 of 420,074 MB")


@pytest.mark.parametrize(
    ("size_mb", "text"),
    [
        (float("nan"), "–"),
        (0, "0"),
        (353_699.4, "353,699"),
        (12.345, "12.3"),
        (0.00123, "0.00123"),
        (4e-6, "4e-06"),
    ],
)
def test_sizes_read_well_from_bytes_to_terabytes(size_mb: float, text: str) -> None:
    assert megabytes(size_mb) == text
