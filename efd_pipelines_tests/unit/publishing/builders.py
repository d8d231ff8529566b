"""What tests of publishing are made of: an archive with fast and slow telemetry and events, and policies that keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from efd_pipelines.archive.archive import Archive
from efd_pipelines.configuration import load_configuration
from efd_pipelines.settings import load_settings
from efd_pipelines_tests.unit.tiers.builders import EVENT, FAST, HOUR_US, MONDAY_US, SECOND_US, SLOW, archive_rows, rows

__all__ = [
    "EVENT",
    "FAST",
    "HOUR_US",
    "MONDAY_US",
    "SECOND_US",
    "SLOW",
    "archive_rows",
    "fast_rows",
    "policy",
    "rows",
    "site",
]

_POLICY = """
publishing:
  influx_1s: {{kinds: [telemetry], database: "{0}_{{subsystem}}_{{year}}", retention_days: {1}}}
  influx_1m: {{kinds: [telemetry], database: "{0}_1m_{{subsystem}}_{{year}}", retention_days: {1}}}
  influx_events: {{kinds: [event], database: "{0}_events_{{subsystem}}_{{year}}", retention_days: {1}}}
"""


def policy(directory: Path, unique: str, retention_days: str = "null") -> Path:
    """A configuration that publishes into databases whose names begin with `unique`."""
    path = directory / "efd.yaml"
    path.write_text(_POLICY.format(unique, retention_days))
    return path


def site(directory: Path, url: str, unique: str, retention_days: str = "null", **settings: Any) -> Archive:
    """An archive that publishes to a server, into databases whose names begin with `unique`."""
    configuration = load_configuration(policy(directory, unique, retention_days))
    environ = {"EFD_INFLUX_URL": url}
    found = load_settings(environ, None, archive=str(directory / "archive"), configuration=configuration, **settings)
    return Archive(found)


def fast_rows(start_us: int, seconds: float, *, seed: int = 1, first_offset: int = 0, hz: int = 10) -> pa.Table:
    """Samples of two devices with floats, integers and a text; some of them NaN."""
    random = np.random.default_rng(seed)
    count = int(seconds * hz)
    times = start_us + np.arange(count) * (SECOND_US // hz)
    force = random.normal(size=count).astype(np.float32)
    force[random.random(count) < 0.05] = np.nan
    columns = {
        "force": pa.array(force),
        "position": pa.array(random.normal(size=count)),
        "step": pa.array(random.integers(0, 2**40, count)),
        "mode": pa.array([f'mode "{n % 3}"' for n in range(count)]),
    }
    return rows(times, columns, sal_index=(np.arange(count) % 2 + 1).tolist(), first_offset=first_offset)
