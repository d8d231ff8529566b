"""Stretches: what of a topic is read for windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from efd_pipelines.archive import files
from efd_pipelines.exposures.stretches import Stretches
from efd_pipelines.times import microseconds
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.exposures.builders import AZIMUTH, NIGHT, Observatory, a_column, table_of, times

START_US = microseconds(NIGHT)


@pytest.fixture
def observatory(observatory_with: Callable[..., Observatory], monkeypatch: pytest.MonkeyPatch) -> Observatory:
    """An hour at 1 Hz in row groups of ten minutes."""
    monkeypatch.setattr(files, "row_group_rows", lambda *_: 600)
    built = observatory_with(a_column())
    fields: dict[str, Any] = {"actualPosition": np.arange(3600.0), "item": np.ones((3600, 3))}
    built.archives(AZIMUTH, table_of(times(NIGHT, 3600, 1.0), fields))
    return built


def read_groups(
    observatory: Observatory, monkeypatch: pytest.MonkeyPatch, *windows: tuple[int, int]
) -> tuple[list[int], Any]:
    taken: list[int] = []
    whole = pq.ParquetFile.read_row_groups

    def counted(self: pq.ParquetFile, groups: list[int], **options: Any) -> Any:
        taken.extend(groups)
        return whole(self, groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", counted)
    begin, end = (START_US + np.array(edge) * 1_000_000 for edge in zip(*windows, strict=True))
    snapshot = observatory.archive.snapshot(Dataset.parse(AZIMUTH))
    stretch = Stretches.of(snapshot, ["actualPosition"], int(begin.min()), int(end.max()))
    return taken, stretch.read(begin, end)


def test_only_row_groups_that_a_window_touches_are_read(
    observatory: Observatory, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, table = read_groups(observatory, monkeypatch, (10, 40), (2395, 2405), (2600, 2610))
    assert groups == [0, 3, 4]
    assert {10.0, 40.0, 2395.0, 2405.0, 2600.0} <= set(table["actualPosition"].to_pylist())


def test_a_long_window_covers_those_that_begin_within_it(
    observatory: Observatory, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, _ = read_groups(observatory, monkeypatch, (10, 1900), (20, 40), (3500, 3510))
    assert groups == [0, 1, 2, 3, 5]


def test_only_the_columns_asked_for_and_the_identity_are_read(
    observatory: Observatory, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, table = read_groups(observatory, monkeypatch, (10, 40))
    private = ["private_sndStamp", "private_seqNum", "private_origin"]
    assert table.column_names == ["time", "actualPosition", *private]
