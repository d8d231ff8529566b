"""Results: values and where they come from, written together, whole or not at all.

A batch of exposures and visits is one transaction over all of their tables (`tables.py`), by `bulk.py`. NULL replaces
no value unless asked. Who writes the same exposures at the same time waits: the last one's values stand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from efd_pipelines.exposures import bulk
from efd_pipelines.exposures.bulk import Rows, Texts
from efd_pipelines.exposures.computing import Values
from efd_pipelines.exposures.configuration import ExposureColumn
from efd_pipelines.exposures.tables import ResultTables
from efd_pipelines.exposures.windows import Exposures

ROWS_PER_TRANSACTION = 250


@dataclass(frozen=True, slots=True)
class Computation:
    """What one join computed with, the same for all exposures that it wrote."""

    version: str
    run: str = ""
    nulls_overwrite: bool = False
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Provenance:
    """What one exposure's values were computed from; `columns` has the digest of each column then."""

    columns: Mapping[str, str]
    begin_us: int
    end_us: int
    versions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Exposures, or visits, whose values are to be written: `at` says which window of the values is whose.

    `versions` has, for each of them, the archive tables that its values rest on now.
    """

    tables: ResultTables
    exposures: Exposures
    at: NDArray[np.int64]
    versions: Sequence[Mapping[str, int]]


def write(outcomes: Sequence[Outcome], values: Values, computation: Computation) -> None:
    """Values and provenance of exposures and visits: in transactions of 250 windows, each whole or not at all.

    Raises:
        DataError: the database refuses, e.g. an exposure_id that another row has.
        DatabaseUnavailable: it does not answer, is full, or stays locked.
    """
    if not outcomes:
        return
    consdb, schema = outcomes[0].tables.consdb, outcomes[0].tables.schema
    for first in range(0, len(values.windows), ROWS_PER_TRANSACTION):
        with consdb.writing(f"Writing to {schema}") as connection:
            consdb.one_at_a_time(connection, schema)
            for outcome in outcomes:
                chosen = np.flatnonzero((outcome.at >= first) & (outcome.at < first + ROWS_PER_TRANSACTION))
                if len(chosen):
                    _write(connection, outcome, chosen, values, computation)


def _write(
    connection: sa.Connection,
    outcome: Outcome,
    chosen: NDArray[np.int64],
    values: Values,
    computation: Computation,
) -> None:
    tables = outcome.tables
    own = {column.name for column in tables.all_columns}
    keys = _key_columns(tables, outcome.exposures, chosen)
    created = np.full(len(chosen), _naive(computation.at))
    overwrite = computation.nulls_overwrite
    if tables.columns:
        named = {
            name: values.values[outcome.at[chosen], n]
            for n, name in enumerate(values.columns)
            if name in own and name not in values.vectors
        }
        rows = Rows({**keys, "created_at": created, **named})
        bulk.upsert(
            tables.consdb, connection, tables.values_table, rows, once=["created_at"], nulls_overwrite=overwrite
        )
    vectors = [name for name in values.vectors if name in own]
    if vectors:
        _write_vectors(connection, outcome, chosen, values, vectors, computation)
    provenance = _provenance(outcome, chosen, values, own, computation)
    rows = Rows({**keys, **provenance.numbers}, provenance.texts)
    bulk.upsert(tables.consdb, connection, tables.provenance_table, rows, nulls_overwrite=overwrite)


def _write_vectors(
    connection: sa.Connection,
    outcome: Outcome,
    chosen: NDArray[np.int64],
    values: Values,
    names: Sequence[str],
    computation: Computation,
) -> None:
    """A row for each field that has a value; those without have none, and lose it only if that was asked for."""
    tables = outcome.tables
    texts = [(name, of) for name in names for of in values.vectors[name].fields]
    block = np.concatenate([values.vectors[name].values[outcome.at[chosen]] for name in names], axis=1)
    # In the order of the key, which is how the index grows fastest.
    order = np.argsort(np.array(["\0".join(pair) for pair in texts]), kind="stable")
    place = np.lexsort((outcome.exposures.seq_num[chosen], outcome.exposures.day_obs[chosen]))
    ordered = block[place][:, order]
    who, which = np.nonzero(np.ones_like(ordered, dtype=bool) if computation.nulls_overwrite else ~np.isnan(ordered))
    keys = _key_columns(tables, outcome.exposures, chosen[place][who])
    numbers = {
        **keys,
        "value": ordered[who, which],
        "created_at": np.full(len(who), _naive(computation.at)),
    }
    rows = Rows(numbers, Texts(("property", "field"), order[which].astype(np.int32), texts))
    if not computation.nulls_overwrite and not _any_there(connection, tables.unpivoted_table, keys, names):
        bulk.insert(tables.consdb, connection, tables.unpivoted_table, rows)
        return
    bulk.upsert(
        tables.consdb,
        connection,
        tables.unpivoted_table,
        rows,
        once=["created_at"],
        nulls_overwrite=computation.nulls_overwrite,
    )


def _any_there(
    connection: sa.Connection, table: sa.Table, keys: Mapping[str, NDArray[np.int64]], names: Sequence[str]
) -> bool:
    """Whether any of these exposures has any of these properties; the days tell the index where to look."""
    of = table.columns
    pairs = set(zip(keys["day_obs"].tolist(), keys["seq_num"].tolist(), strict=True))
    query = sa.select(sa.literal(1)).where(
        of.day_obs.in_({day for day, _ in pairs}), sa.tuple_(of.day_obs, of.seq_num).in_(pairs), of.property.in_(names)
    )
    return bool(pairs) and connection.execute(query.limit(1)).first() is not None


def _provenance(
    outcome: Outcome, chosen: NDArray[np.int64], values: Values, own: set[str], computation: Computation
) -> Rows:
    at = outcome.at[chosen]
    counts = np.where(values.known()[at], values.samples[at], bulk.MISSING).astype(np.int32)
    exposures = outcome.exposures
    digest = digest_of(outcome.tables.all_columns)
    versions = [_json(outcome.versions[n]) for n in chosen.tolist()]
    distinct = {text: code for code, text in enumerate(dict.fromkeys(versions))}
    texts = Texts(
        ("config_version", "config_digest", "versions", "run"),
        np.array([distinct[text] for text in versions], dtype=np.int32),
        [(computation.version, digest, text, computation.run) for text in distinct],
    )
    numbers = {
        "computed_at": np.full(len(chosen), _naive(computation.at)),
        "window_begin": exposures.begin_us[chosen].astype("datetime64[us]"),
        "window_end": exposures.end_us[chosen].astype("datetime64[us]"),
        **{name: counts[:, n] for n, name in enumerate(values.columns) if name in own},
    }
    return Rows(numbers, texts)


def _key_columns(tables: ResultTables, exposures: Exposures, chosen: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    return {
        "day_obs": exposures.day_obs[chosen].astype(np.int32),
        "seq_num": exposures.seq_num[chosen].astype(np.int32),
        tables.subject.key: exposures.exposure_id[chosen].astype(np.int64),
    }


def register(tables: ResultTables, version: str) -> None:
    """Keeps the digests of the columns that are computed now: what comes later is compared with them.

    Raises:
        DatabaseUnavailable: nothing was written.
    """
    columns = {column.name: column.digest for column in tables.all_columns}
    table = tables.configurations_table
    row = {
        "config_digest": digest_of(tables.all_columns),
        "config_version": version,
        "columns": _json(columns),
        "created_at": datetime.now(UTC).replace(tzinfo=None),
    }
    with tables.consdb.writing(f"Writing to {tables.schema}") as connection:
        connection.execute(tables.consdb.insert_new(table), row)


def read_provenance(tables: ResultTables, exposures: Exposures) -> dict[tuple[int, int], Provenance]:
    """What is written of exposures already, by (day_obs, seq_num).

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    if not len(exposures):
        return {}
    of = tables.provenance_table.columns
    query = sa.select(of.day_obs, of.seq_num, of.config_digest, of.window_begin, of.window_end, of.versions).where(
        of.day_obs.between(int(exposures.day_obs.min()), int(exposures.day_obs.max()))
    )
    parsed: dict[str, Mapping[str, int]] = {}
    with tables.consdb.reading(f"Reading {tables.schema}.{tables.subject.provenance}") as connection:
        known = dict(_configurations(tables, connection))
        found = {}
        for row in connection.execute(query):
            # One text for each distinct one: hundreds of exposures rest on the same versions.
            versions = parsed.get(row.versions)
            if versions is None:
                versions = parsed[row.versions] = json.loads(row.versions)
            columns = known.get(row.config_digest, {})
            window = _microseconds(row.window_begin), _microseconds(row.window_end)
            found[row.day_obs, row.seq_num] = Provenance(columns, *window, versions)
    return found


def _configurations(tables: ResultTables, connection: sa.Connection) -> Iterator[tuple[str, Mapping[str, str]]]:
    table = tables.configurations_table
    for row in connection.execute(sa.select(table.columns.config_digest, table.columns["columns"])):
        yield row[0], json.loads(row[1])


def digest_of(columns: Sequence[ExposureColumn]) -> str:
    """Changes with what changes values of these columns, and with which there are."""
    text = _json({column.name: column.digest for column in columns})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def keys_of(exposures: Exposures) -> Sequence[tuple[int, int]]:
    """(day_obs, seq_num) of each exposure."""
    return list(zip(exposures.day_obs.tolist(), exposures.seq_num.tolist(), strict=True))


def _json(document: Mapping[str, object]) -> str:
    return json.dumps(dict(document), sort_keys=True, separators=(",", ":"))


def _naive(when: datetime) -> np.datetime64:
    return np.datetime64(when.astimezone(UTC).replace(tzinfo=None), "us")


def _microseconds(naive_utc: datetime) -> int:
    return int(np.datetime64(naive_utc, "us").astype(np.int64))
