"""Asking InfluxDB: little at once, slowly, and again where it does not answer; an answer counts whole or not at all.

The server here is one that misbehaves on order; the real one is asked in `integration/test_history.py`.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efd_pipelines.errors import SettingsError
from efd_pipelines.history import influx as influx_module
from efd_pipelines.history.influx import HistoryRefused, HistoryUnavailable, InfluxHistory
from efd_pipelines.history.intervals import Interval
from efd_pipelines.history.pace import Pace
from efd_pipelines.settings import load_settings
from efd_pipelines.topics.names import Dataset

TOPIC = Dataset("lsst.sal.MTMount.azimuth")
START_US = 1_700_438_400_000_000
HOUR = Interval(START_US, START_US + 3_600_000_000)
SECOND_NS = 1_000_000_000


@dataclass
class Server:
    """A database with a point of one measurement each second; `faults` are what the next SELECTs get instead."""

    faults: list[str] = field(default_factory=list)
    rows_at_most: int = 10**9
    delay_s: float = 0.0
    asked: list[str] = field(default_factory=list)
    headers: list[str | None] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, query: str) -> tuple[int, bytes, bool]:
        """Status, body, and whether the connection is cut before the body's end."""
        if query.startswith("SHOW MEASUREMENTS"):
            return _good([["name"], [[TOPIC.topic], ["no dataset's name"]]])
        if query.startswith("SHOW FIELD KEYS"):
            return _good([["fieldKey", "fieldType"], [["f", "float"], ["i", "integer"], ["s", "string"]]])
        if query.startswith("SHOW TAG KEYS"):
            return _good([["tagKey"], []])
        self.asked.append(query)
        fault = self.faults.pop(0) if self.faults else ""
        return _faulty(fault) if fault.startswith(("HTTP", "error")) else self._points(query, fault)

    def _points(self, query: str, fault: str) -> tuple[int, bytes, bool]:
        low, high = (int(text) for text in re.findall(r"time >?<?=? ?(\d+)", query))
        first = -(-low // SECOND_NS)
        rows = [[n * SECOND_NS, 0.5, n, ""] for n in range(first, -(-high // SECOND_NS))]
        if len(rows) > self.rows_at_most:
            return _faulty("error max-select-point limit exceeed: (51/50)")
        chunks = [rows[n : n + 100] for n in range(0, len(rows), 100)] or [[]]
        lines = [_line(chunk, partial=n + 1 < len(chunks)) for n, chunk in enumerate(chunks)]
        if fault == "cut":
            return 200, b"".join(lines)[:-40], True
        if fault == "missing chunk":
            return 200, b"".join(lines[:-1]), False
        if fault == "late error":
            return 200, b"".join(lines[:-1]) + b'{"results":[{"statement_id":0,"error":"query interrupted"}]}\n', False
        return 200, b"".join(lines), False


def _good(table: list[Any]) -> tuple[int, bytes, bool]:
    series = [{"name": "x", "columns": table[0], "values": table[1]}] if table[1] else []
    return 200, json.dumps({"results": [{"statement_id": 0, "series": series}]}).encode() + b"\n", False


def _line(rows: list[Any], *, partial: bool) -> bytes:
    series = {"name": "x", "columns": ["time", "f", "i", "s"], "values": rows}
    more = {"partial": True} if partial else {}
    return json.dumps({"results": [{"series": [{**series, **more}] if rows else [], **more}]}).encode() + b"\n"


def _faulty(fault: str) -> tuple[int, bytes, bool]:
    if fault.startswith("HTTP"):
        return int(fault[5:8]), json.dumps({"error": fault.partition(": ")[2]}).encode(), False
    return 200, json.dumps({"results": [{"statement_id": 0, "error": fault.removeprefix("error ")}]}).encode(), False


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            with state.lock:
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
                state.headers.append(self.headers["Authorization"])
                status, body, is_cut = state.answer(form["q"][0])
            time.sleep(state.delay_s)
            with state.lock:
                state.at_once -= 1
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) + (100 if is_cut else 0)))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = is_cut

        def log_message(self, *given: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    yield state
    httpd.shutdown()
    httpd.server_close()


def history(server: Server, slept: list[float] | None = None, **settings: str) -> InfluxHistory:
    environ = {"EFD_HISTORY_INFLUX_URL": server.url, "EFD_HISTORY_VALUES_S": "1e9"}
    environ |= {f"EFD_HISTORY_{name.upper()}": value for name, value in settings.items()}
    waits = slept if slept is not None else []
    return InfluxHistory(load_settings(environ, None), sleep=waits.append)


def numbers(source: InfluxHistory, interval: Interval = HOUR) -> list[int]:
    with source:
        return [n for piece in source.pieces(TOPIC, interval) for n in piece.points["i"].to_pylist()]


EXPECTED = list(range(START_US // 1_000_000, START_US // 1_000_000 + 3600))


def test_every_point_comes_once_in_pieces_that_grow(server: Server) -> None:
    assert numbers(history(server)) == EXPECTED
    assert len(server.asked) < 6
    with history(server) as source:
        pieces = list(source.pieces(TOPIC, HOUR))
    assert pieces[0].interval.start_us == HOUR.start_us
    assert pieces[-1].interval.end_us == HOUR.end_us
    assert all(one.interval.end_us == other.interval.start_us for one, other in itertools.pairwise(pieces))


@pytest.mark.parametrize(
    "fault",
    [
        "HTTP 503: busy",
        "HTTP 429: slow down",
        "HTTP 500: engine is closed",
        "error max-concurrent-queries limit exceeded(50, 50)",
        "cut",
        "missing chunk",
        "late error",
    ],
)
def test_a_question_that_failed_is_asked_again(server: Server, fault: str) -> None:
    server.faults = ["", fault, fault]
    slept: list[float] = []
    assert numbers(history(server, slept)) == EXPECTED
    assert [wait for wait in slept if wait >= 1] == [1.0, 2.0]


def test_a_server_that_gives_only_so_much_is_asked_for_less(server: Server) -> None:
    server.rows_at_most = 50
    assert numbers(history(server)) == EXPECTED


@pytest.mark.parametrize("fault", ["error query-timeout limit exceeded", "HTTP 500: timeout"])
def test_after_a_time_out_less_is_asked_for(server: Server, fault: str) -> None:
    server.faults = ["", fault]
    assert numbers(history(server)) == EXPECTED


def test_a_server_that_never_answers_is_given_up(server: Server) -> None:
    server.faults = ["HTTP 503: busy"] * 100
    slept: list[float] = []
    with pytest.raises(HistoryUnavailable, match="did not answer in 9 attempts: HTTP 503: busy"):
        numbers(history(server, slept))
    assert 100 < sum(slept) < 600


def test_a_server_that_is_not_there_is_said_to_be(server: Server) -> None:
    server.url = "http://127.0.0.1:1"
    with pytest.raises(HistoryUnavailable, match="ConnectError"):
        numbers(history(server))


@pytest.mark.parametrize(
    "fault", ["error database not found: efd", "HTTP 401: authorization failed", "HTTP 400: error parsing query"]
)
def test_what_will_not_pass_is_not_tried_again(server: Server, fault: str) -> None:
    server.faults = [fault]
    slept: list[float] = []
    with pytest.raises(HistoryRefused, match="EFD_HISTORY_DATABASE"):
        numbers(history(server, slept))
    assert [wait for wait in slept if wait >= 1] == []


def test_no_more_questions_at_once_than_allowed(server: Server) -> None:
    server.delay_s = 0.02
    source = history(server)
    threads = [threading.Thread(target=lambda: list(source.pieces(TOPIC, HOUR))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.most_at_once == 2


def test_no_more_values_a_second_than_allowed(server: Server) -> None:
    slept: list[float] = []
    numbers(history(server, slept, values_s="1000"))
    # The last answer is paid for by nobody; all before it are.
    assert sum(slept) >= (3600 * 4 - 3600 * 4 * 0.95) / 1000


def test_a_pace_is_kept_over_many_answers() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    pace = Pace(200_000, clock=lambda: now[0], sleep=sleep)
    for _ in range(100):
        pace.wait()
        now[0] += 0.01
        pace.spend(50_000)
    pace.wait()
    assert now[0] == pytest.approx(100 * 50_000 / 200_000, rel=0.05)


def test_names_types_and_samples(server: Server) -> None:
    with history(server) as source:
        assert source.datasets() == {TOPIC}
        assert source.name == "influx:efd"
        assert [str(kind) for kind in source.types(TOPIC).values()] == ["double", "int64", "string"]


def test_credentials_go_with_every_question_and_are_never_shown(server: Server) -> None:
    with history(server, influx_token="the secret") as source:
        source.datasets()
    assert server.headers == ["Token the secret"]
    server.faults = ["HTTP 401: no"]
    with pytest.raises(HistoryRefused) as refused:
        numbers(history(server, influx_user="reader", influx_password="the secret"))
    assert "the secret" not in str(refused.value)
    assert str(server.headers[-1]).startswith("Basic ")


def test_without_a_url_nothing_is_asked() -> None:
    with pytest.raises(SettingsError, match="EFD_HISTORY_INFLUX_URL is not set"):
        InfluxHistory(load_settings({"EFD_INFLUX_URL": "http://production:8086"}, None))


@pytest.mark.parametrize(
    ("values", "types", "expected"),
    [
        ([1, None, 2.5], "float", [1.0, None, 2.5]),
        ([-0.0], "float", [-0.0]),
        ([10**20], "float", [1e20]),
        ([2**62], "integer", [2**62]),
        (["", None], "string", ["", None]),
        ([1.5], "integer", [1.5]),
        ([True], "float", [True]),
    ],
)
def test_values_keep_their_kind(values: list[Any], types: str, expected: list[Any]) -> None:
    found = influx_module._column("x", values, {"x": influx_module._TYPES[types]}).to_pylist()
    assert list(map(repr, found)) == list(map(repr, expected))


def test_a_minus_zero_is_kept() -> None:
    (series, _) = influx_module._read(b'{"results":[{"series":[{"columns":["f"],"values":[[-0],[1],[-1]]}]}]}')
    assert list(map(repr, series[0][1])) == ["[-0.0]", "[1]", "[-1]"]


def test_an_answer_that_is_larger_than_expected_is_not_held_but_asked_for_in_parts(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(influx_module, "_MOST_VALUES", 1000)
    assert numbers(history(server)) == EXPECTED


@given(st.lists(st.binary(max_size=6)), st.integers(1, 4))
def test_lines_end_where_line_feeds_are_whatever_the_blocks(lines: list[bytes], size: int) -> None:
    text = b"\n".join(line.replace(b"\n", b"\x85") for line in lines)

    class Response:
        def iter_bytes(self) -> Iterator[bytes]:
            yield from (text[n : n + size] for n in range(0, len(text), size))

    found = list(influx_module._lines(Response()))  # type: ignore[arg-type]
    assert found == [line for line in text.split(b"\n") if line.strip()]
