"""Who still has what a gap lacks: files of line protocol are asked like the servers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from efd_pipelines.archive.archive import Archive
from efd_pipelines.history.holders import holders
from efd_pipelines.times import microseconds

START = datetime(2023, 11, 20, 3, tzinfo=UTC)
AZIMUTH = "lsst.sal.MTMount.azimuth"


def a_gap(topic: str, first_s: float | None, end_s: float | None) -> dict[str, Any]:
    times = [None if at is None else START + timedelta(seconds=at) for at in (first_s, end_s)]
    return {
        "topic": topic,
        "source": "cluster/topic",
        "partition": 0,
        "first": 0,
        "end": 5,
        "from": times[0],
        "to": times[1],
    }


def test_files_say_how_many_points_they_have_of_a_gap(archive: Archive, tmp_path: Path) -> None:
    file = tmp_path / "export.lp"
    times = [1000 * (microseconds(START) + n * 1_000_000) for n in range(60)]
    lines = [f"{AZIMUTH} {field}={n}.5 {at}\n" for field in ("position", "velocity") for n, at in enumerate(times)]
    file.write_text("".join(lines))
    settings = archive.settings.model_copy(update={"history_lines": file})
    gaps = [a_gap(AZIMUTH, 10, 20), a_gap("lsst.sal.ESS.temperature", 10, 20), a_gap(AZIMUTH, None, None)]
    found = holders(settings, gaps)
    assert [gap["in_files"] for gap in found.gaps] == [10, 0, None]
    assert [gap["in_history"] for gap in found.gaps] == [None, None, None]
    assert found.warnings == []


def test_files_that_cannot_be_read_are_a_warning(archive: Archive, tmp_path: Path) -> None:
    settings = archive.settings.model_copy(update={"history_lines": tmp_path / "nothing"})
    found = holders(settings, [a_gap(AZIMUTH, 0, 1)])
    assert found.gaps[0]["in_files"] is None
    assert len(found.warnings) == 1
