"""Sealed rows: what the rows of one table's sealed weeks collapse into.

The one row has the certificate's figures and files, the positions that were reached, and, for who goes by versions, the
newest version that changed each stretch of time. Rows with gaps stay, with what else they said taken off. A week whose
rows and certificate do not agree is left as it is, for the audit to find.
What belongs here: rows in, rows out. Which weeks, and putting the rows into the ledger: `collapse.py`.

The sealed row's `sealed` is JSON: `versions` that it covers, as ranges; `reached`, for each of these and partition the
position, the version that reached it, the position before, and records; `shared`, of commits that changed other weeks
too, rows and records; `fills`, stretches of time with their rows of history; `history` (rows that were filled in) and
`superseded` (that Kafka's replaced); `last_us`, the last time of a record of Kafka's; `around`, for gaps by version,
the times before and after them; `ages`, how old the drains' records were when they came (`ages.py`).
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from efd_pipelines.archive.ages import Ages, packed_ages
from efd_pipelines.archive.certificates import Certificate
from efd_pipelines.archive.delta_log import slice_of_path
from efd_pipelines.archive.ledger_rows import (
    GAP,
    NO_RECORDS,
    REARRANGING,
    SEALED,
    Change,
    changes_of,
    changes_text,
    hash_of_path,
    packed,
    painted,
    sealed_versions,
)
from efd_pipelines.archive.slices import DEAD, QUARANTINE

Row = dict[str, Any]
Proof = Callable[[str], Certificate | None]
"""Gives a week's certificate, None where there is none that can be read."""

_OUTSIDE = ("", QUARANTINE, DEAD)
_APART_US = 3_600_000_000
"""Stretches of history closer than this are one."""


def collapsed(rows: Iterable[Row], certificate_of: Proof) -> tuple[list[Row], int]:
    """The rows of one table, those of its sealed weeks collapsed; and how many sealed weeks were left as they are."""
    table = _Table(rows)
    left = sum(not table.collapse(week, version, certificate_of(week)) for version, week in table.seals())
    return table.rows(), left


class _Table:
    """The rows of one table, by week. Times are integers, UTC microseconds."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._weeks: dict[str, list[Row]] = {}
        for row in rows:
            self._weeks.setdefault(row["week"], []).append(row)
        self._weeks_of: dict[int, set[str]] = {}
        for week, of in self._weeks.items():
            for version in _versions(of):
                self._weeks_of.setdefault(version, set()).add(week)
        self._moves = _moves(self.rows())
        self._gaps = sorted({row["version"] for row in self.rows() if row["gaps"] not in (None, "[]")})
        self._drains = sorted(
            (row["version"], row["time_min"], row["time_max"])
            for row in self._good()
            if row["commit_kind"] not in (*NO_RECORDS, SEALED, GAP) and row["time_min"] is not None
        )

    def rows(self) -> list[Row]:
        return [row for of in self._weeks.values() for row in of]

    def _good(self) -> Iterator[Row]:
        return (row for week, of in self._weeks.items() if week not in _OUTSIDE for row in of)

    def seals(self) -> list[tuple[int, str]]:
        """The newest seal of each week that has not collapsed, by rising version."""
        found = {
            week: max((row["version"] for row in of if row["commit_kind"] == "seal"), default=-1)
            for week, of in self._weeks.items()
        }
        return sorted((version, week) for week, version in found.items() if version >= 0)

    def collapse(self, week: str, sealed_at: int, certificate: Certificate | None) -> bool:
        """Makes one row of a week's up to its seal; whether it could be."""
        covered = [row for row in self._weeks[week] if row["version"] <= sealed_at and row["commit_kind"] != GAP]
        if certificate is None or not _agrees(covered, certificate) or not self._balances(covered):
            return False
        others = [row for row in self._weeks[week] if row["version"] > sealed_at or row["commit_kind"] == GAP]
        row = self._sealed(week, sealed_at, covered, certificate)
        gaps = [_only_gaps(one) for one in covered if one["gaps"] not in (None, "[]")]
        self._weeks[week] = [*others, *gaps, row]
        return True

    def _balances(self, covered: Sequence[Row]) -> bool:
        """Whether each commit, as far as it lies in this week alone, has the rows that it should."""
        surplus: dict[int, int] = {}
        for row in covered:
            if row["commit_kind"] == SEALED or len(self._weeks_of[row["version"]]) > 1:
                continue
            records = 0 if row["commit_kind"] in (*REARRANGING, "expire") else row["records"]
            surplus[row["version"]] = surplus.get(row["version"], 0) + row["rows"] - records
        # History that Kafka's rows replaced is left out when a slice is merged.
        merges = {row["version"] for row in covered if row["commit_kind"] == "merge"}
        return all(count == 0 or (count < 0 and version in merges) for version, count in surplus.items())

    def _sealed(self, week: str, sealed_at: int, covered: Sequence[Row], certificate: Certificate) -> Row:
        before = next((json.loads(row["sealed"]) for row in covered if row["commit_kind"] == SEALED), None)
        plain = [row for row in covered if row["commit_kind"] != SEALED]
        seal = next(row for row in plain if row["version"] == sealed_at and row["commit_kind"] == "seal")
        changes = painted(_changes(covered))
        ranges = version_ranges({version for row in covered for version in versions_of(row)})
        reached = self._reached(plain, before, ranges)
        positions = {move["partition"]: move["position"] for move in reached}
        history = _sum(before, "history") + sum(row["rows"] for row in plain if row["commit_kind"] == "fill")
        return {
            **seal,
            "commit_kind": SEALED,
            "rows": certificate.rows,
            "bytes": certificate.size_bytes,
            "files": len(certificate.files),
            "avro_bytes": sum(row["avro_bytes"] for row in covered),
            "time_min": certificate.time_min_us,
            "time_max": certificate.time_max_us,
            "records": sum(row["records"] for row in covered),
            "positions": packed(positions),
            "epochs": packed(_epochs(covered, positions)),
            "gaps": "[]",
            "schemas": packed(sorted({token for row in covered for token in json.loads(row["schemas"] or "[]")})),
            "names": packed(sorted(f"+{_stem(file.path)}" for file in certificate.files)),
            "history": history,
            "changed": max((one.version for one in changes), default=-1),
            "changes": changes_text(changes),
            "sealed": packed(
                {
                    "versions": ranges,
                    "reached": reached,
                    "shared": self._shared(plain, before),
                    "fills": _fills(plain, before),
                    "history": history,
                    "superseded": _sum(before, "superseded")
                    - sum(r["rows"] for r in plain if r["commit_kind"] == "merge"),
                    "last_us": _last_of_kafka(plain, before),
                    "around": self._around(sealed_at, before),
                    "ages": _ages(plain, before),
                }
            ),
        }

    def _reached(
        self, plain: Sequence[Row], before: Mapping[str, Any] | None, ranges: Sequence[Sequence[int]]
    ) -> list[dict[str, Any]]:
        """Of each stretch of versions and partition: its position, the version that reached it, the position before
        the stretch, and how many records it has."""
        found: dict[tuple[int, str], dict[str, Any]] = {}
        for move in sorted([*_moves_of(plain), *(before["reached"] if before else ())], key=lambda of: of["version"]):
            partition, version = move["partition"], move["version"]
            since, until = next(of for of in ranges if of[0] <= version <= of[1])
            known = found.get((since, partition))
            if known is None:
                start = move["before"] if "before" in move else self._before(partition, version)
                known = {"before": start, "records": 0}
            known |= {"partition": partition, "position": move["position"], "version": version}
            known |= {"records": known["records"] + move["records"], "since": since, "until": until}
            found[since, partition] = known
        return [found[key] for key in sorted(found)]

    def _before(self, partition: str, version: int) -> int | None:
        moves = self._moves.get(partition, [])
        place = bisect.bisect_left(moves, (version,))
        return moves[place - 1][1] if place else None

    def _shared(self, plain: Sequence[Row], before: Mapping[str, Any] | None) -> list[dict[str, int]]:
        """Rows and records of the commits that changed other weeks too: those are balanced with the others' rows."""
        found = {} if before is None else {of["version"]: dict(of) for of in before["shared"]}
        for row in plain:
            version = row["version"]
            if len(self._weeks_of[version]) > 1:
                share = found.setdefault(version, {"version": version, "rows": 0, "records": 0})
                share["rows"] += row["rows"]
                share["records"] += row["records"]
        return [found[version] for version in sorted(found)]

    def _around(self, sealed_at: int, before: Mapping[str, Any] | None) -> list[dict[str, int | None]]:
        """For each gap that no other sealed row knows: the times of the rows before it and after it."""
        found = {} if before is None else {of["version"]: of for of in before["around"]}
        known = {
            of["version"]
            for row in self._good()
            if row["commit_kind"] == SEALED
            for of in json.loads(row["sealed"])["around"]
            if of["after"] is not None
        }
        for version in self._gaps:
            if version <= sealed_at and version not in known:
                after = min((low for at, low, _ in self._drains if at == self._first_drain(version)), default=None)
                found[version] = {"version": version, "before": self._last_before(version), "after": after}
        return [found[version] for version in sorted(found)]

    def _first_drain(self, version: int) -> int | None:
        return min((at for at, _, _ in self._drains if at >= version), default=None)

    def _last_before(self, version: int) -> int | None:
        of_drains = (high for at, _, high in self._drains if at < version)
        of_sealed = (
            json.loads(row["sealed"])["last_us"]
            for row in self._good()
            if row["commit_kind"] == SEALED and row["version"] < version
        )
        return max((time for time in (*of_drains, *of_sealed) if time is not None), default=None)


def _versions(rows: Iterable[Row]) -> Iterator[int]:
    """The versions that rows tell of; of a sealed row, those that changed other weeks too."""
    for row in rows:
        if row["commit_kind"] == SEALED:
            yield from (of["version"] for of in json.loads(row["sealed"])["shared"])
        elif row["commit_kind"] != GAP:
            yield row["version"]


def versions_of(row: Row) -> Collection[int]:
    """The versions that a row stands for."""
    return sealed_versions(row["sealed"]) if row["commit_kind"] == SEALED else (row["version"],)


def _positions(row: Row) -> dict[str, int]:
    return json.loads(row["positions"]) if row["positions"] not in (None, "{}") else {}


def _moves(rows: Iterable[Row]) -> dict[str, list[tuple[int, int]]]:
    """By partition, the versions that moved it and where to, rising."""
    found: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        moves = json.loads(row["sealed"])["reached"] if row["commit_kind"] == SEALED else _moves_of([row])
        for of in moves:
            found.setdefault(of["partition"], []).append((of["version"], of["position"]))
    return {partition: sorted(moves) for partition, moves in found.items()}


def _moves_of(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """The positions that commits reached; a commit is of one topic, and its first partition has all its records."""
    for row in rows:
        records = row["records"]
        for partition, position in sorted(_positions(row).items()):
            yield {"partition": partition, "position": position, "version": row["version"], "records": records}
            records = 0


def _agrees(covered: Sequence[Row], certificate: Certificate) -> bool:
    """Whether the rows say what the certificate says; names are not known of rows of older releases."""
    sums = tuple(sum(row[name] for row in covered) for name in ("rows", "bytes", "files"))
    if sums != (certificate.rows, certificate.size_bytes, len(certificate.files)):
        return False
    names = files_left(covered)
    if names is None:
        return True
    live = {digest: count for digest, count in names.items() if count}
    return live == {hash_of_path(file.path): 1 for file in certificate.files}


def files_left(rows: Iterable[Row]) -> dict[str, int] | None:
    """How often rows add each file less how often they take it, by hash; None where an older release did not name
    them."""
    found: dict[str, int] = {}
    for row in rows:
        if row["names"] is None:
            return None
        for name in json.loads(row["names"]):
            digest = hash_of_path(name[1:])
            found[digest] = found.get(digest, 0) + (1 if name[0] == "+" else -1)
    return found


def _only_gaps(row: Row) -> Row:
    """What stays of a row with gaps."""
    nothing = dict.fromkeys(("rows", "bytes", "files", "avro_bytes", "records"), 0)
    texts = {"positions": "{}", "epochs": "{}", "schemas": "[]", "names": "[]"}
    return {**row, **nothing, **texts, "commit_kind": GAP}


def _changes(covered: Iterable[Row]) -> Iterator[Change]:
    for row in covered:
        if row["commit_kind"] == SEALED:
            yield from changes_of(row["changes"])
        elif row["time_min"] is not None and (row["commit_kind"] not in REARRANGING or row["rows"] < 0):
            yield Change(row["time_min"], row["time_max"], row["version"])


def _epochs(covered: Iterable[Row], reached: Mapping[str, int]) -> dict[str, int]:
    """The leader epochs of the positions that were reached."""
    found = {}
    for row in covered:
        epochs = json.loads(row["epochs"] or "{}")
        for partition, position in _positions(row).items() if epochs else ():
            if partition in epochs and reached[partition] == position:
                found[partition] = epochs[partition]
    return found


def _fills(plain: Iterable[Row], before: Mapping[str, Any] | None) -> list[list[int]]:
    """Stretches of time with rows of history, by rising time: first, last, rows."""
    known = [] if before is None else before["fills"]
    new = [
        [row["time_min"], row["time_max"], row["rows"]]
        for row in plain
        if row["commit_kind"] == "fill" and row["time_min"] is not None
    ]
    found: list[list[int]] = []
    for first, last, rows in sorted([*known, *new]):
        if found and first - found[-1][1] <= _APART_US:
            found[-1] = [found[-1][0], max(last, found[-1][1]), found[-1][2] + rows]
        else:
            found.append([first, last, rows])
    return found


def _sum(before: Mapping[str, Any] | None, name: str) -> int:
    return 0 if before is None else int(before[name])


def _ages(plain: Iterable[Row], before: Mapping[str, Any] | None) -> list[int]:
    """How old the records of drains were at their commits."""
    drains = [row for row in plain if row["commit_kind"] == "drain" and row["rows"] > 0 and row["time_min"] is not None]
    new = Ages.of(
        [(row["at"] - row["time_max"]) / 1e6 for row in drains],
        [(row["at"] - row["time_min"]) / 1e6 for row in drains],
        [row["rows"] for row in drains],
    )
    return packed_ages(new, () if before is None else before.get("ages", ()))


def _last_of_kafka(plain: Iterable[Row], before: Mapping[str, Any] | None) -> int | None:
    times = [row["time_max"] for row in plain if row["commit_kind"] not in NO_RECORDS]
    times.append(None if before is None else before["last_us"])
    return max((time for time in times if time is not None), default=None)


def version_ranges(versions: Collection[int]) -> list[list[int]]:
    """Versions as stretches without a hole, first and last."""
    found: list[list[int]] = []
    for version in sorted(versions):
        if found and version == found[-1][1] + 1:
            found[-1][1] = version
        else:
            found.append([version, version])
    return found


def _stem(path: str) -> str:
    return f"{slice_of_path(path)}-{hash_of_path(path)}"


def as_rows(table: pa.Table) -> list[Row]:
    """Rows of the ledger, their times as integers."""
    for n, column in enumerate(table.schema):
        if pa.types.is_timestamp(column.type):
            table = table.set_column(n, column.name, table[column.name].cast(pa.int64()))
    rows: list[Row] = table.to_pylist()
    return rows
