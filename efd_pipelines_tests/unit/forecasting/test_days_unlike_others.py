"""Days unlike others: outages, topics that are new or gone, components that are down, clocks; one alarm, or none."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from efd_pipelines.defs.anomalies import judged as checked
from efd_pipelines.forecasting.anomalies import AnomalyReport, judged
from efd_pipelines.forecasting.detection import detect
from efd_pipelines.forecasting.findings import TOGETHER
from efd_pipelines.forecasting.half_days import PART_S, PARTS, Counts
from efd_pipelines_tests.unit.forecasting.simulated_days import with_fault

COMPONENTS, EACH, DAYS = 6, 6, 90
DAY, NIGHT = (PARTS.index(part) for part in ("day", "night"))


def a_site(days: int = DAYS) -> Counts:
    """Six components of five telemetry topics of 1 Hz, half as many by day, and an event of 3 an hour each; 300 bytes a
    record, a little noise."""
    random = np.random.default_rng(5)
    shape = (days, COMPONENTS * EACH, 2)
    records = np.floor(PART_S * random.normal(1, 0.003, shape))
    records[:, :, DAY] = np.floor(records[:, :, DAY] / 2)
    kinds = ("telemetry",) * (EACH - 1) + ("event",)
    records[:, EACH - 1 :: EACH] = random.poisson(36, (days, COMPONENTS, 2))
    components = tuple(name for name in ("MTMount", "MTDome", "MTM1M3", "MTM2", "ESS", "ATMCS") for _ in kinds)
    names = tuple(f"lsst.sal.{component}.topic{n}" for n, component in enumerate(components))
    start = np.datetime64(date(2026, 6, 1), "D")
    rates = np.ones(len(names))
    return Counts(names, components, kinds * COMPONENTS, rates, start + np.arange(days), records, 300 * records)


def without(counts: Counts, days: slice, topics: slice = slice(None), share: float = 0.0) -> Counts:
    """The counts with a share of those days' and topics' records."""
    records = counts.records.copy()
    records[days, topics] = np.floor(share * records[days, topics])
    return replace(counts, records=records, bytes=300 * records)


def until(counts: Counts, day: int) -> AnomalyReport:
    """The report of that day."""
    end = day + 1
    return judged(replace(counts, days=counts.days[:end], records=counts.records[:end], bytes=counts.bytes[:end]))


def told(counts: Counts, first: int, last: int = DAYS - 1) -> list[tuple[int, str, str]]:
    """What is flagged on these days: day, topic, fault. A day is judged by the days before it and itself."""
    alone = [one for one in detect(counts) if one.together < TOGETHER and first <= one.day <= last]
    return sorted({(one.day, counts.topics[one.topic].removeprefix("lsst.sal."), one.fault) for one in alone})


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_week_that_the_archive_missed_is_one_alarm_a_day_and_none_of_topics(share: float) -> None:
    counts = without(a_site(), slice(70, 77), share=share)
    for day in (70, 76):
        report = until(counts, day)
        assert (report.anomalies, report.components) == ((), ())
        assert [one.part for one in report.outages] == list(PARTS)
        assert checked(report).passed is False
        assert "an outage" in str(checked(report).description)
    assert told(counts, 77) == []
    assert checked(until(counts, 80)).passed


def test_an_outage_blinds_nobody_to_what_comes_after() -> None:
    counts = with_fault(without(a_site(), slice(70, 77)), 8, "doubled", 78)
    assert told(counts, 78, 78) == [(78, "MTDome.topic8", "more")]


def test_an_hour_without_records_of_half_of_the_site_is_no_outage() -> None:
    counts = without(a_site(), slice(70, 71), slice(0, 3 * EACH), share=11 / 12)
    report = until(counts, 70)
    assert (report.anomalies, report.outages, report.components) == ((), (), ())


def test_a_topic_that_was_not_there_before_is_no_anomaly_and_judged_after_six_weeks() -> None:
    counts = without(a_site(), slice(0, 30), slice(8, 9))
    assert told(counts, 30) == []
    assert told(with_fault(counts, 8, "doubled", 75), 75, 75) == [(75, "MTDome.topic8", "more")]


def test_a_topic_that_was_removed_is_told_once() -> None:
    assert told(without(a_site(), slice(70, None), slice(8, 9)), 70) == [(70, "MTDome.topic8", "silent")]


def in_standby(days: int = DAYS) -> Counts:
    """The site, but of MTDome one topic of 1 Hz and its event, sent each second, go on in standby, and the others send
    a tenth: it is enabled every third day only, and for 25 days not at all."""
    random, counts = np.random.default_rng(7), a_site(days)
    records = counts.records.copy()
    records[:, [EACH, 2 * EACH - 1]] = np.floor(PART_S * random.normal(1, 0.003, (days, 2, 2)))
    share = random.uniform(0.3, 1.0, (days, 1, 1))
    share[(np.arange(days) % 3 > 0) | (np.arange(days) > days - 25)] = 0.1
    records[:, EACH + 1 : 2 * EACH - 1] = np.floor(records[:, EACH + 1 : 2 * EACH - 1] * share)
    return replace(counts, records=records, bytes=300 * records)


@pytest.mark.parametrize(("fault", "known"), [("silent", "silent"), ("doubled", "more")])
def test_a_steady_topic_that_fails_does_not_say_that_its_component_is_in_another_state(fault: str, known: str) -> None:
    assert told(with_fault(in_standby(), EACH, fault, 80), 80, 80) == [(80, f"MTDome.topic{EACH}", known)]


def test_telemetry_at_twice_its_declared_rate_is_told_of_a_component_that_is_often_down() -> None:
    counts = a_site()
    records = counts.records.copy()
    records[:, :EACH] = np.floor(PART_S * np.random.default_rng(8).normal(1, 0.003, (DAYS, EACH, 2)))
    records[np.arange(DAYS) % 5 == 0, :EACH] = 0
    counts = replace(counts, records=records, bytes=300 * records)
    assert told(counts, 75) == []
    assert told(with_fault(counts, 2, "doubled", 81), 81, 81) == [(81, "MTMount.topic2", "more")]


def test_a_component_that_is_shut_down_is_one_line() -> None:
    counts = without(a_site(), slice(70, 74), slice(EACH, 2 * EACH))
    report = until(counts, 70)
    assert (report.anomalies, report.outages) == ((), ())
    (line,) = report.components
    assert (line.component, line.part) == ("MTDome", "")
    assert line.text == "MTDome: 6 topics send less or nothing: it is down, or disabled?"
    assert told(counts, 70) == []


def test_a_schedule_in_local_time_may_shift_by_an_hour() -> None:
    """Half days are UTC's: when clocks change, an hour of what goes by local time falls on the other side."""
    counts = a_site()
    records = counts.records.copy()
    night = records[60:, 1:5, NIGHT]
    records[60:, 1:5, DAY] += np.floor(night / 12)
    records[60:, 1:5, NIGHT] = np.floor(night * 11 / 12)
    assert told(replace(counts, records=records, bytes=300 * records), 60) == []


def test_a_clock_that_jumps_is_its_components_doing() -> None:
    counts = a_site()
    records = counts.records.copy()
    records[70, :EACH, DAY] += records[70, :EACH, NIGHT]
    records[70, :EACH, NIGHT] = 0
    report = until(replace(counts, records=records, bytes=300 * records), 70)
    assert (report.anomalies, report.outages) == ((), ())
    assert sorted(one.part for one in report.components) == sorted(PARTS)


@pytest.mark.parametrize("days", [1, 7, 13])
def test_of_the_first_weeks_nothing_is_told_but_that_they_are_the_first(days: int) -> None:
    report = judged(a_site(days))
    assert (report.anomalies, report.recent, report.components, report.outages) == ((), (), (), ())
    assert f"Only {days} day{'s are' if days > 1 else ' is'} known" in report.notes[0]


def test_an_observatory_that_has_just_begun_is_judged_after_six_weeks() -> None:
    counts = without(a_site(), slice(0, 30))
    assert told(counts, 30) == []
    assert told(with_fault(counts, 8, "doubled", 75), 75, 75) == [(75, "MTDome.topic8", "more")]


def test_records_whose_sizes_are_not_known_are_not_larger() -> None:
    counts = a_site()
    sizes = counts.bytes.copy()
    sizes[:60] = 0
    sizes[65, 3] = 0
    assert told(replace(counts, bytes=sizes), 55, 80) == []


def test_counts_that_are_not_numbers_are_not_known() -> None:
    counts = a_site()
    records = counts.records.copy()
    records[64:68, 3] = np.nan
    assert told(replace(counts, records=records, bytes=300 * records), 60, 75) == []
