"""Weekly sizes: the tidy table of what each store held of each topic in each week, since the beginning.

Everything that is reported, drawn or forecast of storage is made of this one table (`WEEKLY_SIZES`): a row per week,
store and topic. Of Kafka's records as they came, the archive and the tiers it is made of the ledger, for all weeks at
once; of stores that can only be asked what they hold now (Kafka, PostgreSQL), of what the weekly reports kept.
What belongs here: the table's form, reading it, and its sums by week. Asking the stores: `stores.py`; published sizes:
`sizes.py`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.archive.ledger_rows import RAW
from efd_pipelines.times import Week

if TYPE_CHECKING:
    import polars as pl

    from efd_pipelines.archive.archive import Archive

RECEIVED, ARCHIVE, KAFKA, INFLUXDB, POSTGRESQL = "received", "archive", "kafka", "influxdb", "postgresql"
"""Names of stores. `received` stores nothing: it is what Kafka delivered, in Avro bytes, and what shares are of."""

_NAME = pa.dictionary(pa.int32(), pa.string())


def _name(name: str, description: str) -> pa.Field[Any]:
    return pa.field(name, _NAME, metadata={"description": description})


def _count(name: str, description: str, unit: str = "") -> pa.Field[Any]:
    meaning = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(name, pa.int64(), metadata=meaning)


WEEKLY_SIZES = pa.schema(
    [
        _name("week", "its Monday, YYYY-MM-DD (UTC)"),
        _name("store", "received, archive, tier_1s …, kafka, influxdb, postgresql"),
        _name("topic", "dataset; empty where the store does not tell topics apart"),
        _name("component", "CSC, or namespace; empty where the store does not tell"),
        _name("subsystem", "group of components, by the configuration"),
        _name("kind", "telemetry, event, command, ack, metric; empty where the store does not tell"),
        _name("place", "database, schema or cluster within the store; or empty"),
        _name("how", "how it was measured, and when, where that matters"),
        _count("records", "records, rows or windows; null: not known"),
        _count("bytes", "bytes, in the store's own encoding", "byte"),
        _count("files", "files, or shards; null: not known"),
    ]
)
"""One row per week, store, place and topic, sorted by week, store, place and topic.

Sizes of different stores are of different encodings and copies: never add them up, nor compare them unlabelled. A week
and topic of which a store has nothing has no row. The names are dictionary-encoded (categories in pandas: group with
`observed=True`): ten years of 3,348 topics are millions of rows. `weekly_totals` has the same without topics.
"""

LEDGER = "Delta log, by the ledger"
SNAPSHOTS = "stores.parquet"
"""What a weekly report keeps of stores that only know what they hold now; beside the report."""

DIRECTORY = "reports/storage"
_TIER = "tier_"
_COLUMNS = ("component", "kind", "commit_kind", "rows", "bytes", "files", "avro_bytes", "sealed")
_FIGURES = ("rows", "messages", "bytes", "files", "avro_bytes")
_BY = ("week", "table", "dataset")
_WEEKS_AT_ONCE = 26


def weekly_sizes(
    archive: Archive, first: Week | None = None, last: Week | None = None, *, stores: Collection[str] | None = None
) -> pa.Table:
    """The tidy table (`WEEKLY_SIZES`) from `first` to `last`, both included; all weeks, and all stores, by default.

    Reads the ledger as it is: bring it up to date before, where a commit of a second ago matters.

    Raises:
        StoreUnavailable: the ledger cannot be read.
    """
    return _of_stores(pa.concat_tables([WEEKLY_SIZES.empty_table(), *weekly_parts(archive, first, last)]), stores)


def weekly_totals(
    archive: Archive, first: Week | None = None, last: Week | None = None, *, stores: Collection[str] | None = None
) -> pa.Table:
    """As `weekly_sizes`, summed over topics: `topic` is empty. What figures of the whole history are made of."""
    parts = weekly_parts(archive, first, last, lambda dataset: "")
    return _of_stores(pa.concat_tables([WEEKLY_SIZES.empty_table(), *parts]), stores)


def weekly_parts(
    archive: Archive,
    first: Week | None = None,
    last: Week | None = None,
    group: Callable[[str], str] = lambda dataset: dataset,
) -> Iterator[pa.Table]:
    """The tidy table half a year at a time, so that ten years take no more memory than they must.

    `group` gives the topic that a dataset is counted as.
    """
    asked = snapshots(archive, first, last)
    weeks_asked = {week.key for week in weeks_of(asked)}
    found = _collected(archive, first, last, group)
    weeks = sorted(weeks_asked | set(found.names["week"].codes))
    for n in range(0, len(weeks), _WEEKS_AT_ONCE):
        keys = weeks[n : n + _WEEKS_AT_ONCE]
        part = _in_form(found, keys, archive)
        if not weeks_asked.isdisjoint(keys):
            also = asked.filter(pc.is_in(asked["week"].cast(pa.string()), value_set=pa.array(keys)))
            part = tidy(pa.concat_tables([part, also]))
        yield part


def snapshots(archive: Archive, first: Week | None = None, last: Week | None = None) -> pa.Table:
    """What the weekly reports kept of stores that only know what they hold now, in the tidy form."""
    import pyarrow.parquet as pq

    found = []
    for key in archive.store.list(DIRECTORY):
        data = archive.store.try_read(f"{DIRECTORY}/{key}/{SNAPSHOTS}") if _is_wanted(key, first, last) else None
        if data is not None:
            found.append(pq.read_table(io.BytesIO(data)).cast(WEEKLY_SIZES))
    return tidy(pa.concat_tables(found)) if found else WEEKLY_SIZES.empty_table()


def tidy(rows: pa.Table) -> pa.Table:
    """Rows in the table's form and order."""
    table = rows.select(WEEKLY_SIZES.names).cast(WEEKLY_SIZES).unify_dictionaries()
    texts = pa.table({name: table[name].cast(pa.string()) for name in ("week", "store", "place", "topic")})
    return table.take(pc.sort_indices(texts, sort_keys=[(name, "ascending") for name in texts.column_names]))


def weeks_of(table: pa.Table) -> list[Week]:
    """The weeks of a tidy table, rising."""
    return [Week.parse(key) for key in sorted(pc.unique(table["week"].cast(pa.string())).to_pylist())]


def sums(table: pa.Table, by: Sequence[str]) -> pl.DataFrame:
    """`records`, `bytes` and `files` of a tidy table summed by some of its names, sorted by these; names as texts."""
    import polars as pl

    frame = pl.DataFrame(table.select([*by, "records", "bytes", "files"]))
    grouped = frame.group_by(by).agg(pl.col("records", "bytes", "files").sum())
    return grouped.with_columns(pl.col(by).cast(pl.String)).sort(by)


def _is_wanted(key: str, first: Week | None, last: Week | None) -> bool:
    return len(key) == len("2026-11-16") and ((first is None or key >= first.key) and (last is None or key <= last.key))


def _of_stores(table: pa.Table, stores: Collection[str] | None) -> pa.Table:
    if stores is None:
        return table
    return table.filter(pc.is_in(table["store"].cast(pa.string()), value_set=pa.array(list(stores), pa.string())))


@dataclass(slots=True)
class _Names:
    """Texts by number: strings of ten years' rows would take gigabytes."""

    codes: dict[str, int] = field(default_factory=dict)

    def of(self, texts: pl.Series) -> pl.Series:
        """The numbers of a column's texts."""
        import polars as pl

        for text in texts.unique(maintain_order=True).to_list():
            self.codes.setdefault(text, len(self.codes))
        return texts.replace_strict(self.codes, return_dtype=pl.UInt32)

    def ranks(self) -> tuple[list[str], NDArray[np.uint32]]:
        """The texts in order, and where each number's text stands among them."""
        texts = sorted(self.codes)
        ranks = np.empty(len(texts), np.uint32)
        for rank, text in enumerate(texts):
            ranks[self.codes[text]] = rank
        return texts, ranks


@dataclass(frozen=True, slots=True)
class _Collected:
    """What the ledger's months say, by numbers; and what each group of datasets is: topic, component, kind."""

    parts: list[pl.DataFrame]
    names: dict[str, _Names]
    groups: dict[str, tuple[str, str, str]]


def _collected(archive: Archive, first: Week | None, last: Week | None, group: Callable[[str], str]) -> _Collected:
    import polars as pl

    found = _Collected([], {name: _Names() for name in _BY}, {})
    group_of: dict[str, str] = {}
    for month in archive.ledger.by_month(_COLUMNS):
        part = _summed(month, first, last)
        for dataset, component, kind in part.select("dataset", "component", "kind").unique().iter_rows():
            what = group(dataset), component, kind
            group_of[dataset] = "\0".join(what)
            found.groups[group_of[dataset]] = what
        part = part.with_columns(pl.col("dataset").replace_strict(group_of, return_dtype=pl.String))
        numbered = [found.names[name].of(part[name]) for name in _BY]
        found.parts.append(part.with_columns(numbered).group_by(_BY).agg(pl.col(_FIGURES).sum()))
    return found


def _summed(rows: pl.DataFrame, first: Week | None, last: Week | None) -> pl.DataFrame:
    """What one month's commits changed: by week, table and dataset.

    `messages` are the rows that Kafka delivered, kept or let go since; a sealed row says how many are of history.
    """
    import polars as pl

    week, kind = pl.col("week"), pl.col("commit_kind")
    wanted = week.str.starts_with("2")
    if first is not None:
        wanted &= week >= first.key
    if last is not None:
        wanted &= week <= last.key
    history = pl.col("sealed").str.json_path_match("$.history").cast(pl.Int64).fill_null(0)
    messages = pl.when(kind.is_in(["fill", "expire"])).then(0).otherwise(pl.col("rows") - history)
    by = [*_BY, "component", "kind"]
    return rows.filter(wanted).with_columns(messages.alias("messages")).group_by(by).agg(pl.col(_FIGURES).sum())


def _in_form(found: _Collected, keys: Sequence[str], archive: Archive) -> pa.Table:
    """The ledger's sums of some weeks as the tidy table: what Kafka delivered apart from what is kept of it."""
    import polars as pl

    weeks = found.names["week"].codes
    wanted = pl.col("week").is_in([weeks[key] for key in keys if key in weeks])
    parts = [part.filter(wanted) for part in found.parts]
    if not any(part.height for part in parts):
        return WEEKLY_SIZES.empty_table()
    whole = pl.concat(parts).group_by(_BY).agg(pl.col(_FIGURES).sum())
    is_raw = pl.col("table").is_in([code for name, code in found.names["table"].codes.items() if name == RAW])
    stores = sorted({RECEIVED, *(_store_of(table) for table in found.names["table"].codes)})
    store_of = {code: stores.index(_store_of(table)) for table, code in found.names["table"].codes.items()}
    kept = whole.with_columns(pl.col("table").replace_strict(store_of, return_dtype=pl.UInt32).alias("store"))
    received = whole.filter(is_raw).with_columns(
        pl.lit(stores.index(RECEIVED), pl.UInt32).alias("store"),
        pl.col("messages").alias("rows"),
        pl.col("avro_bytes").alias("bytes"),
        pl.lit(None, pl.Int64).alias("files"),
    )
    texts, ranks = found.names["dataset"].ranks()
    week_texts, week_ranks = found.names["week"].ranks()
    ordered = (
        pl.concat([kept.select(received.columns), received])
        .filter((pl.col("rows") != 0) | (pl.col("bytes") != 0))
        .with_columns(_taken("week", week_ranks), _taken("dataset", ranks))
        .sort("week", "store", "dataset")
    )
    what = [found.groups[text] for text in texts]
    subsystem_of = archive.settings.configuration.subsystem_of
    of_group = ordered["dataset"].to_numpy()
    none = np.zeros(ordered.height, np.int32)
    columns = [
        _named(ordered["week"].to_numpy(), week_texts),
        _named(ordered["store"].to_numpy(), stores),
        *(_named_by(of_group, [one[n] for one in what]) for n in (0, 1)),
        _named_by(of_group, [subsystem_of(one[1]) for one in what]),
        _named_by(of_group, [one[2] for one in what]),
        _named(none, [""]),
        _named(none, [LEDGER]),
        *(ordered[name].to_arrow() for name in ("rows", "bytes", "files")),
    ]
    return pa.Table.from_arrays(columns, schema=WEEKLY_SIZES)


def _taken(name: str, ranks: NDArray[np.uint32]) -> pl.Expr:
    import polars as pl

    return pl.lit(pl.Series(ranks)).gather(pl.col(name)).alias(name)


def _store_of(table: str) -> str:
    return ARCHIVE if table == RAW else f"{_TIER}{table}"


def _named(codes: NDArray[Any], texts: Iterable[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(texts, pa.string()))


def _named_by(codes: NDArray[Any], texts: Sequence[str]) -> pa.Array:
    """Names that several codes may share."""
    distinct = sorted(set(texts))
    place = {text: n for n, text in enumerate(distinct)}
    return _named(np.array([place[text] for text in texts], np.int32)[codes.astype(np.int64)], distinct)
