"""What a report takes: of a week of all topics, and of years of them. `make scale` takes ten years, others eight weeks.

Seconds are the processor's, imports and all: a busy machine must not fail it. Memory is a process's peak.
"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.settings import load_settings
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.storage.years import measured, records_of, write_years

WEEKS, DRAINS = (522, 168) if os.environ.get("EFD_TEST_SCALE") else (8, 2)
FIRST = Week.parse("2021-09-13")


@pytest.mark.timeout(1800)
def test_a_week_of_all_topics_takes_seconds_and_years_little_memory(shared: Path, tmp_path: Path) -> None:
    archive = Archive(load_settings({}, None, archive=str(tmp_path / "archive")))
    with gzip.open(shared / "sal" / "topics.json.gz", "rt") as file:
        datasets = [Dataset.parse(name) for name in json.load(file)]
    weeks = [FIRST]
    while len(weeks) < WEEKS:
        weeks.append(weeks[-1].next())
    write_years(archive, datasets, weeks, DRAINS)
    for name, how, of in (
        ("a week", {"week": weeks[-1]}, weeks[-1:]),
        ("all weeks", {"start": weeks[0], "end": weeks[-1].next()}, weeks),
    ):
        found = measured(archive, how)
        print(f"{name} of {WEEKS}: {found['cpu_s']:.1f} s CPU, {found['wall_s']:.1f} s, {found['peak_mib']:.0f} MiB")
        assert found["topics"] == len(datasets) == 3348
        expected = sum(records_of(k, n) for n in range(WEEKS - len(of), WEEKS) for k in range(len(datasets)))
        assert found["messages"] == found["rows"] == expected
        assert found["missing"] == []
        assert found["cpu_s"] < (10 if len(of) == 1 else 30)
        assert found["peak_mib"] < 500
