"""Whoever restores may be killed at any moment: repeated, every record is there once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.restoring.lines import MANIFEST, LinesTarget
from efd_pipelines.restoring.restore import RestoreResult, planned, restore
from efd_pipelines.times import Week
from efd_pipelines_tests.unit.tiers.builders import FAST, HOUR_US, MONDAY_US, an_archive, archive_rows, rows

WEEK = Week.parse("2023-11-20")
HOURS, PER_HOUR = 3, 40


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Three slices, each a portion of its own."""
    made = an_archive(str(tmp_path_factory.mktemp("restoring")))
    times = MONDAY_US + np.arange(HOURS * PER_HOUR) * (HOUR_US // PER_HOUR)
    archive_rows(made, FAST, rows(times, {"force": np.arange(len(times), dtype=np.float32)}))
    return made


def restored(archive: Archive, out: Path) -> RestoreResult:
    target = LinesTarget(out, "efd")
    return restore(planned(archive, FAST.component, [WEEK], target), target)


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.lp.gz"))}


@pytest.mark.parametrize(("moment", "before"), [("writing", 1), ("written", 1)])
def test_a_restore_that_was_killed_goes_on_and_gives_each_record_once(
    archive: Archive, tmp_path: Path, moment: str, before: int
) -> None:
    killed = tmp_path / "killed"
    arguments = [archive.settings.archive, str(killed), WEEK.key, FAST.component, moment]
    command = [sys.executable, "-m", "efd_pipelines_tests.unit.restoring.killed", *arguments]
    died = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[3])
    assert died.returncode == -signal.SIGKILL, died.stderr
    result = restored(archive, killed)
    assert (result.before, result.rows, result.ok) == (before * PER_HOUR, (HOURS - before) * PER_HOUR, True)
    whole = restored(archive, tmp_path / "whole")
    assert (whole.before, whole.rows, whole.ok) == (0, HOURS * PER_HOUR, True)
    assert files(killed) == files(tmp_path / "whole")
    assert (killed / MANIFEST).read_text() == (tmp_path / "whole" / MANIFEST).read_text()
