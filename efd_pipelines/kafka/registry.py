"""The schema registry: schemas by id and by subject, over the Confluent-compatible REST API.

Every registry has ids of its own: a schema is known by (registry, id), never by id alone. A 404 counts as "no
such schema" only when it carries the API's own error code: a wrong path prefix answers 404 too, and must not
make dead letters of good frames. Which topics have which subjects: `catalogue.py`.
"""

from __future__ import annotations

import base64
import functools
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit, urlunsplit

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from efd_pipelines.errors import DataError, RegistryUnavailable, SchemaError, SettingsError
from efd_pipelines.settings import Settings
from efd_pipelines.topics.schemas import TopicSchema, parse_schema

UNKNOWN_FOR_S = 30.0
"""How long an id that a registry does not know is not asked for again."""

_NOT_FOUND = frozenset({40401, 40402, 40403})
_ATTEMPTS = 3
_TIMEOUT = httpx.Timeout(10.0, connect=5.0)
_JSON = "application/vnd.schemaregistry.v1+json, application/json"


class UnknownSchema(DataError):
    """A registry has no schema, subject or version of that name."""

    remedy = (
        "The frames are kept whole among the dead; register the schema (restart of its producer), "
        "then `efd archive dead-letters --replay`."
    )


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """A version of a subject."""

    id: int
    version: int
    schema: TopicSchema


class _Unanswered(Exception):
    """One attempt failed in a way that may pass."""


class Registries:
    """The schema registries of `settings`: the home clusters' and those of other clusters.

    Safe to use from several threads. Methods raise `RegistryUnavailable` when a registry does not answer as one
    after three attempts, and `SettingsError` when it is not configured.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = httpx.Client(timeout=_TIMEOUT, headers={"Accept": _JSON}, verify=_trusted())
        self._texts: dict[tuple[str, int], str] = {}
        self._unknown: dict[tuple[str, int], float] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the connections go."""
        self._client.close()

    def url(self, cluster: str = "") -> str:
        """The registry for a cluster's topics ("" = home), without user name and password."""
        return _without_login(self._settings.require_registry(cluster))

    def schema(self, cluster: str, schema_id: int) -> TopicSchema:
        """The schema with that id in the cluster's registry; asked for once.

        Raises:
            UnknownSchema: there is none; asked for again after `UNKNOWN_FOR_S`.
            SchemaError: it is not an Avro record.
        """
        key = (self.url(cluster), schema_id)
        text = self._texts.get(key)
        if text is None:
            text = self._fetched(cluster, key)
        return parse_schema(text)

    def subjects(self, cluster: str = "") -> list[str]:
        """All subjects, sorted."""
        answer = self._get(cluster, "/subjects")
        if not isinstance(answer, list):
            raise self._unavailable(cluster, "answered the list of subjects with something else")
        return sorted(str(subject) for subject in answer)

    def latest(self, cluster: str, subject: str) -> RegisteredSchema:
        """The newest version of a subject.

        Raises:
            UnknownSchema: there is no such subject.
            SchemaError: it is not an Avro record.
        """
        answer = self._get(cluster, f"/subjects/{quote(subject, safe='')}/versions/latest")
        text = self._text(cluster, answer, f"subject {subject}")
        with self._lock:
            self._texts[self.url(cluster), int(answer["id"])] = text
        return RegisteredSchema(int(answer["id"]), int(answer["version"]), parse_schema(text))

    def versions(self, cluster: str, schema_id: int) -> dict[str, int]:
        """The subjects that have the schema with that id, and its version in each; empty where the id is unknown."""
        try:
            answer = self._get(cluster, f"/schemas/ids/{schema_id}/versions")
        except UnknownSchema:
            return {}
        return {str(entry["subject"]): int(entry["version"]) for entry in answer}

    def register(self, cluster: str, subject: str, text: str) -> int:
        """Make `text` a version of the subject, if it is none yet; its id.

        Raises:
            SchemaError: the registry does not accept the schema.
        """
        answer = self._request(cluster, "POST", f"/subjects/{quote(subject, safe='')}/versions", json={"schema": text})
        return int(answer["id"])

    def _fetched(self, cluster: str, key: tuple[str, int]) -> str:
        url, schema_id = key
        if time.monotonic() - self._unknown.get(key, -UNKNOWN_FOR_S) < UNKNOWN_FOR_S:
            raise UnknownSchema(f"The schema registry {url} has no schema {schema_id}")
        try:
            answer = self._get(cluster, f"/schemas/ids/{schema_id}")
        except UnknownSchema as error:
            with self._lock:
                self._unknown[key] = time.monotonic()
            raise UnknownSchema(f"The schema registry {url} has no schema {schema_id}") from error
        text = self._text(cluster, answer, f"schema {schema_id}")
        with self._lock:
            self._texts[key] = text
            self._unknown.pop(key, None)
        return text

    def _text(self, cluster: str, answer: Any, what: str) -> str:
        if not isinstance(answer, Mapping) or not isinstance(answer.get("schema"), str):
            raise self._unavailable(cluster, f"answered {what} with something else")
        kind = answer.get("schemaType") or "AVRO"
        if kind != "AVRO":
            raise SchemaError(f"The {what} of the schema registry {self.url(cluster)} is {kind}, not Avro")
        return str(answer["schema"])

    def _get(self, cluster: str, path: str) -> Any:
        return self._request(cluster, "GET", path)

    def _request(self, cluster: str, method: str, path: str, json: Any = None) -> Any:
        attempts = Retrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_exponential_jitter(multiplier=0.2, max=2.0),
            retry=retry_if_exception_type(_Unanswered),
            reraise=True,
        )
        try:
            return attempts(self._attempt, cluster, method, path, json)
        except _Unanswered as failure:
            raise self._unavailable(cluster, str(failure)) from failure

    def _attempt(self, cluster: str, method: str, path: str, json: Any) -> Any:
        base = self._settings.require_registry(cluster)
        try:
            response = self._client.request(
                method, _without_login(base) + path, json=json, headers=self._login(cluster, base)
            )
        except httpx.InvalidURL as error:
            raise SettingsError(f"The schema registry's URL {_without_login(base)} is none ({error})") from error
        except httpx.HTTPError as error:
            raise _Unanswered(f"did not answer ({str(error) or type(error).__name__})") from error
        return self._accepted(cluster, response, path)

    def _accepted(self, cluster: str, response: httpx.Response, path: str) -> Any:
        status = response.status_code
        answer = _json(response)
        code = answer.get("error_code") if isinstance(answer, Mapping) else None
        if status == 404 and code in _NOT_FOUND:
            raise UnknownSchema(f"The schema registry {self.url(cluster)} says: {answer.get('message', path)}")
        if status in {409, 422}:
            message = answer.get("message", "") if isinstance(answer, Mapping) else ""
            raise SchemaError(f"The schema registry {self.url(cluster)} refuses {path}: {message or status}")
        if status in {401, 403}:
            raise self._unavailable(
                cluster, f"does not let us in (HTTP {status})", remedy="Check EFD_REGISTRY_AUTH (user:password)."
            )
        if status == 429 or status >= 500:
            raise _Unanswered(f"answered HTTP {status}")
        if status >= 300 or answer is None:
            raise self._unavailable(
                cluster,
                f"does not answer like one (HTTP {status} for {path})",
                remedy="Check EFD_REGISTRY_URL with its path, e.g. http://host:port/apis/ccompat/v7.",
            )
        return answer

    def _login(self, cluster: str, base: str) -> dict[str, str]:
        """Basic authentication: from the URL, else EFD_REGISTRY_AUTH, which only the home registry's host may see."""
        parts = urlsplit(base)
        if parts.username is not None:
            login = f"{parts.username}:{parts.password or ''}"
        elif self._settings.registry_auth is not None and self._is_home(cluster, base):
            login = self._settings.registry_auth.get_secret_value()
        else:
            return {}
        return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}

    def _is_home(self, cluster: str, base: str) -> bool:
        home = self._settings.registry_url
        return home is not None and (not cluster or urlsplit(home)[:2] == urlsplit(base)[:2])

    def _unavailable(self, cluster: str, what: str, remedy: str | None = None) -> RegistryUnavailable:
        return RegistryUnavailable(f"The schema registry {self.url(cluster)} {what}", remedy=remedy)


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Read once: the authorities that everybody trusts are 150 kB of text, which every drain would parse again."""
    return httpx.create_ssl_context()


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
