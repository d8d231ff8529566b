"""Anomalies: faults that were put in are found in time, and years without a fault are quiet."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from math import inf
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

from efd_pipelines.defs.anomalies import judged as checked
from efd_pipelines.forecasting.anomalies import judged
from efd_pipelines.forecasting.detection import detect
from efd_pipelines.forecasting.findings import TOGETHER
from efd_pipelines.forecasting.half_days import MEMORY_DAYS, PART_S, PARTS, Counts
from efd_pipelines_tests.unit.forecasting.bounds import days_to_tell
from efd_pipelines_tests.unit.forecasting.simulated_days import Law, simulated_days, simulated_laws, with_fault

AT_SCALE = bool(os.environ.get("EFD_TEST_SCALE"))
SEED = int(os.environ.get("EFD_TEST_SEED", "0"))
KINDS = ["telemetry"] * 10 + ["event"] * 14 + ["command"] * 5 + ["ack"]
COMPONENTS = 24
NAMES = [f"C{n:02}" for n in range(COMPONENTS) for _ in KINDS]
WITHIN_DAYS = {"stuck": 1, "silent": 1, "doubled": 1, "size": 1, "creep": 42, "size creep": 42}
BEGIN = 200
TIMES, SOON, LATE = (1, 2, 4), 10, 0.1
"""What can be told within ten days, of creeps within six weeks, with twice the least evidence is asked for: whoever
must learn a law from twelve weeks of counts knows less than who is told it. A tenth may take more than four times."""


@dataclass(frozen=True, slots=True)
class Case:
    """A fault that was put in: its topic's law, days in which it could be told from noise with `TIMES` the least
    evidence (by the law and what came alone), and days in which it was found."""

    fault: str
    topic: int
    sort: str
    bounds: tuple[float, ...]
    found: float

    @property
    def may_be_told(self) -> bool:
        return self.bounds[TIMES.index(2)] <= (WITHIN_DAYS[self.fault] if "creep" in self.fault else SOON)

    def within(self, times: int) -> bool:
        return self.found <= max(1.0, self.bounds[TIMES.index(times)])

    @property
    def in_time(self) -> bool:
        return self.found <= WITHIN_DAYS[self.fault] if "creep" in self.fault else self.within(4)


Choice = Callable[[Counts, Sequence[Law], int, str, np.random.Generator], list[int]]


def cases(seed: int, turn: int, choose: Choice) -> list[Case]:
    """A site with one fault in each component, of all kinds by turns, and when each was found."""
    base, laws = simulated_laws(seed, BEGIN + 42, NAMES, KINDS * COMPONENTS)
    random = np.random.default_rng(seed + turn)
    counts, put = base, []
    for n in range(COMPONENTS):
        fault = list(WITHIN_DAYS)[(n + turn) % len(WITHIN_DAYS)]
        able = choose(base, laws, n, fault, random)
        if able:
            topic = int(random.choice(able))
            counts = with_fault(counts, topic, fault, BEGIN)
            put.append((topic, fault))
    bounds = {
        topic: tuple(days_to_tell(laws[topic], counts, topic, fault, BEGIN, times) for times in TIMES)
        for topic, fault in put
    }
    found: dict[int, int] = {}
    for one in sorted(detect(counts), key=lambda one: one.day):
        if one.day >= BEGIN and one.together < TOGETHER:
            found.setdefault(one.topic, 1 + one.day - BEGIN)
    return [Case(fault, t, laws[t].sort, bounds[t], found.get(t, inf)) for t, fault in put]


def sets(first: int, choose: Choice) -> list[Case]:
    """At scale five sites, each with all faults in turn in each component; else one with four of each."""
    seeds, turns = (5, len(WITHIN_DAYS)) if AT_SCALE else (1, 1)
    return [one for seed in range(seeds) for turn in range(turns) for one in cases(first + seed, turn, choose)]


def tellable(counts: Counts, laws: Sequence[Law], component: int, fault: str, random: np.random.Generator) -> list[int]:
    """Topics whose fault can be told from noise at once: telemetry that was sent at its declared rate whenever it was
    sent, of a component that is not down then; for one that is stuck, a slow event or command."""
    first = component * len(KINDS)
    whole = counts.records.sum(axis=2)
    lately = whole[BEGIN - 2 * MEMORY_DAYS : BEGIN]
    if fault == "stuck":
        return [t for t in range(first + 11, first + 29) if 0 < lately[:, t].max() < 2 * PART_S]
    rate = np.maximum(2 * PART_S * counts.declared_hz, 1)
    regular = (((lately > 0.75 * rate) | (lately == 0)).mean(axis=0) > 0.97) & ((lately > 0).mean(axis=0) > 0.9)
    now = whole[BEGIN : BEGIN + WITHIN_DAYS[fault]]
    return [t for t in range(first, first + 10) if regular[t] and (now[:, t] > 0.75 * rate[t]).mean() > 0.9]


def any_kind(counts: Counts, laws: Sequence[Law], component: int, fault: str, random: np.random.Generator) -> list[int]:
    """Telemetry, events or commands by chance, that were heard on a third of the last days; for one that is stuck, any
    event or command."""
    members = range(component * len(KINDS), (component + 1) * len(KINDS))
    if fault == "stuck":
        return [t for t in members if laws[t].sort != "telemetry"]
    heard = counts.records[BEGIN - MEMORY_DAYS : BEGIN].any(axis=2).sum(axis=0) >= MEMORY_DAYS / 3
    wanted = random.choice(["telemetry", "event", "command"])
    able = [t for t in members if heard[t]]
    return [t for t in able if counts.kinds[t] == wanted] or able


def test_every_fault_that_can_be_told_from_noise_at_once_is_found_in_time() -> None:
    put = sets(100 + SEED, tellable)
    # A fault of such a topic can be told by who must learn what is usual, too.
    assert [one for one in put if one.bounds[TIMES.index(2)] > WITHIN_DAYS[one.fault]] == []
    for fault in WITHIN_DAYS:
        print(f"{fault}: {sum(one.fault == fault for one in put)} put in")
        assert sum(one.fault == fault for one in put) >= (50 if AT_SCALE else 1)
    missed = [one for one in put if one.found > WITHIN_DAYS[one.fault]]
    print(f"{len(missed)} of {len(put)} missed: {missed}")
    assert missed == []


@pytest.mark.parametrize(
    "turn", [0, 2], ids=["it moves its component's median", "nothing of its component came for a week"]
)
def test_silence_is_told_where_the_component_could_be_blamed(turn: int) -> None:
    put = cases(102, turn, tellable)
    assert [one for one in put if one.found > WITHIN_DAYS[one.fault]] == []


def test_a_fault_of_any_topic_is_found_about_when_it_can_be_told_from_noise() -> None:
    """The law and state that the likelihood is of (`bounds.py`) the detector does not know; it learns from counts."""
    every = sets(200 + SEED, any_kind)
    for fault in WITHIN_DAYS if AT_SCALE else ("all",):
        some = [one for one in every if one.fault == fault or not AT_SCALE]
        told = [one for one in some if one.may_be_told]
        in_time = {times: sum(one.within(times) for one in told) for times in TIMES}
        late = [one for one in told if not one.in_time]
        weeks = sum(one.found <= WITHIN_DAYS["creep"] for one in told)
        print(
            f"{fault}: {len(some)} put in, {len(told)} could be told, found with 1, 2, 4 times the evidence: {in_time}"
        )
        print(f"  within six weeks: {weeks}; late: {late}")
        assert len(told) >= 10
        assert len(late) <= LATE * len(told)


def test_years_without_a_fault_are_quiet(shared: Path) -> None:
    topics = json.loads(gzip.decompress((shared / "sal" / "topics.json.gz").read_bytes())).values()
    days, seeds = (365 + MEMORY_DAYS, (21, 22, 23)) if AT_SCALE else (MEMORY_DAYS + 91, (21,))
    flagged = judged_days = 0
    for seed in seeds:
        counts = simulated_days(seed + SEED, days, [one["csc"] for one in topics], [one["kind"] for one in topics])
        alarms = {(one.day, one.topic) for one in detect(counts) if one.together < TOGETHER and one.day >= MEMORY_DAYS}
        flagged += len(alarms)
        judged_days += (days - MEMORY_DAYS) * len(counts.topics)
    # The exact upper bound, at 95 % confidence, of a rate of which so many were counted.
    at_most = chi2.ppf(0.95, 2 * (flagged + 1)) / 2 / judged_days
    print(f"{flagged} of {judged_days:,} topic-days flagged: fewer than {1e5 * at_most:.2f} in 100,000 (95 %)")
    assert at_most < 1e-5


def steady(days: int = 60, topics: int = 6) -> Counts:
    """Telemetry at 1 Hz of one component, 300 bytes a record, a little noise; the last is an event of 3 an hour."""
    random = np.random.default_rng(1)
    records = np.floor(PART_S * random.normal(1, 0.001, (days, topics, 2)))
    records[:, -1] = random.poisson(36, (days, 2))
    kinds = ("telemetry",) * (topics - 1) + ("event",)
    names = (*(f"lsst.sal.MTM1M3.topic{n}" for n in range(topics - 1)), "lsst.sal.MTM1M3.logevent_forceActuatorWarning")
    start = np.datetime64(date(2026, 9, 1), "D")
    return Counts(names, ("MTM1M3",) * topics, kinds, np.ones(topics), start + np.arange(days), records, 300 * records)


def test_an_event_that_is_stuck_is_told_with_numbers() -> None:
    counts = steady()
    counts.records[-1, -1, PARTS.index("night")] = 412_000 * 12
    counts.bytes[-1, -1] = 300 * counts.records[-1, -1]
    (found,) = judged(counts).anomalies
    assert found.text.startswith("MTM1M3.logevent_forceActuatorWarning: 412,000 an hour by night, usually 3")
    assert (found.fault, found.day, found.part) == ("more", str(counts.days[-1]), "night")
    assert checked(judged(counts)).passed is False
    assert "412,000 an hour" in str(checked(judged(counts)).description)


def test_what_began_days_ago_is_still_told() -> None:
    counts = with_fault(steady(), 2, "doubled", 57)
    report = judged(counts)
    (found,) = report.recent
    assert (report.anomalies, found.day) == ((), str(counts.days[57]))
    assert found.observed == pytest.approx(7200, rel=0.01)
    assert found.usual == pytest.approx(3600, rel=0.01)


def test_the_most_surprising_is_first() -> None:
    counts = with_fault(with_fault(steady(topics=9), 2, "doubled", 59), 8, "stuck", 59)
    first, second = judged(counts).anomalies
    assert (first.topic, second.topic) == (counts.topics[8], counts.topics[2])


def test_larger_records_are_told_in_bytes() -> None:
    (found,) = judged(with_fault(steady(), 1, "size", 59)).anomalies
    assert "600 bytes a record" in found.text
    assert "usually 300" in found.text


def test_creeps_are_told_once_within_days_and_new_levels_are_none() -> None:
    begin, down = 180, slice(182, 190)
    counts = steady(days=begin + 30, topics=9)
    counts = with_fault(with_fault(counts, 1, "creep", begin), 2, "size creep", begin)
    counts.records[begin:, 3] *= 1.12
    counts.bytes[begin:, 4] *= 1.3
    counts.records[down], counts.bytes[down] = 0, 0
    found = {one.topic: (one.fault, one.day - begin) for one in detect(counts) if "creep" in one.fault}
    assert {topic: fault for topic, (fault, _) in found.items()} == {1: "creep", 2: "size creep"}
    assert max(day for _, day in found.values()) < 16


def test_a_day_of_which_nothing_is_archived_is_an_outage_and_no_anomaly_of_its_topics() -> None:
    counts = steady()
    counts.records[-1] = 0
    report = judged(counts)
    assert (report.anomalies, report.components) == ((), ())
    assert (
        report.outages[0].text == f"The archive has nothing of {counts.days[-1]} by day: an outage; no topic is judged."
    )
    assert checked(report).passed is False


def test_a_day_as_usual_passes() -> None:
    report = judged(steady())
    assert (report.anomalies, report.components, report.notes) == ((), (), ())
    assert "6 topics are as usual" in str(checked(report).description)


def test_a_site_that_has_just_begun_says_so() -> None:
    assert "Only 5 days are known" in judged(steady(days=5)).notes[0]


def test_a_day_is_judged_by_days_before_it_alone() -> None:
    counts = simulated_days(7, 150, NAMES, KINDS * COMPONENTS)
    earlier = Counts(
        counts.topics, counts.components, counts.kinds, counts.declared_hz, counts.days[:120], counts.records[:120],
        counts.bytes[:120],
    )  # fmt: skip
    of_all = {(one.day, one.topic, one.fault) for one in detect(counts) if one.day < 120}
    assert of_all == {(one.day, one.topic, one.fault) for one in detect(earlier)}
