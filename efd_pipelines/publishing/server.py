"""Server: the InfluxDB that is published to, of 1.x or 2.x, its API told by its version.

What belongs here: the connection, what its answers mean, InfluxQL. Writing lines: `influx.py`; databases, buckets and
their retention: `administration.py`. This is never the server that history is read from, save where an operator names
the same one twice (EFD_INFLUX_URL, EFD_HISTORY_INFLUX_URL).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx

from efd_pipelines.errors import DataError, InfluxUnavailable, SettingsError, UsageError

if TYPE_CHECKING:
    from efd_pipelines.settings import Settings

AUTOGEN = "autogen"
"""The retention policy that 1.x gives every database, and keeps for ever."""

_CONNECT_S = 10.0
_NO_ROOM = re.compile(r"no space left|disk quota|disk full", re.IGNORECASE)
MISSING = re.compile(r"(database|bucket|retention policy).{0,300}not found", re.IGNORECASE)
"""How servers say that there is no such destination."""


class PublishingRefused(UsageError):
    """InfluxDB does not let us."""

    remedy = "Check EFD_INFLUX_TOKEN, or EFD_INFLUX_USER and _PASSWORD, EFD_INFLUX_ORG, and the user's rights."


class DestinationMissing(DataError):
    """A database or bucket that is not there, or no longer."""

    remedy = "Run again: what is missing is made, and published again from the beginning."


class InfluxFull(InfluxUnavailable):
    """InfluxDB has no room left."""

    remedy = "Make room on its disk, then run again: what it did not take is published then."


@dataclass(frozen=True, slots=True, order=True)
class Destination:
    """Where points go: a database and retention policy of 1.x, a bucket of 2.x.

    The bucket is called `<database>/<retention policy>`, as 1.8 and 2.x themselves map one to the other.
    """

    database: str
    retention_policy: str = AUTOGEN

    @property
    def bucket(self) -> str:
        return f"{self.database}/{self.retention_policy}"

    def __str__(self) -> str:
        return self.bucket


class Influx:
    """The InfluxDB of EFD_INFLUX_URL. Nothing connects before it is asked for something.

    Raises:
        SettingsError: EFD_INFLUX_URL is not set.
    """

    def __init__(self, settings: Settings, *, timeout_s: float = 60.0) -> None:
        if not settings.influx_url:
            raise SettingsError(
                "EFD_INFLUX_URL is not set", remedy="Set it to the InfluxDB to publish to, as http://host:8086."
            )
        self.url = settings.influx_url
        self.settings = settings
        self.client = httpx.Client(
            timeout=httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)), headers=_authorisation(settings)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()

    @cached_property
    def version(self) -> str:
        """The server's version, e.g. `1.8.10`.

        Raises:
            InfluxUnavailable: it does not answer.
        """
        response = self.ask("GET", "/ping")
        return response.headers.get("X-Influxdb-Version", "").lstrip("v") or "1"

    @property
    def has_buckets(self) -> bool:
        """Whether it is a 2.x: buckets and tokens instead of databases and retention policies."""
        return self.version.startswith("2")

    @property
    def is_near(self) -> bool:
        """Whether it runs on this machine."""
        return httpx.URL(self.url).host in {"localhost", "127.0.0.1", "::1"}

    @property
    def organisation(self) -> str:
        """The organisation of a 2.x.

        Raises:
            SettingsError: EFD_INFLUX_ORG is not set.
        """
        if not self.settings.influx_org:
            raise SettingsError("EFD_INFLUX_ORG is not set", remedy=f"{self.url} is InfluxDB 2: set its organisation.")
        return self.settings.influx_org

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """One request, answered with success.

        Raises:
            InfluxUnavailable: it does not answer, or has enough to do.
            PublishingRefused: it does not let us.
            DestinationMissing: it knows no such database.
        """
        try:
            response = self.client.request(method, f"{self.url}{path}", **request)
        except httpx.HTTPError as error:
            raise InfluxUnavailable(f"{self.url} did not answer ({type(error).__name__}: {error})") from error
        if response.is_success:
            return response
        raise refusal(self.url, response.status_code, error_text(response.content))

    def query(self, statement: str, destination: Destination | None = None) -> list[Mapping[str, Any]]:
        """The series of InfluxQL's answer, each with `name`, `tags`, `columns` and `values`; times in nanoseconds.

        Raises:
            InfluxUnavailable, PublishingRefused, DestinationMissing: as `ask`.
        """
        where = {} if destination is None else {"db": destination.database, "rp": destination.retention_policy}
        form = {**where, "q": statement, "epoch": "ns"}
        answer = json.loads(self.ask("POST", "/query", **self._sent(form)).content, parse_int=_number)
        found: list[Mapping[str, Any]] = []
        for result in answer.get("results", []):
            if "error" in result:
                raise refusal(self.url, httpx.codes.BAD_REQUEST, str(result["error"]))
            found += result.get("series", [])
        return found

    def _sent(self, form: Mapping[str, str]) -> dict[str, Any]:
        """2.x takes a statement among the parameters, 1.x as a form: there it may be longer than an address."""
        if self.has_buckets:
            return {"params": {**form, "org": self.organisation}}
        return {"data": form}


def refusal(url: str, status: int, text: str) -> UsageError | DataError | InfluxUnavailable:
    """What an answer without success means."""
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return PublishingRefused(f"{url} refuses: {text or status}")
    if status == httpx.codes.NOT_FOUND or MISSING.search(text):
        return DestinationMissing(f"{url} answers: {text or 'not found'}")
    if _NO_ROOM.search(text):
        return InfluxFull(f"{url} has no room left: {text}")
    if status == httpx.codes.BAD_REQUEST:
        return PublishingRefused(f"{url} refuses: {text}", remedy="Report it, with the command that caused it.")
    return InfluxUnavailable(f"{url} answers {status}: {text or 'nothing more'}")


def error_text(body: bytes) -> str:
    """What an error's body says: 1.x says `error`, 2.x `message`; a proxy before it, anything."""
    text = body[:4000].decode("utf-8", "replace").strip()
    try:
        document = json.loads(body)
        return str(document.get("error") or document["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return text[:500]


def quoted(name: str) -> str:
    """A name in InfluxQL."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def literal(text: str) -> str:
    """A text in InfluxQL."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"


def column(series: Mapping[str, Any], name: str) -> Sequence[Any]:
    """The values of one column of a series: versions differ in which others there are."""
    place = series["columns"].index(name)
    return [row[place] for row in series.get("values", [])]


def _number(text: str) -> int | float:
    """Go writes the float −0 without a point."""
    return -0.0 if text == "-0" else int(text)


def _authorisation(settings: Settings) -> dict[str, str]:
    """1.8 takes `user:password` as a token as 2.x takes tokens, but not on all paths; Basic it takes everywhere."""
    if settings.influx_token is not None:
        return {"Authorization": f"Token {settings.influx_token.get_secret_value()}"}
    if settings.influx_user is None:
        return {}
    password = settings.influx_password.get_secret_value() if settings.influx_password else ""
    return {"Authorization": f"Basic {base64.b64encode(f'{settings.influx_user}:{password}'.encode()).decode()}"}
