"""Events: what Dagster is told of work that live jobs did.

The archive and the tiers are fed by jobs that take many components at once, every few minutes. For each component
and week that changed Dagster is told: small, at most every 15 minutes, and the last state always. What has been told
stands in Dagster's own record, what has changed in the ledger; both are compared, so a run that dies in between is
made good by the next. Nothing computes from these events: they are how people see the archive (design.md §3).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import dagster as dg

from efd_pipelines.defs.metadata import Metadata, megabytes, timestamp
from efd_pipelines.errors import UsageError
from efd_pipelines.partitions import ComponentWeek, add_components
from efd_pipelines.times import Week, microseconds, this_week
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

RAW = "raw"
INTERVAL_S = 900.0
CHANGED = "changed_at"
DAY_S = 86_400.0
"""How far back live work looks for what Dagster was not told of; the daily round looks at all."""

_SLACK_S = 0.001
_KEYS_AT_ONCE = 500
_NO_WEEKS = ("", "quarantine", "dead")

Thing = TypeVar("Thing")

_FIGURES = """
    WITH of AS (
        SELECT l.*, strftime(date_trunc('week', make_timestamp(epoch_us(l."at"))), '%Y-%m-%d') AS arrived
        FROM ledger l JOIN wanted w ON l."table" = w."table" AND (w.component IS NULL OR l.component = w.component)
    ), kept AS (
        SELECT component, week, sum(rows)::BIGINT AS rows, sum(bytes)::BIGINT AS bytes, sum(files)::BIGINT AS files,
               sum(avro_bytes)::BIGINT AS avro_bytes, count(DISTINCT dataset) AS topics,
               any_value(dataset) AS dataset, epoch_us(max(time_max)) AS last_us, epoch_us(max("at")) AS changed_us
        FROM of WHERE week NOT IN ('', 'quarantine', 'dead') GROUP BY ALL
    ), arrived AS (
        SELECT component, arrived AS week, sum(json_array_length(gaps))::BIGINT AS gaps,
               coalesce(sum(rows) FILTER (week = 'dead'), 0)::BIGINT AS dead_letters,
               coalesce(sum(rows) FILTER (week = 'quarantine'), 0)::BIGINT AS quarantined
        FROM of GROUP BY ALL
    )
    SELECT kept.*, coalesce(gaps, 0) AS gaps, coalesce(dead_letters, 0) AS dead_letters,
           coalesce(quarantined, 0) AS quarantined
    FROM kept LEFT JOIN arrived USING (component, week) ORDER BY component, week
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """What the archive, or a tier, has of one component's week.

    `gaps`, `dead_letters` and `quarantined` count what was noticed in that week: it has no time of its own.
    `directory` has the component's tables, one per topic.
    """

    partition: ComponentWeek
    rows: int
    bytes: int
    files: int
    avro_bytes: int
    topics: int
    gaps: int
    dead_letters: int
    quarantined: int
    last_us: int | None
    changed_us: int
    directory: str

    @classmethod
    def none_of(cls, partition: ComponentWeek) -> Figures:
        """Of a partition that has nothing."""
        return cls(partition, 0, 0, 0, 0, 0, 0, 0, 0, None, 0, "")

    def metadata(self, table: str) -> Metadata:
        """Numbers that plot, and where the files are; below 1 kB."""
        found: Metadata = {"rows": self.rows, "bytes": self.bytes, "mb": megabytes(self.bytes)}
        found |= {"files": self.files, "topics": self.topics}
        if table == RAW:
            found |= {"gaps": self.gaps, "dead_letters": self.dead_letters, "quarantined": self.quarantined}
        if self.last_us is not None:
            found["last_record"] = timestamp(self.last_us)
            if self.partition.week >= this_week():
                found["lag_s"] = round(max(0.0, time.time() - self.last_us / 1e6), 1)
        if self.changed_us:
            found[CHANGED] = timestamp(self.changed_us)
        if self.directory:
            found["path"] = dg.MetadataValue.path(self.directory)
        return found


def figures(archive: Archive, table: str, components: Collection[str] | None = None) -> list[Figures]:
    """The figures of every week of the components (all by default), by the ledger.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    import pyarrow as pa

    names: list[str | None] = [None] if components is None else list(components)
    wanted = pa.table({"table": pa.array([table] * len(names)), "component": pa.array(names, pa.string())})
    found = []
    for row in archive.ledger.sql(_FIGURES, wanted=wanted).to_pylist():
        partition = ComponentWeek(row.pop("component"), Week.parse(row.pop("week")))
        directory = archive.relative(Dataset.parse(row.pop("dataset")), table).rpartition("/")[0]
        found.append(Figures(partition, **row, directory=archive.store.uri(directory)))
    return found


def figures_of(archive: Archive, table: str, partitions: Iterable[ComponentWeek]) -> list[Figures]:
    """The figures of these partitions, with zeros for those that have nothing."""
    wanted = sorted(set(partitions))
    found = {one.partition: one for one in figures(archive, table, {partition.component for partition in wanted})}
    return [found.get(partition, Figures.none_of(partition)) for partition in wanted]


@dataclass(frozen=True, slots=True)
class Told:
    """What Dagster knows of a partition: the state of which time, told when; both in unix seconds."""

    changed_s: float
    at_s: float


def told(instance: dg.DagsterInstance, asset: dg.AssetKey, keys: Iterable[str]) -> dict[str, Told]:
    """What Dagster was last told of partitions of an asset: two questions for 500 of them."""
    found: dict[str, Told] = {}
    for part in batched(keys, _KEYS_AT_ONCE):
        ids = instance.get_latest_storage_id_by_partition(
            asset, dg.DagsterEventType.ASSET_MATERIALIZATION, partitions=set(part)
        )
        if ids:
            wanted = dg.AssetRecordsFilter(asset_key=asset, storage_ids=list(ids.values()))
            records = instance.fetch_materializations(wanted, limit=len(ids)).records
            found.update({str(record.partition_key): _told(record) for record in records})
    return found


def batched(things: Iterable[Thing], count: int) -> Iterator[tuple[Thing, ...]]:
    """The things, so many at a time."""
    remaining = iter(things)
    while part := tuple(itertools.islice(remaining, count)):
        yield part


def _told(record: dg.EventLogRecord) -> Told:
    event = record.asset_materialization
    changed = None if event is None else event.metadata.get(CHANGED)
    return Told(float(str(changed.value)) if changed is not None else 0.0, record.timestamp)


def changes(archive: Archive, table: str, since_s: float | None = None) -> dict[ComponentWeek, int]:
    """When each component's week last changed, by the ledger, in UTC microseconds.

    With `since_s`, in unix seconds, only what changed after, which reads only the newest months of the ledger.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    ledger = archive.ledger.table(None if since_s is None else months_since(since_s))
    counts = pc.and_(
        pc.equal(ledger["table"], table), pc.invert(pc.is_in(ledger["week"], value_set=pa.array(_NO_WEEKS)))
    )
    newest = ledger.filter(counts).group_by(["component", "week"]).aggregate([("at", "max")])
    return {
        ComponentWeek(row["component"], Week.parse(row["week"])): microseconds(row["at_max"])
        for row in newest.to_pylist()
        if since_s is None or row["at_max"].timestamp() >= since_s
    }


def months_since(since_s: float) -> list[str]:
    """The ledger's months from a unix time up to now."""
    first, last = datetime.fromtimestamp(since_s, UTC), datetime.fromtimestamp(time.time(), UTC)
    count = (last.year - first.year) * 12 + last.month - first.month
    years_and_months = (divmod(first.year * 12 + first.month - 1 + n, 12) for n in range(count + 1))
    return [f"{year:04}-{month + 1:02}" for year, month in years_and_months]


def untold(
    instance: dg.DagsterInstance,
    asset: dg.AssetKey,
    changed_us: Mapping[ComponentWeek, int],
    *,
    at_once: bool = False,
) -> list[ComponentWeek]:
    """The partitions that changed after what Dagster knows of them, and whose turn it is.

    A week that has not begun has no partition yet and waits. `at_once` takes those too that were told of in the last
    15 minutes.
    """
    now, running = time.time(), this_week()
    begun = {one.key: one for one in changed_us if one.week <= running}
    known = told(instance, asset, begun)
    return [one for key, one in begun.items() if _is_due(changed_us[one], known.get(key), now, at_once=at_once)]


def _is_due(changed_us: int, known: Told | None, now: float, *, at_once: bool) -> bool:
    if known is None:
        return True
    if changed_us / 1e6 <= known.changed_s + _SLACK_S:
        return False
    return at_once or now - known.at_s >= INTERVAL_S


def materialisations(
    instance: dg.DagsterInstance, asset: dg.AssetKey, archive: Archive, table: str, due: Collection[ComponentWeek]
) -> Iterator[dg.AssetMaterialization]:
    """An event for each of the partitions; their components get partitions where they have none."""
    if not due:
        return
    add_components(instance, {one.component for one in due})
    for one in figures_of(archive, table, due):
        yield materialisation(asset, one.partition, one.metadata(table))


def materialisation(asset: dg.AssetKey, partition: ComponentWeek, metadata: Metadata) -> dg.AssetMaterialization:
    """The event of one partition. Dagster would take any key; one that is none is refused here."""
    if ComponentWeek.parse(partition.key) != partition:
        raise UsageError(f"{partition} has no partition key of its own")
    return dg.AssetMaterialization(asset_key=asset, partition=partition.key, metadata=metadata)


def log_untold(
    context: dg.OpExecutionContext,
    archive: Archive,
    asset: dg.AssetKey,
    table: str,
    *,
    nothing_of: Iterable[ComponentWeek] = (),
    since_s: float | None = None,
    at_once: bool = False,
) -> int:
    """Tells Dagster, from within an op, of every partition whose turn it is; how many.

    `nothing_of` are partitions that may have nothing in the table, and are up to date all the same.
    """
    changed = {**dict.fromkeys(nothing_of, 0), **changes(archive, table, since_s)}
    due = untold(context.instance, asset, changed, at_once=at_once)
    for event in materialisations(context.instance, asset, archive, table, due):
        context.log_event(event)
    return len(due)


def counted(found: Mapping[str, object]) -> str:
    """Figures in one line, for a run's log."""
    return ", ".join(
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in found.items()
    )
