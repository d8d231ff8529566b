"""An imitation of InfluxDB 2's HTTP API, as its OpenAPI description (which influxdb-client is generated from) has it.

Organisations, buckets, DBRP mappings, write, delete, health; InfluxQL answers with what a test puts there. Points are
kept by bucket, measurement, tag and time, so that writing one again merges its fields. No package registry has a real
one (docs/publishing.md).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from efd_pipelines.history.protocol import parse_record

ORG, ORG_ID, TOKEN = "observatory", "00000000000000aa", "a-token"
_PAGE = 2
_UNITS = {"ns": 1, "us": 1000, "ms": 1_000_000, "s": 1_000_000_000}


class Influx2:
    """What the server has."""

    def __init__(self) -> None:
        system = {"id": "0" * 16, "name": "_monitoring", "type": "system", "orgID": ORG_ID}
        self.buckets: dict[str, dict[str, Any]] = {
            "_monitoring": {**system, "retentionRules": [{"type": "expire", "everySeconds": 604800}]}
        }
        self.mappings: list[dict[str, Any]] = []
        self.points: dict[str, dict[tuple[str, str, int], dict[str, Any]]] = {}
        self.statements: list[str] = []
        self.lock = threading.Lock()

    def ask(self, method: str, path: str, query: dict[str, str], body: bytes) -> tuple[int, Any]:
        if path == "/ping":
            return 204, None
        if path == "/health":
            return 200, {"name": "influxdb", "message": "ready", "status": "pass", "version": "v2.7.11", "checks": []}
        if path == "/api/v2/orgs":
            return 200, {"orgs": [{"id": ORG_ID, "name": ORG}]}
        if path.startswith("/api/v2/buckets"):
            return self._of_buckets(method, path, query, json.loads(body or b"{}"))
        if path == "/api/v2/dbrps":
            return self._of_mappings(method, query, json.loads(body or b"{}"))
        if path == "/api/v2/write":
            return self._write(query, body.decode())
        if path == "/api/v2/delete":
            return self._delete(query, json.loads(body))
        if path == "/query":
            self.statements.append(query["q"])
            return 200, {"results": [{"statement_id": 0}]}
        return 404, {"code": "not found", "message": "path not found"}

    def _of_buckets(self, method: str, path: str, query: dict[str, str], sent: dict[str, Any]) -> tuple[int, Any]:
        if method == "GET":
            found = [one for one in self.buckets.values() if query.get("name") in (None, one["name"])]
            after = query.get("after")
            rest = sorted((one for one in found if after is None or one["id"] > after), key=lambda one: str(one["id"]))
            more = {"next": f"/api/v2/buckets?after={rest[_PAGE - 1]['id']}"} if len(rest) > _PAGE else {}
            return 200, {"links": {"self": "/api/v2/buckets", **more}, "buckets": rest[:_PAGE]}
        if method == "POST":
            if sent["name"] in self.buckets:
                return 422, {"code": "conflict", "message": f"bucket with name {sent['name']} already exists"}
            assert sent["orgID"] == ORG_ID
            made = {**sent, "id": f"{len(self.buckets):016x}", "type": "user"}
            self.buckets[sent["name"]] = made
            self.points[sent["name"]] = {}
            return 201, made
        there = next(one for one in self.buckets.values() if one["id"] == path.rpartition("/")[2])
        if method == "DELETE":
            del self.buckets[there["name"]]
            self.mappings = [one for one in self.mappings if one["bucketID"] != there["id"]]
            return 204, None
        there["retentionRules"] = sent["retentionRules"]
        return 200, there

    def _of_mappings(self, method: str, query: dict[str, str], sent: dict[str, Any]) -> tuple[int, Any]:
        assert ORG in (query.get("org"), sent.get("org"))
        if method == "GET":
            return 200, {"content": self.mappings}
        assert sent["bucketID"] in {one["id"] for one in self.buckets.values()}
        made = {**sent, "id": f"{len(self.mappings) + 1:016x}", "orgID": ORG_ID, "virtual": False}
        self.mappings.append(made)
        return 201, made

    def _write(self, query: dict[str, str], text: str) -> tuple[int, Any]:
        bucket = query["bucket"]
        if bucket not in self.buckets:
            return 404, {"code": "not found", "message": f'bucket "{bucket}" not found'}
        refused = 0
        for line in text.rstrip("\n").split("\n"):
            values: list[Any] = parse_record(line)
            key = (str(values[0][0]), str(values[0][1]), int(line.rpartition(" ")[2]) * _UNITS[query["precision"]])
            fields = {str(value[2]): next(v for v in value[4:] if v is not None) for value in values}
            if "conflicting" in fields:
                refused += 1
            else:
                self.points[bucket].setdefault(key, {}).update(fields)
        if refused:
            text = (
                'failure writing points to database: partial write: field type conflict: input field "conflicting" '
                f'on measurement "m" is type string, already exists as type float dropped={refused}'
            )
            return 422, {"code": "unprocessable entity", "message": text}
        return 204, None

    def _delete(self, query: dict[str, str], sent: dict[str, str]) -> tuple[int, Any]:
        predicate = dict(re.findall(r'(\w+)="([^"]*)"', sent["predicate"]))
        measurement, tags = predicate.pop("_measurement"), "".join(f",{k}={v}" for k, v in predicate.items())
        first, last = _nanoseconds(sent["start"]), _nanoseconds(sent["stop"])
        points = self.points[query["bucket"]]
        for key in [
            key for key in points if key[0] == measurement and tags in ("", key[1]) and first <= key[2] <= last
        ]:
            del points[key]
        return 204, None


def _nanoseconds(text: str) -> int:
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(f"{whole}+00:00").timestamp()) * 1_000_000_000 + int(fraction)


@contextmanager
def influx2() -> Iterator[tuple[str, Influx2]]:
    """The imitation's URL, and what it has."""
    server = Influx2()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *given: object) -> None:
            return

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            answer: Any
            if parts.path not in ("/ping", "/health") and self.headers.get("Authorization") != f"Token {TOKEN}":
                status, answer = 401, {"code": "unauthorized", "message": "unauthorized access"}
            else:
                with server.lock:
                    status, answer = server.ask(self.command, parts.path, query, body)
            data = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("X-Influxdb-Version", "v2.7.11")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _answer

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}", server
    finally:
        http.shutdown()
        http.server_close()
