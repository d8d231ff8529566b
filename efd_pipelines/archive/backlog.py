"""Backlog: what Kafka has that the archive has not, and what of it is due.

A topic is due when its freshness class's interval has passed since its last commit, or earlier at 32 MiB of
backlog (design.md §3). Cheap enough for a sensor's tick: one question to the brokers, one to the ledger.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import pyarrow.compute as pc

from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.positions import Intake, Reached, ledger_positions, wanted_topics
from efd_pipelines.kafka.brokers import Brokers
from efd_pipelines.topics.names import Dataset, Kind

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import Settings

_GUESSED_RECORD_BYTES = {Kind.TELEMETRY: 1024, Kind.METRIC: 512}
_GUESSED_OTHER_BYTES = 256


@dataclass(frozen=True, slots=True)
class Backlog:
    """One topic's records that are not archived: at most so many, since offsets are sparse."""

    dataset: Dataset
    topic: str
    records: int
    bytes_estimate: int
    last_at: datetime | None
    due: bool
    freshness: Literal["fast", "normal"]


def backlog(archive: Archive, settings: Settings, components: Collection[str] | None = None) -> list[Backlog]:
    """The topics with a backlog, sorted by name.

    Raises:
        KafkaUnavailable, StoreUnavailable: no answer is not an empty backlog.
    """
    reached = ledger_positions(archive)
    with Brokers(settings) as brokers:
        intakes = wanted_topics(archive, settings, brokers, components, reached=reached)
    sizes = _mean_sizes(archive) if intakes else {}
    now = datetime.now(UTC)
    return [_backlog(intake, reached.get(intake.dataset.text), sizes, settings, now) for intake in intakes]


def _backlog(
    intake: Intake, reached: Reached | None, sizes: dict[str, float], settings: Settings, now: datetime
) -> Backlog:
    dataset, freshness = intake.dataset, settings.configuration.freshness
    guess = _GUESSED_RECORD_BYTES.get(dataset.kind, _GUESSED_OTHER_BYTES)
    estimate = int(intake.backlog * sizes.get(dataset.text, guess))
    last_at = None if reached is None else reached.last_at
    waited_s = float("inf") if last_at is None else (now - last_at).total_seconds()
    return Backlog(
        dataset=dataset,
        topic=intake.topic,
        records=intake.backlog,
        bytes_estimate=estimate,
        last_at=last_at,
        due=waited_s >= freshness.interval_s(dataset) or estimate >= freshness.backlog_bytes,
        freshness=freshness.class_of(dataset),
    )


def _mean_sizes(archive: Archive) -> dict[str, float]:
    """Mean bytes of a record of each dataset, by what has been archived; history that was filled in has no size."""
    ledger = archive.ledger.table(columns=["avro_bytes", "records"])
    raw = ledger.filter(pc.and_(pc.equal(ledger["table"], RAW), pc.greater(ledger["avro_bytes"], 0)))
    sums = raw.group_by("dataset").aggregate([("avro_bytes", "sum"), ("records", "sum")])
    return {
        dataset: size / records
        for dataset, size, records in zip(
            sums["dataset"].to_pylist(),
            sums["avro_bytes_sum"].to_pylist(),
            sums["records_sum"].to_pylist(),
            strict=True,
        )
        if records
    }
