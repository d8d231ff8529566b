"""Ledgered: what the ledger says of each week's topics, in numbers that ten years of them have room for.

The ledger is read in parts (`Ledger.in_parts`); what each has is added up by week, table and dataset, and where
topics need not be told apart, by component and kind. What belongs here: adding up the ledger. The table that comes of
it: `weekly.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from efd_pipelines.archive.ledger_rows import RAW
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.storage.tidy import ARCHIVE, LEDGER, RECEIVED, TIER, WEEKLY_SIZES
from efd_pipelines.times import Week

if TYPE_CHECKING:
    import polars as pl

    from efd_pipelines.archive.archive import Archive

Group = Callable[[str], str]

_COLUMNS = ("component", "kind", "commit_kind", "rows", "bytes", "files", "avro_bytes", "at", "sealed")
_FIGURES = ("rows", "messages", "bytes", "files", "avro_bytes")
_BY = ("week", "table", "dataset")
_APART = (*_BY, "component", "kind")


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
class Collected:
    """What the ledger says, by numbers.

    `groups` says of each group of datasets what it is: topic, component, kind. `outside` counts rows that belong to no
    week by place (quarantine, dead) and the week in which they arrived; `last_at_us` is when the newest commit of each
    week was made. Where weeks were named to tell topics apart in, `seen` are the topics of which something came before
    the first of them, and `sent` the messages and Avro bytes of each topic over all weeks.
    """

    subsystem_of: Callable[[str], str]
    parts: list[pl.DataFrame] = field(default_factory=list)
    names: dict[str, _Names] = field(default_factory=lambda: {name: _Names() for name in _BY})
    groups: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    outside: Counter[tuple[str, str]] = field(default_factory=Counter)
    last_at_us: dict[str, int] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def height(self) -> int:
        """How many sums there are."""
        return sum(part.height for part in self.parts)

    @property
    def weeks(self) -> list[str]:
        """The weeks that the ledger tells of, rising."""
        return self.names["week"].ranks()[0]

    def mean_bytes(self) -> dict[str, float]:
        """Avro bytes of a mean record of each topic that came, over all weeks."""
        return {topic: size / messages for topic, (messages, size) in self.sent.items() if messages > 0 and size > 0}

    def rows(self, keys: Sequence[str]) -> pa.Table:
        """The rows of some weeks in the tidy form."""
        return _in_form(self, keys)


def own_topic(dataset: str) -> str:
    """Each dataset is counted as itself."""
    return dataset


def collected(
    archive: Archive,
    first: Week | None = None,
    last: Week | None = None,
    group: Group = own_topic,
    apart: Collection[str] | None = None,
) -> Collected:
    """What the ledger says of the weeks from `first` to `last`, both included.

    Args:
        group: gives what a dataset counts as.
        apart: the weeks in which topics are told apart; all by default.

    Raises:
        StoreUnavailable: the ledger cannot be read.
    """
    import polars as pl

    found = Collected(cache(archive.settings.configuration.subsystem_of))
    group_of: dict[tuple[str, str, str], str] = {}
    for part in archive.ledger.in_parts(_COLUMNS):
        _count_outside(found, part)
        rows = _with_messages(part, first, last)
        for week, last_at in rows.group_by("week").agg(pl.col("at").max().cast(pl.Int64)).iter_rows():
            found.last_at_us[week] = max(found.last_at_us.get(week, last_at), last_at)
        if apart is not None:
            _note_topics(found, rows, min(apart, default=""))
            told = pl.when(pl.col("week").is_in(list(apart))).then("dataset").otherwise(pl.lit(""))
            rows = rows.with_columns(told.alias("dataset"))
        sums = rows.group_by(_APART).agg(pl.col(_FIGURES).sum())
        for what in sums.select("dataset", "component", "kind").unique().iter_rows():
            if what not in group_of:
                counted = (group(what[0]) if what[0] else "", *what[1:])
                group_of[what] = "\0".join(counted)
                found.groups[group_of[what]] = counted
        texts = [group_of[what] for what in sums.select("dataset", "component", "kind").iter_rows()]
        sums = sums.with_columns(pl.Series("dataset", texts, pl.String))
        numbered = [found.names[name].of(sums[name]) for name in _BY]
        found.parts.append(sums.with_columns(numbered).group_by(_BY).agg(pl.col(_FIGURES).sum()))
    # One frame of many chunks: asking it takes one step, and nothing is copied.
    found.parts[:] = [pl.concat(found.parts, rechunk=False)] if found.parts else []
    return found


def _with_messages(rows: pl.DataFrame, first: Week | None, last: Week | None) -> pl.DataFrame:
    """What a part's commits changed in some weeks.

    `messages` are the rows that Kafka delivered, kept or let go since; a sealed row says how many are of history.
    """
    import polars as pl

    week, kind = pl.col("week"), pl.col("commit_kind")
    wanted = week.str.starts_with("2")
    if first is not None:
        wanted &= week >= first.key
    if last is not None:
        wanted &= week <= last.key
    rows = rows.filter(wanted)
    messages = pl.when(kind.is_in(["fill", "expire"])).then(0).otherwise(pl.col("rows") - _history(rows["sealed"]))
    return rows.select(*_APART, *(one for one in _FIGURES if one != "messages"), "at", messages.alias("messages"))


def _history(sealed: pl.Series) -> pl.Series:
    """Rows of history in each sealed row: most have none, and are not parsed for that."""
    import polars as pl

    some = sealed.is_not_null() & ~sealed.str.contains('"history":0,', literal=True)
    if not some.any():
        return pl.zeros(len(sealed), pl.Int64, eager=True)
    texts = sealed.zip_with(some, pl.Series([None], dtype=pl.String))
    return texts.str.json_path_match("$.history").cast(pl.Int64).fill_null(0)


def _note_topics(found: Collected, rows: pl.DataFrame, first: str) -> None:
    """What is to be known of topics over all weeks: which came before a week, and how much of each."""
    import polars as pl

    came = rows.filter(pl.col("table") == RAW)
    earlier = came.filter((pl.col("week") < first) & ((pl.col("messages") != 0) | (pl.col("avro_bytes") != 0)))
    found.seen.update(earlier["dataset"].unique().to_list())
    for topic, messages, size in came.group_by("dataset").agg(pl.col("messages", "avro_bytes").sum()).iter_rows():
        known = found.sent.get(topic, (0, 0))
        found.sent[topic] = known[0] + messages, known[1] + size


def _count_outside(found: Collected, part: pl.DataFrame) -> None:
    import polars as pl

    monday = pl.col("at").dt.truncate("1w").dt.strftime("%Y-%m-%d")
    outside = part.filter((pl.col("table") == RAW) & pl.col("week").is_in([QUARANTINE, DEAD]))
    for place, arrived, rows in outside.group_by("week", monday.alias("on")).agg(pl.col("rows").sum()).iter_rows():
        found.outside[place, arrived] += rows


def _in_form(found: Collected, keys: Sequence[str]) -> pa.Table:
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
    of_group = ordered["dataset"].to_numpy()
    none = np.zeros(ordered.height, np.int32)
    columns = [
        _named(ordered["week"].to_numpy(), week_texts),
        _named(ordered["store"].to_numpy(), stores),
        *(_named_by(of_group, [one[n] for one in what]) for n in (0, 1)),
        _named_by(of_group, [found.subsystem_of(one[1]) for one in what]),
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
    return ARCHIVE if table == RAW else f"{TIER}{table}"


def _named(codes: NDArray[Any], texts: Iterable[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(texts, pa.string()))


def _named_by(codes: NDArray[Any], texts: Sequence[str]) -> pa.Array:
    """Names that several codes may share."""
    distinct = sorted(set(texts))
    place = {text: n for n, text in enumerate(distinct)}
    return _named(np.array([place[text] for text in texts], np.int32)[codes.astype(np.int64)], distinct)
