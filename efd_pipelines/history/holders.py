"""Holders: who still has what the archive lacks.

For each recorded gap: how many of its offsets Kafka can still give (by watermarks, of the same topic), how many points
InfluxDB's history has of its time, and how many the files of line protocol. What is not configured, does not answer or
cannot be read leaves None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from efd_pipelines.errors import DataError, ServiceUnavailable, UsageError
from efd_pipelines.history.influx import InfluxHistory
from efd_pipelines.history.intervals import Interval
from efd_pipelines.history.lines import LineHistory
from efd_pipelines.kafka.brokers import Brokers, Watermarks
from efd_pipelines.times import microseconds
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.settings import Settings


@dataclass(slots=True)
class Holders:
    """The gaps with `in_kafka` (offsets), `in_history`, `in_files` (points) added; `warnings`: who did not answer."""

    gaps: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def holders(settings: Settings, gaps: Iterable[Mapping[str, Any]]) -> Holders:
    """Asks Kafka and the configured history for what each gap lacks."""
    found = Holders([{**gap, "in_kafka": None, "in_history": None, "in_files": None} for gap in gaps])
    if settings.kafka_bootstrap and found.gaps:
        _ask(found, _ask_kafka, settings)
    if settings.history_influx_url and found.gaps:
        _ask(found, _ask_history, settings)
    if settings.history_lines and found.gaps:
        _ask(found, _ask_files, settings)
    return found


def _ask(found: Holders, question: Any, settings: Settings) -> None:
    try:
        question(settings, found.gaps)
    except (ServiceUnavailable, DataError, UsageError) as error:
        found.warnings.append(f"{error.message}. {error.remedy}")


def _ask_kafka(settings: Settings, gaps: Sequence[dict[str, Any]]) -> None:
    with Brokers(settings) as brokers:
        cluster_id = brokers.cluster_id()
        topics = {f"{cluster_id}/{topic.topic_id}": topic.name for topic in brokers.topics().values()}
        named = [(gap, topics.get(str(gap["source"]).partition("#")[0])) for gap in gaps]
        marks = brokers.offsets({topic for _, topic in named if topic})
    for gap, topic in named:
        there = marks.get(topic, {}).get(gap["partition"]) if topic else None
        gap["in_kafka"] = 0 if there is None else _overlap(gap, there)


def _overlap(gap: Mapping[str, Any], marks: Watermarks) -> int:
    return max(0, min(int(gap["end"]), marks.high) - max(int(gap["first"]), marks.low))


def _ask_history(settings: Settings, gaps: Sequence[dict[str, Any]]) -> None:
    with InfluxHistory(settings) as history:
        _count(history, "in_history", gaps)


def _ask_files(settings: Settings, gaps: Sequence[dict[str, Any]]) -> None:
    """Reads the files once, and of them what lies in the time of the gaps."""
    times = [interval for interval in map(_time_of, gaps) if interval is not None]
    if not times or settings.history_lines is None:
        return
    limits = Interval(min(one.start_us for one in times), max(one.end_us for one in times))
    with LineHistory(settings.history_lines, limits=limits) as history:
        _count(history, "in_files", gaps)


def _count(history: InfluxHistory | LineHistory, name: str, gaps: Sequence[dict[str, Any]]) -> None:
    known = history.datasets()
    for gap in gaps:
        dataset, interval = Dataset.parse(str(gap["topic"])), _time_of(gap)
        if interval is not None:
            gap[name] = history.count(dataset, interval) if dataset in known else 0


def _time_of(gap: Mapping[str, Any]) -> Interval | None:
    """From the last record before the gap to the first after it, where both are known."""
    if gap["from"] is None or gap["to"] is None:
        return None
    return Interval(microseconds(gap["from"]), microseconds(gap["to"]))
