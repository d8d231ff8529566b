"""Three brokers: leaders change, logs lose their end, and are compacted. Nothing that was read is lost or doubled.

The first broker is the controller and stays.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic, PartitionMetadata

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import gaps, verify
from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.losses import missing_records
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.servers.registry import RegistryServer
from efd_pipelines.settings import Settings, load_settings
from efd_pipelines.simulator.sal import SalField, SalTopic
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.conftest import start
from efd_pipelines_tests.integration.configured import with_kafka
from efd_pipelines_tests.integration.lossless import assert_lossless, records_of
from efd_pipelines_tests.integration.produced import produce

pytestmark = pytest.mark.timeout(400)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Three brokers, numbered from 1."""

    brokers: tuple[KafkaServer, KafkaServer, KafkaServer]

    @property
    def bootstrap(self) -> str:
        return ",".join(broker.bootstrap for broker in self.brokers)

    @property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.brokers[0].bootstrap, "log_level": 0})

    def make(self, topic: str, replicas: list[int], **config: str) -> None:
        for node in replicas:
            self.brokers[node - 1].start()
        assignment: Any = [replicas]
        new = NewTopic(topic, 1, replica_assignment=assignment, config=config)
        admin = self.admin
        admin.create_topics([new])[topic].result(30)
        self.wait(lambda: self.leader(topic) == replicas[0] and self.in_sync(topic) == set(replicas))

    def leader(self, topic: str) -> int | None:
        """None while the broker that is asked has not heard of the topic: it may have started a moment ago."""
        partition = self._partition(topic)
        return None if partition is None else int(partition.leader)

    def in_sync(self, topic: str) -> set[int]:
        partition = self._partition(topic)
        return set() if partition is None else set(partition.isrs)

    def _partition(self, topic: str) -> PartitionMetadata | None:
        return self.admin.list_topics(topic, timeout=10).topics[topic].partitions.get(0)

    def wait(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 150
        while not until():
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    quick = {"log.cleaner.backoff.ms": "200", "log.initial.task.delay.ms": "500"}
    first = KafkaServer(tmp_path_factory.mktemp("first"), properties=quick, die_with_parent=True)
    second, third = (
        KafkaServer(tmp_path_factory.mktemp(f"broker{node}"), joins=first, node=node, die_with_parent=True)
        for node in (2, 3)
    )
    start(first)
    for broker in (second, third):
        broker.launch()
    for broker in (second, third):
        broker.wait_until_ready()
    yield Cluster((first, second, third))
    for broker in (third, second, first):
        broker.kill()


@pytest.fixture
def settings(cluster: Cluster, registry: RegistryServer, tmp_path: Path) -> Settings:
    environ = {"EFD_KAFKA_BOOTSTRAP": cluster.bootstrap, "EFD_REGISTRY_URL": registry.url}
    return with_kafka(load_settings(environ, None, archive=str(tmp_path / "archive")), byte_budget=1 << 20)


@pytest.fixture
def topic(unique: str) -> SalTopic:
    return SalTopic.of(f"lsst.sal.Test.{unique}", [SalField("value", "double", 40)])


def test_a_log_that_lost_its_end_and_grew_past_the_old_position(
    cluster: Cluster, settings: Settings, topic: SalTopic
) -> None:
    """An unclean election: the new leader had only the first ten records, and soon has more than were archived."""
    cluster.make(topic.name, [2, 3], **{"unclean.leader.election.enable": "true", "min.insync.replicas": "1"})
    bootstrap, registry = cluster.bootstrap, str(settings.registry_url)
    produce(settings, topic, 10, first=1)
    cluster.brokers[2].stop()
    produce(settings, topic, 10, first=100)
    archive = Archive(settings)
    assert drain(archive, settings, topics=[topic.name]).rows == 20
    before = records_of(bootstrap, registry, topic.name)
    cluster.brokers[1].kill()
    cluster.brokers[2].start()
    cluster.wait(lambda: cluster.leader(topic.name) == 3)
    produce(settings, topic, 25, first=1000)
    result = drain(archive, settings, topics=[topic.name], until_caught_up=True)
    after = records_of(bootstrap, registry, topic.name)
    assert len(after) == 35
    assert [problem.kind for problem in result.problems] == ["truncated"]
    # What both histories have is one row; what the brokers lost is still there; what took its place is there, too.
    assert result.rows == 25
    both = {
        (record.offset, record.timestamp_ms, record.values["private_seqNum"]): record for record in [*before, *after]
    }
    table = assert_lossless(archive, topic.name, list(both.values()))
    source = table["archive_source"][0].as_py()
    assert sorted(table["archive_source"].to_pylist()) == [source] * 20 + [f"{source}#1"] * 25
    (gap,) = gaps(archive, [Dataset.parse(topic.name)])
    assert (gap["kind"], gap["first"], gap["end"], missing_records(gap)) == ("truncated", 10, 20, 0)
    audit = verify(archive, deep=True, datasets=[Dataset.parse(topic.name)])
    assert (audit.problems, audit.missing, audit.rows, audit.records) == ([], 0, 45, 45)
    assert drain(archive, settings, topics=[topic.name], until_caught_up=True).records == 0


def test_a_leader_that_dies_in_the_middle_of_a_drain(cluster: Cluster, settings: Settings, topic: SalTopic) -> None:
    cluster.make(topic.name, [3, 1])
    produce(settings, topic, 6_000, first=1)
    killed = threading.Event()

    def kill_once(records: int, backlog: int, size_bytes: int) -> None:
        if not killed.is_set():
            killed.set()
            cluster.brokers[2].kill()

    archive = Archive(settings)
    drain(archive, settings, topics=[topic.name], until_caught_up=True, progress=kill_once)
    assert killed.is_set()
    cluster.wait(lambda: cluster.leader(topic.name) == 1)
    produce(settings, topic, 100, first=20_000)
    drain(archive, settings, topics=[topic.name])
    audit = verify(archive, deep=True, datasets=[Dataset.parse(topic.name)])
    assert (audit.problems, audit.rows, audit.records) == ([], 6_100, 6_100)


def test_records_that_were_compacted_before_they_were_read_are_a_recorded_gap(
    cluster: Cluster, settings: Settings, unique: str
) -> None:
    """Events have one key for each component: what a late drain finds is only the last of them."""
    event = SalTopic.of(f"lsst.sal.Test.logevent_{unique}", [SalField("value", "int")])
    at_once = {"segment.ms": "100", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "100"}
    cluster.make(event.name, [1], **{"cleanup.policy": "compact", **at_once})
    archive = Archive(settings)
    produce(settings, event, 3, first=1)
    assert drain(archive, settings, topics=[event.name]).gaps == 0
    registry = str(settings.registry_url)

    def is_compacted() -> bool:
        # Each record begins a segment, and closes the one before for the cleaner.
        produce(settings, event, 1, first=100)
        time.sleep(0.5)
        return len(records_of(cluster.brokers[0].bootstrap, registry, event.name)) < 30

    produce(settings, event, 40, first=10)
    cluster.wait(is_compacted)
    result = drain(archive, settings, topics=[event.name])
    assert [problem.kind for problem in result.problems] == ["gap"]
    (gap,) = gaps(archive, [Dataset.parse(event.name)])
    kept = set(archive.read(Dataset.parse(event.name))["kafka_offset"].to_pylist())
    assert (gap["kind"], gap["records"]) == ("compacted", len(set(range(gap["first"], gap["end"])) - kept))
    assert gap["first"] == 3
    audit = verify(archive, deep=True, datasets=[Dataset.parse(event.name)])
    assert (audit.missing, audit.rows, {problem.kind for problem in audit.problems}) == (
        gap["records"],
        len(kept),
        {"gap"},
    )
