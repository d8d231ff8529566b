"""A tier as tests build it, and what they look at afterwards: its files, and what each was computed from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.files import DataFile
from efd_pipelines.tiers.build import TierResult, build_tier
from efd_pipelines.tiers.tier import TIERS
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.tiers.builders import FAST, rows

ONE_SECOND = TIERS["1s"]
OTHER = Dataset("lsst.sal.MTMount.azimuth")


def ramp(start_us: int, count: int, *, first_offset: int = 0, step_us: int = 20_000) -> pa.Table:
    """Rows of 50 Hz whose force rises."""
    force = pa.array(np.arange(first_offset, first_offset + count, dtype=np.float32))
    return rows(start_us + np.arange(count) * step_us, {"force": force}, first_offset=first_offset)


def built(archive: Archive, **arguments: Any) -> TierResult:
    return build_tier(archive, ONE_SECOND, **arguments)


def files(archive: Archive, dataset: Dataset = FAST) -> dict[str, DataFile]:
    return {file.slice: file for file in archive.snapshot(dataset, "1s").files()}


def computed_from(archive: Archive, key: str) -> int | None:
    return archive.snapshot(FAST, "1s").transaction_version(f"from:{key}")
