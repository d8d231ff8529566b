"""Influx: writing lines, as fast as the server takes them and no faster, so that nothing is lost unnoticed.

Batches are posted some at a time; the next is made meanwhile, and waits when the server is slow. What fails in a way
that passes (429, 5xx, no answer) is sent again, ever later, or when the server says (`Retry-After`): a point is known
by measurement, tags and time, so that writing it twice changes nothing. A batch of which the server rejects some points
is taken apart until each of these stands alone: 1.x and 2.x write the others, and say of the rejected only how many.
Making the lines: `lines.py`. The server: `server.py`.
"""

from __future__ import annotations

import gzip
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import httpx
import numpy as np

from efd_pipelines.errors import InfluxUnavailable
from efd_pipelines.history.pace import Pace
from efd_pipelines.publishing.lines import LineBatch
from efd_pipelines.publishing.server import MISSING, Destination, Influx, error_text, refusal

Precision = Literal["ns", "us", "ms", "s"]

AT_ONCE = 3
"""Batches that are under way: the server parses each with one processor."""

ATTEMPTS = 8
_LONGEST_WAIT_S = 60.0
_LONGEST_RETRY_AFTER_S = 600.0
_UNFIT = {400, 413, 422}
_DROPPED = re.compile(r"dropped=(\d+)")
_CONFLICT = re.compile(r'input field "(.+?)" on measurement')
_EXPIRED = re.compile(r"beyond retention policy", re.IGNORECASE)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A point that the server does not take; `row` is that of the table which its line was made of."""

    row: int
    line: str
    reason: str


@dataclass(slots=True)
class Written:
    """What became of lines. `points`, `fields` and `bytes` are of those that the server has taken."""

    points: int = 0
    fields: int = 0
    bytes: int = 0
    expired: int = 0
    retries: int = 0
    rejected: list[Rejected] = field(default_factory=list)

    def add(self, other: Written) -> None:
        self.points += other.points
        self.fields += other.fields
        self.bytes += other.bytes
        self.expired += other.expired
        self.retries += other.retries
        self.rejected += other.rejected


class LineWriter:
    """Writes lines to one server; safe to use from several threads.

    Args:
        compresses: send gzip; by default not to a server on this machine, where it takes longer than it saves.
        at_once: how many batches are under way.
        fields_s: the most values a second; by default what the server takes.
        attempts: how often a batch is sent before it counts as failed.
        sleep: for tests.
    """

    def __init__(
        self,
        influx: Influx,
        *,
        compresses: bool | None = None,
        at_once: int = AT_ONCE,
        fields_s: float | None = None,
        attempts: int = ATTEMPTS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._influx = influx
        self._compresses = not influx.is_near if compresses is None else compresses
        self._at_once = at_once
        self._pace = None if fields_s is None else Pace(fields_s, sleep=sleep)
        self._attempts = attempts
        self._sleep = sleep

    def write(self, destination: Destination, batches: Iterable[LineBatch], precision: Precision = "ns") -> Written:
        """Writes all lines; returns when the server has taken, or rejected, every one of them.

        `precision` is the unit of the lines' stamps.

        Raises:
            InfluxUnavailable: the server did not take a batch in all attempts; any part of the lines may be written.
            InfluxFull: it has no room left.
            PublishingRefused: it does not let us write.
            DestinationMissing: there is no such database or bucket.
        """
        written = Written()
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="influx") as pool:
            under_way: deque[Future[Written]] = deque()
            try:
                for batch in self._paced(batches):
                    under_way.append(pool.submit(self._write, destination, batch, precision))
                    while len(under_way) > self._at_once:
                        written.add(under_way.popleft().result())
                while under_way:
                    written.add(under_way.popleft().result())
            finally:
                for waiting in under_way:
                    waiting.cancel()
        return written

    def _paced(self, batches: Iterable[LineBatch]) -> Iterator[LineBatch]:
        for batch in batches:
            if self._pace is not None:
                self._pace.wait()
                self._pace.spend(batch.fields)
            if len(batch):
                yield batch

    def _write(self, destination: Destination, batch: LineBatch, precision: Precision) -> Written:
        """One batch, taken apart where some of it is rejected."""
        status, text, retries = self._send(destination, batch, precision)
        if status is None:
            return Written(len(batch), batch.fields, len(batch.data), retries=retries)
        found = Written(retries=retries)
        if len(batch) == 1 or _dropped(text) == len(batch):
            if _EXPIRED.search(text):
                found.expired = len(batch)
            else:
                found.rejected = [Rejected(int(row), _text(batch, n), text) for n, row in enumerate(batch.rows)]
            return found
        for part in _parts(batch, text):
            found.add(self._write(destination, part, precision))
        return found

    def _send(self, destination: Destination, batch: LineBatch, precision: Precision) -> tuple[int | None, str, int]:
        """Sends a batch until it is answered: (status and text of a rejection, or None; how often it was repeated)."""
        request = self._request(destination, batch, precision)
        failure: Exception = InfluxUnavailable(f"{self._influx.url} was not asked")
        for attempt in range(self._attempts):
            wait_s = min(_LONGEST_WAIT_S, 0.5 * 2**attempt)
            try:
                response = self._influx.client.send(request)
            except httpx.HTTPError as error:
                failure = InfluxUnavailable(f"{self._influx.url} did not answer ({type(error).__name__}: {error})")
                failure.__cause__ = error
            else:
                text = "" if response.is_success else error_text(response.content)
                if response.is_success:
                    return None, "", attempt
                if response.status_code in _UNFIT and not MISSING.search(text):
                    return response.status_code, text, attempt
                failure = refusal(self._influx.url, response.status_code, text)
                if not isinstance(failure, InfluxUnavailable):
                    raise failure
                wait_s = _retry_after_s(response) or wait_s
            _log.info("%s; again in %.1f s", failure, wait_s)
            if attempt + 1 < self._attempts:
                self._sleep(wait_s)
        raise failure

    def _request(self, destination: Destination, batch: LineBatch, precision: Precision) -> httpx.Request:
        influx = self._influx
        if influx.has_buckets:
            path, params = "/api/v2/write", {"bucket": destination.bucket, "org": influx.organisation}
        else:
            path, params = "/write", {"db": destination.database, "rp": destination.retention_policy}
        content: Any = batch.data.tobytes()
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        if self._compresses:
            content = gzip.compress(content, 1)
            headers["Content-Encoding"] = "gzip"
        params["precision"] = {"us": "u", "ns": "n"}.get(precision, precision) if path == "/write" else precision
        return influx.client.build_request(
            "POST", f"{influx.url}{path}", params=params, content=content, headers=headers
        )


def _dropped(text: str) -> int:
    found = _DROPPED.search(text)
    return int(found[1]) if found else 0


def _text(batch: LineBatch, n: int) -> str:
    return batch.line(n).decode().rstrip("\n")


def _parts(batch: LineBatch, text: str) -> list[LineBatch]:
    """Two parts of a batch of which some lines are rejected: if the server names a field, those that may have it."""
    conflict = _CONFLICT.search(text)
    if conflict:
        name = conflict[1].encode()
        lines = [batch.line(n) for n in range(len(batch))]
        has = np.array([b"," + name + b"=" in line or b" " + name + b"=" in line for line in lines])
        if has.any() and not has.all():
            return [batch.chosen(~has), batch.chosen(has)]
    middle = len(batch) // 2
    return [batch.part(0, middle), batch.part(middle, len(batch))]


def _retry_after_s(response: httpx.Response) -> float | None:
    """How long the server asks us to wait: a number of seconds, or a date."""
    value = response.headers.get("Retry-After", "")
    try:
        wait_s = float(value)
    except ValueError:
        try:
            wait_s = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(wait_s, 0.0), _LONGEST_RETRY_AFTER_S)
