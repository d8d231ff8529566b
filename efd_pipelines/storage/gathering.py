"""Gathering: all figures of a period and of what surrounds it, in one pass over the tidy table.

The table of ten years does not fit into a report's memory, so its parts are added up as they come: each week's totals
since the beginning, the period's topics, those of as many weeks before it, and the topics that had been seen earlier.
What belongs here: adding up. What it is made into: `throughput.py`, `changes.py`.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from efd_pipelines.storage.tidy import ARCHIVE, RECEIVED, TIER, WEEKLY_SIZES
from efd_pipelines.times import Week

if TYPE_CHECKING:
    import polars as pl

_TOTALS_BY = ("week", "store", "kind", "how")
_TOPICS_BY = ("topic", "component", "subsystem", "kind", "store")
_FIGURES = ("records", "bytes", "files")


@dataclass(frozen=True, slots=True)
class Gathered:
    """Sums of the tidy table.

    `totals` has each week's sums since the beginning by store, kind and how they were measured; `topics` and `before`
    have the period's and the previous period's by topic and store; `seen` are the topics of which something had come
    before the period; `let_go` counts weeks of topics that came and are not kept.
    `parquet` is the period's tidy table as a file.
    """

    totals: pl.DataFrame
    topics: pl.DataFrame
    before: pl.DataFrame
    seen: frozenset[str]
    let_go: int
    parquet: bytes = field(repr=False)


def gather(
    parts: Iterable[pa.Table], weeks: Sequence[str], previous: Sequence[str], seen: Collection[str] = ()
) -> Gathered:
    """The sums of a tidy table that comes in parts, for a period of weeks and those before it; of these two it must
    tell topics apart. `seen` are the topics of which something came before the period."""
    import polars as pl

    now, then, totals = _Sums(_TOPICS_BY), _Sums(_TOPICS_BY), _Sums(_TOTALS_BY)
    let_go = 0
    file = _File()
    for part in parts:
        frame = pl.DataFrame(part)
        totals.add(frame)
        keys = part["week"].unify_dictionaries().combine_chunks()
        period = frame.filter(_of(keys, set(weeks)))
        now.add(period)
        then.add(frame.filter(_of(keys, set(previous))))
        let_go += _let_go(period)
        file.add(part, period.height == frame.height, weeks)
    return Gathered(totals.frame(), now.frame(), then.frame(), frozenset(seen), let_go, file.content())


def of_topics(sums: pl.DataFrame) -> pl.DataFrame:
    """A row per topic: topic, component, subsystem, kind, rows, messages, files and bytes received, archived, in tiers.

    Null is "nothing there".
    """
    import polars as pl

    def of(name: str, store: pl.Expr) -> pl.Expr:
        return pl.col(name).filter(store).sum()

    received, archive = pl.col("store") == RECEIVED, pl.col("store") == ARCHIVE
    tier = pl.col("store").str.starts_with(TIER)
    return (
        sums.filter(pl.col("topic") != "")
        .filter(received | archive | tier)
        .group_by("topic", "component", "subsystem", "kind")
        .agg(
            of("records", archive).alias("rows"),
            of("records", received).alias("messages"),
            of("files", archive).alias("files"),
            of("bytes", received).alias("received_bytes"),
            of("bytes", archive).alias("parquet_bytes"),
            of("bytes", tier).alias("tier_bytes"),
        )
        .sort("received_bytes", "topic", descending=[True, False])
    )


def _of(keys: pa.DictionaryArray, wanted: Collection[str]) -> pl.Series:
    """Which rows are of some weeks: by the numbers of their keys, texts take too long."""
    import numpy as np
    import polars as pl

    codes = [code for code, key in enumerate(keys.dictionary.to_pylist()) if key in wanted]
    return pl.Series(np.isin(keys.indices.to_numpy(zero_copy_only=False), codes))


def _let_go(period: pl.DataFrame) -> int:
    import polars as pl

    by = ["week", "topic"]
    came = period.filter((pl.col("store") == RECEIVED) & (pl.col("records") > 0)).select(by)
    kept = period.filter((pl.col("store") == ARCHIVE) & (pl.col("bytes") > 0)).select(by)
    return came.join(kept, on=by, how="anti").height


class _Sums:
    """Sums that grow part by part."""

    def __init__(self, by: Sequence[str]) -> None:
        self._by = list(by)
        self._parts: list[pl.DataFrame] = []

    def add(self, frame: pl.DataFrame) -> None:
        import polars as pl

        if frame.height:
            # By numbers: grouping by what these names mean takes ten times as long.
            numbers = [pl.col(name).to_physical().alias(f"_{name}") for name in self._by]
            sums = frame.group_by(numbers).agg(pl.col(self._by).first().cast(pl.String), pl.col(_FIGURES).sum())
            self._parts.append(sums.select(*self._by, *_FIGURES))
        if len(self._parts) > 8:
            self._parts = [self.frame()]

    def frame(self) -> pl.DataFrame:
        import polars as pl

        columns = [*self._by, *_FIGURES]
        if not self._parts:
            texts = dict.fromkeys(self._by, pl.String)
            return pl.DataFrame(schema={**texts, **dict.fromkeys(_FIGURES, pl.Int64)})
        return (
            pl.concat(self._parts, how="vertical_relaxed")
            .group_by(self._by)
            .agg(pl.col(_FIGURES).sum())
            .select(columns)
            .sort(self._by)
        )


class _File:
    """The period's rows as Parquet, part by part."""

    def __init__(self) -> None:
        import pyarrow.parquet as pq

        self._buffer = io.BytesIO()
        texts = [
            pa.field(one.name, pa.string() if pa.types.is_dictionary(one.type) else one.type, metadata=one.metadata)
            for one in WEEKLY_SIZES
        ]
        self._writer = pq.ParquetWriter(self._buffer, pa.schema(texts), compression="zstd")

    def add(self, part: pa.Table, whole: bool, weeks: Sequence[str]) -> None:
        import pyarrow.compute as pc

        if not whole:
            part = part.filter(pc.is_in(part["week"].cast(pa.string()), value_set=pa.array(weeks, pa.string())))
        if part.num_rows:
            self._writer.write_table(part.cast(self._writer.schema))

    def content(self) -> bytes:
        self._writer.close()
        return self._buffer.getvalue()


def period_before(weeks: Sequence[Week]) -> list[Week]:
    """As many weeks as the period has, before it."""
    found = []
    week = weeks[0]
    for _ in weeks:
        week = week.previous()
        found.append(week)
    return found[::-1]
