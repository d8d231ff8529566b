"""Children: the processes of a demo beside its services: a Dagster job, the UI with its daemon, the observatory.

All end with the process that started them, even when that is killed, and leave no descendants behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from efd_pipelines.servers.ports import free_port, is_free
from efd_pipelines.servers.server import LAUNCH, Program, Server, http_status

_ENDED_WITHIN_S = 15.0


def run_job(job: str, config: Path, home: Path, environment: Mapping[str, str], hear: Callable[[str], None]) -> int:
    """Executes a job of ours by `dagster job execute`; its output goes to `<home>/<job>.log` and, by line, to `hear`.

    Returns:
        the exit code; 0 where the job succeeded.
    """
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "efd_pipelines.definitions"]
    command += ["-j", job, "-c", str(config)]
    with (
        (home / f"{job}.log").open("w", encoding="utf-8") as log,
        subprocess.Popen(
            tied_to_us(command),
            cwd=home,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                log.write(line)
                hear(line.rstrip("\n"))
            return child.wait()
        except BaseException:
            _end(child)
            raise


@contextmanager
def compiling_ahead(environment: Mapping[str, str]) -> Iterator[None]:
    """Compiles meanwhile what summarises, when nobody else wants a processor; only on the first run it takes long.

    The job would stand still while it compiles: now services start and records are made. Where it does not get ready
    in time, the job compiles for itself.
    """
    code = "import os; os.nice(10); from efd_pipelines.tiers.statistics import make_ready; make_ready()"
    with subprocess.Popen(
        tied_to_us([sys.executable, "-c", code]),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as child:
        try:
            yield
        finally:
            _signal(child.pid, signal.SIGKILL)


def tied_to_us(command: Sequence[str | Path]) -> list[str]:
    """The command of a process that the kernel kills when we end."""
    return [sys.executable, "-I", "-S", str(LAUNCH), str(os.getpid()), "-1", "-1", *map(str, command)]


def _end(child: subprocess.Popen[str]) -> None:
    """Ends a process group: asked first, so that a job is recorded as stopped, then by force."""
    _signal(child.pid, signal.SIGINT)
    try:
        child.wait(_ENDED_WITHIN_S)
    except subprocess.TimeoutExpired:
        child.kill()
    _signal(child.pid, signal.SIGKILL)


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


class DagsterUi(Server):
    """Dagster's UI and daemon, by `dagster dev`.

    Args:
        home: Dagster's home, with `dagster.yaml` and `workspace.yaml`.
        environment: of the UI, the daemon and every run.
        port: of the UI.
    """

    name: ClassVar[str] = "dagster"
    ready_within_s: ClassVar[float] = 300
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    def __init__(self, home: Path, environment: Mapping[str, str], port: int) -> None:
        super().__init__(home / "ui", ports={"ui": port}, die_with_parent=True)
        self._home = home
        self._environment = dict(environment)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port('ui')}"

    def install(self) -> None:
        """It is a dependency of the package."""

    def prepare(self) -> Program:
        """Everything is in the home already."""
        command = [sys.executable, "-m", "dagster", "dev", "-w", str(self._home / "workspace.yaml")]
        command += ["-h", "127.0.0.1", "-p", str(self.port("ui")), "--log-level", "warning"]
        return Program(command, _only(self._environment))

    def is_healthy(self) -> bool:
        """Whether the UI answers."""
        return http_status(self.port("ui"), "/server_info") == 200

    def settings(self) -> dict[str, str]:
        """Nothing of ours reaches it."""
        return {}


class LiveObservatory(Server):
    """The simulated observatory at real time, from now on, by `efd simulate observatory`."""

    name: ClassVar[str] = "observatory"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    def __init__(self, directory: Path, environment: Mapping[str, str], seed: int, rate: float) -> None:
        super().__init__(directory, ports={}, die_with_parent=True)
        self._environment = dict(environment)
        self._seed = seed
        self._rate = rate

    def install(self) -> None:
        """It is part of the package."""

    def prepare(self) -> Program:
        """Without end: it stops when it is stopped."""
        command = [sys.executable, "-m", "efd_pipelines.cli", "simulate", "observatory", "--exposures"]
        command += ["--seed", str(self._seed), "--seconds", "inf", "--speed", "1", "--rate", str(self._rate)]
        return Program(command, _only(self._environment))

    def is_healthy(self) -> bool:
        """It produces as soon as it runs."""
        return self.is_running()

    def settings(self) -> dict[str, str]:
        """Nothing reaches it."""
        return {}


def _only(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a server, which inherits ours: what must not be there is emptied."""
    unwanted = {name: "" for name in os.environ if name.startswith("EFD_") and name not in environment}
    return {**unwanted, **environment}


def free_ui_port(wanted: int) -> int:
    """The port, or another where it is taken."""
    return wanted if wanted and is_free(wanted) else free_port()
