"""Answers: what `EfdArchive.sql` gives, read as far as it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from efd_pipelines.client.refusals import TooLarge
from efd_pipelines.client.sizes import size_bytes
from efd_pipelines.reading.estimate import readable
from efd_pipelines.sql import Answer

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl


@dataclass(frozen=True, slots=True)
class SqlAnswer:
    """Rows of an answer, once: in batches, or in one of the forms."""

    answer: Answer = field(repr=False)
    limit_bytes: int

    @property
    def schema(self) -> pa.Schema:
        return self.answer.schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, some at a time.

        Raises:
            DataError: DuckDB failed on the way.
        """
        return self.answer.batches()

    def to_arrow(self, limit: int | str | None = None) -> pa.Table:
        """All rows.

        Raises:
            TooLarge: they take more memory than the limit.
            DataError: DuckDB failed on the way.
        """
        limit_bytes = self.limit_bytes if limit is None else size_bytes(limit)
        batches, size = list[pa.RecordBatch](), 0
        for batch in self.answer.batches():
            batches.append(batch)
            size += batch.nbytes
            if size > limit_bytes:
                raise TooLarge(
                    f"The answer is more than the limit of {readable(limit_bytes)}",
                    remedy='Select less, take `.batches()`, or raise the limit: limit="16 GiB".',
                )
        return pa.Table.from_batches(batches, self.schema)

    def to_pandas(self, limit: int | str | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self.to_arrow(limit).to_pandas()
        return frame

    def to_polars(self, limit: int | str | None = None) -> pl.DataFrame:
        import polars as pl

        return pl.DataFrame(self.to_arrow(limit))
