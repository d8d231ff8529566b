"""Examination: whether the tiers say of some hours what the archive says.

Every window of the records has its summary and none besides, counts add up, no mean lies outside its extremes, and
minutes agree with their seconds. It reads the times of all records and the tiers themselves; that every value is right
is proved before anything expires (`retention/verification.py`). What is stale is not wrong and left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa

from efd_pipelines.archive import reading
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.expiry import is_expired
from efd_pipelines.archive.tables import TableSnapshot, open_table
from efd_pipelines.tiers.stale import find_stale
from efd_pipelines.tiers.tier import TIERS, Tier, aggregated
from efd_pipelines.tiers.windows import KEYS, find_windows
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset

KINDS = ("coverage", "counts", "order", "consistency")
_FIELDS_AT_ONCE = 256
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Doubt:
    """What is not as it should be; `kind` is one of `KINDS`, `windows` how many are concerned."""

    dataset: Dataset
    tier: str
    kind: str
    windows: int
    detail: str


@dataclass(slots=True)
class Examination:
    """How many summaries were looked at, of how many datasets and tiers, and what was found."""

    windows: int = 0
    tables: int = 0
    doubts: list[Doubt] = field(default_factory=list)


def examine(archive: Archive, start_us: int, end_us: int, datasets: Iterable[Dataset] | None = None) -> Examination:
    """Looks at the tiers from `start_us` to `end_us`, whole hours, one dataset after the other.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    known = archive.datasets() if datasets is None else list(datasets)
    configuration = archive.settings.configuration
    found = Examination()
    stale = {tier.name: _stale(archive, tier, known, start_us, end_us) for tier in TIERS.values()}
    for dataset in known:
        tiers = [tier for tier in TIERS.values() if aggregated(dataset, configuration, tier)]
        raw = open_table(archive.store, archive.relative(dataset)) if tiers else None
        if raw is None or is_expired(raw, Week.containing(start_us)):
            continue
        keys = _keys(raw, start_us, end_us)
        tables = {
            tier.name: _Table.of(archive, dataset, tier, start_us, end_us)
            for tier in tiers
            if keys.num_rows and dataset not in stale[tier.name]
        }
        for table in tables.values():
            found.tables += 1
            found.windows += table.head.height
            found.doubts += [*table.uncovered(keys), *table.disordered()]
        if "1s" in tables and "1m" in tables:
            found.doubts += tables["1m"].inconsistent(tables["1s"])
    return found


def _stale(archive: Archive, tier: Tier, datasets: list[Dataset], start_us: int, end_us: int) -> set[Dataset]:
    found = find_stale(archive, tier, datasets)
    return {
        one.dataset for one in found if any(part.start_us < end_us and part.end_us > start_us for part in one.slices)
    }


def _keys(raw: TableSnapshot, start_us: int, end_us: int) -> pa.Table:
    names = [name for name in KEYS if name in raw.schema.names]
    return reading.read(raw, columns=names, start_us=start_us, end_us=end_us, ordered=False)


@dataclass(frozen=True, slots=True)
class _Table:
    """The summaries of one dataset in one tier; `index` are the columns that name a window."""

    dataset: Dataset
    tier: Tier
    snapshot: TableSnapshot | None
    start_us: int
    end_us: int
    index: list[str]
    head: pl.DataFrame

    @classmethod
    def of(cls, archive: Archive, dataset: Dataset, tier: Tier, start_us: int, end_us: int) -> _Table:
        snapshot = open_table(archive.store, archive.relative(dataset, tier.name))
        if snapshot is None:
            nothing = pl.DataFrame(schema={"time": pl.Int64, "count": pl.Int64})
            return cls(dataset, tier, None, start_us, end_us, ["time"], nothing)
        index = [name for name in ("salIndex", "time") if name in snapshot.schema.names]
        table = cls(dataset, tier, snapshot, start_us, end_us, index, pl.DataFrame())
        return cls(dataset, tier, snapshot, start_us, end_us, index, table.read(["count"]))

    def read(self, names: list[str]) -> pl.DataFrame:
        """Columns with the index before them, times in microseconds."""
        assert self.snapshot is not None
        found = reading.read(self.snapshot, columns=[*self.index, *names], start_us=self.start_us, end_us=self.end_us)
        return pl.DataFrame(found).with_columns(pl.col("time").cast(pl.Int64))

    def uncovered(self, keys: pa.Table) -> Iterator[Doubt]:
        """Windows that the records have and the tier has not, or the other way round, or with another count."""
        windows = find_windows(keys, self.tier.window_us)
        columns: dict[str, Any] = {"time": windows.time_us, "records": windows.counts}
        if windows.sal_index is not None and "salIndex" in self.index:
            columns["salIndex"] = windows.sal_index
        both = pl.DataFrame(columns).join(self._indexed(), on=self.index, how="full", coalesce=True)
        missing = both.filter(pl.col("count").is_null()).height
        besides = both.filter(pl.col("records").is_null()).height
        if missing or besides:
            yield self._doubt("coverage", missing + besides, f"{missing} have no summary, {besides} have no records")
        wrong = both.filter(pl.col("count") != pl.col("records")).height
        if wrong:
            yield self._doubt("counts", wrong, "their count is not the number of records")

    def _indexed(self) -> pl.DataFrame:
        return self.head.with_columns(pl.col("salIndex").cast(pl.Int64)) if "salIndex" in self.index else self.head

    def _fields(self) -> Iterator[list[str]]:
        """Fields that have all statistics and are no lists, some at a time."""
        if self.snapshot is None:
            return
        schema = self.snapshot.schema
        fields = [
            column.name.removeprefix("mean_")
            for column in schema
            if column.name.startswith("mean_") and not pa.types.is_list(column.type)
        ]
        for begin in range(0, len(fields), _FIELDS_AT_ONCE):
            yield fields[begin : begin + _FIELDS_AT_ONCE]

    def disordered(self) -> Iterator[Doubt]:
        """Means that lie outside the extremes, by more than rounding."""
        for fields in self._fields():
            found = self.read([f"{statistic}_{name}" for name in fields for statistic in ("min", "mean", "max")])
            wrong = found.select(_outside(name).sum().alias(name) for name in fields).row(0, named=True)
            for name in [name for name, count in wrong.items() if count]:
                yield self._doubt("order", wrong[name], f"mean_{name} is not between min_{name} and max_{name}")

    def inconsistent(self, finer: _Table) -> Iterator[Doubt]:
        """Windows that do not agree with those of a finer tier that they consist of."""
        if self.snapshot is None or finer.snapshot is None:
            return
        for fields in self._fields():
            extremes = [f"{statistic}_{name}" for name in fields for statistic in ("min", "max")]
            names = [name for name in extremes if name in finer.snapshot.schema.names]
            wanted = [pl.col(name).min() if name.startswith("min_") else pl.col(name).max() for name in names]
            window = pl.col("time") - pl.col("time") % self.tier.window_us
            coarse = finer.read(["count", *names]).with_columns(window)
            coarse = coarse.group_by(self.index).agg(pl.col("count").sum(), *wanted)
            both = self.read(["count", *names]).join(coarse, on=self.index, suffix="_finer")
            differs = [pl.col(name).ne_missing(pl.col(f"{name}_finer")) for name in ("count", *names)]
            wrong = both.filter(pl.any_horizontal(differs)).height
            if wrong:
                yield self._doubt("consistency", wrong, f"count or extremes are not those of {finer.tier}")

    def _doubt(self, kind: str, windows: int, detail: str) -> Doubt:
        return Doubt(self.dataset, self.tier.name, kind, windows, detail)


def _outside(name: str) -> pl.Expr:
    low, mean, high = (pl.col(f"{statistic}_{name}").cast(pl.Float64) for statistic in ("min", "mean", "max"))
    slack = pl.max_horizontal(low.abs(), high.abs()) * _ROUNDING
    return mean.is_not_nan() & ((mean < low - slack) | (mean > high + slack))
