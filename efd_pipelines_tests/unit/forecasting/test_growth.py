"""Growth from assumptions: the published table, and what becomes of it when one of them changes, reckoned by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from efd_pipelines.configuration import Growth, GrowthPeriod, load_configuration
from efd_pipelines.errors import UsageError
from efd_pipelines.forecasting.growth import Stream, project
from efd_pipelines.forecasting.report import GrowthReport, growth_report
from efd_pipelines.forecasting.what_if import parse_what_if

CONFIGURATION = load_configuration()

# Of tables 1 and 2 of seed 001: MTM1M3's telemetry and events of all, and its telemetry, as they are printed.
ALL_MB = 420_078 + 30_799
M1M3_TELEMETRY_MB, M1M3_EVENTS_MB = 353_700, 25_323


def asked(**options: list[str] | int) -> GrowthReport:
    return growth_report(CONFIGURATION, asked=parse_what_if(**options))  # type: ignore[arg-type]


def totals(report: GrowthReport) -> dict[int, float]:
    return {row.year: row.total_cluster_storage_tb for row in report.projection.rows}


def per_node(report: GrowthReport) -> dict[int, float]:
    return {row.year: row.storage_per_data_node_tb for row in report.projection.rows}


def test_the_published_table_comes_out_of_the_shipped_assumptions_exactly(shared: Path) -> None:
    with (shared / "seed_tables" / "table3_storage_growth.csv").open() as file:
        published = [tuple(map(float, row.values())) for row in csv.DictReader(file)]
    rows = growth_report(CONFIGURATION).to_json()["rows"]
    names = ("year", "replication_factor", "storage_per_data_node_tb", "total_cluster_storage_tb")
    assert [tuple(row[name] for name in names) for row in rows] == published


def test_no_number_of_the_table_is_in_the_code() -> None:
    empty = CONFIGURATION.model_copy(update={"growth": Growth(base_year=2023, last_year=2025)})
    assert all(row.total_cluster_storage_tb == 0 for row in growth_report(empty).projection.rows)


def test_every_assumption_is_listed() -> None:
    listed = growth_report(CONFIGURATION).to_json()["assumptions"]
    assert listed == CONFIGURATION.growth.model_dump(mode="json")
    assert (listed["margin_tb"], listed["replication_factor"], listed["stored_tb"]) == (15, 2, 15)


def test_the_reference_week_makes_thirty_terabytes_a_year() -> None:
    commissioning, survey = growth_report(CONFIGURATION).reference_weeks
    assert (survey.gb_per_week, round(survey.tb_per_year, 2), survey.rounded_tb) == (565, 29.38, 30)
    assert (round(commissioning.tb_per_year, 2), commissioning.rounded_tb) == (19.5, 20)


def test_a_wider_margin_is_added_to_every_copy() -> None:
    found = totals(asked(assume=["margin_tb=20"]))
    # 5 TB more, on two nodes with a copy each.
    assert {year: found[year] for year in (2023, 2024, 2035)} == {2023: 70, 2024: 110, 2035: 770}


def test_four_copies_take_twice_as_much_on_four_nodes() -> None:
    report = asked(replication=4)
    assert totals(report) == {year: 2 * total for year, total in totals(growth_report(CONFIGURATION)).items()}
    assert per_node(report) == per_node(growth_report(CONFIGURATION))
    assert [row.data_nodes for row in report.projection.rows] == [4] * 13
    assert any("needs as many data nodes" in note for note in report.notes)


def test_two_more_nodes_halve_what_each_holds() -> None:
    report = asked(assume=["data_nodes=4"])
    assert totals(report) == totals(growth_report(CONFIGURATION))
    assert per_node(report)[2025] == 40


def test_half_the_duty_cycle_adds_half_as_much_rounded_up() -> None:
    # 2024: 250 × 1.5 × 52 × 0.5 = 9.75 → 10 TB; 2025: 565 × 52 × 0.5 = 14.69 → 15 TB.
    found = asked(assume=["duty_cycle=0.5"])
    assert [row.increase_tb for row in found.projection.rows[1:4]] == [10, 15, 15]
    assert totals(found)[2026] == 2 * (15 + 10 + 15 + 15 + 15)


def test_half_of_m1m3_is_taken_from_its_share_of_the_published_sizes() -> None:
    share = (M1M3_TELEMETRY_MB + M1M3_EVENTS_MB) / ALL_MB
    # 19.5 × (1 − 0.42) = 11.30 → 12 TB; 29.38 × 0.58 = 17.03 → 18 TB.
    assert 19.5 * (1 - share / 2) == pytest.approx(11.30, abs=0.005)
    assert 29.38 * (1 - share / 2) == pytest.approx(17.03, abs=0.005)
    report = asked(reduce=["MTM1M3=0.5"])
    assert [row.increase_tb for row in report.projection.rows[:4]] == [0, 12, 18, 18]
    assert totals(report)[2026] == pytest.approx(2 * (15 + 12 + 18 + 18 + 15), abs=1e-9)
    assert report.unchanged is not None
    assert report.unchanged.rows[3].total_cluster_storage_tb == 220


def test_what_is_kept_for_a_month_is_a_month_of_telemetry_and_all_events() -> None:
    telemetry = 420_078 / ALL_MB
    months = 30 / 365.25
    expected = 30 * telemetry * months + (15 + 20 + 30) * (1 - telemetry)
    report = asked(retention=["raw=30d"])
    assert report.projection.rows[2].stored_tb == pytest.approx(expected, rel=1e-9)


def test_disks_are_counted_by_their_size() -> None:
    report = asked(assume=["disk_tb=15"])
    assert [row.disks_per_node for row in report.projection.rows[:3]] == [2, 4, 6]


def test_rounding_up_forgives_the_last_digits_of_a_float() -> None:
    year = GrowthPeriod(from_year=2024, gb_per_week=100, factor=1.1)
    given = Growth(base_year=2023, last_year=2024, weeks_per_year=100, round_up_tb=1, periods=(year,))
    assert (
        project(given, [Stream("A", "a", "event", "raw", 1.0, 0.0)], {2024: 11.000000000000002}).rows[1].increase_tb
        == 11
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduce": ["MTM1M4=0.5"]}, "MTM1M3"),
        ({"reduce": ["MTM1M3=2"]}, "between 0 and 1"),
        ({"reduce": ["MTM1M3"]}, "says nothing"),
        ({"retention": ["raw=ever"]}, "no time to keep"),
        ({"retention": ["2s=30d"]}, "no level"),
        ({"assume": ["margin=20"]}, "margin_tb"),
        ({"assume": ["margin_tb=-1"]}, "margin_tb"),
        ({"assume": ["last_year=1999"]}, "last_year"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_could_be(options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked(**options)
    assert message in f"{caught.value.message} {caught.value.remedy}"


def test_every_database_is_below_its_limit_and_nothing_is_left_out() -> None:
    report = growth_report(CONFIGURATION)
    assert max(one.size_tb for one in report.databases) < 30
    assert sum(one.size_tb for one in report.databases) == pytest.approx(report.projection.rows[-1].stored_tb, abs=1e-4)
    assert len({one.name for one in report.databases}) == len(report.databases)
    of_m1m3 = [(one.first_year, one.last_year) for one in report.databases if one.subsystem == "m1m3"]
    assert of_m1m3 == [(2023, 2024), *((year, year) for year in range(2025, 2036))]


def test_a_year_that_is_too_large_is_cut() -> None:
    report = asked(assume=["split_below_tb=10"])
    assert max(one.size_tb for one in report.databases) < 10
    # 25.6 TB of M1M3 a year: three parts.
    assert [one.parts for one in report.databases if one.name.startswith("efd_m1m3_2030")] == [3, 3, 3]
