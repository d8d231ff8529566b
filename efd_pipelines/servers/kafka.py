"""Apache Kafka in KRaft mode: a broker that is its own controller, on a JRE from a wheel.

What belongs here: installing the broker, its properties, its health. Several brokers: give the first to the
others as `joins`. Talking to any broker: the package `efd_pipelines.kafka`.
"""

from __future__ import annotations

import base64
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from efd_pipelines.errors import ServiceUnavailable
from efd_pipelines.servers import cache, maven
from efd_pipelines.servers.server import Program, Server

VERSION = "4.3.1"
JVM = ("-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

# Only warnings: at INFO, 3,348 topics are some hundred thousand lines and half the time of their creation.
LOGGING = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %c: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""


class KafkaServer(Server):
    """One Apache Kafka broker.

    Args:
        port: for clients; 0 for any free one.
        controller_port: for the brokers among themselves.
        joins: the first broker of a cluster that this one becomes a further member of.
        node: the broker's number in its cluster.
        properties: broker properties beyond, or instead of, those set here.
    """

    name: ClassVar[str] = "kafka"
    # With all 3,348 topics a start takes up to 45 s on two busy cores.
    ready_within_s: ClassVar[float] = 180

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        controller_port: int = 0,
        joins: KafkaServer | None = None,
        node: int = 1,
        properties: Mapping[str, str] | None = None,
        die_with_parent: bool = False,
    ) -> None:
        wanted = {"clients": port} if joins else {"clients": port, "controller": controller_port}
        super().__init__(directory, ports=wanted, die_with_parent=die_with_parent)
        self.joins = joins
        self.node = node
        self.properties = dict(properties or {})

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients."""
        return f"127.0.0.1:{self.port('clients')}"

    @property
    def cluster_id(self) -> str:
        """The cluster's id: 22 characters, made with its first broker."""
        if self.joins:
            return self.joins.cluster_id
        path = self.directory / "cluster_id"
        if not path.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            # Kafka wants a UUID in URL-safe base64 without padding, and rejects one that begins with "-".
            fresh = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            path.write_text(f"e{fresh[1:]}")
        return path.read_text()

    def install(self) -> None:
        """Fetch the broker's 46 jars from Maven into the cache (42 MB)."""
        maven.java()
        self._jars()

    def prepare(self) -> Program:
        """Write `server.properties`, format the data directory once."""
        properties = self.directory / "server.properties"
        properties.write_text("".join(f"{name}={value}\n" for name, value in self._properties().items()))
        logging = self.directory / "log4j2.properties"
        logging.write_text(LOGGING)
        command: list[str | Path] = [
            maven.java(),
            *JVM,
            f"-Dlog4j2.configurationFile={logging}",
            "-cp",
            f"{self._jars()}/*",
        ]
        self._format(command, properties)
        return Program([*command, "kafka.Kafka", properties])

    def is_healthy(self) -> bool:
        """Whether this broker answers and says that it is a member of its cluster."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        client = AdminClient(
            {
                "bootstrap.servers": self.bootstrap,
                "log_level": 0,
                "error_cb": lambda error: None,  # refused connections are what waiting looks like
                "reconnect.backoff.max.ms": 100,
                "socket.timeout.ms": 2000,
            }
        )
        try:
            return self.node in client.list_topics(timeout=1).brokers
        except KafkaException:
            return False

    def settings(self) -> dict[str, str]:
        """The bootstrap address."""
        return {"EFD_KAFKA_BOOTSTRAP": self.bootstrap}

    def _jars(self) -> Path:
        return cache.installed("kafka", VERSION, lambda into: maven.fetch(maven.listed("kafka"), into))

    def _controller(self) -> str:
        first = self.joins or self
        return f"{first.node}@127.0.0.1:{first.port('controller')}"

    def _properties(self) -> dict[str, str]:
        clients = f"PLAINTEXT://{self.bootstrap}"
        listeners = clients if self.joins else f"{clients},CONTROLLER://{self._controller().partition('@')[2]}"
        return {
            "process.roles": "broker" if self.joins else "broker,controller",
            "node.id": str(self.node),
            "controller.quorum.voters": self._controller(),
            "listeners": listeners,
            "advertised.listeners": clients,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.directory / "data"),
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
            # Replayed recordings are older than the default's week and would vanish as they are produced;
            # topics that should forget say so themselves.
            "log.retention.ms": "-1",
            "log.index.size.max.bytes": "1048576",
            "log.cleaner.dedupe.buffer.size": "16777216",
            "log.cleaner.threads": "1",
            # After kill -9 the controller waits for the old session to end: 14 s by default, 5 s with these.
            "broker.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "2000",
            **self.properties,
        }

    def _format(self, java: list[str | Path], properties: Path) -> None:
        if (self.directory / "data" / "meta.properties").exists():
            return
        arguments = ["format", "-t", self.cluster_id, "-c", str(properties), "--ignore-formatted"]
        done = subprocess.run(
            [*java, "kafka.tools.StorageTool", *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ServiceUnavailable(
                f"kafka cannot use {self.directory / 'data'}: {(done.stdout + done.stderr).strip()}",
                remedy=f"Remove the cause, or {self.directory} with all its data, and start again.",
            )
