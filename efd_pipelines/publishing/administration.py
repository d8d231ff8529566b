"""Administration: databases with retention policies of 1.x, buckets with their mapping to these of 2.x; and health.

2.x is administered with influxdb-client; of 1.8 that client knows the health and nothing else, so its statements are
InfluxQL. `ensure` is safe to repeat: what is there stays, and gets the retention that the configuration says. Points
that have run out are deleted by the server, a shard at a time.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efd_pipelines.errors import InfluxUnavailable
from efd_pipelines.publishing.policy import PUBLICATIONS, Publication
from efd_pipelines.publishing.server import AUTOGEN, Destination, Influx, column, quoted, refusal

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

_DAY_S = 86_400.0
_WEEK_S = 7 * _DAY_S
_SHORT_S = 14 * _DAY_S
_UNITS_S: Mapping[str, float] = {"w": _WEEK_S, "d": _DAY_S, "h": 3600.0, "m": 60.0, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Health:
    """What a server says of itself."""

    url: str
    version: str
    is_healthy: bool
    message: str


@dataclass(frozen=True, slots=True)
class Store:
    """A database and retention policy, or a bucket, as the server has it; None keeps for ever."""

    destination: Destination
    retention_days: float | None
    is_mapped: bool = True


def health(influx: Influx) -> Health:
    """How the server is.

    Raises:
        InfluxUnavailable: it does not answer.
    """
    version = influx.version
    from influxdb_client.service.health_service import HealthService

    with _client(influx) as client, _mapping(influx):
        answer = HealthService(client.api_client).get_health()
    return Health(influx.url, version, str(answer.status) == "pass", str(answer.message or ""))


def ensure(influx: Influx, destination: Destination, retention_days: float | None) -> bool:
    """Makes a destination, or sets its retention; whether it was not there.

    Raises:
        PublishingRefused: the user may not.
        InfluxUnavailable: the server does not answer.
    """
    there = find(influx, destination)
    if influx.has_buckets:
        _ensure_bucket(influx, destination, retention_days, there)
    else:
        _ensure_policy(influx, destination, retention_days, there)
    return there is None


def find(influx: Influx, destination: Destination) -> Store | None:
    """A destination as the server has it, None where it does not."""
    found = stores(influx, destination.database)
    return next((one for one in found if one.destination == destination), None)


def stores(influx: Influx, database: str | None = None) -> list[Store]:
    """All databases with their retention policies, or buckets; or those of one database, sorted.

    Raises:
        PublishingRefused: the user may not ask.
        InfluxUnavailable: the server does not answer.
    """
    found = _buckets(influx) if influx.has_buckets else _policies(influx, database)
    return sorted(
        (one for one in found if database in (None, one.destination.database)), key=lambda one: one.destination
    )


def compared(archive: Archive, influx: Influx) -> list[tuple[Store, str, float | None, bool]]:
    """What the server has, by the databases' names ours or not: publication, days it should be kept for, whether it is.

    What belongs to no publication is right as it is, and has "".
    """
    found: list[tuple[Store, str, float | None, bool]] = []
    for one in stores(influx):
        publication = _publication_of(archive, one.destination)
        if publication is None:
            found.append((one, "", None, True))
        else:
            days = publication.policy.retention_days
            found.append((one, publication.name, days, one.retention_days == days and one.is_mapped))
    return found


def apply(archive: Archive, influx: Influx) -> list[Destination]:
    """Gives what is published the retention that the configuration says; which destinations changed."""
    changed = [one for one, _, _, is_right in compared(archive, influx) if not is_right]
    for one in changed:
        publication = _publication_of(archive, one.destination)
        assert publication is not None
        ensure(influx, one.destination, publication.policy.retention_days)
    return [one.destination for one in changed]


def _publication_of(archive: Archive, destination: Destination) -> Publication | None:
    """The publication that a database is of, by its name; the one whose name says more where two could be."""
    configuration = archive.settings.configuration
    every = [Publication.named(name, configuration) for name in PUBLICATIONS]
    fitting = [one for one in every if one.may_have(destination)]
    return max(fitting, key=lambda one: len(one.policy.database), default=None)


def drop(influx: Influx, destination: Destination) -> None:
    """Deletes a destination with all that is in it, 1.x's database with its last retention policy but `autogen`."""
    if influx.has_buckets:
        with _client(influx) as client, _mapping(influx):
            bucket = client.buckets_api().find_bucket_by_name(destination.bucket)
            if bucket is not None:
                client.buckets_api().delete_bucket(bucket)
        return
    others = [one for one in stores(influx, destination.database) if one.destination != destination]
    if all(one.destination.retention_policy == AUTOGEN for one in others):
        influx.query(f"DROP DATABASE {quoted(destination.database)}")
    else:
        influx.query(f"DROP RETENTION POLICY {quoted(destination.retention_policy)} ON {quoted(destination.database)}")


def _policies(influx: Influx, database: str | None) -> Iterator[Store]:
    series = influx.query("SHOW DATABASES")
    names = [str(name) for one in series for name in column(one, "name")]
    for name in names:
        if name == "_internal" or database not in (None, name):
            continue
        for policies in influx.query(f"SHOW RETENTION POLICIES ON {quoted(name)}"):
            durations = map(_seconds, column(policies, "duration"))
            for policy, duration_s in zip(column(policies, "name"), durations, strict=True):
                yield Store(Destination(name, str(policy)), duration_s / _DAY_S if duration_s else None)


def _ensure_policy(influx: Influx, destination: Destination, days: float | None, there: Store | None) -> None:
    database, policy = quoted(destination.database), quoted(destination.retention_policy)
    if there is not None and there.retention_days == days:
        return
    if there is None:
        influx.query(f"CREATE DATABASE {database}")
    duration = "INF" if days is None else f"{round(days * _DAY_S)}s"
    verb = "ALTER" if there is not None or destination.retention_policy == AUTOGEN else "CREATE"
    terms = f"DURATION {duration} REPLICATION 1 SHARD DURATION {round(_shard_s(days))}s"
    influx.query(f"{verb} RETENTION POLICY {policy} ON {database} {terms}")


def _shard_s(days: float | None) -> float:
    """A shard is a week, as the archive's, unless little more than that is kept: it goes as a whole."""
    return _WEEK_S if days is None or days * _DAY_S >= _SHORT_S else min(_DAY_S, max(3600.0, days * _DAY_S / 2))


def _seconds(duration: str) -> float:
    """Seconds of InfluxQL's `2160h0m0s`."""
    return sum(float(number) * _UNITS_S[unit] for number, unit in re.findall(r"([\d.]+)(w|d|h|m|s)", duration))


def _buckets(influx: Influx) -> Iterator[Store]:
    with _client(influx) as client, _mapping(influx):
        mapped = {
            (one.database, one.retention_policy): one.bucket_id
            for one in _dbrps(client).get_dbr_ps(org=influx.organisation).content or ()
            if not one.virtual
        }
        found = list(client.buckets_api().find_buckets_iter(org=influx.organisation))
    for bucket in found:
        if bucket.type == "system":
            continue
        database, _, policy = str(bucket.name).partition("/")
        seconds = next((rule.every_seconds for rule in bucket.retention_rules if rule.type == "expire"), 0)
        is_mapped = mapped.get((database, policy or AUTOGEN)) == bucket.id
        yield Store(Destination(database, policy or AUTOGEN), seconds / _DAY_S if seconds else None, is_mapped)


def _ensure_bucket(influx: Influx, destination: Destination, days: float | None, there: Store | None) -> None:
    """The bucket, and the mapping by which InfluxQL finds it as a database and retention policy."""
    from influxdb_client import BucketRetentionRules
    from influxdb_client.domain.dbrp_create import DBRPCreate

    if there is not None and there.retention_days == days and there.is_mapped:
        return
    every_s = 0 if days is None else round(days * _DAY_S)
    rule = BucketRetentionRules(
        type="expire", every_seconds=every_s, shard_group_duration_seconds=round(_shard_s(days))
    )
    with _client(influx) as client, _mapping(influx):
        buckets = client.buckets_api()
        bucket = buckets.find_bucket_by_name(destination.bucket)
        if bucket is None:
            bucket = buckets.create_bucket(
                bucket_name=destination.bucket, retention_rules=rule, org=influx.organisation
            )
        elif there is None or there.retention_days != days:
            bucket.retention_rules = [rule]
            buckets.update_bucket(bucket)
        if there is None or not there.is_mapped:
            mapping = DBRPCreate(
                org=influx.organisation,
                bucket_id=bucket.id,
                database=destination.database,
                retention_policy=destination.retention_policy,
                default=False,
            )
            _dbrps(client).post_dbrp(mapping)


def _dbrps(client: Any) -> Any:
    from influxdb_client.service.dbr_ps_service import DBRPsService

    return DBRPsService(client.api_client)


@contextlib.contextmanager
def _client(influx: Influx) -> Iterator[Any]:
    from influxdb_client import InfluxDBClient

    settings = influx.settings
    token = settings.influx_token.get_secret_value() if settings.influx_token else ""
    if not token and settings.influx_user:
        password = settings.influx_password.get_secret_value() if settings.influx_password else ""
        token = f"{settings.influx_user}:{password}"
    client = InfluxDBClient(url=influx.url, token=token, org=settings.influx_org or "-", timeout=30_000)
    try:
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def _mapping(influx: Influx) -> Iterator[None]:
    """Errors of influxdb-client, and of urllib3 below it, as ours."""
    from influxdb_client.client.exceptions import InfluxDBError
    from influxdb_client.rest import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (ApiException, InfluxDBError, HTTPError) as error:
        raise _mapped(influx, error) from error


def _mapped(influx: Influx, error: Exception) -> Exception:
    status, message = getattr(error, "status", None), getattr(error, "message", None)
    if status:
        return refusal(influx.url, int(status), str(message or error))
    return InfluxUnavailable(f"{influx.url} did not answer ({type(error).__name__}: {error})")
