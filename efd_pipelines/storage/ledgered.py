"""Ledgered: what the ledger says of each week's topics, in numbers that ten years of them have room for.

The ledger is read a month of commits at a time (`Ledger.by_month`); what each month changed is added up by week, table
and dataset. What belongs here: adding up the ledger. The table that comes of it: `weekly.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
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
    """What the ledger's months say, by numbers.

    `groups` says of each group of datasets what it is: topic, component, kind. `outside` counts rows that belong to no
    week by place (quarantine, dead) and the week in which they arrived; `last_at_us` is when the newest commit of each
    week was made.
    """

    subsystem_of: Callable[[str], str]
    parts: list[pl.DataFrame] = field(default_factory=list)
    names: dict[str, _Names] = field(default_factory=lambda: {name: _Names() for name in _BY})
    groups: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    outside: Counter[tuple[str, str]] = field(default_factory=Counter)
    last_at_us: dict[str, int] = field(default_factory=dict)

    @property
    def weeks(self) -> list[str]:
        """The weeks that the ledger tells of, rising."""
        return self.names["week"].ranks()[0]

    def newest(self) -> Week | None:
        """The newest week of which the archive holds rows."""
        import polars as pl

        raw = self.names["table"].codes.get(RAW)
        held = [part.filter(pl.col("table") == raw).group_by("week").agg(pl.col("rows").sum()) for part in self.parts]
        if not held:
            return None
        whole = pl.concat(held).group_by("week").agg(pl.col("rows").sum()).filter(pl.col("rows") > 0)
        codes = set(whole["week"].to_list())
        return max((Week.parse(key) for key, code in self.names["week"].codes.items() if code in codes), default=None)

    def mean_bytes(self) -> dict[str, float]:
        """Avro bytes of a mean record of each topic that is counted as itself, over all weeks."""
        import polars as pl

        if not self.parts:
            return {}
        sums = pl.concat(self.parts).group_by("dataset").agg(pl.col("messages", "avro_bytes").sum())
        came = sums.filter((pl.col("messages") > 0) & (pl.col("avro_bytes") > 0))
        texts = {code: self.groups[text][0] for text, code in self.names["dataset"].codes.items()}
        return {texts[code]: size / messages for code, messages, size in came.iter_rows()}

    def rows(self, keys: Sequence[str]) -> pa.Table:
        """The rows of some weeks in the tidy form."""
        return _in_form(self, keys)


def own_topic(dataset: str) -> str:
    """Each dataset is counted as itself."""
    return dataset


def collected(
    archive: Archive, first: Week | None = None, last: Week | None = None, group: Group = own_topic
) -> Collected:
    """What the ledger says of the weeks from `first` to `last`, both included; `group` gives what a dataset counts as.

    Raises:
        StoreUnavailable: the ledger cannot be read.
    """
    import polars as pl

    found = Collected(archive.settings.configuration.subsystem_of)
    group_of: dict[str, str] = {}
    for month in archive.ledger.by_month(_COLUMNS):
        _count_outside(found, month)
        part = _summed(month, first, last)
        for week, last_at in part.group_by("week").agg(pl.col("last_at").max()).iter_rows():
            found.last_at_us[week] = max(found.last_at_us.get(week, last_at), last_at)
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
    last_at = pl.col("at").max().cast(pl.Int64).alias("last_at")
    by = [*_BY, "component", "kind"]
    return (
        rows.filter(wanted).with_columns(messages.alias("messages")).group_by(by).agg(last_at, pl.col(_FIGURES).sum())
    )


def _count_outside(found: Collected, month: pl.DataFrame) -> None:
    import polars as pl

    monday = pl.col("at").dt.truncate("1w").dt.strftime("%Y-%m-%d")
    outside = month.filter((pl.col("table") == RAW) & pl.col("week").is_in([QUARANTINE, DEAD]))
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
