"""A new column of a join, over all exposures there are, beside the live join; on SQLite and on PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from efd_pipelines_tests.unit.exposures.builders import (
    AZIMUTH,
    NIGHT,
    Build,
    Observatory,
    a_column,
    a_configuration,
    an_exposure,
    azimuth,
)


@pytest.fixture(params=["sqlite", "postgres"])
def observatory_with(request: pytest.FixtureRequest, tmp_path: Path) -> Build:
    """An observatory whose join has these columns (YAML texts)."""
    url = request.getfixturevalue("database_url") if request.param == "postgres" else None

    def build(*columns: str) -> Observatory:
        return Observatory.at(tmp_path, url, config=a_configuration(tmp_path, columns))

    return build


def test_a_new_column_is_filled_for_old_exposures_while_the_live_join_goes_on(observatory_with: Build) -> None:
    count = 10_000
    observatory = observatory_with(a_column())
    length = count * 2 + 200
    observatory.archives(AZIMUTH, azimuth(length))
    observatory.exposes(*(an_exposure(NIGHT + timedelta(seconds=2 * n), 1.0, seq_num=n + 1) for n in range(count)))
    assert observatory.joins().exposures == count
    observatory.configures(a_column(), a_column("highest", "max"))
    with ThreadPoolExecutor(2) as pool:
        backfill = pool.submit(observatory.joins)
        live = []
        for n in range(3):
            observatory.exposes(an_exposure(NIGHT + timedelta(seconds=2 * count + 2 * n), 1.0, seq_num=count + n + 1))
            live.append(pool.submit(observatory.joins, start=NIGHT + timedelta(seconds=2 * count)).result().exposures)
        assert backfill.result().exposures >= count
    # The backfill may see a new exposure first: then the live join has nothing to do.
    assert all(one <= 1 for one in live)
    rows = observatory.rows()
    assert [row["highest"] for row in rows] == [2.0 * n + 1 for n in range(count + 3)]
    assert [row["value"] for row in rows] == [2.0 * n + 0.5 for n in range(count + 3)]
