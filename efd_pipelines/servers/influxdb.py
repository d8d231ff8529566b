"""InfluxDB 1.8 with its inspection tool: the last version whose every part is built from Go modules.

What belongs here: installing and starting it. It speaks InfluxQL, `/api/v2/write` and, with `flux`,
`/api/v2/query`; buckets and the delete API of 2.x it does not have.
"""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import ClassVar

from efd_pipelines.servers import cache, golang
from efd_pipelines.servers.server import Program, Server, http_status

VERSION = "1.8.10"

# Snapshots and statistics after one second instead of minutes: tests wait for both.
CONFIGURATION = """\
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
dir = "{data}/meta"
[data]
dir = "{data}/data"
wal-dir = "{data}/wal"
index-version = "tsi1"
cache-snapshot-write-cold-duration = "1s"
query-log-enabled = false
[monitor]
store-interval = "1s"
[http]
bind-address = "127.0.0.1:{clients}"
flux-enabled = {flux}
log-enabled = false
[logging]
level = "warn"
"""


class InfluxServer(Server):
    """One influxd, open to everybody on this machine.

    Args:
        port: for clients; 0 for any free one.
        flux: answer `/api/v2/query` too; takes 3 s longer to start and 300 MB.
    """

    name: ClassVar[str] = "influxdb"

    def __init__(self, directory: Path, port: int = 0, *, flux: bool = False, die_with_parent: bool = False) -> None:
        super().__init__(directory, ports={"clients": port, "rpc": 0}, die_with_parent=die_with_parent)
        self.flux = flux

    @property
    def url(self) -> str:
        """The URL of the HTTP API."""
        return f"http://127.0.0.1:{self.port('clients')}"

    @property
    def data(self) -> Path:
        """What holds `meta`, `data` and `wal`, as `influx_inspect` wants to know."""
        return self.directory / "data"

    @property
    def inspect(self) -> Path:
        """The program `influx_inspect`."""
        return self._programs() / "influx_inspect"

    def install(self) -> None:
        """Build influxd and influx_inspect from their Go module into the cache (1-2 minutes, once)."""
        self._programs()

    def prepare(self) -> Program:
        """Write `influxdb.conf`."""
        configuration = self.directory / "influxdb.conf"
        configuration.write_text(
            CONFIGURATION.format(
                data=self.data,
                clients=self.port("clients"),
                rpc=self.port("rpc"),
                flux="true" if self.flux else "false",
            )
        )
        return Program([self._programs() / "influxd", "-config", configuration])

    def is_healthy(self) -> bool:
        """Whether it answers a ping."""
        return http_status(self.port("clients"), "/ping") == HTTPStatus.NO_CONTENT

    def settings(self) -> dict[str, str]:
        """The server's URL."""
        return {"EFD_INFLUX_URL": self.url}

    def _programs(self) -> Path:
        return cache.installed("influxdb", f"{VERSION}-{cache.platform()}", _build)


def _build(into: Path) -> None:
    programs = ("influxd", "influx_inspect")
    golang.install(
        [f"github.com/influxdata/influxdb/cmd/{program}@v{VERSION}" for program in programs],
        into,
        ldflags=f"-X main.version={VERSION}",
    )
