"""Selection: a question about one topic, and its answer in the form that is asked for.

Making one reads nothing but logs; `estimate` says how much it is; the forms read. Each is of one snapshot of the table,
whatever drains, merges and seals do meanwhile. An answer that would take more memory than the limit is refused
before anything is read, and when it turns out to be more on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from efd_pipelines.client.frames import to_pandas
from efd_pipelines.client.provenance import Provenance
from efd_pipelines.client.refusals import TooLarge
from efd_pipelines.client.sizes import size_bytes
from efd_pipelines.reading.completeness import Completeness, completeness
from efd_pipelines.reading.estimate import NOTHING, Estimate, readable
from efd_pipelines.reading.scan import Tally
from efd_pipelines.times import from_microseconds

if TYPE_CHECKING:
    import dask.dataframe
    import duckdb
    import pandas as pd
    import polars as pl
    from matplotlib.axes import Axes

    from efd_pipelines.archive.tables import TableSnapshot
    from efd_pipelines.client.portions import Portion
    from efd_pipelines.client.reader import Question, Reader
    from efd_pipelines.tiers.tier import Tier
    from efd_pipelines.topics.names import Dataset

_SLACK = 1.5
"""An estimate may be wrong by so much before reading is broken off."""


@dataclass(eq=False, repr=False)
class Selection:
    """Rows of one topic, not read yet. `portions` are in the order of time; `tier` is None where rows are records."""

    reader: Reader = field(repr=False)
    question: Question
    dataset: Dataset
    portions: tuple[Portion, ...] = field(repr=False)
    schema: pa.Schema = field(repr=False)
    raw: TableSnapshot | None = field(repr=False)
    tier: Tier | None = None

    def __repr__(self) -> str:
        sources = ", ".join(dict.fromkeys(portion.source.name for portion in self.portions))
        return f"<{self.dataset}: {', '.join(self.schema.names[1:9])} from {self.question.window}, of {sources}>"

    @cached_property
    def units(self) -> dict[str, str]:
        """The units of each column that has some, as they were declared."""
        found = {one.name: (one.metadata or {}).get(b"units", b"").decode() for one in self.schema}
        return {name: units for name, units in found.items() if units}

    @cached_property
    def descriptions(self) -> dict[str, str]:
        """What each column is, where somebody said it."""
        found = {one.name: (one.metadata or {}).get(b"description", b"").decode() for one in self.schema}
        return {name: text for name, text in found.items() if text}

    @property
    def aggregation(self) -> str | None:
        """What was aggregated; None where rows are records as they were sent."""
        if self.tier is None:
            return None
        return f"windows of {self.tier} of all records, `time` is their beginning: {', '.join(self.schema.names[1:])}"

    @cached_property
    def completeness(self) -> Completeness:
        """What the archive is known to lack of the window."""
        if self.raw is None:
            return Completeness()
        window = self.question.window
        return completeness(self.reader.archive, self.dataset, self.raw, window.start_us, window.end_us)

    @cached_property
    def stale(self) -> tuple[tuple[datetime, datetime], ...]:
        """Stretches of the window in which the tier does not have the latest records."""
        from efd_pipelines.tiers.stale import find_stale

        if self.tier is None:
            return ()
        window = self.question.window
        found = []
        for one in find_stale(self.reader.archive, self.tier, [self.dataset]):
            for low_us, high_us in one.changed.values():
                start_us, end_us = max(low_us, window.start_us), min(high_us + 1, window.end_us)
                if start_us < end_us:
                    found.append((from_microseconds(start_us), from_microseconds(end_us)))
        return tuple(sorted(found))

    def provenance(self, repeated: int = 0) -> Provenance:
        """Where the rows come from, and what is missing."""
        sources = tuple(portion.source for portion in self.portions)
        return Provenance(self.dataset.text, sources, self.completeness, self.aggregation, repeated, self.stale)

    def estimate(self) -> Estimate:
        """About how many rows and bytes it is.

        Raises:
            StoreUnavailable, InfluxUnavailable: a service did not answer.
        """
        return sum((portion.estimate() for portion in self.portions), NOTHING)

    def batches(self, tally: Tally | None = None) -> Iterator[pa.Table]:
        """The rows in the order of time, some at a time: for more than fits into memory.

        Raises:
            MissingFile: a file is not in the store.
            StoreUnavailable, InfluxUnavailable: a service did not answer.
        """
        tally = tally or Tally()
        for portion in self.portions:
            yield from portion.batches(tally)

    def latest(self, count: int) -> pa.Table:
        """The last `count` rows in the order of time."""
        found: list[pa.Table] = []
        for portion in reversed(self.portions):
            missing = count - sum(rows.num_rows for rows in found)
            if missing > 0:
                found.insert(0, portion.latest(missing, Tally()))
        return pa.concat_tables(found) if found else self.schema.empty_table()

    def to_arrow(self, limit: int | str | None = None) -> pa.Table:
        """A table with `time` in UTC; fields carry units and descriptions, the schema its provenance (`efd`, JSON).

        Args:
            limit: bytes that it may take in memory, as a number or as "4 GiB".

        Raises:
            TooLarge: it is more; with what it would be.
        """
        limit_bytes = self._limit(limit)
        expected = self.estimate()
        if expected.bytes > limit_bytes:
            raise self._too_large(str(expected), limit_bytes)
        tally, parts, size = Tally(), list[pa.Table](), 0
        for rows in self.batches(tally):
            parts.append(rows)
            size += rows.nbytes
            if size > _SLACK * limit_bytes:
                raise self._too_large(f"{readable(size)} so far", limit_bytes)
        whole = pa.concat_tables(parts) if parts else self.schema.empty_table()
        return whole.replace_schema_metadata(self.provenance(tally.repeated).metadata())

    def _limit(self, limit: int | str | None) -> int:
        return self.reader.limit_bytes if limit is None else size_bytes(limit)

    def _too_large(self, what: str, limit_bytes: int) -> TooLarge:
        return TooLarge(
            f"{self.dataset} from {self.question.window} is {what}, more than the limit of {readable(limit_bytes)}",
            remedy='Ask for fewer fields or less time, for resolution="auto", take `.to_dask()` or `.batches()`, or'
            ' raise the limit: limit="16 GiB".',
        )

    def to_pandas(self, limit: int | str | None = None) -> pd.DataFrame:
        """A data frame indexed by `time` (UTC); `attrs` has `units` and `efd`, its provenance.

        Raises:
            TooLarge: as `to_arrow`.
        """
        return to_pandas(self.to_arrow(limit))

    def to_polars(self, limit: int | str | None = None) -> pl.DataFrame:
        """A Polars frame; units are in `Selection.units`.

        Raises:
            TooLarge: as `to_arrow`.
        """
        import polars as pl

        return pl.DataFrame(self.to_arrow(limit))

    def to_duckdb(self, limit: int | str | None = None) -> duckdb.DuckDBPyRelation:
        """A relation of DuckDB over the rows in memory.

        Raises:
            TooLarge: as `to_arrow`.
        """
        import duckdb

        connection = duckdb.connect(":memory:")
        connection.execute("SET TimeZone = 'UTC'")
        return connection.from_arrow(self.to_arrow(limit))

    def to_dask(self, part_bytes: int | str = "64 MiB") -> dask.dataframe.DataFrame:
        """A Dask frame indexed by `time`, with known divisions, of parts of about `part_bytes` in memory.

        Reads logs and one footer; rows are read by whoever computes.
        """
        from efd_pipelines.client.dask_frames import to_dask

        return to_dask(self, size_bytes(part_bytes))

    def plot(self, axes: Axes | None = None, *, points: int = 10_000) -> Axes:
        """A quick look: units, UTC below and local time above, gaps as gaps; envelopes of a tier where it is much.

        A selection of records that has more than `points` rows is drawn from the tier that fits.
        """
        from efd_pipelines.client.plots import plot

        return plot(self, axes, points)

    def again(self, fields: Sequence[str], **changes: Any) -> Selection:
        """The same question for other fields."""
        return self.reader.select(replace(self.question, fields=tuple(fields), **changes))
