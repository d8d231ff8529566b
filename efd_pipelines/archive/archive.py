"""The archive's front door: datasets, their tables, and reading them.

Everything downstream (tiers, joins, reports, exports, the client) asks here, by dataset and time, and never opens
a path of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from efd_pipelines.archive import reading
from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.ledger import RAW, Ledger, relative_of
from efd_pipelines.archive.store import Store
from efd_pipelines.archive.tables import TableSnapshot, open_table
from efd_pipelines.errors import UnknownDataset
from efd_pipelines.times import Week, microseconds
from efd_pipelines.topics.names import Dataset, nearest

if TYPE_CHECKING:
    from efd_pipelines.settings import Settings


class Archive:
    """The archive of a deployment. Nothing connects before it is asked for something."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings.archive, settings)
        self.ledger = Ledger(self.store)

    @cached_property
    def _is_safe(self) -> bool:
        self.store.probe()
        return True

    def prepare(self) -> None:
        """Refuses a store on which two writers could overwrite each other; once per process, before writing.

        Raises:
            UnsafeStore: it is one.
            StoreUnavailable: the store does not answer or cannot be written.
        """
        _ = self._is_safe

    def datasets(self, component: str | None = None, *, table: str = RAW) -> list[Dataset]:
        """What has been archived, by the ledger, sorted."""
        found = sorted(map(Dataset.parse, self.ledger.dataset_names(table)))
        return [dataset for dataset in found if component is None or dataset.component == component]

    def relative(self, dataset: Dataset, tier: str | None = None) -> str:
        """Where its table lies, relative to the store's root."""
        return relative_of(RAW if tier in (None, RAW) else str(tier), dataset)

    def snapshot(self, dataset: Dataset, tier: str | None = None) -> TableSnapshot:
        """The dataset's table as it is now.

        Raises:
            UnknownDataset: it has none; with the nearest names.
        """
        snapshot = open_table(self.store, self.relative(dataset, tier))
        if snapshot is None:
            known = [other.text for other in self.datasets()]
            kind = "the archive" if tier in (None, RAW) else f"the {tier} tier"
            raise UnknownDataset(f"{dataset} is not in {kind}{nearest(dataset.text, known)}")
        return snapshot

    def read(
        self,
        dataset: Dataset,
        columns: Sequence[str] | None = None,
        start: datetime | int | None = None,
        end: datetime | int | None = None,
        tier: str | None = None,
        weeks: Collection[Week | str] | None = None,
    ) -> pa.Table:
        """Rows with start ≤ time < end, sorted by salIndex and time.

        Raises:
            UnknownDataset: there is no such dataset.
            UsageError: it has no such column.
        """
        return reading.read(
            self.snapshot(dataset, tier),
            columns=columns,
            start_us=_us(start),
            end_us=_us(end),
            weeks=_keys(weeks),
        )

    def files(
        self,
        dataset: Dataset,
        start: datetime | int | None = None,
        end: datetime | int | None = None,
        tier: str | None = None,
    ) -> list[DataFile]:
        """The files that count now, for any Parquet reader."""
        return self.snapshot(dataset, tier).files(None, _us(start), _us(end))


def _us(when: datetime | int | None) -> int | None:
    return microseconds(when) if isinstance(when, datetime) else when


def _keys(weeks: Collection[Week | str] | None) -> set[str] | None:
    return None if weeks is None else {str(week) for week in weeks}
