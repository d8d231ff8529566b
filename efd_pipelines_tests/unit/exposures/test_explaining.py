"""Explaining one value."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from typer.testing import CliRunner

from efd_pipelines.cli.exposures import app
from efd_pipelines.errors import UsageError
from efd_pipelines.exposures.explaining import Explanation, explain
from efd_pipelines_tests.unit.exposures.builders import (
    AZIMUTH,
    NIGHT,
    Observatory,
    a_column,
    an_exposure,
    table_of,
    times,
    utc,
)

NUMBER = 2026111500001


@pytest.fixture
def observatory(observatory_with: Callable[..., Observatory]) -> Observatory:
    forces = a_column("forces", "max", fields=["force"], store_unpivoted="True")
    built = observatory_with(
        a_column("angle", pre_aggregate_interval="2s", start_offset=-0.001),
        a_column("spread", "stddev"),
        forces.replace("[exposure_efd]", "[exposure_efd_unpivoted]"),
        a_column("gone", fields=["nowhere"]),
    )
    values = np.arange(60.0)
    values[12] = np.nan
    rows = table_of(times(NIGHT, 60, 1.0), {"actualPosition": values, "force": np.ones((60, 2))})
    built.archives(AZIMUTH, rows)
    built.exposes(an_exposure(utc("2026-11-17T02:00:10"), 4.5))
    return built


def explained(observatory: Observatory, column: str, number: int = NUMBER) -> Explanation:
    return explain(observatory.archive, observatory.settings, observatory.join, column, number)


def test_window_samples_and_arithmetic_are_those_of_the_value(observatory: Observatory) -> None:
    observatory.joins(run="r1")
    found = explained(observatory, "angle")
    assert (found.window_begin, found.window_end) == (utc("2026-11-17T02:00:10"), utc("2026-11-17T02:00:14.500"))
    assert found.reads_from == utc("2026-11-17T02:00:06.400")
    assert [one.values[0] for one in found.samples] == [7.0, 8.0, 9.0, 10.0, 11.0, None, 13.0, 14.0]
    # Means of the seconds 6-7, 8-9, 10-11, 12-13 and 14.
    assert found.value == pytest.approx(np.mean([7.0, 8.5, 10.5, 13.0, 14.0]))
    assert "7 numbers" in found.steps[0]
    assert "intervals of 2 s: 5 numbers" in found.steps[1]
    assert (found.sources[0].topic, found.sources[0].columns) == (AZIMUTH, ("actualPosition",))
    assert found.agrees
    assert found.stored == pytest.approx(found.value)
    assert (found.stored_samples, found.run) == (7, "r1")
    assert "line 3" in found.configured_at


def test_a_vector_is_explained_field_by_field(observatory: Observatory) -> None:
    observatory.joins()
    found = explained(observatory, "forces")
    assert found.value == found.stored == {"force0": 1.0, "force1": 1.0}
    assert found.agrees


def test_what_was_not_written_or_has_changed_does_not_agree(observatory: Observatory) -> None:
    assert not explained(observatory, "spread").agrees
    observatory.joins()
    assert explained(observatory, "spread").agrees
    observatory.archives(
        AZIMUTH, table_of(times(utc("2026-11-17T02:00:11.5"), 1, 1.0), {"actualPosition": np.zeros(1)})
    )
    found = explained(observatory, "spread")
    assert not found.agrees
    assert "√" in found.steps[-1]


@pytest.mark.parametrize(
    ("column", "number", "said"),
    [
        ("spraed", NUMBER, "did you mean spread"),
        ("spread", 7, "has no exposure_id 7"),
        ("gone", NUMBER, "has no field nowhere"),
    ],
)
def test_what_cannot_be_explained_says_why(observatory: Observatory, column: str, number: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        explained(observatory, column, number)


def test_on_the_command_line_edges_and_numbers_are_whole(
    observatory: Observatory, monkeypatch: pytest.MonkeyPatch
) -> None:
    observatory.joins()
    monkeypatch.setenv("EFD_ARCHIVE", observatory.settings.archive)
    monkeypatch.setenv("EFD_CONSDB_URL", observatory.consdb_url)
    asked = ["explain", "angle", str(NUMBER), "--config", observatory.join.config]
    answer = CliRunner().invoke(app, asked)
    assert answer.exit_code == 0, answer.output
    for said in (str(NUMBER), "02:00:10.000000", "02:00:14.500000", "02:00:06.400000", "intervals of 2 s", AZIMUTH):
        assert said in answer.output
