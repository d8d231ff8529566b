"""Ledger rows: what one commit changed in one slice, and what a sealed week's rows collapse into.

Rows that stand again, and those that a sealed row covers, do not count: a slow writer may append what another process
has looked up in the table's log and collapsed meanwhile.
What belongs here: the form of the rows, and which of them count. The table that holds them: `ledger.py`; making one row
of a sealed week's: `collapse.py`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from efd_pipelines.archive.delta_log import Commit
from efd_pipelines.times import from_microseconds
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    import polars as pl

RAW = "raw"
SEALED = "sealed"
"""Kind of the row that a sealed week's rows have collapsed into; its version is that of the seal."""

GAP = "gap"
"""Kind of what is left, after that, of a row with gaps: they are never dropped. It counts nothing."""

REARRANGING = ("merge", "widen", "seal")
"""Kinds of commits that write the same rows anew, or none."""

NO_RECORDS = (*REARRANGING, "expire", "fill")
"""Kinds of commits that bring no record of Kafka's."""

_UTC = pa.timestamp("us", tz="UTC")

SCHEMA = pa.schema(
    [
        ("table", pa.string()),
        ("dataset", pa.string()),
        ("component", pa.string()),
        ("kind", pa.string()),
        ("version", pa.int64()),
        ("week", pa.string()),
        ("slice", pa.string()),
        ("commit_kind", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("files", pa.int64()),
        ("avro_bytes", pa.int64()),
        ("time_min", _UTC),
        ("time_max", _UTC),
        ("records", pa.int64()),
        ("positions", pa.string()),
        ("epochs", pa.string()),
        ("gaps", pa.string()),
        ("schemas", pa.string()),
        ("names", pa.string()),
        ("at", _UTC),
        ("run", pa.string()),
        ("changed", pa.int64()),
        ("changes", pa.string()),
        ("sealed", pa.string()),
        ("history", pa.int64()),
        ("month", pa.string()),
    ]
)
KEY = ("table", "dataset", "version", "week", "slice")
_PLACE = ("table", "dataset", "week")

NAMES = ("table", "dataset", "component", "kind", "week", "slice", "commit_kind")
"""Columns of few texts, each in many rows."""

HISTORY = "history"
"""Of sealed rows: how many of their rows are of history. It is in `sealed` too, which is a hundred times as long."""


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What one commit changed in one slice; `rows`, `bytes` and `files` are negative where it removed.

    `names` has each file's hash, as `hash_of_path` gives it, after `+` where it was added, `-` where removed: so the
    plain audit knows what must be in the store without opening a table.
    """

    table: str
    dataset: Dataset
    version: int
    week: str
    slice: str
    commit_kind: str
    rows: int
    bytes: int
    files: int
    avro_bytes: int
    time_min_us: int | None
    time_max_us: int | None
    records: int
    positions: Mapping[str, int]
    epochs: Mapping[str, int]
    gaps: Sequence[Mapping[str, Any]]
    schemas: Sequence[int]
    at_us: int
    run: str
    names: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "dataset": self.dataset.text,
            "component": self.dataset.component,
            "kind": self.dataset.kind.value,
            "version": self.version,
            "week": self.week,
            "slice": self.slice,
            "commit_kind": self.commit_kind,
            "rows": self.rows,
            "bytes": self.bytes,
            "files": self.files,
            "avro_bytes": self.avro_bytes,
            "time_min": self.time_min_us,
            "time_max": self.time_max_us,
            "records": self.records,
            "positions": packed(dict(self.positions)),
            "epochs": packed(dict(self.epochs)),
            "gaps": json.dumps(list(self.gaps), separators=(",", ":")),
            "schemas": packed(sorted(self.schemas)),
            "names": packed(list(self.names)),
            "at": self.at_us,
            "run": self.run,
            "changed": None,
            "changes": None,
            "sealed": None,
            "history": None,
            "month": from_microseconds(self.at_us).strftime("%Y-%m"),
        }


def packed(value: Any) -> str:
    """A value as the ledger's columns of JSON have it."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def rows_of(table: str, dataset: Dataset, made: Commit) -> list[LedgerRow]:
    """The ledger's rows of one commit: one per week and slice; one with neither where only positions moved.

    What belongs to the commit as a whole (records, positions, gaps, schemas) stands on the first row alone.
    """
    slices = sorted({(file.week, file.slice) for file in (*made.added, *made.removed)})
    if not slices:  # a seal is of a week, and changes no file
        slices = [(str(made.note.get("week", "")), "")]
    return [_row(table, dataset, made, week, key, first=n == 0) for n, (week, key) in enumerate(slices)]


def _row(table: str, dataset: Dataset, made: Commit, week: str, key: str, *, first: bool) -> LedgerRow:
    added = [file for file in made.added if (file.week, file.slice) == (week, key)]
    removed = [file for file in made.removed if (file.week, file.slice) == (week, key)]
    note = made.note
    return LedgerRow(
        table=table,
        dataset=dataset,
        version=made.version,
        week=week,
        slice=key,
        commit_kind=str(note.get("kind", "")),
        rows=sum(file.rows for file in added) - sum(file.rows for file in removed),
        bytes=sum(file.size_bytes for file in added) - sum(file.size_bytes for file in removed),
        files=len(added) - len(removed),
        avro_bytes=int(note.get("avro_bytes", {}).get(f"{week}|{key}", 0)),
        time_min_us=min((f.time_min_us for f in (*added, *removed) if f.time_min_us is not None), default=None),
        time_max_us=max((f.time_max_us for f in (*added, *removed) if f.time_max_us is not None), default=None),
        records=int(note.get("records", 0)) if first else 0,
        positions=_positions(made) if first else {},
        epochs=note.get("epochs", {}) if first else {},
        gaps=note.get("gaps", []) if first else [],
        schemas=note.get("schemas", []) if first else [],
        names=[
            *(f"+{hash_of_path(file.path)}" for file in added),
            *(f"-{hash_of_path(file.path)}" for file in removed),
        ],
        at_us=made.at_us,
        run=str(note.get("run", "")),
    )


def _positions(made: Commit) -> dict[str, int]:
    return {app.removeprefix("kafka:"): to for app, to in made.transactions.items() if app.startswith("kafka:")}


def relative_of(table: str, dataset: Dataset) -> str:
    """Where a dataset's table lies: `raw/…`, or `tiers/<tier>/…`."""
    return f"raw/{dataset.path}" if table == RAW else f"tiers/{table}/{dataset.path}"


def hash_of_path(path: str) -> str:
    """The hash of its content that a file's name carries."""
    return path.rpartition("-")[2].removesuffix(".parquet")


def part_of_schema(columns: Collection[str]) -> pa.Schema:
    """Some of the columns, and those that tell rows apart."""
    return pa.schema([column for column in SCHEMA if column.name in columns or column.name in KEY])


def once(table: pa.Table) -> pa.Table:
    """The ledger's rows that count, in the order of datasets and versions; `commit_kind` is among the columns."""
    import polars as pl

    return counting(pl.DataFrame(table)).sort(KEY).to_arrow().cast(table.schema)


def counting(rows: pl.DataFrame) -> pl.DataFrame:
    """Each (table, dataset, version, week, slice) once, without what sealed rows cover; in no order."""
    # By one number instead of five texts: sorting or joining those takes longer than an audit may.
    return once_each(uncovered(rows, sealed_places(rows)))


def once_each(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows without those that stand again."""
    import polars as pl

    first = rows.select(pl.struct(KEY).hash()).to_series().is_first_distinct()
    return rows if first.all() else rows.filter(first)


def sealed_places(rows: pl.DataFrame) -> pl.DataFrame:
    """The weeks that have collapsed: table, dataset, week, and the version of the newest seal."""
    import polars as pl

    found = rows.filter(pl.col("commit_kind") == SEALED)
    return found.group_by(_PLACE).agg(pl.col("version").max().alias("_sealed_at"))


def uncovered(rows: pl.DataFrame, places: pl.DataFrame) -> pl.DataFrame:
    """The rows that the sealed rows of these places do not cover."""
    import polars as pl

    if not places.height:
        return rows
    keyed = places.select(pl.struct(_PLACE).hash().alias("_place"), "_sealed_at")
    rows = rows.with_columns(pl.struct(_PLACE).hash().alias("_place")).join(keyed, on="_place", how="left")
    kind, version, sealed_at = pl.col("commit_kind"), pl.col("version"), pl.col("_sealed_at")
    newest = (kind == SEALED) & (version == sealed_at)
    return rows.filter(sealed_at.is_null() | (version > sealed_at) | (kind == GAP) | newest).drop(
        "_place", "_sealed_at"
    )


def _number(columns: Sequence[str]) -> pl.Expr:
    """Rows' names, which are categories, and whole numbers as one number."""
    import polars as pl

    return pl.struct(pl.col(name).to_physical() if name in NAMES else name for name in columns).hash()


def history_of(sealed: pl.Series) -> pl.Series:
    """How many rows of history the texts of sealed rows say; most say none, and are not parsed for that."""
    import polars as pl

    some = sealed.is_not_null() & ~sealed.str.contains('"history":0,', literal=True)
    if not some.any():
        return pl.zeros(len(sealed), pl.Int64, eager=True)
    texts = sealed.zip_with(some, pl.Series([None], dtype=pl.String))
    return texts.str.json_path_match("$.history").cast(pl.Int64).fill_null(0)


@dataclass(frozen=True, slots=True)
class SealedPlaces:
    """Sealed places by one number each, rising, and the versions of their newest seals.

    As numbers, since the names of ten years' places take more memory than a report may; sorted, since part after part
    of the ledger is held against all of them.
    """

    places: NDArray[np.uint64]
    versions: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Iterable[pl.DataFrame]) -> SealedPlaces:
        """The places of parts of the ledger, each as `sealed_places` gives them; their names are categories."""
        found = [part.select(_number(_PLACE).alias("place"), "_sealed_at") for part in parts]
        places = np.concatenate([np.empty(0, np.uint64), *(part["place"].to_numpy() for part in found)])
        versions = np.concatenate([np.empty(0, np.int64), *(part["_sealed_at"].to_numpy() for part in found)])
        order = np.lexsort((versions, places))
        places, versions = places[order], versions[order]
        newest = np.append(places[1:] != places[:-1], True)[: len(places)]
        return cls(places[newest], versions[newest])

    def uncovered(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows of a part that sealed rows do not cover."""
        if not len(self.places) or not rows.height:
            return rows
        wanted = rows.select(_number(_PLACE)).to_series().to_numpy()
        at = np.minimum(np.searchsorted(self.places, wanted), len(self.places) - 1)
        is_sealed, sealed_at, version = self.places[at] == wanted, self.versions[at], rows["version"].to_numpy()
        kind = rows["commit_kind"]
        newest = (kind == SEALED).to_numpy() & (version == sealed_at)
        return rows.filter(~is_sealed | (version > sealed_at) | (kind == GAP).to_numpy() | newest)


class Seen:
    """What stood already in the parts of a month; sealed rows stand once, by the guard of who writes them."""

    def __init__(self) -> None:
        self._keys = np.empty(0, np.uint64)

    def new(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows of the next part that have not stood before; their names are categories."""
        loose = (rows["commit_kind"] != SEALED).to_numpy()
        if not loose.any():
            return rows
        keys = rows.select(_number(KEY)).to_series().to_numpy()
        # Sorting all of them again takes a tenth of looking each of them up.
        both = np.sort(np.concatenate([self._keys, keys[loose]]))
        stands = both[1:] == both[:-1]
        known, self._keys = self._keys, both
        if not stands.any():
            return rows
        self._keys = np.unique(both)
        kept = ~loose
        firsts, places = np.unique(keys[loose], return_index=True)
        kept[np.flatnonzero(loose)[places[~np.isin(firsts, known)]]] = True
        return rows.filter(kept)


@dataclass(frozen=True, slots=True)
class Change:
    """The newest version that changed rows of a stretch of event time, its ends included, in UTC microseconds."""

    first_us: int
    last_us: int
    version: int


def painted(changes: Iterable[Change]) -> list[Change]:
    """Changes put one over the other by rising version, so that the newest shows: apart, and by rising time."""
    found: list[Change] = []
    ordered = sorted(changes, key=lambda one: (-one.version, one.first_us))
    taken: list[tuple[int, int]] = []  # what newer ones cover, apart and rising
    for change in ordered:
        for first, last in _left_of(taken, change.first_us, change.last_us):
            found.append(Change(first, last, change.version))
        taken = _with(taken, change.first_us, change.last_us)
    return sorted(found, key=lambda one: one.first_us)


def _left_of(taken: Sequence[tuple[int, int]], first: int, last: int) -> Iterator[tuple[int, int]]:
    """The parts of a stretch that are not taken."""
    import bisect

    for n in range(max(0, bisect.bisect_left(taken, (first,)) - 1), len(taken)):
        start, end = taken[n]
        if start > last:
            break
        if end < first:
            continue
        if start > first:
            yield first, start - 1
        first = end + 1
        if first > last:
            return
    yield first, last


def _with(taken: list[tuple[int, int]], first: int, last: int) -> list[tuple[int, int]]:
    """What is taken, and a stretch; those that touch are one."""
    import bisect

    low = bisect.bisect_left(taken, (first,))
    if low and taken[low - 1][1] >= first - 1:
        low -= 1
    high = low
    while high < len(taken) and taken[high][0] <= last + 1:
        first, last = min(first, taken[high][0]), max(last, taken[high][1])
        high += 1
    taken[low:high] = [(first, last)]
    return taken


def changes_text(changes: Sequence[Change]) -> str:
    """Changes by rising time, each as its distance from the one before, its length, and how much newer it is."""
    numbers: list[int] = []
    end = version = 0
    for one in changes:
        numbers += [one.first_us - end, one.last_us - one.first_us, one.version - version]
        end, version = one.last_us, one.version
    return packed(numbers)


def changes_of(text: str) -> list[Change]:
    """What `changes_text` wrote."""
    numbers = json.loads(text)
    found = []
    end = version = 0
    for n in range(0, len(numbers), 3):
        first = end + numbers[n]
        end, version = first + numbers[n + 1], version + numbers[n + 2]
        found.append(Change(first, end, version))
    return found


def sealed_versions(text: str) -> set[int]:
    """The versions whose rows a sealed row covers, by its `sealed`."""
    return {version for first, last in json.loads(text)["versions"] for version in range(first, last + 1)}
