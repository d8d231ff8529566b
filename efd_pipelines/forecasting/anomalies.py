"""Anomalies: what was flagged of a day, ranked, explained with numbers, components that moved as a whole apart.

What belongs here: from findings to what people read. Judging: `detection.py`; counting: `counts.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from efd_pipelines.forecasting.detection import TOGETHER, Finding, detect
from efd_pipelines.forecasting.half_days import PARTS, Counts

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

DIRECTORY = "reports/anomalies"
HOURS = 12.0
_KNOWN_DAYS, _RECENT_DAYS = 28, 7
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
    """Many topics of a component that moved in one direction at once: it is down, or exercised; no fault of a topic."""

    component: str
    day: str
    part: str
    topics: int
    text: str


@dataclass(frozen=True, slots=True)
class AnomalyReport:
    """The anomalies that began on one day, the most surprising first; `recent` are those of the six days before."""

    day: str
    topics: int
    days_known: int
    anomalies: tuple[Anomaly, ...]
    recent: tuple[Anomaly, ...]
    components: tuple[ComponentMove, ...]
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
    of: dict[tuple[str, int, bool], set[int]] = {}
    for one in found:
        key = (counted.components[one.topic], one.part, bool(one.observed > one.usual))
        of.setdefault(key, set()).add(one.topic)
    day = str(counted.days[-1])
    moves = []
    for (component, part, more), topics in sorted(of.items(), key=lambda item: -len(item[1])):
        when = PARTS[part] if part >= 0 else ""
        what = "more: it is exercised?" if more else "less or nothing: it is down, or disabled?"
        text = f"{component}: {len(topics)} topics send {what}"
        moves.append(ComponentMove(component, day, when, len(topics), text))
    return moves


def _notes(counted: Counts, known: int) -> tuple[str, ...]:
    notes = []
    if not counted.records[-1].any():
        notes.append(f"Nothing is archived of {counted.days[-1]}.")
    if known < _KNOWN_DAYS:
        notes.append(f"Only {known} days are known yet: little can be flagged before {_KNOWN_DAYS}.")
    return tuple(notes)
