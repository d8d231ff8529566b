"""Examination: tiers that are as they should be pass, and whatever is changed behind their back is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.files import write_data_file
from efd_pipelines.archive.slices import Slice, SliceUnit
from efd_pipelines.archive.tables import commit
from efd_pipelines.tiers.build import build_tier
from efd_pipelines.tiers.examination import Examination, examine
from efd_pipelines.tiers.tier import TIERS
from efd_pipelines_tests.unit.tiers.builders import FAST, HOUR_US, MONDAY_US, an_archive, archive_rows, rows


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    built = an_archive(str(tmp_path))
    times = MONDAY_US + np.arange(0, HOUR_US, 400_000)
    force = np.random.default_rng(6).normal(size=len(times)).astype(np.float32)
    force[::7] = np.nan
    archive_rows(
        built, FAST, rows(times, {"force": pa.array(force)}, sal_index=(np.arange(len(times)) % 2 + 1).tolist())
    )
    for tier in TIERS.values():
        build_tier(built, tier)
    return built


def examined(archive: Archive) -> Examination:
    return examine(archive, MONDAY_US, MONDAY_US + HOUR_US)


def test_tiers_as_they_were_built_raise_no_doubts(archive: Archive) -> None:
    found = examined(archive)
    assert found.doubts == []
    assert (found.tables, found.windows) == (3, 2 * (3600 + 60 + 1))


def replace(archive: Archive, change: Callable[[pa.Table], pa.Table]) -> None:
    """Puts another file in the place of the first hour's."""
    snapshot = archive.snapshot(FAST, "1s")
    part = Slice(MONDAY_US, SliceUnit.HOUR)
    table = change(archive.read(FAST, tier="1s"))
    file = write_data_file(archive.store, snapshot.relative, part.week.key, part.key, table)
    commit(
        archive.store,
        snapshot.relative,
        snapshot,
        add=[file],
        remove=snapshot.files(),
        transactions={},
        schema=table.schema,
    )


def with_value(table: pa.Table, name: str, value: float) -> pa.Table:
    """The table with another value in its 100th row."""
    values = table[name].to_numpy().copy()
    values[100] = value
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda table: pa.concat_tables([table.slice(0, 100), table.slice(101)]), {"coverage", "consistency"}),
        (lambda table: with_value(table, "count", 99), {"counts", "consistency"}),
        (lambda table: with_value(table, "mean_force", 1e6), {"order"}),
        (lambda table: with_value(table, "max_force", 1e6), {"consistency"}),
    ],
)
def test_what_was_changed_is_found(archive: Archive, change: Callable[[pa.Table], pa.Table], kinds: set[str]) -> None:
    replace(archive, change)
    assert {doubt.kind for doubt in examined(archive).doubts} == kinds


def test_what_is_stale_is_not_wrong(archive: Archive) -> None:
    late = rows([MONDAY_US + 7], {"force": pa.array([0.0], pa.float32())}, sal_index=[1], first_offset=90_000)
    archive_rows(archive, FAST, late)
    found = examined(archive)
    assert (found.doubts, found.tables) == ([], 0)
