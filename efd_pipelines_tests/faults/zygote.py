"""The zygote: a process that has imported everything and started nothing, and is forked for each deed.

A cold start of the project costs two seconds of import, a fork some milliseconds: that is what makes a thousand cases
possible. The zygote must do nothing but import: librdkafka, delta-rs and Polars do not survive a fork once they have
been used; the threads of memory allocators that importing starts do. For each deed it forks a runner, which forks the
worker, holds the worker's gate (`gate.py`) and tells the harness how it went. What a worker does: `deeds.py`.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from efd_pipelines_tests.faults.gate import Call, Gate, Kind, shut

Then = Literal["pass", "kill", "fail", "wait"]

_PARENT_DEATH_SIGNAL = 1
_BUG = 70
# Where the decoder has not been compiled yet, that comes first.
_READY_WITHIN_S = 300.0
_LAZY = (  # what the deeds import when they need it
    "pyarrow.parquet",
    "pyarrow.fs",
    "pyarrow.compute",
    "pyarrow.dataset",
    "pyarrow.pandas_compat",
    "polars",
    "duckdb",
    "deltalake",
    "s3fs",
    "aiobotocore.session",
    "botocore.session",
    "fsspec.implementations.local",
    "confluent_kafka.admin",
    "fastavro",
    "pyruhvro",
    "numba",
    "pandas",
    "httpcore",
    "httpx",
    "tenacity",
    "yaml",
    "encodings.idna",
    "efd_pipelines.archive.deep_audit",
)


@dataclass(frozen=True, slots=True)
class Strike:
    """What happens before the `nth` call of a kind: the process is killed, or the call fails with `errno`, `times`
    over, or it waits until the harness says go on."""

    kind: Kind = "file"
    nth: int = 0
    then: Then = "pass"
    errno: int = 0
    times: int = 1


@dataclass(frozen=True, slots=True)
class Ended:
    """How a deed ended: `calls` by kind, `at` what was struck, `answer` what it gave."""

    end: Literal["done", "killed", "bug"]
    answer: Mapping[str, Any]
    calls: Mapping[str, int]
    at: str

    @property
    def was_struck(self) -> bool:
        return bool(self.at)


@dataclass(slots=True)
class Running:
    """A deed under way."""

    control: socket.socket
    pid: int
    deed: str = ""
    _rest: bytes = field(default=b"")

    def wait(self, timeout_s: float, meanwhile: Callable[[], None] | None = None) -> Ended:
        """Waits for the end; where the deed's strike is to wait, `meanwhile` is what happens at it.

        Raises:
            TimeoutError: it hangs; it is killed.
        """
        self.control.settimeout(timeout_s)
        try:
            while True:
                message = self.hear()
                if "end" in message:
                    return Ended(**message)
                if meanwhile is not None:
                    meanwhile()
                self.control.sendall(b"go\n")
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            raise
        finally:
            self.control.close()

    def hear(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            more = self.control.recv(65536)
            if not more:
                raise EOFError("the runner of a deed is gone")
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


class Zygote:
    """The harness's end: begins deeds."""

    def __enter__(self) -> Self:
        self._control, theirs = socket.socketpair()
        command = [sys.executable, "-m", __name__, str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()
        self._control.settimeout(_READY_WITHIN_S)
        if self._control.recv(1) != b"r":
            raise RuntimeError("the zygote did not come up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control.close()
        self._process.kill()
        self._process.wait()

    def begin(self, deed: str, environ: Mapping[str, str], strike: Strike | None = None, **arguments: Any) -> Running:
        """Begins a deed in a process of its own, with `environ` as its environment variables."""
        ours, theirs = socket.socketpair()
        socket.send_fds(self._control, [b"j"], [theirs.fileno()])
        theirs.close()
        job = {
            "deed": deed,
            "environ": dict(environ),
            "arguments": arguments,
            "strike": None if strike is None else asdict(strike),
        }
        ours.sendall(json.dumps(job).encode() + b"\n")
        running = Running(ours, 0, deed)
        ours.settimeout(60)
        running.pid = running.hear()["pid"]
        return running

    def run(self, deed: str, environ: Mapping[str, str], timeout_s: float = 120, **arguments: Any) -> Ended:
        """Does a deed to its end."""
        return self.begin(deed, environ, **arguments).wait(timeout_s)


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in _LAZY:
        importlib.import_module(name)
    importlib.import_module("efd_pipelines_tests.faults.deeds").warm()
    _share_what_s3_clients_read()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # What was imported is no worker's garbage: looking through it would copy every page of it.
    gc.collect()
    gc.freeze()
    control.sendall(b"r")
    while True:
        data, received, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        if not os.fork():
            control.close()
            run(socket.socket(fileno=received[0]))
        os.close(received[0])


def _share_what_s3_clients_read() -> None:
    """Lets every session of botocore have one loader: parsing the descriptions of S3 is most of a short deed's work."""
    import botocore.loaders
    import botocore.session

    loader = botocore.loaders.create_loader()
    for kind in ("service-2", "endpoint-rule-set-1"):
        loader.load_service_model("s3", kind)
    for name in ("endpoints", "partitions", "sdk-default-configuration", "_retry"):
        loader.load_data(name)
    botocore.session.create_loader = lambda *_: loader


def run(harness: socket.socket) -> None:
    """The runner: one deed, from the job to the answer."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _die_with_parent()
    job = Running(harness, 0).hear()
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        harness.close()
        ours.close()
        work(theirs, job)
    theirs.close()
    _tell(harness, {"pid": pid})
    gate = Gate.received(ours) if job["strike"] else None
    watch = Watch(pid, Strike(**job["strike"] or {}), job["environ"].get("EFD_ARCHIVE", ""), harness)
    answer = watch.until_the_end(gate, ours)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    end = "killed" if code == -signal.SIGKILL else "bug" if code else "done"
    if end == "bug" and not answer:
        answer = {"error": f"exit code {code}"}
    _tell(harness, {"end": end, "answer": answer, "calls": watch.calls, "at": watch.at})
    os._exit(0)


class Watch:
    """What the runner does with the worker's calls."""

    def __init__(self, pid: int, strike: Strike, root: str, harness: socket.socket) -> None:
        self._pid = pid
        self._strike = strike
        self._root = root
        self._harness = harness
        self.calls: dict[str, int] = {}
        self.at = ""

    def until_the_end(self, gate: Gate | None, worker: socket.socket) -> dict[str, Any]:
        """Lets calls pass, but those that are struck, until the worker is gone; its answer."""
        heard = b""
        poll = select.poll()
        poll.register(worker, select.POLLIN)
        if gate is not None:
            gate.register(poll)
        while True:
            ready = dict(poll.poll())
            if gate is not None and gate.number in ready:
                if ready[gate.number] & select.POLLIN:
                    self._judge(gate)
                else:
                    poll.unregister(gate.number)  # no process is left behind it
                    gate = None
            if worker.fileno() in ready:
                more = worker.recv(65536)
                if not more:
                    answer: dict[str, Any] = json.loads(heard) if heard.endswith(b"\n") else {}
                    return answer
                heard += more

    def _judge(self, gate: Gate) -> None:
        call = gate.next()
        if call is None:
            return
        kind = call.kind(self._root)
        count = self.calls[kind] = self.calls.get(kind, 0) + 1
        strike = self._strike
        if kind != strike.kind or not strike.nth <= count < strike.nth + strike.times or strike.then == "pass":
            gate.let(call)
            return
        self.at = self.at or f"{kind} call {count}, {call.name} {call.what.removeprefix(self._root)}"
        self._do(gate, call)

    def _do(self, gate: Gate, call: Call) -> None:
        if self._strike.then == "kill":
            os.kill(self._pid, signal.SIGKILL)
        elif self._strike.then == "fail":
            gate.fail(call, self._strike.errno)
        else:
            _tell(self._harness, {"at": self.at})
            self._harness.recv(3)
            gate.let(call)


def work(control: socket.socket, job: Mapping[str, Any]) -> None:
    """The worker: shuts the gate before itself, does the deed, answers."""
    _die_with_parent()
    os.environ.update(job["environ"])
    code = 0
    try:
        from efd_pipelines.settings import load_settings
        from efd_pipelines_tests.faults import deeds

        deeds.be_patient(int(os.environ.get("EFD_TEST_PATIENCE_S", "0")))
        settings = load_settings(env_file=None)
        if job["strike"]:
            shut(control, job["strike"]["kind"])
        answer = deeds.do(job["deed"], settings, job["arguments"])
    except BaseException:
        answer, code = {"error": "bug", "message": traceback.format_exc()}, _BUG
    control.sendmsg([json.dumps(answer).encode() + b"\n"])
    # Not by the interpreter's end: what delta-rs's threads do there is no concern of a deed's.
    os._exit(code)


def _tell(harness: socket.socket, message: Mapping[str, Any]) -> None:
    with suppress(BrokenPipeError):
        harness.sendall(json.dumps(message).encode() + b"\n")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


if __name__ == "__main__":
    main()
