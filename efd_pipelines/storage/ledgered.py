"""Ledgered: what the ledger says of each week's topics, in numbers that ten years of them have room for.

The ledger is read in parts (`Ledger.in_parts`); what each has is added up by week, table and dataset, and where
topics need not be told apart, by kind. What belongs here: adding up the ledger. The table that comes of
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

from efd_pipelines.archive.ledger_rows import HISTORY, RAW
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.storage.tidy import ARCHIVE, LEDGER, RECEIVED, TIER, WEEKLY_SIZES
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    import polars as pl

    from efd_pipelines.archive.archive import Archive

Group = Callable[[str], str]

_COLUMNS = ("commit_kind", "rows", "bytes", "files", "avro_bytes", "at", HISTORY)
_FIGURES = ("rows", "messages", "bytes", "files", "avro_bytes")
_BY = ("week", "table", "dataset")


@dataclass(slots=True)
class _Names:
    """Texts by number: strings of ten years' rows would take gigabytes."""

    codes: dict[str, int] = field(default_factory=dict)

    def number(self, text: str) -> int:
        """A text's number."""
        return self.codes.setdefault(text, len(self.codes))

    def of(self, texts: pl.Series) -> pl.Series:
        """The numbers of a column's texts, which are categories."""
        import polars as pl

        distinct = texts.unique()
        places = distinct.to_physical().to_numpy()
        numbers = np.zeros(int(places.max(initial=0)) + 1, np.uint32)
        numbers[places] = [self.number(text) for text in distinct]
        return pl.Series(texts.name, numbers[texts.to_physical().to_numpy()])

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
    counted = _Counted(found.groups, found.names["dataset"], group)
    topics: list[pl.DataFrame] = []
    for part in archive.ledger.in_parts(_COLUMNS):
        weeks = part["week"].unique().to_list()
        if QUARANTINE in weeks or DEAD in weeks:
            _count_outside(found, part)
        rows = _with_messages(part, _between(weeks, first, last))
        for week, last_at in rows.group_by("week").agg(pl.col("at").max().cast(pl.Int64)).iter_rows():
            found.last_at_us[week] = max(found.last_at_us.get(week, last_at), last_at)
        if apart is not None:
            topics.append(_topics_of(rows, [key for key in weeks if key < min(apart, default="")]))
        rows = rows.with_columns(counted.numbers(rows, apart))
        sums = rows.group_by(_BY).agg(pl.col(_FIGURES).sum())
        numbered = (found.names[name].of(sums[name]) for name in ("week", "table"))
        found.parts.append(sums.with_columns(*numbered))
    if topics:
        _note_topics(found, topics)
    # One frame of many chunks: asking it takes one step, and nothing is copied.
    found.parts[:] = [pl.concat(found.parts, rechunk=False)] if found.parts else []
    return found


def _between(keys: Iterable[str], first: Week | None, last: Week | None) -> list[str]:
    """The weeks among places of rows, of some time; quarantine and the dead are none."""
    weeks = [key for key in keys if key.startswith("2")]
    return [key for key in weeks if (first is None or key >= first.key) and (last is None or key <= last.key)]


@dataclass(slots=True)
class _Counted:
    """What each dataset counts as, by number: apart, and together with all of its kind."""

    groups: dict[str, tuple[str, str, str]]
    names: _Names
    group: Group
    known: dict[str, tuple[int, int]] = field(default_factory=dict)

    def numbers(self, rows: pl.DataFrame, apart: Collection[str] | None) -> pl.Series:
        """What the dataset of each row counts as; in weeks that are not told `apart`, without its name."""
        import polars as pl

        datasets = rows["dataset"].unique()
        places = datasets.to_physical().to_numpy()
        both = np.zeros((int(places.max(initial=0)) + 1, 2), np.uint32)
        both[places] = np.array([self._numbers_of(text) for text in datasets], np.uint32).reshape(-1, 2)
        is_apart = True if apart is None else rows["week"].is_in(list(apart)).to_numpy()
        of = rows["dataset"].to_physical().to_numpy()
        return pl.Series("dataset", np.where(is_apart, both[of, 0], both[of, 1]))

    def _numbers_of(self, text: str) -> tuple[int, int]:
        if text not in self.known:
            dataset = Dataset.parse(text)
            kinds = dataset.component, dataset.kind.value
            self.known[text] = self._number((self.group(text), *kinds)), self._number(("", "", kinds[1]))
        return self.known[text]

    def _number(self, what: tuple[str, str, str]) -> int:
        text = "\0".join(what)
        self.groups[text] = what
        return self.names.number(text)


def _with_messages(rows: pl.DataFrame, weeks: Sequence[str]) -> pl.DataFrame:
    """What a part's commits changed in some weeks.

    `messages` are the rows that Kafka delivered, kept or let go since; a sealed row says how many are of history.
    """
    import polars as pl

    delivered = pl.col("rows") - pl.col(HISTORY).fill_null(0)
    messages = pl.when(pl.col("commit_kind").is_in(["fill", "expire"])).then(0).otherwise(delivered).alias("messages")
    wanted = rows.filter(pl.col("week").is_in(weeks))
    return wanted.select(*_BY, *(one for one in _FIGURES if one != "messages"), "at", messages)


def _topics_of(rows: pl.DataFrame, before: Sequence[str]) -> pl.DataFrame:
    """What is to be known of a part's topics over all weeks: how much of each came, and whether in the weeks before."""
    import polars as pl

    is_before = pl.col("week").is_in(before) & ((pl.col("messages") != 0) | (pl.col("avro_bytes") != 0))
    of = rows.filter(pl.col("table") == RAW).group_by("dataset")
    return of.agg(pl.col("messages", "avro_bytes").sum(), is_before.any().alias("earlier"))


def _note_topics(found: Collected, parts: Sequence[pl.DataFrame]) -> None:
    import polars as pl

    of = pl.concat(parts).group_by("dataset").agg(pl.col("messages", "avro_bytes").sum(), pl.col("earlier").any())
    for topic, messages, size, is_seen in of.iter_rows():
        found.sent[topic] = messages, size
        if is_seen:
            found.seen.add(topic)


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
        _named_by(of_group, [found.subsystem_of(one[1]) if one[1] else "" for one in what]),
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
