"""Sequences: what the writers' own numbers say is missing.

A writer of SAL numbers the records of a topic 1, 2, 3 … (`private_seqNum`, efd-facts §1.3), for itself and each
salIndex, starts again at 1 when its process starts again, and after 2³¹−1. A number that nobody archived was lost
before Kafka (`acks=1`), compacted away, aborted, or is a record that the archive should have: holes are evidence, not
proof, and belong in the certificate and among the audit's notes.
What belongs here: finding holes in rows. What is said about them: `audit.py`, `certificates.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.topics.names import Dataset, Kind

COLUMNS = ("time", "salIndex", "private_origin", "private_identity", "private_seqNum")
"""What `sequence_holes` looks at; `time` and `private_seqNum` must be there."""

LAST_NUMBER = 2**31 - 1
_WRAP_MARGIN = 1_000_000
_MEMORY_US = 60_000_000
"""How far a clock may step, or two processes of one name overlap: numbers this close together are one story."""
MAX_HOLES = 10_000
"""A writer with more of them does not count, whatever it writes into the field: it is not followed further."""

Writer = tuple[int | None, int | None, str | None]
"""salIndex, private_origin (the process), private_identity."""


@dataclass(frozen=True, slots=True, order=True)
class Hole:
    """Numbers of one writer that no row has: `first` to before `end`, between two times in UTC microseconds."""

    sal_index: int | None
    origin: int | None
    identity: str | None
    first: int
    end: int
    after_us: int
    before_us: int

    @property
    def count(self) -> int:
        return self.end - self.first


def has_sequence(dataset: Dataset) -> bool:
    """Whether its writers count: an acknowledgement carries the number of the command that it answers."""
    return dataset.is_sal and dataset.kind is not Kind.ACK


def sequence_holes(rows: pa.Table) -> list[Hole]:
    """The holes in the numbers of each (private_origin, private_identity) and salIndex, sorted.

    What comes before a writer's first row is not known and no hole. Records that were delivered twice count once.
    """
    sequences = Sequences()
    sequences.add(rows)
    return sequences.holes()


@dataclass(slots=True)
class _Life:
    """A process of a writer, as far as its numbers have been followed."""

    top: int
    since_us: int
    last_us: int
    holes: list[Hole] = field(default_factory=list)


class Sequences:
    """Follows writers through rows that come slice by slice: no row of one `add` may be older than all of the last."""

    def __init__(self) -> None:
        self._lives: dict[Writer, list[_Life]] = {}
        self._closed: list[Hole] = []
        self._found: Counter[Writer] = Counter()

    def holes(self) -> list[Hole]:
        """All that were found so far, sorted."""
        open_ones = [hole for lives in self._lives.values() for life in lives for hole in life.holes]
        return sorted([*self._closed, *open_ones], key=_order)

    def add(self, rows: pa.Table) -> None:
        """Takes the rows' numbers; rows without a number or a time count for nothing."""
        if not {"time", "private_seqNum"} <= set(rows.column_names):
            return
        rows = rows.select([name for name in COLUMNS if name in rows.column_names])
        usable = pc.and_(pc.is_valid(rows["time"]), pc.greater(rows["private_seqNum"], 0))
        rows = rows.filter(usable)
        if rows.num_rows:
            codes, writers = _writers(rows)
            for code, first, last, begins_us, ends_us in _runs(rows, codes):
                self._follow(writers[code], first, last, begins_us, ends_us)

    def _follow(self, writer: Writer, first: int, last: int, begins_us: int, ends_us: int) -> None:
        """Takes numbers `first` to `last`, each one more than the one before."""
        if self._found[writer] > MAX_HOLES:
            return
        lives = self._lives.setdefault(writer, [])
        self._retire(lives, begins_us)
        if not lives:
            lives.append(_Life(last, begins_us, ends_us))
            return
        if any(_fill(life, first, last, begins_us) for life in lives):
            self._found[writer] += 1
            return
        life = _continued(lives, first)
        if life is None:
            life = _Life(0, begins_us, lives[-1].last_us)
            lives.append(life)
        self._jump(writer, life, first, begins_us)
        life.top, life.last_us = last, max(life.last_us, ends_us)

    def _jump(self, writer: Writer, life: _Life, first: int, begins_us: int) -> None:
        missed = [(life.top + 1, first)]
        if first <= life.top:  # over the last number
            missed = [(life.top + 1, LAST_NUMBER + 1), (1, first)]
        new = [Hole(*writer, begins, end, life.last_us, begins_us) for begins, end in missed if end > begins]
        life.holes += new
        self._found[writer] += len(new)

    def _retire(self, lives: list[_Life], now_us: int) -> None:
        """Lets go of the processes that others have followed, and of holes that nothing will fill any more."""
        newest = lives[-1].since_us if lives else now_us
        for life in [life for life in lives[:-1] if life.last_us < min(newest, now_us) - _MEMORY_US]:
            self._closed += life.holes
            lives.remove(life)
        for life in lives:
            old = [hole for hole in life.holes if hole.before_us < now_us - _MEMORY_US]
            self._closed += old
            life.holes = [hole for hole in life.holes if hole.before_us >= now_us - _MEMORY_US]


def _order(hole: Hole) -> tuple[Any, ...]:
    return hole.sal_index or 0, hole.origin or 0, hole.identity or "", hole.after_us, hole.first


def _fill(life: _Life, first: int, last: int, begins_us: int) -> bool:
    """Whether the numbers were missed a moment ago: a clock that steps back brings them later."""
    for n, hole in enumerate(life.holes):
        if hole.first <= first and last < hole.end and hole.before_us >= begins_us - _MEMORY_US:
            writer = (hole.sal_index, hole.origin, hole.identity)
            parts = [
                Hole(*writer, begins, ends, hole.after_us, hole.before_us)
                for begins, ends in ((hole.first, first), (last + 1, hole.end))
                if ends > begins
            ]
            life.holes[n : n + 1] = parts
            return True
    return False


def _continued(lives: list[_Life], first: int) -> _Life | None:
    """The process that goes on with this number: with the next one, else after a hole; None where one starts anew."""
    for life in reversed(lives):
        if life.top + 1 == first or (life.top == LAST_NUMBER and first == 1):
            return life
    before = [life for life in lives if life.top < first]
    if before:
        return max(before, key=lambda life: life.top)
    newest = lives[-1]
    if newest.top > LAST_NUMBER - _WRAP_MARGIN and first <= _WRAP_MARGIN:
        return newest
    return None


def _writers(rows: pa.Table) -> tuple[NDArray[np.int64], list[Writer]]:
    """The code of each row's writer, and the writers by code."""
    count = rows.num_rows
    codes = np.zeros(count, np.int64)
    names: list[list[Any]] = []
    for name in ("salIndex", "private_origin", "private_identity"):
        if name not in rows.column_names:
            names.append([None])
            continue
        column = rows[name].combine_chunks().dictionary_encode(null_encoding="encode")
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        names.append(column.dictionary.to_pylist())
        codes = codes * len(names[-1]) + column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    there, inverse = np.unique(codes, return_inverse=True)
    writers: list[Writer] = []
    for code in there.tolist():
        rest, identity = divmod(code, len(names[2]))
        index, origin = divmod(rest, len(names[1]))
        writers.append((names[0][index], names[1][origin], names[2][identity]))
    return inverse.astype(np.int64), writers


def _runs(rows: pa.Table, codes: NDArray[np.int64]) -> Iterator[tuple[int, int, int, int, int]]:
    """Stretches of numbers without a jump: writer's code, first and last number, first and last time."""
    times = rows["time"].cast(pa.int64()).to_numpy()
    numbers = rows["private_seqNum"].cast(pa.int64()).to_numpy()
    order = np.lexsort((numbers, times, codes))
    codes, times, numbers = codes[order], times[order], numbers[order]
    # A step of 0 is a record that was delivered twice, or a writer that does not count.
    steps = np.diff(numbers)
    breaks = np.flatnonzero((np.diff(codes) != 0) | ((steps != 1) & (steps != 0))) + 1
    starts = np.concatenate(([0], breaks))
    ends = np.concatenate((breaks, [len(numbers)])) - 1
    yield from zip(
        codes[starts].tolist(),
        numbers[starts].tolist(),
        numbers[ends].tolist(),
        times[starts].tolist(),
        times[ends].tolist(),
        strict=True,
    )
