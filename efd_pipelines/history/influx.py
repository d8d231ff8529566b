"""InfluxDB history: points of a measurement by InfluxQL, in pieces that its server can bear.

In 2025 the production server was brought to its knees by historical queries, so everything here is small and slow on
purpose: as many questions at once and values a second as the settings allow, intervals that grow and shrink with what
they turn out to hold, and patience where the server says that it has enough. Answers are read as JSON, chunk by
chunk: in CSV an empty string and no value look the same. An answer that breaks off, or ends in an error, is thrown
away whole and asked for again.
What a database holds: efd-facts §2.1. Types and arrays: `casting.py`.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx
import pyarrow as pa

from efd_pipelines.errors import InfluxUnavailable, NameRejected, SettingsError, UsageError
from efd_pipelines.history.intervals import Interval
from efd_pipelines.history.pace import Pace
from efd_pipelines.history.sources import Piece
from efd_pipelines.topics.layout import TIME
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.settings import Settings

_log = logging.getLogger(__name__)
FIRST_PIECE_US = 60_000_000
"""The first question about a stretch is about a minute; what it gives decides how long the next ones are."""

VALUES_OF_A_PIECE = 1_000_000
_SHORTEST_US = 100_000
_SAMPLE_US = 3_600_000_000
_GROWTH = 8
_MOST_VALUES = 8 * VALUES_OF_A_PIECE
_ROWS_OF_A_CHUNK = 5_000
_VALUES_OF_A_CHUNK = 100_000
_ATTEMPTS = 9
_LONGEST_WAIT_S = 60.0
_BUSY = {429, 500, 502, 503, 504}
_TOO_MUCH = re.compile(r"max-select-(point|series|bucket)|query-timeout|timeout|too many|memory", re.IGNORECASE)
_ENOUGH = re.compile(r"max-concurrent-queries|query interrupted|engine is closed|shard .* closed", re.IGNORECASE)
_REFUSED = re.compile(r"database not found|error parsing query|authorization failed|not authorized", re.IGNORECASE)
_TYPES = {"float": pa.float64(), "integer": pa.int64(), "string": pa.string(), "boolean": pa.bool_()}
_SEEN: Mapping[pa.DataType, set[type]] = {pa.int64(): {int}, pa.string(): {str}, pa.bool_(): {bool}}
_ORDER = ("float", "integer", "string", "boolean")


class HistoryRefused(UsageError):
    """The history server refuses what is asked."""

    remedy = "Check EFD_HISTORY_DATABASE and the user's rights (EFD_HISTORY_INFLUX_USER, _PASSWORD or _TOKEN)."


class HistoryUnavailable(InfluxUnavailable):
    """The history server did not answer."""

    remedy = "Check EFD_HISTORY_INFLUX_URL and that InfluxDB runs, then run again: it goes on where it stopped."


class _Busy(Exception):
    """One question failed in a way that passes."""


class _TooMuch(Exception):
    """One question asks for more than the server gives at once."""


class InfluxHistory:
    """A database of an InfluxDB server.

    Args:
        clock, sleep: for tests.

    Raises:
        SettingsError: EFD_HISTORY_INFLUX_URL is not set.
    """

    def __init__(self, settings: Settings, *, sleep: Callable[[float], None] = time.sleep) -> None:
        if not settings.history_influx_url:
            raise SettingsError(
                "EFD_HISTORY_INFLUX_URL is not set",
                remedy="Set it to the InfluxDB that history may be read from: never by default the one published to.",
            )
        self._url = settings.history_influx_url
        self._database = settings.history_database
        self._sleep = sleep
        self._pace = Pace(settings.history_values_s, sleep=sleep)
        self._turn = threading.Semaphore(settings.history_queries)
        self._client = httpx.Client(
            timeout=httpx.Timeout(settings.history_timeout_s, connect=10.0), **_credentials(settings)
        )
        self._fields: dict[Dataset, Mapping[str, pa.DataType]] = {}
        self._datasets: frozenset[Dataset] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    @property
    def name(self) -> str:
        return f"influx:{self._database}"

    def datasets(self) -> frozenset[Dataset]:
        """The measurements that have a dataset's name."""
        with self._lock:
            if self._datasets is None:
                self._datasets = frozenset(self._named(self._strings("SHOW MEASUREMENTS", 0)))
            return self._datasets

    def about(self, dataset: Dataset, intervals: Sequence[Interval]) -> int:
        """By the points of an hour in the middle of the longest interval."""
        if not intervals:
            return 0
        longest = max(intervals, key=lambda interval: interval.seconds)
        middle_us = (longest.start_us + longest.end_us) // 2
        half_us = min(_SAMPLE_US, longest.end_us - longest.start_us) // 2
        sample = Interval(middle_us - half_us, middle_us + half_us + 1)
        total_s = sum(interval.seconds for interval in intervals)
        return int(self.count(dataset, sample) / sample.seconds * total_s * len(self.types(dataset)))

    def count(self, dataset: Dataset, interval: Interval) -> int:
        """How many points there are, by the field that every SAL message has, else by any one."""
        types = self.types(dataset)
        field = "private_sndStamp" if "private_sndStamp" in types else next(iter(types), None)
        if field is None:
            return 0
        rows = self._rows(_select(dataset, interval, what=f"count({_quoted(field)})"))
        return int(rows[0][1]) if rows else 0

    def types(self, dataset: Dataset) -> Mapping[str, pa.DataType]:
        """The fields with their types in InfluxDB, tags as strings; of one that had several, the widest."""
        if dataset not in self._fields:
            measurement = _quoted(dataset.topic)
            kinds: dict[str, set[str]] = {}
            for name, kind in self._rows(f"SHOW FIELD KEYS FROM {measurement}"):
                kinds.setdefault(str(name), set()).add(str(kind))
            types = {name: _TYPES[next(kind for kind in _ORDER if kind in of)] for name, of in kinds.items()}
            tags = dict.fromkeys(self._strings(f"SHOW TAG KEYS FROM {measurement}", 0), pa.string())
            self._fields[dataset] = {**tags, **types}
        return self._fields[dataset]

    def pieces(self, dataset: Dataset, interval: Interval) -> Iterator[Piece]:
        """The interval in pieces of about `VALUES_OF_A_PIECE` values."""
        start_us, length_us = interval.start_us, FIRST_PIECE_US
        while start_us < interval.end_us:
            part = Interval(start_us, min(start_us + length_us, interval.end_us))
            try:
                points = self._points(dataset, part)
            except _TooMuch as error:
                if length_us <= _SHORTEST_US:
                    raise HistoryUnavailable(f"{self._url} does not give even {part.seconds} s of {dataset}") from error
                length_us = max(_SHORTEST_US, int(min(length_us, part.end_us - part.start_us)) // 4)
                _log.info("%s: less at once, %.1f s: %s", dataset, length_us / 1e6, error)
                continue
            piece = Piece(part, points)
            yield piece
            start_us = part.end_us
            length_us = max(_SHORTEST_US, int(length_us * min(_GROWTH, VALUES_OF_A_PIECE / max(1, piece.values))))

    def _points(self, dataset: Dataset, interval: Interval) -> pa.Table:
        types = self.types(dataset)
        names: Sequence[str] = ()
        parts: list[pa.Table] = []
        for columns, rows in self._chunks(_select(dataset, interval), max(1, _VALUES_OF_A_CHUNK // max(1, len(types)))):
            names = columns
            parts.append(_table(names, rows, types))
        return pa.concat_tables(parts) if parts else pa.table({"time": pa.array([], TIME)})

    def _named(self, measurements: Sequence[str]) -> Iterator[Dataset]:
        for name in measurements:
            try:
                yield Dataset(name)
            except NameRejected:
                _log.debug("%s is no dataset's name", name)

    def _strings(self, query: str, place: int) -> list[str]:
        return [str(row[place]) for row in self._rows(query)]

    def _rows(self, query: str) -> list[Sequence[Any]]:
        """All rows of a small answer.

        Raises:
            HistoryUnavailable: the question is too much for the server even so.
        """
        try:
            return [row for _, rows in self._chunks(query) for row in rows]
        except _TooMuch as error:
            raise HistoryUnavailable(f"{self._url} does not answer {query!r}: {error}") from error

    def _chunks(
        self, query: str, rows_of_a_chunk: int = _ROWS_OF_A_CHUNK
    ) -> list[tuple[Sequence[str], list[Sequence[Any]]]]:
        """Columns and rows of a whole answer; asked again, ever later, while the server has enough to do.

        Raises:
            HistoryUnavailable: the server has not answered after all attempts.
            HistoryRefused: it does not know the database or the user.
            _TooMuch: the answer is larger than the server gives.
        """
        reason = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._sleep(min(_LONGEST_WAIT_S, 0.5 * 2**attempt))
            with self._turn:
                self._pace.wait()
                try:
                    chunks = self._ask(query, rows_of_a_chunk)
                except _Busy as error:
                    reason = str(error)
                    _log.info("%s: %s", self._url, reason)
                    continue
                self._pace.spend(sum(len(columns) * len(rows) for columns, rows in chunks))
                return chunks
        raise HistoryUnavailable(f"{self._url} did not answer in {_ATTEMPTS} attempts: {reason}")

    def _ask(self, query: str, rows_of_a_chunk: int) -> list[tuple[Sequence[str], list[Sequence[Any]]]]:
        form = {"db": self._database, "q": query, "epoch": "ns", "chunked": "true", "chunk_size": str(rows_of_a_chunk)}
        found = []
        values = 0
        is_whole = False
        try:
            with self._client.stream("POST", f"{self._url}/query", data=form) as response:
                self._check(response)
                for line in _lines(response):
                    series, is_whole = _read(line)
                    found += series
                    values += sum(len(columns) * len(rows) for columns, rows in series)
                    if values > _MOST_VALUES:
                        raise _TooMuch(f"more than {_MOST_VALUES:,} values")
        except httpx.TimeoutException as error:
            raise _TooMuch(f"no answer within {self._client.timeout.read:g} s") from error
        except httpx.HTTPError as error:
            raise _Busy(f"{type(error).__name__}: {error}") from error
        if not is_whole:
            raise _Busy("the answer broke off")
        return found

    def _check(self, response: httpx.Response) -> None:
        if response.status_code == httpx.codes.OK:
            return
        text = _error_text(response.read())
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise HistoryRefused(f"{self._url} does not let us read {self._database}: {text}")
        if response.status_code == httpx.codes.BAD_REQUEST or response.status_code in _BUSY:
            _raise_of(f"HTTP {response.status_code}: {text}")
        raise HistoryRefused(f"{self._url} answered {response.status_code}: {text}")


def _credentials(settings: Settings) -> dict[str, Any]:
    if settings.history_influx_token is not None:
        return {"headers": {"Authorization": f"Token {settings.history_influx_token.get_secret_value()}"}}
    if settings.history_influx_user is None:
        return {}
    password = settings.history_influx_password
    return {"auth": (settings.history_influx_user, password.get_secret_value() if password else "")}


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _select(dataset: Dataset, interval: Interval, limit: str = "", what: str = "*") -> str:
    """All fields and tags of an interval; a dataset's name is of Kafka's grammar, and quoted."""
    times = f"time >= {interval.start_us * 1000} AND time < {interval.end_us * 1000}"
    return f"SELECT {what} FROM {_quoted(dataset.topic)} WHERE {times}{limit}"  # noqa: S608


def _error_text(body: bytes) -> str:
    """What an error's body says: JSON of InfluxDB, or anything of a proxy before it."""
    text = body[:500].decode("utf-8", "replace").strip()
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text


def _lines(response: httpx.Response) -> Iterator[bytes]:
    """Lines that end in a line feed, and only there: texts may hold what Unicode calls a line's end, too."""
    waiting: list[bytes] = []
    for block in response.iter_bytes():
        first, *others = block.split(b"\n")
        waiting.append(first)
        for other in others:
            # Joined once: a line may have megabytes, and comes in thousands of blocks.
            line, waiting = b"".join(waiting), [other]
            if line.strip():
                yield line
    if (rest := b"".join(waiting)).strip():
        yield rest


def _read(line: bytes) -> tuple[list[tuple[Sequence[str], list[Sequence[Any]]]], bool]:
    """Columns and rows of one chunk, and whether it is the last."""
    try:
        document = json.loads(line, parse_int=_integer)
    except ValueError as error:
        raise _Busy("the answer broke off in the middle of a chunk") from error
    _raise_of(document.get("error"))
    found, is_partial = [], False
    for result in document.get("results", []):
        _raise_of(result.get("error"))
        is_partial |= bool(result.get("partial"))
        for series in result.get("series", []):
            is_partial |= bool(series.get("partial"))
            found.append((series["columns"], series.get("values") or []))
    return found, not is_partial


def _integer(text: str) -> int | float:
    """InfluxDB writes the float −0.0 as an integer without a sign to keep."""
    return -0.0 if text == "-0" else int(text)


def _raise_of(message: str | None) -> None:
    """What an error of InfluxDB means for the question."""
    if not message:
        return
    if _ENOUGH.search(message):
        raise _Busy(message)
    if _TOO_MUCH.search(message):
        raise _TooMuch(message)
    if _REFUSED.search(message):
        raise HistoryRefused(f"InfluxDB answered: {message}")
    raise _Busy(message)


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]], types: Mapping[str, pa.DataType]) -> pa.Table:
    """Rows as columns of InfluxDB's types, without those that have no value."""
    columns = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())
    times = pa.array([time_ns // 1000 for time_ns in columns.pop("time")], pa.int64()).cast(TIME)
    return pa.table({"time": times, **{name: _column(name, values, types) for name, values in columns.items()}})


def _column(name: str, values: Sequence[Any], types: Mapping[str, pa.DataType]) -> pa.Array:
    """The values in the field's type; in the one that they have where it had another in those days."""
    kind = types.get(name)
    seen = {type(value) for value in values if value is not None}
    if kind == pa.float64() and seen <= {int, float}:
        return pa.array([None if value is None else float(value) for value in values], kind)
    if kind is not None and seen <= _SEEN.get(kind, set()):
        return pa.array(values, kind)
    if seen == {int, float}:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array(values)
