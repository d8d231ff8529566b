"""A server: what starting, watching and stopping has in common for all of them.

A server lives in a directory of its own: data, `ports.json`, `log`, and `pid` while it runs. It is detached
from the terminal and from us, so whoever opens the directory later can stop it. Each concrete server says how
its directory is prepared, what is executed and when it is healthy: `kafka.py` and its neighbours. Several
together: `services.py`.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from efd_pipelines.errors import ServiceUnavailable
from efd_pipelines.servers import ports
from efd_pipelines.servers.cache import locked

LAUNCH = Path(__file__).with_name("launch.py")
LOG_TAIL_LINES = 15
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Program:
    """What is executed as a server: its command, additions to the environment, and as whom."""

    command: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """One life of a process: its id and when it began, because ids are used again."""

    pid: int
    began: str

    def is_alive(self) -> bool:
        """Whether exactly this process runs; one that has ended and only waits for its parent does not."""
        with suppress(ChildProcessError):  # not ours, so not ours to wait for
            os.waitpid(self.pid, os.WNOHANG)
        return _beginning(self.pid) == self.began

    def family(self) -> list[Process]:
        """This process and all that descend from it."""
        children: dict[int, list[int]] = {}
        for pid, parent in _parents().items():
            children.setdefault(parent, []).append(pid)
        found, unseen = [], [self.pid]
        while unseen:
            pid = unseen.pop()
            unseen.extend(children.get(pid, ()))
            began = _beginning(pid)
            if began:
                found.append(Process(pid, began))
        return found

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if not self.is_alive():
            return
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return  # ended in between, which is as well

    def wait(self, seconds: float) -> bool:
        """Wait for the end; whether it came within `seconds`."""
        deadline = time.monotonic() + seconds
        while self.is_alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S / 5)
        return True


def _beginning(pid: int) -> str:
    """When process `pid` began, in whatever unit the system has; empty when there is none that runs."""
    if sys.platform != "linux":
        return _run_ps("-p", str(pid), "-o", "lstart=").strip()
    state = _state(pid)
    if not state or (state[0] in "ZX" and not _has_other_threads(pid)):
        return ""
    return state[19]


def _state(pid: int) -> list[str]:
    """What /proc says of a process, from its state letter on; nothing when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _parents() -> dict[int, int]:
    """Every process's parent."""
    if sys.platform != "linux":
        lines = _run_ps("-A", "-o", "pid=,ppid=").splitlines()
        return {int(pid): int(parent) for pid, parent in map(str.split, lines)}
    # Not by ps, which a small machine may not have.
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return {pid: int(state[1]) for pid in pids if (state := _state(pid))}


def _has_other_threads(pid: int) -> bool:
    # Of a killed JVM the first thread is a zombie while others still hold its sockets.
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    except FileNotFoundError:
        return False


def http_status(port: int, path: str) -> int | None:
    """The status with which 127.0.0.1:`port` answers GET `path`; None when it does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _run_ps(*arguments: str) -> str:
    return subprocess.run(["/bin/ps", *arguments], capture_output=True, text=True, check=False).stdout


class Server(ABC):
    """A server in a directory of its own.

    Args:
        directory: for everything the server keeps; made when it is not there.
        ports: what the server listens on, by purpose; 0 for any free port, remembered in the directory.
        die_with_parent: end the server when the process that starts it ends, however that ends (Linux). The
            thread that starts it must then live as long: the kernel looks at the thread.
    """

    name: ClassVar[str]
    ready_within_s: ClassVar[float] = 60
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    stop_within_s: ClassVar[float] = 30

    def __init__(self, directory: Path, *, ports: Mapping[str, int], die_with_parent: bool = False) -> None:
        self.directory = Path(directory).resolve()
        self.die_with_parent = die_with_parent
        self._wanted_ports = dict(ports)

    # What each server says of itself.

    @abstractmethod
    def install(self) -> None:
        """Put the program where `start` finds it; quick when it is there.

        Raises:
            NotInstalled: it could not be.
        """

    @abstractmethod
    def prepare(self) -> Program:
        """Write the configuration, create the data if there is none, and say what to execute."""

    @abstractmethod
    def is_healthy(self) -> bool:
        """Whether clients are served. Called while the server may still be starting: no errors, no noise."""

    @abstractmethod
    def settings(self) -> dict[str, str]:
        """The environment variables by which `efd_pipelines` reaches this server."""

    # What all of them do.

    @property
    def log_path(self) -> Path:
        """Where the server's output goes."""
        return self.directory / "log"

    def port(self, purpose: str) -> int:
        """The port for `purpose`, chosen at the first question or start; a running server keeps its own."""
        path = self.directory / "ports.json"
        # Asked again with other settings, a server that runs is still where it was started.
        return (ports.remembered(path) if self.is_running() else ports.settle(path, self._wanted_ports))[purpose]

    def start(self) -> None:
        """Start and wait until clients are served; nothing to do when that is so already.

        Raises:
            NotInstalled: the program could not be installed.
            ServiceUnavailable: the server did not come up; the message ends with what its log says.
        """
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start without waiting, so that several can come up together."""
        self.install()
        self.directory.mkdir(parents=True, exist_ok=True)
        with locked(self.directory / ".lock"):
            if self.is_running():
                return
            self._check_ports()
            self._execute(self.prepare())

    def wait_until_ready(self) -> None:
        """Wait until clients are served; a server that does not come up is ended."""
        deadline = time.monotonic() + self.ready_within_s
        while not self.is_healthy():
            if not self.is_running():
                self._forget_process()
                raise self._failure("ended while starting")
            if time.monotonic() > deadline:
                self.kill()
                raise self._failure(f"was not ready within {self.ready_within_s:g} s")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End the server in good order; nothing to do when it does not run. Its data stay."""
        process = self._process()
        if process is None:
            return
        family = process.family()
        process.send(self.stop_signal)
        if not process.wait(self.stop_within_s):
            process.send(signal.SIGKILL)
        self._end(family)

    def kill(self) -> None:
        """End the server and all its children with SIGKILL, as a power cut would."""
        process = self._process()
        if process is not None:
            self._end(process.family())

    def restart(self) -> None:
        """Stop, then start on the same data and ports."""
        self.stop()
        self.start()

    def is_running(self) -> bool:
        """Whether the server's process is there."""
        return self._process() is not None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # How.

    @property
    def _pid_path(self) -> Path:
        return self.directory / "pid"

    def _process(self) -> Process | None:
        try:
            process = Process(**json.loads(self._pid_path.read_text()))
        except FileNotFoundError:
            return None
        return process if process.is_alive() else None

    def _execute(self, program: Program) -> None:
        parent = os.getpid() if self.die_with_parent else 0
        uid, gid = program.user or (-1, -1)
        step = [sys.executable, "-I", "-S", str(LAUNCH), str(parent), str(uid), str(gid)]
        with self.log_path.open("ab") as output:
            child = subprocess.Popen(
                [*step, *map(str, program.command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**os.environ, **program.environment},
                start_new_session=True,
            )
        process = {"pid": child.pid, "began": _beginning(child.pid)}
        child.returncode = 0  # not waited for by subprocess: the server outlives this object
        self._pid_path.write_text(json.dumps(process))

    def _end(self, family: Sequence[Process]) -> None:
        for process in family:
            process.send(signal.SIGKILL)
        for process in family:
            process.wait(self.stop_within_s)
        self._forget_process()

    def _forget_process(self) -> None:
        self._pid_path.unlink(missing_ok=True)

    def _check_ports(self) -> None:
        for purpose in self._wanted_ports:
            port = self.port(purpose)
            if not ports.is_free(port):
                raise ServiceUnavailable(
                    f"{self.name} cannot start: port {port} ({purpose}) is in use by another process",
                    remedy=f"End that process, or delete {self.directory / 'ports.json'} for another port.",
                )

    def _failure(self, what: str) -> ServiceUnavailable:
        tail = self.log_path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        said = "\n".join(f"  | {line}" for line in tail) or "  | (nothing)"
        return ServiceUnavailable(
            f"{self.name} {what}. The end of its log:\n{said}\n",
            remedy=f"Read {self.log_path}, remove the cause, start again.",
        )
