"""Kafka Connect with the Iceberg sink: a worker of its own, fetched from Maven like the other Java servers.

What belongs here: installing and starting the worker, and the sink's configuration. It is the peer that the archive is
measured against (`iceberg.py`), and nothing that the project runs on. Its files are listed in `iceberg.maven`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx

from efd_pipelines.servers import cache, maven
from efd_pipelines.servers.kafka import LOGGING
from efd_pipelines.servers.server import Program, Server

VERSION = "1.12.0"
CONTROL_TOPIC = "control-iceberg"
NAME = "iceberg"
TABLE = "efd.sink"
_JVM = ("-Xms64m", "-Xmx1g", "-XX:+UseSerialGC")


@dataclass(frozen=True, slots=True)
class Committed:
    """What the table's newest snapshot says."""

    records: int
    files: int
    bytes: int
    snapshots: int


class ConnectServer(Server):
    """A standalone worker that runs the sink on one topic.

    Args:
        bootstrap, registry_url: where the frames are, and the registry's own API.
        topic, tasks, commit_s: what it writes, in how many threads, and how often it commits.
    """

    name: ClassVar[str] = "connect"
    ready_within_s: ClassVar[float] = 400

    def __init__(
        self, directory: Path, bootstrap: str, registry_url: str, topic: str, *, tasks: int = 1, commit_s: int = 10
    ) -> None:
        super().__init__(directory, ports={"clients": 0}, die_with_parent=True)
        self._bootstrap = bootstrap
        self._registry_url = registry_url
        self._topic = topic
        self._tasks = tasks
        self._commit_s = commit_s

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port('clients')}"

    @property
    def catalogue(self) -> Path:
        return self.directory / "catalogue.db"

    @property
    def warehouse(self) -> Path:
        return self.directory / "warehouse"

    def install(self) -> None:
        """Fetch the worker, the sink and what they need from Maven into the cache (some 200 MB)."""
        maven.java()
        self._jars()

    def prepare(self) -> Program:
        """Write the worker's and the sink's properties."""
        self.warehouse.mkdir(parents=True, exist_ok=True)
        logging = self.directory / "log4j2.properties"
        logging.write_text(LOGGING)
        worker, sink = self.directory / "worker.properties", self.directory / "sink.properties"
        _write(worker, self._worker())
        _write(sink, self._sink())
        command: list[str | Path] = [maven.java(), *_JVM, f"-Dlog4j2.configurationFile={logging}"]
        command += ["-cp", f"{self._jars()}/*", "org.apache.kafka.connect.cli.ConnectStandalone", worker, sink]
        return Program(command)

    def is_healthy(self) -> bool:
        """Whether the sink and all of its tasks run."""
        try:
            answer = httpx.get(f"{self.url}/connectors/{NAME}/status", timeout=2)
        except httpx.HTTPError:
            return False
        if answer.status_code != httpx.codes.OK:
            return False
        tasks = answer.json()["tasks"]
        return len(tasks) == self._tasks and all(task["state"] == "RUNNING" for task in tasks)

    def settings(self) -> dict[str, str]:
        return {}

    def failure(self) -> str:
        """Why a task of the sink has stopped; empty while all run."""
        tasks: list[dict[str, Any]] = httpx.get(f"{self.url}/connectors/{NAME}/status", timeout=10).json()["tasks"]
        return next((str(task.get("trace")) for task in tasks if task["state"] == "FAILED"), "")

    def committed(self) -> Committed:
        """What has been committed so far."""
        with sqlite3.connect(f"file:{self.catalogue}?mode=ro", uri=True) as catalogue:
            found = catalogue.execute("SELECT metadata_location FROM iceberg_tables").fetchall()
        if not found:
            return Committed(0, 0, 0, 0)
        table = json.loads(Path(str(found[0][0]).removeprefix("file:")).read_text())
        snapshots = {one["snapshot-id"]: one for one in table.get("snapshots", ())}
        newest = snapshots.get(table.get("current-snapshot-id"))
        if newest is None:
            return Committed(0, 0, 0, 0)
        of = newest["summary"]
        return Committed(
            int(of["total-records"]), int(of["total-data-files"]), int(of["total-files-size"]), len(snapshots)
        )

    def _jars(self) -> Path:
        listed = maven.listed_in(Path(__file__).with_name("iceberg.maven"))
        return cache.installed("iceberg-sink", VERSION, lambda into: maven.fetch(listed, into))

    def _worker(self) -> dict[str, str]:
        return {
            "bootstrap.servers": self._bootstrap,
            "listeners": self.url,
            "key.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
            "header.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
            "value.converter": "io.apicurio.registry.utils.converter.AvroConverter",
            "value.converter.apicurio.registry.url": self._registry_url,
            # Four bytes of the id that the registry gives Confluent's clients, behind a zero.
            "value.converter.apicurio.registry.id-handler": "io.apicurio.registry.serde.Legacy4ByteIdHandler",
            "value.converter.apicurio.registry.use-id": "contentId",
            "offset.storage.file.filename": str(self.directory / "offsets"),
            "offset.flush.interval.ms": "1000",
            "plugin.discovery": "hybrid_warn",
            "consumer.auto.offset.reset": "earliest",
        }

    def _sink(self) -> dict[str, str]:
        return {
            "name": NAME,
            "connector.class": "org.apache.iceberg.connect.IcebergSinkConnector",
            "tasks.max": str(self._tasks),
            "topics": self._topic,
            "iceberg.tables": TABLE,
            "iceberg.tables.auto-create-enabled": "true",
            "iceberg.control.topic": CONTROL_TOPIC,
            "iceberg.control.commit.interval-ms": str(self._commit_s * 1000),
            "iceberg.catalog": "efd",
            "iceberg.catalog.catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
            "iceberg.catalog.uri": f"jdbc:sqlite:{self.catalogue}",
            "iceberg.catalog.warehouse": f"file:{self.warehouse}",
            "iceberg.catalog.io-impl": "org.apache.iceberg.hadoop.HadoopFileIO",
        }


def _write(path: Path, properties: Mapping[str, str]) -> None:
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
