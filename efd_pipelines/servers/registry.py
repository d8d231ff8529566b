"""Apicurio Registry, which speaks the Confluent schema registry's API, on a JRE from a wheel.

What belongs here: installing and starting it. Schemas are kept in a file, so a restart knows them. Where it
differs from Confluent's: a change of doc or alias alone makes no new version, ids may have gaps, schema text
comes back as it was sent. Talking to any registry: `efd_pipelines.kafka.registry`.
"""

from __future__ import annotations

import tarfile
import tempfile
from http import HTTPStatus
from pathlib import Path
from typing import ClassVar

from efd_pipelines.servers import cache, maven
from efd_pipelines.servers.server import Program, Server, http_status

VERSION = "3.3.3"
JVM = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
API = "/apis/ccompat/v7"


class RegistryServer(Server):
    """One Apicurio Registry.

    Args:
        port: for clients; 0 for any free one.
        in_memory: forget the schemas at the end; registering thousands is faster.
    """

    name: ClassVar[str] = "registry"
    ready_within_s: ClassVar[float] = 120

    def __init__(
        self, directory: Path, port: int = 0, *, in_memory: bool = False, die_with_parent: bool = False
    ) -> None:
        super().__init__(directory, ports={"clients": port, "management": 0}, die_with_parent=die_with_parent)
        self.in_memory = in_memory

    @property
    def url(self) -> str:
        """The base of the Confluent-compatible API, path prefix included."""
        return f"http://127.0.0.1:{self.port('clients')}{API}"

    def install(self) -> None:
        """Fetch and unpack the registry (159 MB)."""
        maven.java()
        self._unpacked()

    def prepare(self) -> Program:
        """The registry takes its configuration from the environment."""
        # WRITE_DELAY 0: a schema that was acknowledged is there after kill -9 too, as ids in frames need it.
        stored = f"jdbc:h2:file:{self.directory / 'data' / 'registry'};WRITE_DELAY=0;DB_CLOSE_ON_EXIT=FALSE"
        environment = {
            "QUARKUS_HTTP_HOST": "127.0.0.1",
            "QUARKUS_HTTP_PORT": str(self.port("clients")),
            # Listens on all interfaces at 9000 unless told otherwise.
            "QUARKUS_MANAGEMENT_HOST": "127.0.0.1",
            "QUARKUS_MANAGEMENT_PORT": str(self.port("management")),
            "QUARKUS_HTTP_ACCESS_LOG_ENABLED": "false",
            # Without it /subjects silently ends at 1,000.
            "APICURIO_CCOMPAT_MAX_SUBJECTS": "100000",
            "APICURIO_DATASOURCE_URL": "jdbc:h2:mem:registry" if self.in_memory else stored,
        }
        return Program([maven.java(), *JVM, "-jar", self._unpacked() / "quarkus-run.jar"], environment)

    def is_healthy(self) -> bool:
        """Whether the subjects are listed."""
        return http_status(self.port("clients"), f"{API}/subjects") == HTTPStatus.OK

    def settings(self) -> dict[str, str]:
        """The registry's URL."""
        return {"EFD_REGISTRY_URL": self.url}

    def _unpacked(self) -> Path:
        return cache.installed("registry", VERSION, _unpack)


def _unpack(into: Path) -> None:
    with tempfile.TemporaryDirectory(dir=into.parent) as fresh:
        download = Path(fresh)
        files = maven.listed("registry")
        maven.fetch(files, download)
        with tarfile.open(download / files[0].name) as archive:
            # As an attribute: Python 3.11.0 to 3.11.3 do not know the argument `filter`.
            archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
            archive.extractall(into)  # noqa: S202 - its hash is known
