"""The demo kept running: services, the observatory at real time, and Dagster's UI with daemon and sensors.

Everything ends together: at Ctrl-C, or when any part ends by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from efd_pipelines.demo.children import DagsterUi, LiveObservatory, free_ui_port
from efd_pipelines.demo.observatory import SEED
from efd_pipelines.demo.site import Site
from efd_pipelines.errors import ServiceUnavailable
from efd_pipelines.servers.server import Server

PORT = 3000
RATE = 0.2
"""The share of the mountain's data rate that is simulated live: two cores also run the broker and Dagster."""

_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Dev:
    """What runs."""

    url: str
    directory: Path
    env: Path


def run_dev(directory: Path, port: int = PORT, *, tell: Callable[[str], None], started: Callable[[Dev], None]) -> None:
    """Runs until it is interrupted; `started` is called when the UI answers.

    Raises:
        SiteInUse: a demo runs in the directory.
        ServiceUnavailable: a part could not be started, or ended by itself.
    """
    site = Site.at(directory)
    with ExitStack() as stack:
        stack.enter_context(site.claimed())
        tell("Starting Apache Kafka and the schema registry (installed once per machine)")
        services, reached = stack.enter_context(site.served())
        environment = site.environment(reached)
        tell("Starting the observatory at real time")
        live = LiveObservatory(site.directory / "services" / "observatory", environment, SEED, RATE)
        stack.enter_context(live)
        tell("Starting Dagster's UI, daemon and sensors")
        ui = DagsterUi(site.dagster, environment, free_ui_port(port))
        stack.callback(tell, "Stopped.")
        stack.enter_context(ui)
        stack.callback(tell, "Stopping; runs under way are ended, nothing is lost by it")
        started(Dev(ui.url, site.directory, site.env))
        _watch([*services.servers, live, ui])


def _watch(servers: list[Server]) -> None:
    while True:
        for server in servers:
            if not server.is_running():
                raise ServiceUnavailable(
                    f"{server.name} has ended by itself",
                    remedy=f"Its log is {server.log_path}; start again.",
                )
        time.sleep(_LOOK_EVERY_S)
