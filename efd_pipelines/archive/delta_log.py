"""Delta log: the commits of a table, as its log has them.

What belongs here: reading log entries, and finding the one just made. Making commits: `tables.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.store import Store
from efd_pipelines.errors import ArchiveError
from efd_pipelines.times import microseconds, parse_time

NOTE = "efd"
"""The key of our note in a commit's info."""


class DamagedTable(ArchiveError):
    """A table whose log does not say what it must."""

    remedy = "`efd archive verify --deep` says what is wrong with it; nothing is written to it meanwhile."


@dataclass(frozen=True, slots=True)
class Commit:
    """What one version of a table changed, as its log has it."""

    version: int
    at_us: int
    added: tuple[DataFile, ...]
    removed: tuple[DataFile, ...]
    transactions: Mapping[str, int]
    note: Mapping[str, Any]


def slice_of_path(path: str) -> str:
    """The slice that a file's name carries."""
    return path.rpartition("/")[2].rpartition("-")[0]


def find_commit(store: Store, relative: str, first: int, commit_id: str, partition: str) -> Commit | None:
    """The commit with an id, of version `first` or later: other writers may have committed before it."""
    found = read_log(store, relative, first, partition=partition)
    return next((one for one in found if one.note.get("commit") == commit_id), None)


def read_log(store: Store, relative: str, first: int, *, partition: str = "week") -> Iterable[Commit]:
    """The commits of a table from version `first` on, as far as its log goes.

    Raises:
        DamagedTable: one cannot be read.
    """
    while (data := store.try_read(f"{relative}/_delta_log/{first:020d}.json")) is not None:
        try:
            made = _parse(store, relative, first, data, partition)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedTable(f"Version {first} of the log of {relative} cannot be read ({error!r})") from error
        yield made
        first += 1


def log_versions(store: Store, relative: str) -> list[int]:
    """Versions whose log entries are still there, rising."""
    names = store.list(f"{relative}/_delta_log")
    return [int(name[:20]) for name in names if name.endswith(".json") and name[:20].isdigit() and len(name) == 25]


def _parse(store: Store, relative: str, version: int, data: bytes, partition: str) -> Commit:
    actions = [json.loads(line) for line in data.decode("utf-8").splitlines() if line.strip()]
    info: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    note = json.loads(info.get(NOTE, "{}"))
    counts = note.get("removed", {})

    def logged(kind: str) -> tuple[DataFile, ...]:
        found = [_logged(store, relative, action[kind], partition) for action in actions if kind in action]
        return tuple(_counted(file, counts.get(file.path)) for file in found)

    moved = [action["txn"] for action in actions if "txn" in action]
    return Commit(
        version=version,
        at_us=int(info.get("timestamp", 0)) * 1000,
        added=logged("add"),
        removed=logged("remove"),
        transactions={action["appId"]: int(action["version"]) for action in moved},
        note=note,
    )


def _counted(file: DataFile, counts: Sequence[Any] | None) -> DataFile:
    """A removed file with its rows and times: Delta's remove action does not carry them, our note does."""
    if counts is None:
        return file
    return replace(file, rows=counts[0], time_min_us=counts[1], time_max_us=counts[2])


def _logged(store: Store, relative: str, action: Mapping[str, Any], partition: str) -> DataFile:
    stats = json.loads(action["stats"]) if action.get("stats") else {}
    path = action["path"]
    return DataFile(
        path=path,
        week=(action.get("partitionValues") or {}).get(partition) or "",
        slice=slice_of_path(path),
        rows=int(stats.get("numRecords", 0)),
        size_bytes=int(action.get("size") or 0),
        time_min_us=_from_iso(stats.get("minValues", {}).get("time")),
        time_max_us=_from_iso(stats.get("maxValues", {}).get("time")),
        uri=store.uri(f"{relative}/{path}"),
    )


def _from_iso(text: str | None) -> int | None:
    return None if text is None else microseconds(parse_time(text))
