"""What is written of exposures and visits, and what of it is computed again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from efd_pipelines.exposures import sharing
from efd_pipelines.exposures.computing import compute
from efd_pipelines.exposures.plans import Plan
from efd_pipelines_tests.unit.exposures.builders import (
    AZIMUTH,
    NIGHT,
    TEMPERATURE,
    Build,
    Observatory,
    a_column,
    an_exposure,
    table_of,
    times,
)


def of_visits(text: str) -> str:
    return text.replace("[exposure_efd]", "[exposure_efd, visit1_efd]")


def a_vector(name: str, function: str = "mean") -> str:
    text = a_column(name, function, fields=["force"], store_unpivoted="True")
    return text.replace("[exposure_efd]", "[exposure_efd_unpivoted, visit1_efd_unpivoted]")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], int]]:
    """The columns that are computed, and for how many windows."""
    found: list[tuple[list[str], int]] = []

    def noted(plan: Plan, windows: Any, progress: Any = None) -> Any:
        found.append(([column.name for column in plan.columns], len(windows)))
        return compute(plan, windows, progress)

    monkeypatch.setattr(sharing, "compute", noted)
    return found


def archive_an_hour(observatory: Observatory) -> None:
    fields: dict[str, Any] = {
        "actualPosition": np.arange(3600.0),
        "force": np.outer(np.arange(3600.0), [1.0, np.nan, 2.0]),
    }
    observatory.archives(AZIMUTH, table_of(times(NIGHT, 3600, 1.0), fields))


def test_a_visit_has_the_values_of_its_exposure_and_is_computed_once(
    observatory_with: Build, computed: list[tuple[list[str], int]]
) -> None:
    observatory = observatory_with(of_visits(a_column()), a_column("spread", "stddev"), a_vector("forces"))
    archive_an_hour(observatory)
    observatory.exposes(*(an_exposure(NIGHT + timedelta(seconds=60 * n), seq_num=n + 1) for n in range(3)))
    result = observatory.joins()
    assert (result.exposures, result.visits) == (3, 3)
    assert computed == [(["value", "spread", "forces"], 3)]
    visits, exposures = observatory.rows("visit1_efd"), observatory.rows()
    assert [visit["visit_id"] for visit in visits] == [exposure["exposure_id"] for exposure in exposures]
    assert [visit["value"] for visit in visits] == [exposure["value"] for exposure in exposures] == [15.0, 75.0, 135.0]
    assert "spread" not in visits[0]
    for table in ("exposure_efd_unpivoted", "visit1_efd_unpivoted"):
        vectors = [(row["seq_num"], row["property"], row["field"], row["value"]) for row in observatory.rows(table)]
        assert vectors[:2] == [(1, "forces", "force0", 15.0), (1, "forces", "force2", 30.0)]
        assert len(vectors) == 6
    assert observatory.rows("visit1_efd_provenance")[0]["forces"] == 62
    assert (observatory.joins().exposures, observatory.joins().visits) == (0, 0)


def test_only_what_has_changed_is_computed_again(
    observatory_with: Build, computed: list[tuple[list[str], int]]
) -> None:
    heat = a_column("heat", topic=TEMPERATURE)
    observatory = observatory_with(a_column(), heat)
    archive_an_hour(observatory)
    observatory.archives(TEMPERATURE, table_of(times(NIGHT, 60, 1.0), {"actualPosition": np.ones(60)}))
    observatory.exposes(*(an_exposure(NIGHT + timedelta(seconds=60 * n), seq_num=n + 1) for n in range(3)))
    observatory.joins()
    observatory.archives(
        TEMPERATURE, table_of(times(NIGHT + timedelta(seconds=65), 5, 1.0), {"actualPosition": np.ones(5)})
    )
    observatory.joins()
    observatory.configures(a_column(), heat, a_column("highest", "max"))
    observatory.joins()
    observatory.configures(a_column(function="min"), heat, a_column("highest", "max"))
    observatory.joins()
    assert computed == [(["value", "heat"], 3), (["heat"], 1), (["highest"], 3), (["value"], 3)]
    assert [(row["value"], row["heat"], row["highest"]) for row in observatory.rows()] == [
        (0.0, 1.0, 30.0),
        (60.0, 1.0, 90.0),
        (120.0, None, 150.0),
    ]
    assert observatory.joins().exposures == 0


def test_a_null_overwrites_where_it_is_asked_to(observatory_with: Build) -> None:
    observatory = observatory_with(a_column(), a_vector("forces"))
    archive_an_hour(observatory)
    observatory.exposes(an_exposure(NIGHT))
    observatory.joins()
    gone: dict[str, Any] = {"subset_field": "private_origin", "subset_value": 8}
    vector = a_vector("forces").replace("  topics:", "  subset_field: private_origin\n  subset_value: 8\n  topics:")
    observatory.configures(a_column(**gone), vector)
    assert observatory.joins().nulls == 2
    assert observatory.value() == 15.0
    observatory.joins(recompute=True, nulls_overwrite=True)
    assert observatory.value() is None
    assert observatory.rows("exposure_efd_provenance")[0]["value"] is None
    assert {row["value"] for row in observatory.rows("exposure_efd_unpivoted")} == {None}
