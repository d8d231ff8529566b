"""A site: a broker and a registry of the benchmark's own, and frames to put on it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.servers.registry import RegistryServer
from efd_pipelines.settings import Settings, load_settings
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.simulator.observatory import Observatory
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.simulator.sal import SalTopic
from efd_pipelines.simulator.series import Series, Writer
from efd_pipelines.times import microseconds

RATE_HZ = 50
_TICKS_S = os.sysconf("SC_CLK_TCK")


def topic_of(name: str) -> SalTopic:
    return builtin_topic(name)


@dataclass(slots=True)
class BenchSite:
    """A broker and a registry."""

    kafka: KafkaServer
    registry: RegistryServer

    @property
    def environ(self) -> dict[str, str]:
        return {"EFD_KAFKA_BOOTSTRAP": self.kafka.bootstrap, "EFD_REGISTRY_URL": self.registry.url}

    def settings(self, directory: Path, **overrides: Any) -> Settings:
        return load_settings(self.environ, None, **{"archive": str(directory / "archive"), **overrides})

    def name(self, topic: SalTopic) -> str:
        return topic.name

    def produce(self, topic: SalTopic, records: int, data: str, start: datetime) -> tuple[Series, list[bytes]]:
        """Records of the topic, and their frames as they are on the broker."""
        series = walk(topic, records, start) if data == "walk" else observed(topic, records, start)
        with SalProducer(self.settings(self.kafka.directory)) as producer:
            producer.prepare([topic])
            frames = producer.frames(series)
            name = producer.topic_name(topic)
            partitions = series.partitions(topic.partitions).tolist()
            for frame, partition, time_us in zip(frames, partitions, series.times_us.tolist(), strict=True):
                producer.put(name, frame, b"", partition, time_us // 1000 + 5)
        return series, frames

    def broker_cpu_s(self) -> float:
        """What the broker's process has used of processors so far."""
        pid = json.loads((self.kafka.directory / "pid").read_text(encoding="utf-8"))["pid"]
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(state[11]) + int(state[12])) / _TICKS_S


@contextmanager
def bench_site(directory: Path, properties: Mapping[str, str] | None = None) -> Iterator[BenchSite]:
    """Servers that end with the block."""
    with (
        KafkaServer(directory / "kafka", properties=properties, die_with_parent=True) as kafka,
        RegistryServer(directory / "registry", die_with_parent=True) as registry,
    ):
        yield BenchSite(kafka, registry)


def walk(topic: SalTopic, records: int, start: datetime) -> Series:
    """Random walks with noise in all fields, at 50 Hz: how anchors.md's figures of sizes were taken."""
    rng = np.random.default_rng(1)
    times_us = microseconds(start) + (1_000_000 // RATE_HZ) * np.arange(records, dtype=np.int64)
    columns = {}
    for field in topic.public_fields:
        shape = (records, field.count) if field.count > 1 else (records,)
        steps = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.05)
        np.cumsum(steps, axis=0, out=steps)
        steps += np.float32(100) + rng.standard_normal(shape, dtype=np.float32) * np.float32(0.01)
        columns[field.name] = steps
    return Writer.of(topic, 0).series(times_us, columns, 1)


def observed(topic: SalTopic, records: int, start: datetime) -> Series:
    """What the simulated observatory makes of the topic."""
    observatory = Observatory(1, topics=frozenset({topic.name.removeprefix("lsst.sal.")}))
    found: list[Series] = []
    count = 0
    for block in observatory.blocks(start, records / RATE_HZ + 20):
        found += [one for one in block if one.topic == topic]
        count = sum(map(len, found))
        if count >= records:
            break
    columns = {
        name: np.concatenate([np.broadcast_to(np.asarray(one.columns[name]), np.shape(one.columns[name]) or len(one))
                              for one in found])[:records]
        for name in found[0].columns
    }  # fmt: skip
    times_us = np.concatenate([one.times_us for one in found])[:records]
    return Series(topic, times_us, columns, found[0].keys)
