"""Weeks of ConsDB: which of them the 1 s tier is there of, and letting those go that are kept no longer.

`publishing.consdb_1s.retention_days` says for how many days after its end a week is kept; by default all are. It is a
copy: nothing is asked of what covers it, and the tier is not touched. A week goes in one transaction, in PostgreSQL by
dropping its partition, and `efd_1s.dropped` keeps what went, when and why. Writing: `consdb.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from efd_pipelines.exposures.consdb import ConsDB
from efd_pipelines.exposures.identifiers import check_identifier
from efd_pipelines.publishing.consdb_tables import PUBLISHED, TierTable, noted_table, within
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.configuration import ConsdbPolicy

DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class HeldWeek:
    """A week of a dataset that is in ConsDB, and how many rows."""

    dataset: Dataset
    week: Week
    rows: int


def has_run_out(policy: ConsdbPolicy, week: Week, now: datetime | None = None) -> bool:
    """Whether the policy keeps a week no longer."""
    if policy.retention_days is None:
        return False
    return week.end + timedelta(days=policy.retention_days) <= (datetime.now(UTC) if now is None else now)


def published_weeks(consdb: ConsDB, schema: str) -> list[HeldWeek]:
    """The weeks of which something is noted as written, by dataset."""
    noted = noted_table(consdb, schema)
    with consdb.reading(f"Reading {schema}.{PUBLISHED}") as connection:
        if not consdb.has_table(connection, noted):
            return []
        of = noted.c.topic, noted.c.week
        query = sa.select(*of, sa.func.sum(noted.c.rows)).group_by(*of).order_by(*of)
        return [
            HeldWeek(Dataset.parse(topic), Week.parse(week), int(rows))
            for topic, week, rows in connection.execute(query)
        ]


def due_weeks(archive: Archive, before: Week | None = None, now: datetime | None = None) -> list[HeldWeek]:
    """The weeks that are to go: those before one, or else those that the policy keeps no longer.

    Raises:
        DatabaseUnavailable: the database did not answer.
    """
    policy = archive.settings.configuration.publishing.consdb_1s
    if before is None and policy.retention_days is None:
        return []
    with ConsDB(archive.settings.require_consdb()) as consdb:
        found = published_weeks(consdb, policy.schema_name)
    if before is not None:
        return [one for one in found if one.week.start_us < before.start_us]
    return [one for one in found if has_run_out(policy, one.week, now)]


def drop_weeks(archive: Archive, weeks: Iterable[HeldWeek], why: str) -> int:
    """Lets weeks go, each in a transaction of its own; how many there were. What is noted of them goes with them.

    Raises:
        DatabaseUnavailable: what had gone before has gone, of the others nothing.
    """
    schema = archive.settings.configuration.publishing.consdb_1s.schema_name
    with ConsDB(archive.settings.require_consdb()) as consdb:
        return sum(_drop(consdb, schema, one, why) for one in weeks)


def _drop(consdb: ConsDB, schema: str, one: HeldWeek, why: str) -> bool:
    target, noted = TierTable(consdb, one.dataset, schema, ()), noted_table(consdb, schema)
    with consdb.migrating(f"Dropping {one.week} of {schema}.{target.name}") as connection:
        if not consdb.has_table(connection, noted):
            return False
        mine = sa.and_(noted.c.topic == one.dataset.text, noted.c.week == one.week.key)
        found = connection.execute(sa.delete(noted).where(mine)).rowcount
        if consdb.is_sqlite:
            whole = target.table()
            if consdb.has_table(connection, whole):
                connection.execute(sa.delete(whole).where(within(whole, one.week.start_us, one.week.end_us)))
        else:
            name = check_identifier(target.partition(one.week))
            connection.exec_driver_sql(f'DROP TABLE IF EXISTS "{schema}"."{name}"')
        if found:
            _keep_record(consdb, connection, schema, one, why)
    return bool(found)


def _keep_record(consdb: ConsDB, connection: sa.Connection, schema: str, one: HeldWeek, why: str) -> None:
    records = consdb.table(
        schema,
        DROPPED,
        sa.Column("topic", sa.Text, primary_key=True),
        sa.Column("week", sa.Text, primary_key=True),
        sa.Column("dropped_at", sa.DateTime, primary_key=True),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
    )
    records.create(connection, checkfirst=True)
    record = {"topic": one.dataset.text, "week": one.week.key, "rows": one.rows, "why": why}
    connection.execute(sa.insert(records), [{**record, "dropped_at": datetime.now(UTC).replace(tzinfo=None)}])
