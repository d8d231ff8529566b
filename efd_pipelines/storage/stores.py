"""Stores: what Kafka, InfluxDB and PostgreSQL hold, asked of them, in the form of the tidy table.

InfluxDB tells of each shard, which is a week; Kafka and PostgreSQL only of what they hold now, which the weekly report
keeps beside itself under its week. A store that is not configured is not asked; one that does not answer is missing,
and the report says so. Nothing here is heavy for who is asked: offsets, lists of shards, sizes of tables.
What belongs here: asking. The table: `weekly.py`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from efd_pipelines.errors import EfdError, UsageError
from efd_pipelines.storage.tidy import INFLUXDB, KAFKA, POSTGRESQL, WEEKLY_SIZES, tidy
from efd_pipelines.times import FIRST_WEEK, Week, from_microseconds
from efd_pipelines.topics.names import Dataset, dataset_of

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import Settings

INFLUXDB_TOPICS = "influxdb_topics"
"""The store of `influx_inspect report-disk -detailed`'s measurements: bytes of all time, by topic."""

HELD = (KAFKA, POSTGRESQL, INFLUXDB_TOPICS)
"""Stores of which a week's rows are what they held when it was reported, not what came in it."""

_SHARD_SIZES = """
    SELECT last("diskBytes") AS size FROM "_internal"."monitor"."shard" WHERE time > now() - 1h
    GROUP BY "id", "database"
"""
_TABLE_SIZES = """
    SELECT schemaname, relname, pg_total_relation_size(relid), n_live_tup FROM pg_stat_user_tables ORDER BY 1, 2
"""
Row = dict[str, Any]


@dataclass(slots=True)
class Asked:
    """What the stores answered: rows of the tidy table; what could not be asked; what is to be said of the rest."""

    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def ask(self, what: str, question: Callable[[], Iterator[Row]]) -> None:
        """Adds a store's rows, or that it could not be asked."""
        try:
            self.rows += list(question())
        except EfdError as error:
            self.missing.append(f"{what} could not be asked: {error}")

    def table(self) -> pa.Table:
        return tidy(pa.Table.from_pylist(self.rows, schema=WEEKLY_SIZES))


def ask_stores(archive: Archive, week: Week, mean_bytes: Mapping[str, float], now: datetime | None = None) -> Asked:
    """Asks every store that is configured; `week` is what they hold now counted as.

    Args:
        mean_bytes: Avro bytes of a mean record by topic, as Kafka delivered them.
    """
    settings, asked = archive.settings, Asked()
    when = f"{now or datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    if settings.kafka_bootstrap:
        asked.ask("Kafka", lambda: _of_kafka(settings, week, mean_bytes, when, asked))
    for server in _influx_servers(settings):
        asked.ask(f"InfluxDB at {server.influx_url}", lambda server=server: _of_influx(server, asked))  # type: ignore[misc]
    if settings.configuration.reports.influx_report is not None:
        asked.ask("The report of influx_inspect", lambda: _of_report_disk(archive, week))
    if settings.consdb_url is not None and settings.consdb_url.get_secret_value().startswith("postgresql"):
        asked.ask("PostgreSQL", lambda: _of_postgresql(settings, week, when))
    return asked


def _of_kafka(
    settings: Settings, week: Week, mean_bytes: Mapping[str, float], when: str, asked: Asked
) -> Iterator[Row]:
    """Records between the watermarks, times the mean record's bytes: confluent-kafka has no DescribeLogDirs."""
    from efd_pipelines.kafka.brokers import Brokers

    unknown = 0
    how = f"watermarks × mean Avro record, one copy, uncompressed; {when}"
    with Brokers(settings) as brokers:
        cluster = brokers.cluster_id()
        named = {name: dataset_of(name, settings.home_prefixes) for name in brokers.topics()}
        known = {name: dataset for name, dataset in named.items() if dataset is not None}
        for name, marks in brokers.offsets(known).items():
            dataset = known[name]
            records = sum(of.high - of.low for of in marks.values())
            mean = mean_bytes.get(dataset.text)
            unknown += records > 0 and mean is None
            if records:
                size = None if mean is None else round(records * mean)
                yield _row(week, KAFKA, settings, dataset, cluster, how, records, size)
    if unknown:
        asked.notes.append(f"Kafka holds {unknown:,} topics of which nothing is archived: their sizes are not known.")


def _influx_servers(settings: Settings) -> list[Settings]:
    """The settings with each InfluxDB that is configured as the one to publish to: that is the one that is asked."""
    found = [settings] if settings.influx_url else []
    if settings.history_influx_url and settings.history_influx_url != settings.influx_url:
        history = {
            "influx_url": settings.history_influx_url,
            "influx_token": settings.history_influx_token,
            "influx_user": settings.history_influx_user,
            "influx_password": settings.history_influx_password,
            "influx_org": settings.history_influx_org,
        }
        found.append(settings.model_copy(update=history))
    return found


def _of_influx(settings: Settings, asked: Asked) -> Iterator[Row]:
    """Shards, each with its size by the server's own monitoring (`_internal`)."""
    from efd_pipelines.publishing.server import Influx, column

    with Influx(settings, timeout_s=20.0) as influx:
        if influx.has_buckets:
            asked.notes.append(f"InfluxDB 2 at {influx.url} does not tell the sizes of its shards.")
            return
        sizes = {
            (str(series["tags"]["database"]), str(series["tags"]["id"])): int(column(series, "size")[-1])
            for series in influx.query(_SHARD_SIZES)
        }
        unsized = 0
        how = f"SHOW SHARDS and _internal of {influx.url}"
        for series in influx.query("SHOW SHARDS"):
            for number, start in zip(column(series, "id"), column(series, "start_time"), strict=True):
                size = sizes.get((str(series["name"]), str(number)))
                unsized += size is None
                if size is not None and series["name"] != "_internal":
                    yield _shard_row(str(start), str(series["name"]), how, size)
        if unsized:
            asked.missing.append(f"InfluxDB at {influx.url} tells no size of {unsized} shards (is `monitor` on?)")


def _shard_row(start: str, database: str, how: str, size: int) -> Row:
    from efd_pipelines.times import parse_time

    when = from_microseconds(int(start) // 1000) if start.isdigit() else parse_time(start)
    return _bare_row(Week.containing(when), INFLUXDB, database, how) | {"bytes": size, "files": 1}


def _of_report_disk(archive: Archive, week: Week) -> Iterator[Row]:
    """What `influx_inspect report-disk -detailed` wrote: bytes by measurement; a shard's number is no week."""
    from efd_pipelines.storage.annotations import configured_path

    path = configured_path(archive, str(archive.settings.configuration.reports.influx_report))
    for one in read_report_disk(path)["Measurement"]:
        dataset = dataset_of(str(one["measurement"]), archive.settings.home_prefixes)
        how = f"influx_inspect report-disk, {datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%d}"
        if dataset is not None:
            place = f"{one['db']}.{one['rp']}"
            yield _row(week, INFLUXDB_TOPICS, archive.settings, dataset, place, how, None, int(one["size"]))


def read_report_disk(path: Path) -> dict[str, list[dict[str, Any]]]:
    """`Shard` and `Measurement` of what `influx_inspect report-disk -detailed` wrote to stdout.

    Raises:
        UsageError: the file is no such report.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = {name: list(document.get(name, [])) for name in ("Shard", "Measurement")}
        if not isinstance(document["Summary"], dict):
            raise TypeError("no summary")
        if not found["Measurement"]:
            raise ValueError("it lists no measurements: write it with -detailed")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "`influx_inspect report-disk -detailed DATA > FILE` writes one; reports.influx_report names it."
        raise UsageError(f"{path} is no report of influx_inspect ({error})", remedy=remedy) from error
    return found


def _of_postgresql(settings: Settings, week: Week, when: str) -> Iterator[Row]:
    """Tables of ConsDB's database, with their indices and what is out of line."""
    import sqlalchemy as sa

    from efd_pipelines.exposures.consdb import ConsDB

    with ConsDB(settings.require_consdb()) as consdb, consdb.reading("the sizes of its tables") as connection:
        for schema, table, size, rows in connection.execute(sa.text(_TABLE_SIZES)):
            how = f"pg_total_relation_size; rows as PostgreSQL estimates them; {when}"
            row = _bare_row(week, POSTGRESQL, f"{schema}.{table}", how)
            yield row | {"bytes": int(size), "records": int(rows)}


def _row(
    week: Week,
    store: str,
    settings: Settings,
    dataset: Dataset,
    place: str,
    how: str,
    records: int | None,
    size: int | None,
) -> Row:
    what = {
        "topic": dataset.text,
        "component": dataset.component,
        "subsystem": settings.configuration.subsystem_of(dataset.component),
        "kind": dataset.kind.value,
    }
    return _bare_row(week, store, place, how) | what | {"records": records, "bytes": size}


def _bare_row(week: Week, store: str, place: str, how: str) -> Row:
    texts = {"topic": "", "component": "", "subsystem": "", "kind": ""}
    return {"week": max(week, FIRST_WEEK).key, "store": store, **texts, "place": place, "how": how}


def as_parquet(table: pa.Table) -> bytes:
    """A tidy table as a file; equal tables give equal bytes."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    texts = [pa.field(one.name, pa.string() if pa.types.is_dictionary(one.type) else one.type) for one in table.schema]
    pq.write_table(table.cast(pa.schema(texts)), buffer, compression="zstd")
    return buffer.getvalue()
