"""Services: several servers together, and the settings that reach them.

`make services` runs them for a checkout, in `.services/`; `efd demo` runs Kafka and the registry in its data
directory. Ports are chosen freely and remembered, or given: by `EFD_SERVICES_PORT_BASE` (each server has its
place after it, see `PORTS`) or one by one, e.g. `EFD_SERVICES_PORT_KAFKA`. Each server: its own module.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from efd_pipelines.errors import SettingsError, UsageError
from efd_pipelines.servers.influxdb import InfluxServer
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.servers.postgresql import PostgresServer
from efd_pipelines.servers.registry import RegistryServer
from efd_pipelines.servers.s3 import S3Server
from efd_pipelines.servers.server import Server

DEFAULT_DIRECTORY = Path(".services")

# In the order in which they are started and listed, each with its place after EFD_SERVICES_PORT_BASE. A new
# server is one module and one line here.
SERVERS: dict[str, tuple[Callable[..., Server], int]] = {
    "kafka": (KafkaServer, 0),
    "registry": (RegistryServer, 1),
    "s3": (S3Server, 2),
    "postgres": (PostgresServer, 3),
    "influxdb": (InfluxServer, 4),
}


@dataclass(frozen=True, slots=True)
class Services:
    """Servers in one directory, started and stopped together.

    Args:
        directory: each server has its own in it, and `env` holds their settings for a shell.
        servers: in the order of starting.
    """

    directory: Path
    servers: tuple[Server, ...]

    @classmethod
    def named(
        cls,
        directory: Path,
        names: Sequence[str] = (),
        *,
        environment: Mapping[str, str] | None = None,
        die_with_parent: bool = False,
    ) -> Services:
        """The servers of these `names`, all when there are none, with ports from `environment`.

        Raises:
            UsageError: no server has that name.
            SettingsError: a port in the environment is none.
        """
        unknown = sorted(set(names) - set(SERVERS))
        if unknown:
            raise UsageError(f"No server is called {', '.join(unknown)}", remedy=f"There are {', '.join(SERVERS)}.")
        environment = os.environ if environment is None else environment
        directory = directory.resolve()
        return cls(
            directory,
            tuple(
                SERVERS[name][0](directory / name, port=_port(name, environment), die_with_parent=die_with_parent)
                for name in SERVERS
                if name in names or not names
            ),
        )

    def start(self) -> dict[str, str]:
        """Start what does not run, wait until all serve, write `env`; the settings that reach them."""
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_until_ready()
        return self._write_settings()

    def stop(self) -> None:
        """Stop what runs, the last one first. Data stay; `env`, which leads nowhere now, goes."""
        for server in reversed(self.servers):
            server.stop()
        self._write_settings()

    def settings(self) -> dict[str, str]:
        """The environment variables that reach the servers that run."""
        return {
            name: value for server in self.servers if server.is_running() for name, value in server.settings().items()
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def env_path(self) -> Path:
        """The file for `set -a; . env`."""
        return self.directory / "env"

    def _write_settings(self) -> dict[str, str]:
        # Of all that run here: another call may have started others.
        settings = Services.named(self.directory, environment={}).settings()
        if not settings:
            self.env_path.unlink(missing_ok=True)
            return settings
        temporary = self.env_path.with_suffix(".tmp")
        temporary.touch(mode=0o600)
        temporary.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items()))
        temporary.replace(self.env_path)
        return settings


def _port(name: str, environment: Mapping[str, str]) -> int:
    own = environment.get(f"EFD_SERVICES_PORT_{name.upper()}")
    base = environment.get("EFD_SERVICES_PORT_BASE")
    try:
        port = int(own) if own else int(base) + SERVERS[name][1] if base else 0
    except ValueError as error:
        raise SettingsError(
            f"EFD_SERVICES_PORT_{name.upper()} or EFD_SERVICES_PORT_BASE is not a number: {own or base}"
        ) from error
    if port and not 1024 <= port <= 65_535:
        raise SettingsError(f"{name} cannot listen on port {port}", remedy="Give one from 1024 to 65535.")
    return port
