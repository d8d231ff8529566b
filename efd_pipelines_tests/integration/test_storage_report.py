"""The storage report of records that went through Kafka, and of as many topics as the observatory has."""

from __future__ import annotations

import csv
import gzip
import io
import json
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from confluent_kafka import Consumer, TopicPartition

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.delta_log import log_versions, read_log
from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.replay import replay
from efd_pipelines.storage import storage_report
from efd_pipelines.tiers.build import build_tier
from efd_pipelines.tiers.tier import tier_named
from efd_pipelines.topics.names import Dataset

RECORDED_WEEK = "2023-07-24"


def rows_in_recordings(directory: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for path in directory.glob("*.csv.gz"):
        with gzip.open(path, "rt") as file:
            counts[path.name.rpartition("_")[0]] = sum(1 for _ in csv.reader(file)) - 1
    return counts


def bytes_in_kafka(settings: Settings, topics: list[str]) -> Counter[str]:
    """Bytes of all values of each topic, counted by a consumer of this test's own."""
    consumer = Consumer(
        {"bootstrap.servers": settings.require_kafka(), "group.id": "count", "enable.auto.commit": False}
    )
    sizes: Counter[str] = Counter()
    try:
        partitions = [
            TopicPartition(topic, number, 0)
            for topic in topics
            for number in consumer.list_topics(topic, timeout=10).topics[topic].partitions
        ]
        missing = sum(consumer.get_watermark_offsets(one, timeout=10)[1] for one in partitions)
        consumer.assign(partitions)
        deadline = time.monotonic() + 60
        while missing and time.monotonic() < deadline:
            for message in consumer.consume(1000, timeout=1):
                assert message.error() is None
                sizes[str(message.topic())] += len(message.value() or b"")
                missing -= 1
    finally:
        consumer.close()
    assert missing == 0
    return sizes


@pytest.mark.timeout(300)
def test_the_report_equals_an_independent_count_of_what_was_produced(
    settings: Settings, archive: Archive, shared: Path
) -> None:
    replay(settings, shared / "recorded")
    drain(archive, settings)
    expected = rows_in_recordings(shared / "recorded")
    report = storage_report(archive)
    topics = {row["topic"]: row for row in report.to_json()["topics"]}
    assert report.key == RECORDED_WEEK
    assert {topic: row["rows"] for topic, row in topics.items()} == expected
    assert {topic: row["messages"] for topic, row in topics.items()} == expected
    sizes = bytes_in_kafka(settings, list(expected))
    assert {topic: round(row["avro_mb"] * 1e6) for topic, row in topics.items()} == sizes
    assert report.total_mb == pytest.approx(sum(sizes.values()) / 1e6)
    stored = {topic: sum(file.size_bytes for file in archive.files(Dataset.parse(topic))) for topic in topics}
    assert {topic: round(row["parquet_mb"] * 1e6) for topic, row in topics.items()} == stored


@pytest.mark.timeout(300)
def test_files_are_where_they_are_said_to_be_and_the_same_again(
    settings: Settings, archive: Archive, shared: Path
) -> None:
    replay(settings, shared / "recorded")
    drain(archive, settings)
    first = storage_report(archive)
    names = [f"reports/storage/{RECORDED_WEEK}/throughput.{suffix}" for suffix in ("parquet", "png", "html", "md")]
    contents = [archive.store.read_bytes(name) for name in names]
    assert list(first.files) == [archive.store.uri(name) for name in names]
    assert pq.read_table(io.BytesIO(contents[0])).num_rows == 2 * len(first.topics)
    storage_report(archive)
    assert [archive.store.read_bytes(name) for name in names] == contents


@pytest.mark.timeout(300)
def test_tiers_are_counted_beside_the_archive(local_settings: Settings, shared: Path) -> None:
    archive = Archive(local_settings)
    replay(local_settings, shared / "recorded")
    drain(archive, local_settings)
    before = storage_report(archive)
    build_tier(archive, tier_named("1s"))
    after = storage_report(archive)
    assert before.total("tier_mb") == 0
    files = Path(local_settings.archive).glob("tiers/1s/*/*/week=*/*.parquet")
    on_disk = sum(path.stat().st_size for path in files)
    assert round(after.total("tier_mb") * 1e6) == on_disk > 0
    assert (after.total("rows"), after.total("avro_mb")) == (before.total("rows"), before.total("avro_mb"))


@pytest.mark.timeout(300)
def test_commits_that_the_ledger_lacks_are_counted(local_settings: Settings, shared: Path) -> None:
    archive = Archive(local_settings)
    replay(local_settings, shared / "recorded")
    tables = [(RAW, Dataset.parse(topic)) for topic in rows_in_recordings(shared / "recorded")]
    append = archive.ledger.append
    archive.ledger.append = lambda rows: None  # type: ignore[method-assign]
    try:
        drain(archive, local_settings)
    finally:
        archive.ledger.append = append  # type: ignore[method-assign]
    announcement = json.dumps({"at": time.time(), "tables": [[table, dataset.text] for table, dataset in tables]})
    archive.store.write_bytes("ledger/pending/killed.json", announcement.encode())
    assert log_versions(archive.store, archive.relative(tables[0][1]))
    assert next(iter(read_log(archive.store, archive.relative(tables[0][1]), 0))).note["kind"] == "drain"
    report = storage_report(archive)
    assert report.total("rows") == sum(rows_in_recordings(shared / "recorded").values())
