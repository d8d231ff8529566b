"""Bounds: what is said to be tellable from noise is so by the law of a topic alone, whatever a detector finds."""

from __future__ import annotations

from math import ceil, inf

import numpy as np
import pytest

from efd_pipelines.forecasting.half_days import PART_S, Counts, Numbers
from efd_pipelines_tests.unit.forecasting.bounds import days_to_tell, evidence
from efd_pipelines_tests.unit.forecasting.simulated_days import Law

DAYS = 120


def a_law(sort: str, mean: float, spread: float = 1.0, *, is_exercised: bool = False) -> Law:
    return Law(sort, np.full((DAYS, 2), mean), spread, is_exercised, 0.1, False)


def counts_of(records: float) -> Counts:
    of = np.full((DAYS, 1, 2), records)
    days = np.datetime64("2026-01-01", "D") + np.arange(DAYS)
    return Counts(("lsst.sal.Test.logevent_one",), ("Test",), ("event",), np.ones(1), days, of, 300 * of)


@pytest.mark.parametrize("mean", [0.5, 2.0, 40.0])
@pytest.mark.parametrize("times", [1, 2, 4])
def test_the_silence_of_what_comes_by_chance_is_told_after_so_many_records_that_did_not_come(
    mean: float, times: int
) -> None:
    days = days_to_tell(a_law("rare", mean), counts_of(0), 0, "silent", 10, times)
    assert days == ceil(times * np.log(600_000) / (2 * mean))


def test_nothing_is_told_of_a_topic_while_its_component_is_off() -> None:
    for fault in ("silent", "doubled", "creep", "size"):
        assert days_to_tell(a_law("telemetry", 0, 0.01), counts_of(0), 0, fault, 10) == inf


def test_twice_as_much_as_a_campaign_may_bring_is_never_told() -> None:
    of = counts_of(2000)
    assert days_to_tell(a_law("follows", 1000, 4, is_exercised=True), of, 0, "doubled", 10) == inf
    assert days_to_tell(a_law("follows", 1000, 4), of, 0, "doubled", 10) < inf


def test_telemetry_that_is_steady_is_told_at_once() -> None:
    law, usual = a_law("telemetry", PART_S, 0.03), PART_S
    for fault, came in (("silent", 0), ("doubled", 2 * usual), ("stuck", 50 * PART_S)):
        assert days_to_tell(law, counts_of(came), 0, fault, 10, 4) == 1


@pytest.mark.parametrize(("sort", "spread"), [("rare", 1.0), ("follows", 1.5), ("telemetry", 0.5)])
@pytest.mark.parametrize("fault", ["doubled", "creep", "silent"])
def test_evidence_of_a_fault_that_is_not_there_passes_a_level_as_seldom_as_it_says(
    sort: str, spread: float, fault: str
) -> None:
    """Ville: a likelihood ratio of two true laws passes 20 in one sequence of twenty at most."""
    random, mean = np.random.default_rng(3), 30.0
    draw: Numbers = {
        "rare": random.poisson(mean, (150, 60)),
        "follows": random.poisson(mean * random.gamma(spread, 1 / spread, (150, 60))),
        "telemetry": mean * 1e4 * np.exp(random.normal(0, spread, (150, 60))),
    }[sort].astype(np.float64)
    law = a_law(sort, mean, spread)
    expected = np.full(60, mean * (1e4 if sort == "telemetry" else 1))
    passed = np.mean([evidence(law, fault, came, expected).max() >= np.log(20) for came in draw])
    assert passed <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / len(draw))
