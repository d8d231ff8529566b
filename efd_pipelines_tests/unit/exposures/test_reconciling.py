"""Reconciling ConsDB with the archive."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from efd_pipelines.exposures.reconciling import Reconciliation, reconcile
from efd_pipelines_tests.unit.exposures.builders import (
    AZIMUTH,
    LATER,
    NIGHT,
    Observatory,
    a_column,
    an_exposure,
    azimuth,
    table_of,
    times,
)


@pytest.fixture
def observatory(observatory_with: Callable[..., Observatory]) -> Observatory:
    built = observatory_with(a_column(), a_column("spread", "stddev"), a_column("none", fields=["nowhere"]))
    built.archives(AZIMUTH, azimuth(300))
    built.exposes(*(an_exposure(NIGHT + timedelta(seconds=40 * n), seq_num=n + 1) for n in range(6)))
    return built


def reconciled(observatory: Observatory, **options: Any) -> Reconciliation:
    return reconcile(observatory.archive, observatory.settings, observatory.join, now=LATER, **options)


def change(observatory: Observatory, statement: str) -> None:
    engine = sa.create_engine(observatory.consdb_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def test_what_was_joined_agrees(observatory: Observatory) -> None:
    assert (reconciled(observatory).stale, reconciled(observatory).ok) == (6, False)
    observatory.joins()
    found = reconciled(observatory)
    assert (found.ok, found.exposures, found.compared, found.values) == (True, 6, 6, 12)
    assert reconciled(observatory, most=2, seed=1).compared == 2


def test_a_row_that_is_there_with_another_value_or_count_is_found(observatory: Observatory) -> None:
    observatory.joins()
    change(observatory, "UPDATE efd_lsstcam_exposure_efd SET spread = 5 WHERE seq_num = 2")
    change(observatory, "UPDATE efd_lsstcam_exposure_efd SET value = NULL WHERE seq_num = 3")
    change(observatory, "UPDATE efd_lsstcam_exposure_efd_provenance SET value = 30 WHERE seq_num = 4")
    found = reconciled(observatory)
    assert not found.ok
    assert [(one.exposure % 100, one.column) for one in found.differences] == [
        (2, "spread"),
        (3, "value"),
        (4, "value"),
    ]
    assert found.differences[0].stored == 5.0
    assert (found.differences[2].stored_samples, found.differences[2].computed_samples) == (30, 31)


def test_late_records_are_found_by_versions(observatory: Observatory) -> None:
    observatory.joins()
    late = table_of(times(NIGHT + timedelta(seconds=5.5), 1, 1.0), {"actualPosition": np.zeros(1)})
    observatory.archives(AZIMUTH, late)
    found = reconciled(observatory)
    assert (found.stale, found.compared, found.ok) == (1, 5, False)
