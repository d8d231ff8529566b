"""What an export will be, told before it is begun; and in which pieces it is done."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.errors import StoreFull
from efd_pipelines.exports import export, pieces
from efd_pipelines.exports.directory import Directory
from efd_pipelines.exports.estimate import TooLarge
from efd_pipelines.exports.export import foresee
from efd_pipelines.exports.pieces import cut
from efd_pipelines.exports.ranges import Ranges
from efd_pipelines.exports.request import Request
from efd_pipelines.exports.selection import select
from efd_pipelines.history.intervals import Interval, united
from efd_pipelines_tests.unit.exports.builders import FORCES, PRIVATE, ArchiveBuilder, at, column, messages, seconds

WIDE = [*PRIVATE, *(column(f"force{n}", pa.float32(), "N") for n in range(40))]


def noisy(first: float, end: float, step: float) -> pa.Table:
    rows = messages(seconds(first, end, step), columns=WIDE, first_seq=round(first / step))
    rng = np.random.default_rng(1)
    for n in range(40):
        place = rows.schema.get_field_index(f"force{n}")
        values = pa.array(rng.standard_normal(rows.num_rows).astype(np.float32))
        rows = rows.set_column(place, rows.schema.field(place), values)
    return rows


def test_an_estimate_is_near_what_comes_out(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(FORCES, noisy(0, 4 * 3600, 0.5), unit=SliceUnit.HOUR)
    request = Request.of(FORCES, at(1800), at(3 * 3600 + 600), ["force1*"], "raw")
    expected = foresee(builder.archive, request)
    made = export(builder.archive, FORCES, at(1800), at(3 * 3600 + 600), ["force1*"], out=str(tmp_path / "out"))
    assert expected.rows == pytest.approx(made.rows, rel=0.01)
    assert expected.bytes == pytest.approx(made.bytes, rel=0.3)
    assert expected.files == made.files
    assert expected.seconds > 0


def test_an_export_above_its_limit_is_refused_before_anything_is_written(
    builder: ArchiveBuilder, tmp_path: Path
) -> None:
    builder.add(FORCES, noisy(0, 600, 0.5))
    with pytest.raises(TooLarge, match=r"more than the limit of 0.0 GB.*--limit"):
        export(builder.archive, FORCES, at(0), at(600), out=str(tmp_path / "out"), limit_bytes=10_000)
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]
    assert export(builder.archive, FORCES, at(0), at(600), out=str(tmp_path / "out"), limit_bytes=None).made


def test_an_export_that_does_not_fit_is_refused_before_anything_is_written(
    builder: ArchiveBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.add(FORCES, noisy(0, 600, 0.5))
    monkeypatch.setattr(Directory, "free_bytes", lambda self: 1000)
    with pytest.raises(StoreFull, match="are free there"):
        export(builder.archive, FORCES, at(0), at(600), out=str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_pieces_have_each_row_once_and_are_large_enough(
    builder: ArchiveBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hour in range(6):
        builder.add(FORCES, noisy(3600 * hour, 3600 * hour + (3600 if hour != 4 else 36), 1), unit=SliceUnit.HOUR)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1_000_000)
    monkeypatch.setattr(pieces, "LEAST_BYTES", 100_000)
    (selection,) = select(builder.archive, Request.of(FORCES, at(0), at(5 * 3600 + 30), None, "raw"))
    found = cut(selection)
    assert [piece.number for piece in found] == [0, 1]
    assert sum(piece.rows for piece in found) == pytest.approx(4 * 3600 + 36 + 30, rel=0.01)
    assert all(before.ranges.end_us <= after.ranges.start_us for before, after in pairwise(found))
    assert all(piece.size_bytes >= 100_000 for piece in found)


def test_the_same_archive_gives_the_same_pieces_and_another_slice_changes_only_its_own(
    builder: ArchiveBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1_000_000)
    monkeypatch.setattr(pieces, "LEAST_BYTES", 100_000)
    for hour in range(4):
        builder.add(FORCES, noisy(3600 * hour, 3600 * hour + 3600, 0.5), unit=SliceUnit.HOUR)
    request = Request.of(FORCES, at(0), at(4 * 3600), None, "raw")

    def tokens() -> list[str]:
        return [piece.token for one in select(builder.archive, request) for piece in cut(one)]

    before = tokens()
    assert before == tokens()
    builder.add(FORCES, noisy(3 * 3600 + 100, 3 * 3600 + 101, 0.5), unit=SliceUnit.HOUR)
    assert tokens()[:3] == before[:3]
    assert tokens()[3] != before[3]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 30)), min_size=1, max_size=12),
    st.integers(0, 240),
    st.integers(1, 60),
)
def test_parts_of_ranges_are_what_lies_in_a_stretch(spans: list[tuple[int, int]], start: int, length: int) -> None:
    ranges = Ranges(tuple(united(Interval(begin, begin + of) for begin, of in spans)))
    inside = [time for time in range(start, start + length) if any(b <= time < b + of for b, of in spans)]
    part = [time for one in ranges.within(start, start + length) for time in range(one.start_us, one.end_us)]
    assert part == inside
    assert ranges.length_us(start, start + length) == len(inside)
    times = np.arange(start, start + length)
    assert times[ranges.contain(times)].tolist() == inside
    assert ranges.cover(start, start + length - 1) == (len(inside) == length)
