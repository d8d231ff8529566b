"""Simulated days: what an observatory of thousands of topics sends by half day, and faults put into it.

Day and night, seasons, weather, a yearly shutdown, exercise campaigns, components that are down or disabled, events
that come in bursts, commands of campaigns, topics that are hardly ever sent: whatever a detector must let pass. Faults
are put into copies. A function of the seed alone. What belongs here: making them; judging them: `detection.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from efd_pipelines.forecasting.half_days import PART_S, Counts, Numbers

BURSTS, BURST_LOGS = 0.1, (1.5, 1.0)
"""Share of half days in which what bursts does, and by how much: mean and deviation of the logarithm."""

_YEAR = 365.25
_RATES_HZ = (0.1, 1.0, 1.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


@dataclass(frozen=True, slots=True)
class Law:
    """How a topic's counts were drawn: `mean` is what was expected of each half day by who knows the component's state.

    `sort` is telemetry, heartbeat, never, rare, regular, follows or bursts; `spread` the deviation of a logarithm
    (telemetry, heartbeat) or the shape of a gamma law (follows, bursts). `is_exercised` where the component is of those
    that have exercise campaigns, in which some topics come several times as often for up to two weeks. `each` is by how
    much records differ in size; `has_other_texts` where whole days' do.
    """

    sort: str
    mean: Numbers
    spread: float
    is_exercised: bool
    each: float
    has_other_texts: bool


def simulated_days(
    seed: int, days: int, components: Sequence[str], kinds: Sequence[str], start: str = "2026-01-01"
) -> Counts:
    """Counts of `days` days of topics, given the component and kind of each."""
    return simulated_laws(seed, days, components, kinds, start)[0]


def simulated_laws(
    seed: int, days: int, components: Sequence[str], kinds: Sequence[str], start: str = "2026-01-01"
) -> tuple[Counts, list[Law]]:
    """As `simulated_days`, with the law of each topic."""
    random = np.random.default_rng(seed)
    date = np.datetime64(start, "D") + np.arange(days)
    names = sorted(set(components))
    weather, shutdown, night_hours = _sky(random, days)
    states = {name: _component(random, days, weather, shutdown, night_hours) for name in names}
    records = np.zeros((days, len(kinds), 2), dtype=np.float32)
    sizes = np.zeros_like(records)
    declared = np.zeros(len(kinds))
    heartbeat_of: set[str] = set()
    laws = []
    for index, (component, kind) in enumerate(zip(components, kinds, strict=True)):
        running, active, busy = states[component]
        if kind == "telemetry":
            declared[index] = random.choice(_RATES_HZ)
            sort, mean = "telemetry", _telemetry(random, running, active) * declared[index] * PART_S
            spread = random.choice([0.002, 0.01, 0.03])
            count = mean * np.exp(random.normal(0, spread, mean.shape))
        elif kind == "event" and component not in heartbeat_of:
            heartbeat_of.add(component)
            sort, mean, spread = "heartbeat", PART_S * running, 0.003
            count = mean * np.exp(random.normal(0, spread, running.shape))
        else:
            sort, mean, spread, count = _sporadic(random, kind, running, active, busy)
        whole = np.floor(count)
        records[:, index] = whole
        size, each, others = _size(random, kind, whole)
        sizes[:, index] = whole * size
        laws.append(Law(sort, mean, spread, bool((active != running).any()), each, others))
    topics = tuple(f"lsst.sal.{name}.{kind}{n}" for n, (name, kind) in enumerate(zip(components, kinds, strict=True)))
    return Counts(topics, tuple(components), tuple(kinds), declared, date, records, sizes), laws


def _sky(random: np.random.Generator, days: int) -> tuple[Numbers, Numbers, Numbers]:
    """Share of each night that is clear, whether it is shutdown, and the length of the night of twelve hours."""
    at = np.arange(days)
    phase = 2 * np.pi * (at - 172) / _YEAR
    clear_chance = 0.75 - 0.12 * np.cos(phase)
    clear, now = np.zeros(days), True
    for day in range(days):
        if random.random() < 0.35:
            now = bool(random.random() < clear_chance[day])
        clear[day] = random.uniform(0.8, 1.0) if now else random.uniform(0.0, 0.5)
    shutdown = np.zeros(days)
    for year in range(int(days / _YEAR) + 2):
        begin = int(year * _YEAR + 210 + random.integers(-10, 11))
        shutdown[begin : begin + int(random.integers(14, 29))] = 1
    night = (11 + 2 * np.cos(phase)) / 12
    return clear, shutdown, night


def _component(
    random: np.random.Generator, days: int, clear: Numbers, shutdown: Numbers, night: Numbers
) -> tuple[Numbers, Numbers, Numbers]:
    """Of one component by half day: the share that its process runs, that it is enabled, and how busy it is made."""
    running = np.ones((days, 2))
    down = random.random((days, 2)) < 0.01
    running[down] = random.uniform(0, 1, int(down.sum()))
    for _ in range(random.poisson(1.5 * days / _YEAR)):  # off for days
        begin, length = int(random.integers(0, days)), int(random.integers(1, 8))
        running[begin : begin + length] = 0
    kind = random.choice(["always", "nightly", "campaign"], p=[0.35, 0.45, 0.20])
    busy = np.ones((days, 2))
    if kind == "always":
        return running, running.copy(), busy
    if random.random() < 0.3:  # taken down in the shutdown, too
        running *= np.where(shutdown[:, None] > 0, random.choice([0.0, 1.0], (days, 1), p=[0.7, 0.3]), 1.0)
    active = np.zeros((days, 2))
    if kind == "nightly":
        lost = np.where(random.random(days) < 0.08, random.uniform(0, 1, days), 1.0)
        active[:, 1] = np.clip(night * clear * lost, 0, 1.1)
        active[:, 0] = random.beta(2, 6, days)
    for _ in range(random.poisson((3 if kind == "nightly" else 6) * days / _YEAR)):  # exercise campaigns
        begin, length = int(random.integers(0, days)), int(random.integers(3, 15))
        active[begin : begin + length] = random.uniform(0.4, 1.0, active[begin : begin + length].shape)
        busy[begin : begin + length] *= np.exp(random.uniform(0, 2.5))
    active *= np.where(shutdown[:, None] > 0, np.where(random.random((days, 2)) < 0.9, 0.0, 0.1), 1.0)
    return running, active * running, busy


def _telemetry(random: np.random.Generator, running: Numbers, active: Numbers) -> Numbers:
    """The share of a half day that a telemetry topic is sent: while its process runs, or while it is enabled."""
    if random.random() < 0.3:
        return running
    standby = random.choice([0.0, 0.0, 0.1, 0.3])
    sent: Numbers = running * standby + active * (1 - standby)
    return sent


def _sporadic(
    random: np.random.Generator, kind: str, running: Numbers, active: Numbers, busy: Numbers
) -> tuple[str, Numbers, float, Numbers]:
    """Events, commands, acks: regular ones, ones that follow what is done, bursts, rare ones, and ones never sent."""
    sort = str(random.choice(["never", "rare", "regular", "follows", "bursts"], p=[0.35, 0.2, 0.1, 0.25, 0.1]))
    if kind == "command" and sort == "regular":
        sort = "follows"
    shape = running.shape
    if sort == "never":
        return sort, np.zeros(shape), 1.0, np.zeros(shape)
    if sort == "rare":
        mean = np.full(shape, random.uniform(0.0005, 0.1))
        return sort, mean, 1.0, np.asarray(random.poisson(mean), dtype=float)
    if sort == "regular":
        mean = PART_S / random.choice([1, 10, 60, 600]) * running
        return sort, mean, 1.0, np.asarray(random.poisson(mean), dtype=float)
    level = np.exp(random.uniform(0, 8))
    spread = random.uniform(0.7, 6.0)
    rate = level * active * busy ** (1.0 if kind == "command" else random.uniform(0.3, 1.0))
    count: Numbers = random.poisson(rate * random.gamma(spread, 1 / spread, shape)).astype(float)
    if sort == "bursts":
        count *= np.where(random.random(shape) < BURSTS, np.exp(random.normal(*BURST_LOGS, shape)), 1.0)
    least: Numbers = np.minimum(count, 5 * PART_S)
    return sort, level * active, spread, least


def _size(random: np.random.Generator, kind: str, counts: Numbers) -> tuple[Numbers, float, bool]:
    """Bytes a record: telemetry's are all but constant, events have texts of varying length."""
    mean = np.exp(random.uniform(np.log(120), np.log(5000)))
    each = 0.001 if kind == "telemetry" else random.uniform(0.02, 0.5)
    size = mean * (1 + random.normal(0, 1, counts.shape) * each / np.sqrt(np.maximum(counts, 1)))
    others = kind != "telemetry" and random.random() < 0.05
    if others:  # texts that are another day's
        size = size * np.where(random.random(counts.shape) < 0.2, random.uniform(0.6, 1.6), 1.0)
    sizes: Numbers = np.maximum(size, 40.0)
    return sizes, each, others


FAULTS = ("stuck", "silent", "doubled", "size", "creep", "size creep")


def with_fault(counts: Counts, topic: int, fault: str, day: int) -> Counts:
    """A copy in which a topic has a fault from a day on: stuck at 50 Hz, silent, doubled, records twice as large, 5 %
    more each week, or 5 % larger each week."""
    records, sizes = counts.records.copy(), counts.bytes.copy()
    of, size = records[day:, topic], sizes[day:, topic]
    each = np.where(of > 0, size / np.maximum(of, 1), 300.0)
    weekly = 1.05 ** (np.arange(1, len(of) + 1) / 7)[:, None]
    if fault == "stuck":
        of = np.full_like(of, 50 * PART_S)
    elif fault == "silent":
        of = np.zeros_like(of)
    elif fault == "doubled":
        of = 2 * of
    elif fault == "creep":
        of = np.floor(of * weekly)
    if fault == "size":
        each = 2 * each
    elif fault == "size creep":
        each = each * weekly
    records[day:, topic], sizes[day:, topic] = of, of * each
    return replace(counts, records=records, bytes=sizes)
