"""Pieces: an export cut into pieces of work that can be done anywhere, in any order, and again.

A piece is a stretch of one dataset's time that holds some 128 MiB, at most a slice more; it reads its own files and
writes its own, whose names say where they belong. So a process that is killed loses the pieces that it was at, and
another machine can do them. Cuts lie between slices, where the log knows how many rows there are: no file gets
smaller than a reader wants it. Doing a piece: `work.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from efd_pipelines.archive.files import DataFile
from efd_pipelines.exports.ranges import Ranges
from efd_pipelines.exports.selection import Selection
from efd_pipelines.exports.shape import row_bytes
from efd_pipelines.exports.stream import high_us, low_us
from efd_pipelines.reading.scan import apart

PIECE_BYTES = 128 * 1024 * 1024
LEAST_BYTES = 20 * 1024 * 1024
"""Twice what a file must have: of a slice that is exported in part the rows are only estimated."""

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of a dataset's export; `rows` and `size_bytes` (in memory) are expected.

    `token` is of all that decides its rows and its files: the same token, the same bytes.
    """

    dataset: str
    number: int
    token: str
    files: tuple[DataFile, ...] = field(repr=False)
    ranges: Ranges = field(repr=False)
    rows: float
    size_bytes: float


@dataclass(slots=True)
class _Run:
    """Neighbouring groups of files that become a piece."""

    start_us: int
    rows: float = 0.0
    size_bytes: float = 0.0


def cut(selection: Selection, loose: Mapping[str, float] | None = None) -> list[Piece]:
    """The pieces of a selection, in the order of time; none where it has no files.

    `loose` has the bytes of texts and lists in a row, by column.
    """
    runs: list[_Run] = []
    per_row = row_bytes(selection.schema, loose)
    for files in apart(selection.files):
        rows = expected_rows(selection, files)
        begin = _snapped(min(low_us(file) for file in files), selection.source.window_us)
        if not runs or (runs[-1].size_bytes >= PIECE_BYTES and begin > runs[-1].start_us):
            runs.append(_Run(begin))
        runs[-1].rows += rows
        runs[-1].size_bytes += rows * per_row
    if not runs:
        return []
    if len(runs) > 1 and runs[-1].size_bytes < LEAST_BYTES:
        rest = runs.pop()
        runs[-1].rows += rest.rows
        runs[-1].size_bytes += rest.size_bytes
    ends = [run.start_us for run in runs[1:]] + [2**62]
    return [
        piece
        for number, (run, end) in enumerate(zip(runs, ends, strict=True))
        if (piece := _piece(selection, number, run, run.start_us if number else -(2**62), end)) is not None
    ]


def expected_rows(selection: Selection, files: Sequence[DataFile]) -> float:
    """About how many rows are written of some files; of windows, as many as there can be."""
    rows = 0.0
    for file in files:
        low, high = low_us(file), high_us(file)
        rows += file.rows * selection.ranges.length_us(low, high + 1) / (high + 1 - low)
    window_us = selection.source.window_us
    if window_us is None or not rows:
        return rows
    low, high = min(map(low_us, files)), max(map(high_us, files))
    return min(rows, selection.ranges.length_us(low, high + 1) / window_us + 1)


def _snapped(time_us: int, window_us: int | None) -> int:
    """A cut must not divide a window."""
    return time_us if window_us is None else time_us - time_us % window_us


def _piece(selection: Selection, number: int, run: _Run, start_us: int, end_us: int) -> Piece | None:
    if not selection.ranges.within(start_us, end_us):
        return None
    files = tuple(file for file in selection.files if low_us(file) < end_us and high_us(file) >= start_us)
    ranges = selection.ranges.part(start_us, end_us)
    spans = [(one.start_us, one.end_us) for one in ranges.intervals]
    named = [_FORMAT, selection.form_digest, number, spans, [file.path for file in files]]
    token = hashlib.sha256(json.dumps(named).encode()).hexdigest()[:8]
    return Piece(selection.dataset.text, number, token, files, ranges, run.rows, run.size_bytes)
