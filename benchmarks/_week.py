"""A whole week of a dataset at 50 Hz, 30 million rows, summarised at all three windows by the command line.

By hand: `python -m benchmarks.tiers --week`. The records are made hour by hour and all lie in the archive before the
first tier is built. At forceActuatorData's 812 columns they take 90 GB of disk (`--directory`, `--columns`). Peak
memory is that of all processes at a time. Counts are compared with the records, and seconds with minutes and hours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks import Figures, note

_ROWS = 180_000
_STEP_US = 20_000
_TIERS = {"1s": 3600, "1m": 60, "1h": 1}
"""Windows of an hour."""


def measure(options: argparse.Namespace) -> Figures:
    from efd_pipelines.archive.audit import verify
    from efd_pipelines.tiers.examination import examine
    from efd_pipelines.topics.names import Dataset
    from efd_pipelines_tests.unit.tiers.builders import HOUR_US, MONDAY_US, an_archive, archive_rows, rows

    dataset = Dataset("lsst.sal.MTM1M3.forceActuatorData")
    figures: dict[str, float] = {"hours": options.week_hours, "columns": options.columns}
    with tempfile.TemporaryDirectory(prefix="efd-week-", dir=options.directory) as name:
        archive = an_archive(name)
        random = np.random.default_rng(5)
        noise = [random.normal(size=_ROWS).astype(np.float32) for _ in range(options.columns)]
        for hour in range(options.week_hours):
            columns = {f"force{n}": np.roll(values, hour) for n, values in enumerate(noise)}
            times = MONDAY_US + hour * HOUR_US + np.arange(_ROWS) * _STEP_US
            archive_rows(archive, dataset, rows(times, columns, first_offset=hour * _ROWS))
            note(f"{hour + 1} of {options.week_hours} hours are there")
        del noise
        figures["rows"] = options.week_hours * _ROWS
        for tier, windows in _TIERS.items():
            note(f"summarising at {tier}")
            seconds, peak_bytes, answer = _summarised(name, tier, options.processes)
            assert answer["windows"] == windows * options.week_hours, answer
            assert answer["rows"] == figures["rows"], answer
            figures |= {
                f"{tier}_peak_mib": peak_bytes / 2**20,
                f"{tier}_seconds": seconds,
                f"{tier}_mvalues_s": figures["rows"] * options.columns / 1e6 / seconds,
            }
        end_us = MONDAY_US + options.week_hours * HOUR_US
        found = examine(archive, end_us - 2 * HOUR_US, end_us, [dataset])
        assert found.windows, found
        assert not found.doubts, found.doubts
        assert verify(archive, datasets=[dataset]).rows == figures["rows"]
    return figures


def _summarised(root: str, tier: str, processes: int) -> tuple[float, int, dict[str, int]]:
    """Seconds, the most memory of all processes, and what the command says."""
    from efd_pipelines_tests.memory import peak_of_tree

    command = [sys.executable, "-m", "efd_pipelines.cli", "tiers", "run", "--tier", tier]
    command += ["--processes", str(processes), "--json"]
    environment = {**os.environ, "EFD_ARCHIVE": root}
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        peak_bytes = peak_of_tree(process)
        answer, _ = process.communicate()
    assert process.returncode == 0, answer
    return time.perf_counter() - started, peak_bytes, json.loads(answer)
