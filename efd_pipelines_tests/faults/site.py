"""The site: servers, and archives of a few cases each, with an account of all that was produced for them.

The account is what an archive is compared with (`recount.py`): where each topic began, the writers of the good
records, and how many frames cannot be decoded.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from efd_pipelines.servers.influxdb import InfluxServer
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.servers.registry import RegistryServer
from efd_pipelines.servers.s3 import S3Server
from efd_pipelines.servers.server import Server
from efd_pipelines.settings import Settings, load_settings
from efd_pipelines.simulator import faulty
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.simulator.sal import SalField, SalTopic
from efd_pipelines.simulator.series import Series
from efd_pipelines.times import microseconds
from efd_pipelines_tests.faults import lost
from efd_pipelines_tests.faults.deeds import QUARANTINED_AT

_TOPICS = ("MTMount.azimuth", "ESS.temperature", "Test.scalars", "Test.arrays")
_CHANGING = "lsst.sal.Test.changing"
CHANGING = tuple(
    SalTopic.of(_CHANGING, fields)
    for fields in (
        [SalField("count", "int"), SalField("level", "float")],
        [SalField("count", "int"), SalField("level", "float"), SalField("more", "string")],
        [SalField("count", "long long"), SalField("level", "float"), SalField("more", "string")],
        [SalField("count", "long long"), SalField("level", "double"), SalField("other", "double", 3)],
    )
)
"""The lives of a topic whose schema changes: columns come, others grow wider."""

DATASETS = tuple(sorted({builtin_topic(name).name for name in _TOPICS} | {_CHANGING, lost.TOPIC.name}))
"""What is archived: a broker may have others' topics, too."""

# A broker that is killed before it has noted what was deleted gives it out again: by default it notes so once a minute,
# from half a minute after its start on.
_NOTES_SOON = {"log.flush.start.offset.checkpoint.interval.ms": "100", "log.initial.task.delay.ms": "100"}
_REPLICATED = {"default.replication.factor": "3", "min.insync.replicas": "1", **_NOTES_SOON}
_NOTED_WITHIN_S = 5.0
_FIRST_SEED = 1_000
_ROOM_BYTES = 4 << 30


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A directory for servers and archives: in memory where there is room, since a disk's fsync is no part of it."""
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > _ROOM_BYTES
    return tempfile.TemporaryDirectory(prefix="efd-faults-", dir=memory if has_room else None)


@dataclass(slots=True)
class Servers:
    """The servers of one run; those not given are started here, and end with it."""

    kafka: KafkaServer
    registry: RegistryServer
    s3: S3Server
    influx: InfluxServer
    others: tuple[KafkaServer, ...] = ()

    @property
    def all(self) -> tuple[Server, ...]:
        return (*self.others, self.kafka, self.registry, self.s3, self.influx)

    @property
    def bootstrap(self) -> str:
        """All brokers, the first first: it is their controller."""
        return ",".join(broker.bootstrap for broker in (self.kafka, *self.others))

    @classmethod
    def started(cls, directory: Path) -> Self:
        servers = cls(
            KafkaServer(directory / "kafka", properties=_NOTES_SOON, die_with_parent=True),
            RegistryServer(directory / "registry", die_with_parent=True),
            S3Server(directory / "s3", die_with_parent=True),
            InfluxServer(directory / "influx", die_with_parent=True),
        )
        for server in servers.all:
            server.install()
            server.launch()
        for server in servers.all:
            server.wait_until_ready()
        return servers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self.all:
            server.kill()

    def with_three_brokers(self, directory: Path) -> Servers:
        """The same registry and store, and a cluster of its own in which every topic is on three brokers."""
        first = KafkaServer(directory / "broker-1", properties=_REPLICATED, die_with_parent=True)
        others = tuple(
            KafkaServer(directory / f"broker-{n}", joins=first, node=n, properties=_REPLICATED, die_with_parent=True)
            for n in (2, 3)
        )
        first.start()
        for broker in others:
            broker.launch()
        for broker in others:
            broker.wait_until_ready()
        return Servers(first, self.registry, self.s3, self.influx, others)


@dataclass(slots=True)
class Account:
    """What was produced to one topic since an archive began."""

    lows: list[int]
    writers: list[tuple[int, int, int]] = field(default_factory=list)
    dead: int = 0
    life: int = 0

    def expected(self) -> dict[str, Any]:
        return {"lows": self.lows, "writers": self.writers, "dead": self.dead}


class Site:
    """One archive at a time, on the servers given; `root` is a directory or `s3://bucket/prefix`."""

    def __init__(self, servers: Servers, root: str, environ: Mapping[str, str], history: lost.History) -> None:
        self.servers = servers
        self.root = root
        self.history = history
        reached = {"EFD_KAFKA_BOOTSTRAP": servers.bootstrap, "EFD_REGISTRY_URL": servers.registry.url}
        self.environ = {**reached, "EFD_ARCHIVE": root, **history.environ, **environ}
        self.settings = load_settings(self.environ, None)
        self.accounts: dict[str, Account] = {}
        self.records = 0
        self._seed = _FIRST_SEED

    @property
    def is_remote(self) -> bool:
        return self.root.startswith("s3://")

    def begin(self, producer: SalProducer) -> None:
        """Empties the topics, so that the archive begins with nothing in Kafka."""
        topics = [*map(builtin_topic, _TOPICS), *CHANGING, lost.TOPIC]
        for topic in topics:
            producer.prepare([topic])
        ends = _ends(self.settings, {topic.name: topic.partitions for topic in topics})
        admin = AdminClient({"bootstrap.servers": self.servers.bootstrap, "log_level": 0})
        places = [TopicPartition(topic, n, end) for topic, of in ends.items() for n, end in enumerate(of) if end]
        for done in admin.delete_records(places).values() if places else ():
            done.result(30)
        if not self.servers.others:
            _await_noted(self.servers.kafka.directory / "data", places)
        self.accounts = {topic: Account(of) for topic, of in ends.items()}

    def produce(self, producer: SalProducer, rng: np.random.Generator) -> None:
        """Records of a topic or two over some weeks, with frames that cannot be decoded and times that cannot be."""
        now = datetime.now(UTC)
        before = producer.records
        for name in rng.choice([*_TOPICS, _CHANGING], size=int(rng.integers(1, 3)), replace=False):
            topic = self._life(str(name), rng)
            account = self.accounts[topic.name]
            for week in range(int(rng.choice([1, 1, 2, 3]))):
                when = microseconds(now - timedelta(days=7 * week, minutes=5))
                series = random_series(topic, int(rng.integers(1, 40)), when, seed=self._next_seed())
                self._send(producer, account, series)
            if rng.random() < 0.4:
                account.dead += len(
                    faulty.send_random_bytes(producer, topic, int(rng.integers(1, 4)), self._next_seed())
                )
            if rng.random() < 0.2:
                late = random_series(topic, 2, microseconds(QUARANTINED_AT), seed=self._next_seed())
                self._send(producer, account, late)
        producer.flush()
        self.records += producer.records - before

    def lose(self, rng: np.random.Generator) -> str:
        """Points that no broker has; their week."""
        return self.history.lose(rng, self._next_seed()).week.key

    def deliver(self, producer: SalProducer) -> None:
        """Has Kafka deliver the last batch that was lost, after all."""
        batch = self.history.batches[-1]
        batch.is_late = True
        self._send(producer, self.accounts[lost.TOPIC.name], batch.series)
        producer.flush()

    def expected(self) -> dict[str, Any]:
        """The account as `recount` takes it."""
        topics = {topic: account.expected() for topic, account in self.accounts.items()}
        topics[lost.TOPIC.name]["history"] = [batch.expected() for batch in self.history.batches]
        return {"bootstrap": self.servers.bootstrap, "topics": topics}

    def _life(self, name: str, rng: np.random.Generator) -> SalTopic:
        """The topic; of the changing one, as its schema is or next will be."""
        if name != _CHANGING:
            return builtin_topic(name)
        account = self.accounts[name]
        account.life = min(len(CHANGING) - 1, account.life + int(rng.integers(0, 2)))
        return CHANGING[account.life]

    def _next_seed(self) -> int:
        """A seed that no other series has: each is by a writer of its own."""
        self._seed += 1
        return self._seed

    def _send(self, producer: SalProducer, account: Account, series: Series) -> None:
        producer.send([series])
        account.writers.append((int(series.columns["private_origin"]), 1, len(series)))


def _ends(settings: Settings, partitions: Mapping[str, int]) -> dict[str, list[int]]:
    """The end offsets of topics, by partition."""
    consumer = Consumer({"bootstrap.servers": settings.require_kafka(), "group.id": "site", "log_level": 0})
    try:
        return {
            topic: [consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=10)[1] for n in range(count)]
            for topic, count in partitions.items()
        }
    finally:
        consumer.close()


def _await_noted(logs: Path, places: Sequence[TopicPartition]) -> None:
    """Returns when a broker that is killed will not give out again what was deleted up to these places."""
    deadline = time.monotonic() + _NOTED_WITHIN_S
    while time.monotonic() < deadline:
        noted = _noted(logs)
        if all(_is_noted(logs, place, noted) for place in places):
            return
        time.sleep(0.02)


def _noted(logs: Path) -> dict[tuple[str, int], int]:
    """Where logs begin, as the broker has noted it: topic, partition and offset in each line, after two others."""
    try:
        lines = (logs / "log-start-offset-checkpoint").read_text().splitlines()[2:]
    except FileNotFoundError:
        return {}
    return {(topic, int(partition)): int(offset) for topic, partition, offset in map(str.split, lines)}


def _is_noted(logs: Path, place: TopicPartition, noted: Mapping[tuple[str, int], int]) -> bool:
    segments = [int(path.stem) for path in (logs / f"{place.topic}-{place.partition}").glob("*.log")]
    return max(noted.get((place.topic, place.partition), 0), min(segments, default=0)) >= place.offset
