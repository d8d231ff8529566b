"""What tests of publishing are made of: an archive with fast and slow telemetry and events, and policies that keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.files import write_data_file
from efd_pipelines.archive.ledger import rows_of
from efd_pipelines.archive.slices import Slice, SliceUnit, slice_starts
from efd_pipelines.archive.tables import commit
from efd_pipelines.configuration import load_configuration
from efd_pipelines.settings import load_settings
from efd_pipelines.topics.names import Dataset
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


def tier_rows(archive: Archive, table: pa.Table, dataset: Dataset = FAST, tier: str = "1s") -> None:
    """Commits rows as those of a tier, a file for each hour, without the archive that they would be made of."""
    relative = archive.relative(dataset, tier)
    starts = slice_starts(table["time"].cast(pa.int64()).to_numpy(), SliceUnit.HOUR)
    parts = [
        (Slice(int(start), SliceUnit.HOUR), table.filter(pa.array(starts == start))) for start in np.unique(starts)
    ]
    files = [write_data_file(archive.store, relative, part.week.key, part.key, rows) for part, rows in parts]
    made = commit(
        archive.store,
        relative,
        None,
        add=files,
        transactions={},
        schema=table.schema,
        description={"slice": "hour", "arrays": "flat"},
        note={"kind": "tier", "run": "test"},
    )
    archive.ledger.append(rows_of(tier, dataset, made))
    raw = rows([table["time"].cast(pa.int64())[0].as_py()], {})
    archive_rows(archive, dataset, raw)
