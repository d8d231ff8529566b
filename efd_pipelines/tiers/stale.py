"""Stale: which slices of a tier the archive has moved on from.

A tier's table carries, for each of its slices, the app id `from:<slice>`: the version of the archive's table that it
was computed from. The ledger says which versions changed which times; what is newer than `from` is stale. `examined`
is the version up to which all of this is known to be done, so that only what came after is looked at.
A commit that only rearranges rows (a merge, a widening) or lets a raw week go makes nothing stale, and nothing does in
a week that was let go: its late records are no whole windows.
Computing: `build.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.expiry import is_expired
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.slices import Slice, SliceUnit, slice_starts
from efd_pipelines.archive.tables import TableSnapshot, open_table
from efd_pipelines.tiers.tier import Tier, aggregated
from efd_pipelines.topics.names import Dataset

EXAMINED = "examined"
_THREADS = 4


@dataclass(frozen=True, slots=True)
class StaleDataset:
    """Slices of one dataset's tier that must be computed again.

    `examined` is the version of `raw` that may be recorded once they are; None where other stale slices were left out.
    `changed` says of each slice between which times, both included, anything has changed since it was computed.
    """

    dataset: Dataset
    raw: TableSnapshot
    slices: tuple[Slice, ...]
    examined: int | None
    changed: Mapping[Slice, tuple[int, int]]


def from_id(part: Slice) -> str:
    """The app id that carries the version which a slice was computed from."""
    return f"from:{part.key}"


def find_stale(
    archive: Archive, tier: Tier, datasets: Iterable[Dataset] | None = None, weeks: Collection[str] | None = None
) -> list[StaleDataset]:
    """What of the tier must be computed, by dataset; nothing where all is up to date.

    Datasets that are not aggregated are left out. Commits that the ledger lacks are made good first.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    archive.ledger.catch_up_pending()
    configuration = archive.settings.configuration
    known = archive.datasets() if datasets is None else sorted(set(datasets))
    chosen = [dataset for dataset in known if aggregated(dataset, configuration, tier)]
    tables = _opened(archive, chosen, tier.name)
    changed = sorted(Dataset.parse(text) for text in _changes(archive, tables))
    raw = {dataset: table for dataset, table in _opened(archive, changed, RAW).items() if table is not None}
    if not raw:
        return []
    # A later commit may be in the ledger before an earlier one: complete it up to what has just been opened.
    archive.ledger.catch_up([(RAW, dataset) for dataset in _incomplete(archive, raw, tables)])
    changes = _changes(archive, {dataset: tables[dataset] for dataset in raw})
    found = [
        _stale(dataset, raw[dataset], tables[dataset], _touched(changes.get(dataset.text, []), tier.unit), weeks)
        for dataset in raw
    ]
    return [one for one in found if one.slices]


def _opened(archive: Archive, datasets: Sequence[Dataset], table: str) -> dict[Dataset, TableSnapshot | None]:
    """Some at once: on S3 each takes 30 ms of waiting."""
    with ThreadPoolExecutor(_THREADS) as pool:
        opened = pool.map(lambda dataset: open_table(archive.store, archive.relative(dataset, table)), datasets)
        return dict(zip(datasets, opened, strict=True))


def _incomplete(
    archive: Archive, raw: Mapping[Dataset, TableSnapshot], tables: Mapping[Dataset, TableSnapshot | None]
) -> list[Dataset]:
    """Datasets of which the ledger lacks versions since the last that was examined."""
    known = archive.ledger.known_versions([(RAW, dataset) for dataset in raw])
    return [
        dataset
        for dataset, snapshot in raw.items()
        if not set(range(_examined(tables[dataset]) + 1, snapshot.version + 1)) <= known.get((RAW, dataset.text), set())
    ]


def _changes(archive: Archive, tables: Mapping[Dataset, TableSnapshot | None]) -> dict[str, list[Mapping[str, Any]]]:
    """What the ledger says has changed since each tier's table was last complete, by dataset."""
    changes: dict[str, list[Mapping[str, Any]]] = {}
    examined = {dataset: _examined(snapshot) for dataset, snapshot in tables.items()}
    for row in archive.ledger.changes(RAW, examined).to_pylist():
        changes.setdefault(row["dataset"], []).append(row)
    return changes


def _examined(snapshot: TableSnapshot | None) -> int:
    version = None if snapshot is None else snapshot.transaction_version(EXAMINED)
    return -1 if version is None else version


@dataclass(slots=True)
class _Touch:
    """Which versions changed a slice, each with the first and the last time that it touched."""

    changes: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def version(self) -> int:
        return max(version for version, _, _ in self.changes)

    def since(self, version: int, part: Slice) -> tuple[int, int]:
        """Between which times of the slice later versions changed anything."""
        later = [(low, high) for changed, low, high in self.changes if changed > version]
        low, high = min(low for low, _ in later), max(high for _, high in later)
        return max(low, part.start_us), min(high, part.end_us - 1)


def _touched(changes: Sequence[Mapping[str, Any]], unit: SliceUnit) -> dict[Slice, _Touch]:
    """The tier's slices that changes touched."""
    touched: dict[Slice, _Touch] = {}
    for change in changes:
        low, high = change["first_us"], change["last_us"]
        if low is None or high is None:
            whole = Slice.parse(change["slice"])
            low, high = whole.start_us, whole.end_us - 1
        first, last = slice_starts(np.array([low, high]), unit)
        for start in range(int(first), int(last) + 1, unit.length_us):
            touched.setdefault(Slice(start, unit), _Touch()).changes.append((change["version"], low, high))
    return touched


def _stale(
    dataset: Dataset,
    raw: TableSnapshot,
    table: TableSnapshot | None,
    touched: Mapping[Slice, _Touch],
    weeks: Collection[str] | None,
) -> StaleDataset:
    reached = {part: computed_from(table, part) for part in sorted(touched)}
    moved = [part for part, version in reached.items() if version < touched[part].version]
    let_go = {week for week in {part.week for part in moved} if is_expired(raw, week)}
    stale = [part for part in moved if part.week not in let_go]
    wanted = tuple(part for part in stale if weeks is None or part.week.key in weeks)
    changed = {part: touched[part].since(reached[part], part) for part in wanted}
    return StaleDataset(dataset, raw, wanted, raw.version if len(wanted) == len(stale) else None, changed)


def computed_from(table: TableSnapshot | None, part: Slice) -> int:
    """The version that a slice was computed from, −1 where it never was."""
    version = None if table is None else table.transaction_version(from_id(part))
    return -1 if version is None else version
