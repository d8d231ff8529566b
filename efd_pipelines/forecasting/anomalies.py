"""Anomalies: what was flagged of a day, ranked, explained with numbers, components that moved as a whole apart.

What belongs here: from findings to what people read. Judging: `detection.py`; counting: `counts.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from efd_pipelines.forecasting.detection import detect
from efd_pipelines.forecasting.findings import TOGETHER, Finding
from efd_pipelines.forecasting.half_days import PARTS, Counts, Numbers, groups_of
from efd_pipelines.forecasting.outages import shares_archived, shares_of_components

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

DIRECTORY = "reports/anomalies"
HOURS = 12.0
_KNOWN_DAYS, _RECENT_DAYS = 42, 7
_DOWN, _EXERCISED = 0.6, 1.5
_WORDS = {"day": "by day", "night": "by night"}


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A topic that left what was expected of it on a day. `observed` and `usual` are records an hour, or for `size` and
    `size creep` bytes a record. It is told on the day on which it begins."""

    topic: str
    component: str
    kind: str
    day: str
    fault: str
    part: str
    observed: float
    usual: float
    reference: str
    surprise: float
    text: str


@dataclass(frozen=True, slots=True)
class ComponentMove:
    """Many topics of a component that moved in one direction at once: it is down, or exercised; no fault of a topic.
    `part` is day, night, or empty for both."""

    component: str
    day: str
    part: str
    topics: int
    text: str


@dataclass(frozen=True, slots=True)
class Outage:
    """A half day of which the archive has nothing, or less than is always sent: `share` of it."""

    day: str
    part: str
    share: float
    text: str


@dataclass(frozen=True, slots=True)
class AnomalyReport:
    """The anomalies that began on one day, the most surprising first; `recent` are those of the six days before.
    `components` moved as a whole that day; of `outages`, of the archive or the site, no topic is judged."""

    day: str
    topics: int
    days_known: int
    anomalies: tuple[Anomaly, ...]
    recent: tuple[Anomaly, ...]
    components: tuple[ComponentMove, ...]
    outages: tuple[Outage, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What `efd report anomalies --json` prints."""
        return asdict(self)


def anomaly_report(archive: Archive, day: date | None = None) -> AnomalyReport:
    """What was flagged on `day` (default: yesterday, in UTC), kept in the archive as JSON.

    Raises:
        StoreUnavailable: the archive cannot be read, or the report not be kept.
    """
    from efd_pipelines.forecasting.counts import counts

    day = day or (datetime.now(UTC) - timedelta(days=1)).date()
    archive.ledger.catch_up_pending()
    report = judged(counts(archive, day))
    relative = f"{DIRECTORY}/{day.isoformat()}.json"
    archive.store.write_bytes(relative, json.dumps(report.to_json(), indent=1).encode())
    return replace(report, files=(archive.store.uri(relative),))


def judged(counted: Counts) -> AnomalyReport:
    """What was flagged on the last of the days."""
    last = len(counted.days) - 1
    if not counted.records.shape[1]:
        return AnomalyReport(str(counted.days[last]), 0, 0, (), (), (), (), ("The archive has no topic yet.",))
    found = detect(counted)
    alone = [one for one in found if one.together < TOGETHER]
    known = int(counted.records.any(axis=(1, 2)).sum())
    anomalies = [_anomaly(counted, one) for one in _worst(alone, last)]
    recent = [_anomaly(counted, one) for day in range(1, _RECENT_DAYS) for one in _worst(alone, last - day)]
    return AnomalyReport(
        day=str(counted.days[last]),
        topics=int(counted.records[last].any(axis=1).sum()),
        days_known=known,
        anomalies=tuple(anomalies),
        recent=tuple(recent),
        components=tuple(_moves(counted, [one for one in found if one.together >= TOGETHER and one.day == last])),
        outages=tuple(_outages(counted)),
        notes=_notes(counted, known),
    )


def _worst(found: Iterable[Finding], day: int) -> list[Finding]:
    """The most surprising finding of each topic and kind of fault of a day, the most surprising first."""
    of: dict[tuple[int, bool], Finding] = {}
    for one in sorted(found, key=lambda one: -one.surprise):
        if one.day == day:
            of.setdefault((one.topic, "size" in one.fault), one)
    return list(of.values())


def _anomaly(counted: Counts, one: Finding) -> Anomaly:
    of_size = "size" in one.fault
    hours = 24.0 if one.part < 0 else HOURS
    scale = 1.0 if of_size else 1 / hours
    part = "" if one.part < 0 else PARTS[one.part]
    observed, usual = float(one.observed) * scale, float(one.usual) * scale
    topic = counted.topics[one.topic]
    return Anomaly(
        topic=topic,
        component=counted.components[one.topic],
        kind=counted.kinds[one.topic],
        day=str(counted.days[one.day]),
        fault=one.fault,
        part=part,
        observed=observed,
        usual=usual,
        reference=one.reference,
        surprise=float(one.surprise),
        text=_text(topic, one.fault, _WORDS.get(part, ""), (observed, usual), one.reference),
    )


def _text(topic: str, fault: str, when: str, amounts: tuple[float, float], reference: str) -> str:
    """As `MTM1M3.logevent_forceActuatorWarning: 412,000 an hour by night, usually 3 (by its own past)`."""
    unit = "bytes a record" if "size" in fault else "an hour"
    observed, usual = (_number(amount) for amount in amounts)
    slowly = ", growing for weeks" if "creep" in fault else ""
    name = topic.removeprefix("lsst.sal.")
    return f"{name}: {' '.join(filter(None, (observed, unit, when)))}, usually {usual}{slowly} (by {reference})"


def _number(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 10 or amount == 0 else f"{amount:.2g}"


def _moves(counted: Counts, found: Iterable[Finding]) -> list[ComponentMove]:
    """A line for each component and direction, that of most topics first."""
    of: dict[tuple[str, bool], set[tuple[int, int]]] = {}
    for component, more, topic, at in (*_steadily_apart(counted), *_flagged_together(counted, found)):
        of.setdefault((component, more), set()).add((topic, at))
    day = str(counted.days[-1])
    moves = []
    for (component, more), moved in of.items():
        topics, parts = {topic for topic, _ in moved}, {at for _, at in moved}
        part = PARTS[min(parts)] if len(parts) == 1 and min(parts) >= 0 else ""
        what = "more: it is exercised?" if more else "less or nothing: it is down, or disabled?"
        when = f" {_WORDS[part]}" if part else ""
        text = f"{component}: {len(topics)} topics{when} send {what}"
        moves.append(ComponentMove(component, day, part, len(topics), text))
    return sorted(moves, key=lambda move: (-move.topics, move.component))


def _flagged_together(counted: Counts, found: Iterable[Finding]) -> Iterator[tuple[str, bool, int, int]]:
    for one in found:
        yield counted.components[one.topic], bool(one.observed > one.usual), one.topic, one.part


def _steadily_apart(counted: Counts) -> Iterator[tuple[str, bool, int, int]]:
    """The topics of components whose steady ones send less, or more, than they always do; all explain each other."""
    for part, archived in enumerate(shares_archived(counted)[-1]):
        shares = shares_of_components(counted, part)[-1]
        for share, group in zip(shares, groups_of(counted.components, counted.components), strict=True):
            if np.isnan(archived) and (share < _DOWN or share > _EXERCISED):
                for topic in group[np.any(counted.records[-_KNOWN_DAYS:, group, part] > 0, axis=0)]:
                    yield counted.components[topic], bool(share > 1), int(topic), part


def _outages(counted: Counts) -> Iterator[Outage]:
    """Of the last day; of what never had anything, none."""
    day, shares = str(counted.days[-1]), shares_archived(counted)[-1]
    had: Numbers = np.any(counted.records[-_KNOWN_DAYS - 1 : -1] > 0, axis=(0, 1))
    for part, share in enumerate(shares):
        if had[part] and np.isfinite(share):
            has = "nothing" if share == 0 else f"{share:.0%} of what is always sent"
            text = f"The archive has {has} of {day} {_WORDS[PARTS[part]]}: an outage; no topic is judged."
            yield Outage(day, PARTS[part], float(share), text)


def _notes(counted: Counts, known: int) -> tuple[str, ...]:
    if known >= _KNOWN_DAYS:
        return ()
    days = "1 day is" if known == 1 else f"{known} days are"
    return (f"Only {days} known yet: little can be flagged before {_KNOWN_DAYS}.",)
