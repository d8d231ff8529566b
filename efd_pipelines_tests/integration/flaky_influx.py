"""A proxy before InfluxDB that does to writes what servers and networks do: refuse, hang, say that they are full."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

Answer = tuple[int, dict[str, str], bytes]
Fault = Callable[[int], Answer | None]
"""Given the number of a write, from 1: what is answered instead; None lets it through. Status 0 hangs up unanswered."""


@contextmanager
def flaky(target: str, fault: Fault, *, after: bool = False, hang_s: float = 0.0) -> Iterator[tuple[str, list[bytes]]]:
    """The proxy's URL, and the bodies of the writes that came; `after`: the server has taken what is not answered."""
    bodies: list[bytes] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *given: object) -> None:
            return

        def do_GET(self) -> None:
            self._pass(b"")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if not self.path.startswith(("/write", "/api/v2/write")):
                self._pass(body)
                return
            with lock:
                bodies.append(body)
                answer = fault(len(bodies))
            if answer is None:
                self._pass(body)
                return
            if after:
                self._ask(body)
            time.sleep(hang_s)
            if answer[0]:
                self._answer(*answer)
            else:
                self.close_connection = True

        def _ask(self, body: bytes) -> httpx.Response:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            return httpx.request(self.command, target + self.path, headers=headers, content=body, timeout=60)

        def _pass(self, body: bytes) -> None:
            answer = self._ask(body)
            kept = {n: v for n, v in answer.headers.items() if n.lower().startswith(("x-", "content-type"))}
            self._answer(answer.status_code, kept, answer.content)

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # who asked has given up
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", bodies
    finally:
        server.shutdown()
        server.server_close()
