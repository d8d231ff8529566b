"""Advice: what the people who write the components could change, and what it would save.

Of each topic, message size × frequency × share of the time that the component is enabled; what its records are made of
(`contents.py`); and what follows: a ranked list of changes with TB a year of Avro, one copy; a replicated InfluxDB or
Kafka saves as many times more. A change is advised where the archive shows that nothing, or nothing new, would be lost;
halving a rate is told as what it is worth, for the component's people to judge.
What is not exercised yet: `estimates.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efd_pipelines.storage.contents import FRAME_BYTES, PRIVATE, Contents, contents
from efd_pipelines.storage.enabled import enabled_shares
from efd_pipelines.storage.page import Section
from efd_pipelines.storage.svg import bytes_text
from efd_pipelines.topics.names import Dataset, Kind

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.storage.throughput import StorageReport

TOPICS = 25
WEEK_S = 7 * 86400.0
WEEKS_OF_YEAR = 365.25 / 7
TB = 1e12
_REPEATED = 0.10
_FREQUENT_EVENTS_HZ = 0.05
_FAST_HZ = 5.0
_FIELDS_NAMED = 3


@dataclass(frozen=True, slots=True)
class TopicAdvice:
    """A topic as it is.

    Bytes of a mean message; messages a second while the component is enabled (over the whole period where its state is
    not archived); the share in which it was enabled; TB a year if the period is as others.
    """

    topic: str
    component: str
    message_bytes: float
    rate_hz: float
    enabled: float | None
    tb_year: float
    contents: Contents | None

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "topic": self.topic,
            "component": self.component,
            "message_bytes": round(self.message_bytes, 1),
            "rate_hz": round(self.rate_hz, 6),
            "enabled_share": None if self.enabled is None else round(self.enabled, 4),
            "tb_year": round(self.tb_year, 6),
        }
        if self.contents is not None:
            found |= {
                "unchanged_share": round(self.contents.unchanged, 4),
                "repeated_share": round(self.contents.repeated, 4),
                "compressed_share": round(self.contents.compressed, 4),
                "bytes_by_field": {field.name: round(field.avro_bytes, 2) for field in self.contents.fields},
            }
        return found


@dataclass(frozen=True, slots=True)
class Change:
    """What to change in a topic, and what it saves; `reason` has the numbers."""

    topic: str
    kind: str
    what: str
    reason: str
    tb_year: float

    def to_json(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "kind": self.kind,
            "what": self.what,
            "reason": self.reason,
            "saves_tb_year": round(self.tb_year, 6),
        }


@dataclass(frozen=True, slots=True)
class Advice:
    """The largest topics, and what to change in them, by what it saves."""

    topics: tuple[TopicAdvice, ...]
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "topics": [topic.to_json() for topic in self.topics],
            "changes": [change.to_json() for change in self.changes],
        }


def advise(archive: Archive, report: StorageReport, most: int = TOPICS) -> Advice:
    """Advice about the largest topics of a report's period; reads some ten thousand records of each.

    Raises:
        StoreUnavailable: the archive cannot be read.
    """
    if not report.weeks:
        return Advice((), ())
    rows = report.topics[report.topics["messages"] > 0].head(most).to_dict("records")
    shares = enabled_shares(archive, [row["csc"] for row in rows], report.weeks[0], report.weeks[-1])
    keys = {week.key for week in report.weeks}
    topics = []
    for row in rows:
        enabled = shares.get(row["csc"])
        weeks = len(report.weeks)
        seconds = weeks * WEEK_S * (enabled if enabled else 1.0)
        size = row["avro_mb"] * 1e6
        topics.append(
            TopicAdvice(
                row["topic"],
                row["csc"],
                size / row["messages"],
                row["messages"] / seconds,
                enabled,
                size / weeks * WEEKS_OF_YEAR / TB,
                contents(archive, Dataset.parse(row["topic"]), keys),
            )
        )
    changes = [change for topic in topics for change in _changes(topic)]
    return Advice(tuple(topics), tuple(sorted(changes, key=lambda one: (-one.tb_year, one.topic, one.kind))))


def _changes(topic: TopicAdvice) -> Iterator[Change]:
    kind = Dataset.parse(topic.topic).kind
    found = topic.contents
    if found is not None and found.rows > 1 and found.avro_bytes > FRAME_BYTES:
        yield from _of_contents(topic, found)
    if kind is Kind.EVENT and topic.rate_hz > _FREQUENT_EVENTS_HZ:
        what = "send this event only when its state changes"
        reason = f"{topic.rate_hz * 3600:,.0f} an hour while enabled: telemetry by its rate"
        yield Change(topic.topic, "event rate", what, reason, topic.tb_year * (1 - _FREQUENT_EVENTS_HZ / topic.rate_hz))
    if kind is Kind.TELEMETRY and topic.rate_hz > _FAST_HZ:
        reason = f"{topic.message_bytes:,.0f} bytes × {topic.rate_hz:.3g} Hz × {_share(topic.enabled)} enabled"
        yield Change(
            topic.topic, "halve the rate", "send half as often, if nobody needs more", reason, topic.tb_year / 2
        )


def _of_contents(topic: TopicAdvice, found: Contents) -> Iterator[Change]:
    whole = found.avro_bytes
    if found.repeated >= _REPEATED:
        what = "send only when something changes"
        reason = f"{100 * found.repeated:.0f} % of messages repeat every public value of the one before"
        yield Change(topic.topic, "repeated messages", what, reason, topic.tb_year * found.repeated)
    # What is constant in a stretch that repeats itself is no news beyond that.
    constant = [one for one in found.fields if one.is_constant and _is_public(one.name)]
    size = sum(one.avro_bytes for one in constant)
    if size and found.repeated < 1:
        what = f"move to an event what does not change: {_named([one.name for one in constant])}"
        reason = f"{size:,.0f} of {whole:,.0f} bytes had one value in {found.rows:,} messages"
        yield Change(topic.topic, "constant fields", what, reason, topic.tb_year * size / whole)
    narrower = [one for one in found.fields if one.narrower_bytes and not one.is_constant and _is_public(one.name)]
    size = sum(one.narrower_bytes for one in narrower)
    if size:
        what = f"declare as float what is double: {_named([one.name for one in narrower])}"
        reason = f"{size:,.0f} of {whole:,.0f} bytes; each value in {found.rows:,} messages is a float"
        yield Change(topic.topic, "narrower types", what, reason, topic.tb_year * size / whole)


def _is_public(name: str) -> bool:
    return not name.startswith(PRIVATE) and name not in ("salIndex", "timestamp")


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _FIELDS_NAMED} more" if len(names) > _FIELDS_NAMED else ""
    return ", ".join(names[:_FIELDS_NAMED]) + more


def _share(share: float | None) -> str:
    return "state unknown, taken as always" if share is None else f"{100 * share:.0f} %"


def advice_section(advice: Advice, most: int = 20) -> Section | None:
    """The advice as a section of the report's page."""
    from efd_pipelines.storage import charts

    if not advice.changes:
        return None
    shown = advice.changes[:most]
    first = shown[0]
    bare = first.topic.removeprefix("lsst.sal.")
    title = f"Most could be saved in {bare}: {_tb(first.tb_year)} a year ({first.kind})"
    bars = [
        charts.Bar(
            f"{one.topic.removeprefix('lsst.sal.')}: {one.kind}", [one.tb_year * TB], f"{_tb(one.tb_year)} a year"
        )
        for one in shown
    ]
    svg = charts.bars("advice", title, bars, ["saved"], "Avro bytes a year that a change saves, one copy")
    words = ["Changes overlap: what one saves, another cannot save again. If all weeks are as the ones reported."]
    rows = [[one.topic, one.kind, one.what, one.reason, _tb(one.tb_year)] for one in advice.changes]
    columns = ["topic", "change", "what", "because", "saves a year"]
    return Section("advice", title, svg, words, columns, rows, texts=("change", "what", "because"))


def topics_section(advice: Advice) -> Section | None:
    """Message size × frequency × enabled share of the largest topics, as a section."""
    if not advice.topics:
        return None
    rows = []
    for one in advice.topics:
        found = one.contents
        parts = sorted(found.fields, key=lambda field: -field.avro_bytes)[:_FIELDS_NAMED] if found else []
        whole = found.avro_bytes if found else 1.0
        rows.append(
            [
                one.topic,
                f"{one.message_bytes:,.0f} B",
                f"{one.rate_hz:.3g} Hz",
                "–" if one.enabled is None else f"{100 * one.enabled:.0f} %",
                _tb(one.tb_year),
                "–" if found is None else f"{100 * found.unchanged:.0f} %",
                "–" if found is None else f"{100 * found.compressed:.0f} %",
                ", ".join(f"{part.name} {100 * part.avro_bytes / whole:.0f} %" for part in parts),
            ]
        )
    first = advice.topics[0]
    title = (
        f"{first.topic.removeprefix('lsst.sal.')}: {first.message_bytes:,.0f} bytes × {first.rate_hz:.3g} Hz × "
        f"{_share(first.enabled)} enabled"
    )
    columns = ["topic", "message", "rate", "enabled", "a year", "unchanged", "compressed to", "largest fields"]
    return Section("messages", title, "", (), columns, rows, texts=("largest fields",))


def _tb(size_tb: float) -> str:
    return bytes_text(size_tb * TB)
