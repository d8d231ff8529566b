"""A real Dagster for tests: its webserver and its daemon as processes of their own, over a home of the test's.

What is asked goes through GraphQL, as the UI does it.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import dagster as dg
import httpx

from efd_pipelines.servers.ports import free_port
from efd_pipelines.servers.server import Program, Server, http_status

ROOT = Path(__file__).parents[1]
LOCATION = "efd_pipelines"
_OFTEN = """
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._daemon import controller
from dagster._daemon.cli import main
controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 2
QueuedRunCoordinator.dequeue_interval_seconds = 1
main()
"""
_SELECTOR = {"repositoryLocationName": LOCATION, "repositoryName": "__repository__"}


class _Process(Server):
    """One of Dagster's processes."""

    ready_within_s: ClassVar[float] = 300
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    def __init__(self, home: Path, environment: Mapping[str, str], ports: dict[str, int]) -> None:
        super().__init__(home / self.name, ports=ports, die_with_parent=True)
        self._home = home
        self._environment = {**environment, "DAGSTER_HOME": str(home)}

    def install(self) -> None:
        """It is a dependency of the package."""

    def settings(self) -> dict[str, str]:
        return {}

    def _program(self, *arguments: str) -> Program:
        command = [sys.executable, *arguments, "-w", str(self._home / "workspace.yaml")]
        return Program(command, self._environment)


class Webserver(_Process):
    name: ClassVar[str] = "webserver"

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        super().__init__(home, environment, {"ui": free_port()})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port('ui')}"

    def prepare(self) -> Program:
        return self._program("-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(self.port("ui")))

    def is_healthy(self) -> bool:
        return http_status(self.port("ui"), "/server_info") == 200


class Daemon(_Process):
    """The daemon, with intervals of a second or two: half of a backfill's time was its waiting for the next look."""

    name: ClassVar[str] = "daemon"

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        super().__init__(home, environment, {})

    def prepare(self) -> Program:
        return self._program("-c", _OFTEN, "run")

    def is_healthy(self) -> bool:
        return self.is_running()


class DagsterSite:
    """A home with the project's own `dagster.yaml` and `workspace.yaml`, and the processes over it.

    Args:
        home: is made.
        environment: settings of webserver, daemon and every run, e.g. `EFD_ARCHIVE`.
    """

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        home.mkdir(parents=True, exist_ok=True)
        for name in ("dagster.yaml", "workspace.yaml"):
            shutil.copy(ROOT / name, home / name)
        self.home = home
        self.webserver = Webserver(home, environment)
        self._daemon = Daemon(home, environment)
        self._processes = ExitStack()

    def __enter__(self) -> Self:
        self._processes.enter_context(self.webserver)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processes.close()

    def start_daemon(self) -> None:
        self._processes.enter_context(self._daemon)

    @property
    def url(self) -> str:
        return self.webserver.url

    def instance(self) -> dg.DagsterInstance:
        """The same instance for this process."""
        return dg.DagsterInstance.from_config(str(self.home))

    def ask(self, query: str, **variables: Any) -> Any:
        """The answer of GraphQL; errors of it fail the test."""
        document = {"query": query, "variables": variables}
        answer = httpx.post(f"{self.url}/graphql", json=document, timeout=120).json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def switch_off(self) -> None:
        """Stops all sensors and schedules: what runs then is what the test has started."""
        found = self.ask(
            """query($of: RepositorySelector!) {
                sensorsOrError(repositorySelector: $of) { ... on Sensors { results { id } } }
                schedulesOrError(repositorySelector: $of) { ... on Schedules { results { id } } }
            }""",
            of=_SELECTOR,
        )
        for sensor in found["sensorsOrError"]["results"]:
            self.ask("mutation($id: String!) { stopSensor(id: $id) { __typename } }", id=sensor["id"])
        for schedule in found["schedulesOrError"]["results"]:
            self.ask("mutation($id: String!) { stopRunningSchedule(id: $id) { __typename } }", id=schedule["id"])

    def launch(self, job: str, config: Mapping[str, Any] | None = None) -> str:
        """Queues a run of a job; its id."""
        launched = self.ask(
            """mutation($of: ExecutionParams!) { launchRun(executionParams: $of) {
                __typename
                ... on LaunchRunSuccess { run { runId } }
                ... on PythonError { message }
            } }""",
            of={"selector": {**_SELECTOR, "pipelineName": job}, "runConfigData": dict(config or {})},
        )["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def wait_for_run(self, run_id: str, seconds: float = 300) -> str:
        """Waits until a run is over; its status."""
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        return _eventually(
            lambda: str(self.ask(query, id=run_id)["runOrError"]["status"]),
            lambda status: status in {"SUCCESS", "FAILURE", "CANCELED"},
            seconds,
        )

    def launch_backfill(self, assets: list[dg.AssetKey], partitions: list[str]) -> str:
        """Launches a backfill as the UI does; its id."""
        launched = self.ask(
            """mutation($of: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $of) {
                __typename
                ... on LaunchBackfillSuccess { backfillId }
                ... on PythonError { message }
            } }""",
            of={"assetSelection": [{"path": list(key.path)} for key in assets], "partitionNames": partitions},
        )["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return str(launched["backfillId"])

    def wait_for_backfill(self, backfill_id: str, seconds: float = 900) -> str:
        """Waits until a backfill is over; its status."""
        query = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
            ... on PartitionBackfill { status error { message } }
        } }"""
        return _eventually(
            lambda: str(self.ask(query, id=backfill_id)["partitionBackfillOrError"]["status"]),
            lambda status: status not in {"REQUESTED", "COMPLETING", "CANCELING", "FAILING"},
            seconds,
        )


def _eventually(ask: Callable[[], str], is_over: Callable[[str], bool], seconds: float) -> str:
    deadline = time.monotonic() + seconds
    while not is_over(status := ask()):
        assert time.monotonic() < deadline, f"still {status} after {seconds} s"
        time.sleep(0.5)
    return status
