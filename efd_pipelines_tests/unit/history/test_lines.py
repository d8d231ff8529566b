"""Files of line protocol: points are put together again, in little memory, whatever the order of the lines."""

from __future__ import annotations

import gzip
import itertools
import random
from pathlib import Path

import pytest

from efd_pipelines.errors import UsageError
from efd_pipelines.history import lines as lines_module
from efd_pipelines.history.intervals import Interval
from efd_pipelines.history.lines import BadLines, LineHistory
from efd_pipelines.topics.names import Dataset

AZIMUTH, ELEVATION = Dataset("lsst.sal.MTMount.azimuth"), Dataset("lsst.sal.MTMount.elevation")
OTHER = Dataset("lsst.sal.ESS.temperature")
START_US = 1_700_438_400_000_000
EVER = Interval(START_US, START_US + 7 * 86_400_000_000)


def export(path: Path, points: int = 50, *, shuffled: bool = False) -> Path:
    """Field by field, as an export goes."""
    lines = [
        f"{dataset} {field}={value} {(START_US + n * 60_000_000) * 1000}\n"
        for dataset in (AZIMUTH, ELEVATION, OTHER)
        for field, value in (("f", "0.5"), ("i", "7i"), ("s", '"two\nlines"'), ("b", "true"))
        for n in range(points)
    ]
    if shuffled:
        random.Random(1).shuffle(lines)
    text = "# DDL\nCREATE DATABASE efd WITH NAME autogen\n" + "".join(lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def rows(history: LineHistory, dataset: Dataset, interval: Interval = EVER) -> list[dict[str, object]]:
    with history:
        return [row for piece in history.pieces(dataset, interval) for row in piece.points.to_pylist()]


@pytest.mark.parametrize("name", ["export.lp", "export.lp.gz"])
def test_points_come_back_whole_and_in_order(tmp_path: Path, name: str) -> None:
    found = rows(LineHistory(export(tmp_path / name)), AZIMUTH)
    assert [int(row["time"].timestamp() * 1e6) for row in found] == [START_US + n * 60_000_000 for n in range(50)]  # type: ignore[attr-defined]
    assert all({**row, "time": 0} == {"time": 0, "f": 0.5, "i": 7, "s": "two\nlines", "b": True} for row in found)


def test_the_order_of_lines_and_the_size_of_blocks_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows(LineHistory(export(tmp_path / "a.lp")), ELEVATION)
    monkeypatch.setattr(lines_module, "_BLOCK_BYTES", 97)
    monkeypatch.setattr(lines_module, "_SPILL_ROWS", 11)
    monkeypatch.setattr(lines_module, "_VALUES_OF_A_PIECE", 7)
    assert rows(LineHistory(export(tmp_path / "b.lp", shuffled=True)), ELEVATION) == expected


def test_pieces_cover_the_interval_without_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "_VALUES_OF_A_PIECE", 7)
    with LineHistory(export(tmp_path / "a.lp")) as history:
        for dataset in (AZIMUTH, Dataset("lsst.sal.MTMount.none")):
            pieces = [piece.interval for piece in history.pieces(dataset, EVER)]
            assert pieces[0].start_us == EVER.start_us
            assert pieces[-1].end_us == EVER.end_us
            assert all(one.end_us == other.start_us for one, other in itertools.pairwise(pieces))


def test_only_what_will_be_asked_for_is_kept(tmp_path: Path) -> None:
    limits = Interval(START_US, START_US + 10 * 60_000_000)
    with LineHistory(export(tmp_path / "a.lp"), component="MTMount", limits=limits) as history:
        assert history.datasets() == {AZIMUTH, ELEVATION}
        assert history.about(AZIMUTH, [EVER]) == 40


def test_a_directory_is_read_whole_and_a_point_that_stands_twice_is_one(tmp_path: Path) -> None:
    export(tmp_path / "a.lp", 10)
    export(tmp_path / "b.lp.gz", 12)
    assert len(rows(LineHistory(tmp_path), AZIMUTH)) == 12


def test_tags_are_columns(tmp_path: Path) -> None:
    file = tmp_path / "a.lp"
    file.write_text(
        f"lsst.MTCamera.x,Raft=R22,Reb=a\\ b f=1 {START_US * 1000}\nlsst.MTCamera.x,Raft=R10 f=2 {START_US * 1000}\n"
    )
    found = rows(LineHistory(file), Dataset("lsst.MTCamera.x"))
    assert [(row["Raft"], row["Reb"], row["f"]) for row in found] == [("R10", None, 2.0), ("R22", "a b", 1.0)]


def test_the_source_is_named_by_the_file(tmp_path: Path) -> None:
    assert LineHistory(export(tmp_path / "2023-11.lp")).name == "file:2023-11.lp"


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    file = export(tmp_path / "a.lp.gz")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(BadLines, match="cannot be read to its end"):
        rows(LineHistory(file), AZIMUTH)


def test_no_file_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file of line protocol"):
        LineHistory(tmp_path)
