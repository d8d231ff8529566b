"""Status: what is archived, per dataset and week, by the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from efd_pipelines.archive.positions import wanted_topics
from efd_pipelines.kafka.brokers import Brokers

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import Settings


@dataclass(frozen=True, slots=True)
class WeekStatus:
    """What a week of a dataset has; `week` is also `quarantine` or `dead`.

    `lag` counts the records of the topic that Kafka has and the archive has not, None where Kafka was not asked. An
    `expired` week was let go; what it has are late records.
    """

    topic: str
    component: str
    kind: str
    week: str
    rows: int
    bytes: int
    files: int
    avro_bytes: int
    sealed: bool
    expired: bool
    first: datetime | None
    last: datetime | None
    lag: int | None


def status(archive: Archive, settings: Settings | None = None) -> list[WeekStatus]:
    """Every dataset and week, sorted; what killed runs did not enter into the ledger is entered first.

    With `settings` Kafka is asked for the lag.

    Raises:
        KafkaUnavailable, StoreUnavailable: a service did not answer.
    """
    archive.ledger.catch_up_pending()
    lags = None if settings is None else _lags(archive, settings)
    found = archive.ledger.sql(
        """
        SELECT dataset AS topic, any_value(component) AS component, any_value(kind) AS kind, week,
               sum(rows)::BIGINT AS rows, sum(bytes)::BIGINT AS bytes, sum(files)::BIGINT AS files,
               sum(avro_bytes)::BIGINT AS avro_bytes,
               min(time_min) AS first, max(time_max) AS last,
               arg_max(commit_kind, version) IN ('seal', 'sealed') AS sealed, bool_or(commit_kind = 'expire') AS expired
        FROM ledger WHERE "table" = 'raw' AND week <> '' GROUP BY dataset, week ORDER BY dataset, week
        """
    )
    return [WeekStatus(**row, lag=None if lags is None else lags.get(row["topic"], 0)) for row in found.to_pylist()]


def _lags(archive: Archive, settings: Settings) -> dict[str, int]:
    with Brokers(settings) as brokers:
        intakes = wanted_topics(archive, settings, brokers)
    lags: dict[str, int] = {}
    for intake in intakes:
        lags[intake.dataset.text] = lags.get(intake.dataset.text, 0) + intake.backlog
    return lags
