"""The proxy: stands between the archive and an HTTP server, S3 or registry, and does to one request what it is told.

It passes requests on byte for byte, so that signatures hold, and knows S3 only as far as naming the requests. A fault
strikes the `nth` request that it fits, and as many after it as it says: answers of the server's that were never its
own (429, 500, 503, 409, 412), silence longer than any client waits, answers and uploads cut in the middle, a request
that was carried out and never answered, a connection refused; or `meanwhile` is called before or after the request.
"""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import BinaryIO, Self, cast

_CODES = {429: "SlowDown", 500: "InternalError", 503: "ServiceUnavailable"}
_REASONS = {409: "Conflict", 412: "Precondition Failed"}
_NO_BODY = (204, 304)
_SILENCE_S = 60.0


class What(StrEnum):
    """What happens to a request."""

    TOO_MANY = "429"
    INTERNAL = "500"
    UNAVAILABLE = "503"
    CONFLICT = "409"
    PRECONDITION = "412"
    UNKNOWN = "404"  # as a registry says that it has no such schema
    SILENCE = "silence"
    LATE = "late"  # carried out, answered with silence
    LOST = "lost"  # carried out, the connection ends without an answer
    REFUSED = "refused"
    CUT = "cut"  # the answer, and where there is none to speak of the upload, ends in its middle
    BEFORE = "before"  # `meanwhile`, then the request as usual
    AFTER = "after"  # the request is carried out, then `meanwhile`, then the answer
    MIDDLE = "middle"  # half of the upload goes to the server, then `meanwhile`, and never the rest


@dataclass(frozen=True, slots=True)
class Request:
    """One request: `part` says what of the archive it is about."""

    method: str
    path: str
    part: str

    def __str__(self) -> str:
        return f"{self.method} {self.part} {self.path}"


@dataclass(slots=True)
class Fault:
    """What strikes which requests: those of a method and a part, both for any when empty."""

    what: What
    method: str = ""
    part: str = ""
    nth: int = 1
    times: int = 1
    meanwhile: Callable[[], None] | None = None
    seen: int = 0
    at: str = ""

    def strikes(self, request: Request) -> bool:
        """Whether this request is one of those; counts it."""
        if self.method not in ("", request.method) or self.part not in ("", request.part):
            return False
        self.seen += 1
        if not self.nth <= self.seen < self.nth + self.times:
            return False
        self.at = self.at or f"request {self.seen}, {request}"
        return True


@dataclass(frozen=True, slots=True)
class _Message:
    """A request or an answer: its head, with the empty line, and its body."""

    head: bytes
    body: bytes

    @property
    def first_line(self) -> list[str]:
        return self.head.partition(b"\r\n")[0].decode("latin-1").split(" ")


class Proxy:
    """A proxy on a port of its own before 127.0.0.1:`port`."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._closed = threading.Event()
        self.requests: list[Request] = []

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError, EOFError):
                    proxy._serve(cast(socket.socket, self.request))

        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def strike(self, fault: Fault | None) -> None:
        """From here on this fault, or none."""
        with self._lock:
            self._fault, self.requests = fault, []

    def _serve(self, client: socket.socket) -> None:
        """The requests of one connection."""
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with _connected(self._upstream) as server, client.makefile("rb") as reading, server.makefile("rb") as answers:
            while (head := _head(reading)) is not None:
                message = _received_request(reading, client, head)
                request = _named(message)
                with self._lock:
                    self.requests.append(request)
                    fault = self._fault if self._fault is not None and self._fault.strikes(request) else None
                if fault is None:
                    server.sendall(message.head + message.body)
                    answer = _received_answer(answers, request.method)
                    client.sendall(answer.head + answer.body)
                elif not self._strike(fault, request, message, client, server, answers):
                    return

    def _strike(
        self,
        fault: Fault,
        request: Request,
        message: _Message,
        client: socket.socket,
        server: socket.socket,
        answers: BinaryIO,
    ) -> bool:
        """Does the fault; whether the connection goes on."""
        what = fault.what
        if what is What.REFUSED:
            return False
        if what is What.SILENCE:
            self._closed.wait(_SILENCE_S)
            return False
        if what.isdigit():
            client.sendall(_refusal(int(what), request.method))
            return True
        if what is What.BEFORE and fault.meanwhile is not None:
            fault.meanwhile()
        if what is What.MIDDLE or (what is What.CUT and message.body):
            server.sendall(message.head + message.body[: len(message.body) // 2])
            time.sleep(0.05)
            if what is What.MIDDLE and fault.meanwhile is not None:
                fault.meanwhile()
            return False
        server.sendall(message.head + message.body)
        answer = _received_answer(answers, request.method)
        if what is What.AFTER and fault.meanwhile is not None:
            fault.meanwhile()
        if what is What.LATE:
            self._closed.wait(_SILENCE_S)
        if what in (What.LATE, What.LOST):
            return False
        if what is What.CUT:
            client.sendall((answer.head + answer.body)[: len(answer.head) + len(answer.body) // 2])
            return False
        client.sendall(answer.head + answer.body)
        return True


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


def _connected(port: int) -> socket.socket:
    server = socket.create_connection(("127.0.0.1", port), timeout=30)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return server


def _named(message: _Message) -> Request:
    method, target, _ = message.first_line
    path, _, query = target.partition("?")
    if "list-type" in query:
        return Request("LIST", path, "list")
    part = "file" if path.endswith(".parquet") else "log" if "/_delta_log/" in path else "other"
    return Request(method, path, part)


def _head(reading: BinaryIO) -> bytes | None:
    """Head of the next message, None at the end of the connection."""
    lines = []
    while True:
        line = reading.readline(65536)
        if not line:
            return None
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)


def _received_request(reading: BinaryIO, client: socket.socket, head: bytes) -> _Message:
    if _header(head, b"expect") is not None:
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:"))
    return _Message(head, _body(reading, head, to_the_end=False))


def _received_answer(answers: BinaryIO, method: str) -> _Message:
    head = _head(answers)
    if head is None:
        raise EOFError("the server ended the connection")
    status = int(head.split(b" ", 2)[1])
    if status == 100:
        return _received_answer(answers, method)
    if method == "HEAD" or status in _NO_BODY:
        return _Message(head, b"")
    return _Message(head, _body(answers, head, to_the_end=True))


def _body(reading: BinaryIO, head: bytes, *, to_the_end: bool) -> bytes:
    length = _header(head, b"content-length")
    if length is not None:
        return reading.read(int(length))
    if (_header(head, b"transfer-encoding") or b"").lower() == b"chunked":
        return b"".join(_chunks(reading))
    return reading.read() if to_the_end and _header(head, b"connection") == b"close" else b""


def _chunks(reading: BinaryIO) -> list[bytes]:
    """A chunked body as it is on the wire."""
    found = []
    while True:
        line = reading.readline(65536)
        size = int(line.split(b";")[0], 16)
        found += [line, reading.read(size + 2)]
        if size == 0:
            return found


def _header(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return None


def _refusal(status: int, method: str) -> bytes:
    """An answer as S3 gives it, and of 404 the registry."""
    if status == 404:
        body = b'{"error_code": 40403, "message": "Schema not found"}'
        head = f"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body
    code = _CODES.get(status) or ("PreconditionFailed" if status == 412 else "ConditionalRequestConflict")
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>On purpose</Message></Error>'.encode()
    reason = _REASONS.get(status, code)
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + (b"" if method == "HEAD" else body)
