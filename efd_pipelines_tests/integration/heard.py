"""Brokers whose backlog tests read, what is done to them meanwhile, and what a reading heard of it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from efd_pipelines.kafka.backlog import Chunk, Position, Read, read_backlog
from efd_pipelines.kafka.brokers import Brokers, Watermarks
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.settings import Settings, load_settings
from efd_pipelines_tests.integration.configured import with_kafka


@dataclass(slots=True)
class Cluster:
    """A broker and what a test does to it."""

    server: KafkaServer
    admin: AdminClient
    settings: Settings

    @classmethod
    def of(cls, server: KafkaServer, **kafka: object) -> Cluster:
        settings = with_kafka(load_settings({"EFD_KAFKA_BOOTSTRAP": server.bootstrap}, None), **kafka)
        return cls(server, AdminClient({"bootstrap.servers": server.bootstrap, "log_level": 0}), settings)

    def make(self, topic: str, partitions: int = 1, **config: str) -> str:
        self.admin.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic].result()
        self.wait(lambda: len(self.offsets(topic)) == partitions)
        return topic

    def delete(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result()
        self.wait(lambda: topic not in self.admin.list_topics(timeout=10).topics)

    def put(self, topic: str, records: range, *, partition: int = 0, size: int = 0) -> None:
        producer = Producer({"bootstrap.servers": self.server.bootstrap, "log_level": 0, "linger.ms": 20})
        for number in records:
            while True:
                try:
                    producer.produce(topic, value_of(number, size), b"k%d" % number, partition, timestamp=number + 1)
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(60) == 0

    def offsets(self, topic: str) -> Mapping[int, Watermarks]:
        with Brokers(self.settings) as brokers:
            return brokers.offsets([topic]).get(topic, {})

    def read(self, *topics: str, budget: int | None = None, **positions: Any) -> Iterator[Read]:
        """The topics from 0, or `positions`, to their ends of now."""
        marks = {topic: self.offsets(topic) for topic in topics}
        assignments = {
            topic: positions.get("at") or {partition: Position(mark.low) for partition, mark in of.items()}
            for topic, of in marks.items()
        }
        ends = {topic: {partition: mark.high for partition, mark in of.items()} for topic, of in marks.items()}
        return read_backlog(self.settings, assignments, ends, budget)

    def wait(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not until():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@dataclass(slots=True)
class Heard:
    """Everything that a reading gave, by topic and partition."""

    values: dict[tuple[str, int], list[bytes | None]] = field(default_factory=dict)
    offsets: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    positions: dict[tuple[str, int], Position] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    events: list[Read] = field(default_factory=list)

    @classmethod
    def of(cls, reading: Iterator[Read]) -> Heard:
        heard = cls()
        for item in reading:
            heard.add(item)
        return heard

    def add(self, item: Read) -> None:
        if not isinstance(item, Chunk):
            self.events.append(item)
            return
        self.chunks.append(item)
        frames = item.frames
        for value, partition, offset in zip(
            frames.values.to_pylist(), frames.partitions.tolist(), frames.offsets.tolist(), strict=True
        ):
            self.values.setdefault((frames.topic, partition), []).append(value)
            self.offsets.setdefault((frames.topic, partition), []).append(offset)
        for partition, position in item.positions.items():
            self.positions[frames.topic, partition] = position


def value_of(number: int, size: int = 0) -> bytes:
    return str(number).encode().ljust(size, b".")


def values_of(records: range, size: int = 0) -> list[bytes]:
    return [value_of(number, size) for number in records]


def run(script: str) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own; it has `settings_for(bootstrap, **kafka)`."""
    head = """
from efd_pipelines.settings import load_settings
from efd_pipelines_tests.integration.configured import with_kafka
def settings_for(bootstrap, **kafka):
    return with_kafka(load_settings({"EFD_KAFKA_BOOTSTRAP": bootstrap}, None), **kafka)
"""
    program = head + textwrap.dedent(script)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=240)
