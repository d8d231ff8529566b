"""Tables: snapshots of Delta tables, and commits that no two writers can both make.

What belongs here: opening a table at one version, and making files and the versions of app ids visible in
one step. Every commit carries app ids with the version expected in the snapshot and the new one: a writer
whose table moved on is refused (`StaleWriter`) and starts again from a fresh snapshot. delta-rs itself checks
only the race between two handles, so expected versions and removed files are checked here, before
(delta-facts). Raw data, tiers and the ledger are tables of this kind. Writing the files: `files.py`; reading
them: `reading.py`; what the log says of a commit: `delta_log.py`.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, Schema
from deltalake import Field as DeltaField
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import (
    AddAction,
    CommitProperties,
    RemoveAction,
    Transaction,
    create_table_with_add_actions,
)

from efd_pipelines.archive.delta_log import NOTE, Commit, DamagedTable, find_commit, slice_of_path
from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.store import Store
from efd_pipelines.errors import StaleWriter
from efd_pipelines.times import from_microseconds
from efd_pipelines.topics.layout import wider

_CONFIGURATION = {
    "delta.logRetentionDuration": "interval 30 days",
    "delta.dataSkippingStatsColumns": "time",
}


@dataclass(slots=True, eq=False)
class _Looked:
    """What has been looked up of one version of a table: with 820 columns each look takes milliseconds."""

    schema: pa.Schema | None = None
    delta_schema: Schema | None = None
    description: dict[str, Any] | None = None
    transactions: dict[str, int | None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Handle:
    """delta-rs's view of a table, which does not see the commits that are made with it until it looks again.

    With 820 columns that takes as long as a commit, and many a snapshot commits once only. `reached` is the version of
    the last commit that it has not seen; `is_overtaken` says that others had committed when it looked again: then what
    has been looked up of the table may no longer hold.
    """

    delta: DeltaTable
    reached: int | None = None
    is_overtaken: bool = False

    def look_again(self) -> None:
        self.delta.update_incremental()
        self.is_overtaken = self.is_overtaken or self.delta.version() != self.reached
        self.reached = None


@dataclass(frozen=True, slots=True)
class TableSnapshot:
    """One table at one version."""

    store: Store = field(repr=False)
    relative: str
    handle: _Handle = field(repr=False)
    version: int
    partition: str = "week"
    _looked: _Looked = field(default_factory=_Looked, repr=False, compare=False)

    @property
    def delta(self) -> DeltaTable:
        """delta-rs's view, with the commits that were made with it."""
        if self.handle.reached is not None:
            with self.store.errors(f"look at {self.relative}"):
                self.handle.look_again()
        return self.handle.delta

    @property
    def is_overtaken(self) -> bool:
        """Whether others have committed since a commit was made with it: it must be opened again for another."""
        _ = self.delta
        return self.handle.is_overtaken

    @property
    def schema(self) -> pa.Schema:
        """The columns, without the partition's, with units, description, field and element as metadata."""
        if self._looked.schema is None:
            whole = pa.schema(self.delta_schema.to_arrow())
            self._looked.schema = pa.schema([column for column in whole if column.name != self.partition])
        return self._looked.schema

    @property
    def delta_schema(self) -> Schema:
        """The columns, the partition's too, as Delta has them."""
        if self._looked.delta_schema is None:
            self._looked.delta_schema = self.delta.schema()
        return self._looked.delta_schema

    @property
    def description(self) -> dict[str, Any]:
        """The decisions taken at the table's creation."""
        if self._looked.description is None:
            self._looked.description = self._decisions()
        return dict(self._looked.description)

    def _decisions(self) -> dict[str, Any]:
        text = self.delta.metadata().description
        try:
            decisions = json.loads(text) if text else {}
        except ValueError as error:
            raise DamagedTable(f"The description of {self.relative} is no JSON") from error
        if not isinstance(decisions, dict):
            raise DamagedTable(f"The description of {self.relative} is no JSON object")
        return decisions

    def transaction_version(self, app_id: str) -> int | None:
        """The version that an app id has reached, None where it never committed."""
        known = self._looked.transactions
        if app_id not in known:
            known[app_id] = self.delta.transaction_version(app_id)
        return known[app_id]

    def after(self, made: Commit) -> TableSnapshot:
        """The table with a commit that was made to this snapshot.

        What was looked up stays where nobody else has committed in between: ours changed rows and app ids only.
        """
        if made.version != self.version + 1:
            return replace(self, version=made.version, _looked=_Looked())
        transactions = {**self._looked.transactions, **made.transactions}
        return replace(self, version=made.version, _looked=replace(self._looked, transactions=transactions))

    def files(
        self,
        weeks: Collection[str] | None = None,
        start_us: int | None = None,
        end_us: int | None = None,
    ) -> list[DataFile]:
        """The files that count, ordered by slice and path; those of weeks, or touching [start, end)."""
        found = [file for file in self._files() if weeks is None or file.week in weeks]
        return [file for file in found if _touches(file, start_us, end_us)]

    def _files(self) -> list[DataFile]:
        # `pa.table` would ask pandas whether it knows the object, and import it for that.
        actions = pa.RecordBatchReader.from_stream(self.delta.get_add_actions(flatten=True)).read_all()
        count = actions.num_rows
        nothing: list[Any] = [None] * count
        names = set(actions.column_names)
        low = _microseconds(actions["min.time"]) if "min.time" in names else nothing
        high = _microseconds(actions["max.time"]) if "max.time" in names else nothing
        files = [
            DataFile(
                path=path,
                week=week,
                slice=slice_of_path(path),
                rows=rows or 0,
                size_bytes=size,
                time_min_us=first,
                time_max_us=last,
                uri=self.store.uri(f"{self.relative}/{path}"),
            )
            for path, week, rows, size, first, last in zip(
                actions["path"].to_pylist(),
                actions[f"partition.{self.partition}"].to_pylist(),
                actions["num_records"].to_pylist(),
                actions["size_bytes"].to_pylist(),
                low,
                high,
                strict=True,
            )
        ]
        return sorted(files, key=lambda file: (file.week, file.slice, file.path))


def _microseconds(column: Any) -> list[int | None]:
    values: list[int | None] = column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist()
    return values


def _touches(file: DataFile, start_us: int | None, end_us: int | None) -> bool:
    if start_us is not None and file.time_max_us is not None and file.time_max_us < start_us:
        return False
    return not (end_us is not None and file.time_min_us is not None and file.time_min_us >= end_us)


def open_table(store: Store, relative: str, *, partition: str = "week") -> TableSnapshot | None:
    """The table as it is now, or None where there is none.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    with store.errors(f"open {relative}"):
        try:
            delta = DeltaTable(store.uri(relative), storage_options=store.storage_options)
        except TableNotFoundError:
            return None
        return TableSnapshot(store, relative, _Handle(delta), int(delta.version()), partition)


def commit(
    store: Store,
    relative: str,
    snapshot: TableSnapshot | None,
    *,
    add: Sequence[DataFile] = (),
    remove: Sequence[DataFile] = (),
    transactions: Mapping[str, tuple[int | None, int]],
    schema: pa.Schema,
    description: Mapping[str, Any] | None = None,
    note: Mapping[str, Any] | None = None,
    partition: str = "week",
    rearranges: bool = False,
    retries: int = 50,
) -> Commit:
    """Makes `add`, `remove` and the app ids' new versions visible in one step; creates the table if need be.

    `transactions` maps each app id to (version expected in `snapshot`, new version). `schema` has the columns of
    the files; those that the table lacks are added first, in a commit of their own that changes no rows.
    A commit that `rearranges` adds the very rows that it removes: appends beside it are then not refused.
    Without `retries` it is refused where the table has moved on at all.

    Raises:
        StaleWriter: the table moved on; nothing became visible.
        StoreUnavailable: the store did not answer. What was committed, if anything, the app ids tell.
    """
    for file in add:
        if store.size(f"{relative}/{file.path}") != file.size_bytes:
            raise StaleWriter(f"{file.path} of {relative} is not in the store as it was written")
    replaced = {file.path for file in remove}
    # The same rows make the same file: one that takes its own place stays, and Delta would refuse both actions.
    staying = replaced & {file.path for file in add}
    add = [file for file in add if file.path not in staying]
    remove = [file for file in remove if file.path not in staying]
    stamp = {**(note or {}), "commit": uuid.uuid4().hex}
    if remove:
        stamp["removed"] = {file.path: [file.rows, file.time_min_us, file.time_max_us] for file in remove}
    properties = CommitProperties(
        custom_metadata={NOTE: json.dumps(stamp, separators=(",", ":"))},
        app_transactions=[Transaction(app_id, new) for app_id, (_, new) in transactions.items()],
        # A creator that is refused must not try again: delta-rs would make the table a second time, as version 1.
        max_commit_retries=0 if snapshot is None else retries,
    )
    first = 0
    if snapshot is not None:
        if snapshot.is_overtaken:
            raise StaleWriter(f"{relative}: another writer has committed since")
        snapshot = _with_columns(snapshot, schema)
        _check(snapshot, replaced, transactions)
        first = snapshot.version + 1
    refused: StaleWriter | None = None
    try:
        if snapshot is None:
            _create(store, relative, add, schema, description, properties, partition)
        else:
            _append(snapshot, add, remove, properties, changes=not rearranges)
    except StaleWriter as error:
        # Where the store's answer was lost, delta-rs asks again and takes its own commit for another writer's.
        refused = error
    made = find_commit(store, relative, first, stamp["commit"], partition)
    if made is None:
        raise refused or DamagedTable(f"The log of {relative} does not have the commit that was just made")
    if snapshot is not None:
        snapshot.handle.reached = made.version
    return made


def _create(
    store: Store,
    relative: str,
    add: Sequence[DataFile],
    schema: pa.Schema,
    description: Mapping[str, Any] | None,
    properties: CommitProperties,
    partition: str,
) -> None:
    whole = schema.append(pa.field(partition, pa.string()))
    with store.errors(f"create {relative}"):
        try:
            create_table_with_add_actions(
                store.uri(relative),
                Schema.from_arrow(whole),
                [_add_action(file, partition) for file in add],
                mode="error",
                partition_by=[partition],
                description=json.dumps(dict(description or {}), separators=(",", ":")),
                configuration=_CONFIGURATION,
                storage_options=store.storage_options,
                commit_properties=properties,
            )
        except DeltaError as error:
            if isinstance(error, CommitFailedError) or "already exists" in str(error):
                raise StaleWriter(f"{relative} was created by another writer") from error
            raise


def _check(
    snapshot: TableSnapshot, replaced: Collection[str], transactions: Mapping[str, tuple[int | None, int]]
) -> None:
    for app_id, (expected, new) in transactions.items():
        # Of the handle that commits, whatever the snapshot remembers: it may have been used before.
        found = snapshot.delta.transaction_version(app_id)
        if found != expected or (found is not None and new < found):
            raise StaleWriter(f"{snapshot.relative}: {app_id} is at {found}, not at {expected}")
    if replaced:
        gone = sorted(set(replaced) - {file.path for file in snapshot.files()})
        if gone:
            raise StaleWriter(f"{snapshot.relative}: {gone[0]} was replaced by another writer")


def _append(
    snapshot: TableSnapshot,
    add: Sequence[DataFile],
    remove: Sequence[DataFile],
    properties: CommitProperties,
    *,
    changes: bool,
) -> None:
    actions: list[AddAction | RemoveAction] = [_remove_action(file, snapshot.partition, changes) for file in remove]
    actions += [_add_action(file, snapshot.partition, changes) for file in add]
    with snapshot.store.errors(f"commit to {snapshot.relative}"):
        try:
            snapshot.delta.create_write_transaction(
                actions,
                mode="append",
                schema=snapshot.delta_schema,
                partition_by=[snapshot.partition],
                commit_properties=properties,
            )
        except CommitFailedError as error:
            raise StaleWriter(f"{snapshot.relative}: another writer was faster") from error


def _with_columns(snapshot: TableSnapshot, schema: pa.Schema) -> TableSnapshot:
    """The table with the columns that it lacks; files of other types than the table's are refused."""
    if schema is snapshot.schema:
        return snapshot
    types = {column.name: column.type for column in snapshot.schema}
    new = [_delta_field(column) for column in schema if column.name not in types]
    if new:
        snapshot = _add_columns(snapshot, new)
        types = {column.name: column.type for column in snapshot.schema}
    for column in schema:
        if not types[column.name].equals(column.type):
            raise StaleWriter(f"{snapshot.relative}: {column.name} is {types[column.name]}, not {column.type}")
    return snapshot


def _add_columns(snapshot: TableSnapshot, new: Sequence[DeltaField]) -> TableSnapshot:
    with snapshot.store.errors(f"add columns to {snapshot.relative}"):
        try:
            snapshot.delta.alter.add_columns(list(new))
        except DeltaError as error:
            raise StaleWriter(f"{snapshot.relative}: another writer changed the columns") from error
        snapshot.delta.update_incremental()
    return replace(snapshot, version=int(snapshot.delta.version()), _looked=_Looked())


def widen(snapshot: TableSnapshot, schema: pa.Schema) -> TableSnapshot:
    """The table with its columns as wide as `schema` has them (int → long, float → double); no file changes.

    delta-rs accepts an append with a wider schema and leaves the table's narrow, so this comes first
    (delta-facts). The filter on a partition that does not exist keeps every file.

    Raises:
        StaleWriter: another writer changed the table.
    """
    wanted = {column.name: column.type for column in schema}
    columns = []
    for column in pa.schema(snapshot.delta.schema().to_arrow()):
        both = wider(column.type, wanted.get(column.name, column.type))
        columns.append(column if both is None else column.with_type(both))
    with snapshot.store.errors(f"widen {snapshot.relative}"):
        try:
            snapshot.delta.create_write_transaction(
                [],
                mode="overwrite",
                schema=Schema.from_arrow(pa.schema(columns)),
                partition_by=[snapshot.partition],
                partition_filters=[(snapshot.partition, "=", "none such")],
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        except CommitFailedError as error:
            raise StaleWriter(f"{snapshot.relative}: another writer was faster") from error
        snapshot.delta.update_incremental()
    return replace(snapshot, version=int(snapshot.delta.version()), _looked=_Looked())


def _delta_field(column: pa.Field[Any]) -> DeltaField:
    only = Schema.from_arrow(pa.schema([column.with_nullable(True)]))
    return only.fields[0]


def _add_action(file: DataFile, partition: str, changes: bool = True) -> AddAction:
    stats: dict[str, Any] = {"numRecords": file.rows, "minValues": {}, "maxValues": {}, "nullCount": {}}
    if file.time_min_us is not None and file.time_max_us is not None:
        stats["minValues"]["time"] = _iso(file.time_min_us)
        stats["maxValues"]["time"] = _iso(file.time_max_us)
    return AddAction(
        path=file.path,
        size=file.size_bytes,
        partition_values={partition: file.week},
        modification_time=int(time.time() * 1000),
        data_change=changes,
        stats=json.dumps(stats, separators=(",", ":")),
    )


def _remove_action(file: DataFile, partition: str, changes: bool) -> RemoveAction:
    return RemoveAction(
        file.path,
        changes,
        int(time.time() * 1000),
        size=file.size_bytes,
        partition_values={partition: file.week},
    )


def _iso(time_us: int) -> str:
    return from_microseconds(time_us).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
