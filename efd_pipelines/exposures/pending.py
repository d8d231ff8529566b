"""Pending: exposures that have ended and were never computed, found from where the last look ended.

Cheap enough for a sensor's tick every half minute: a look reads the exposures of the last observing days, and which of
them have provenance. Where it begins is a `Cursor`, for speed alone: without one the last 14 days are looked at, and
what is found is compared with what was written, so that a cursor that was lost costs a longer look and no exposure.
What is stale beyond that, only the join itself finds (`staleness.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from efd_pipelines.configuration import ExposureJoin
from efd_pipelines.exposures.consdb import ConsDB, naive_tai
from efd_pipelines.exposures.subjects import EXPOSURE
from efd_pipelines.times import day_obs_of

FIRST_LOOK = timedelta(days=14)
OVERLAP = timedelta(days=1)
"""A header may reach ConsDB a day after those of later exposures; what comes later still, the hourly join finds."""


@dataclass(frozen=True, slots=True)
class Pending:
    """What one look at an instrument found: so many exposures to be computed, the newest of them, where to look next.

    `newest` is an exposure's id, 0 for none; `from_day` the observing day from which on the next look reads.
    """

    count: int
    newest: int
    from_day: int

    @property
    def document(self) -> dict[str, int]:
        return {"count": self.count, "newest": self.newest, "from_day": self.from_day}

    @classmethod
    def parse(cls, document: object) -> Pending | None:
        """What `document` gave; None where it is something else."""
        names = ("count", "newest", "from_day")
        if not isinstance(document, Mapping) or not all(isinstance(document.get(name), int) for name in names):
            return None
        return cls(*(document[name] for name in names))


def look(consdb: ConsDB, join: ExposureJoin, before: Pending | None, now: datetime | None = None) -> Pending:
    """The exposures of an instrument that are pending; `before` is what the last look found, None where it is lost.

    An instrument whose exposure table is not there has none.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    since = (now or datetime.now(UTC)) - FIRST_LOOK
    from_day = max(before.from_day if before is not None else 0, day_obs_of(since))
    exposures, written = _tables(consdb, join)
    of, own = exposures.columns, written.columns
    recent = sa.and_(of.day_obs >= from_day, of.obs_start.is_not(None), of.obs_end >= naive_tai(since))
    query = sa.select(of.day_obs, of[EXPOSURE.key]).where(recent)
    with consdb.reading(f"Looking for new exposures of {join.instrument}") as connection:
        if not consdb.has_table(connection, exposures):
            return Pending(0, 0, from_day)
        newest_day = connection.execute(sa.select(sa.func.max(of.day_obs)).where(recent)).scalar()
        if consdb.has_table(connection, written):
            same = sa.and_(own.day_obs == of.day_obs, own.seq_num == of.seq_num)
            query = query.where(~sa.exists().where(same))
        rows = connection.execute(query).all()
    reached = from_day if newest_day is None else _day_before(newest_day)
    next_day = min([reached, *(row.day_obs for row in rows)])
    return Pending(len(rows), max((row[1] for row in rows), default=0), max(from_day, next_day))


def _tables(consdb: ConsDB, join: ExposureJoin) -> tuple[sa.Table, sa.Table]:
    """The exposures, and the provenance of those that were computed; their keys, and times in naive TAI."""

    def keys() -> list[sa.Column[int]]:
        return [sa.Column("day_obs", sa.Integer, primary_key=True), sa.Column("seq_num", sa.Integer, primary_key=True)]

    times = [sa.Column(name, sa.DateTime) for name in ("obs_start", "obs_end")]
    number = sa.Column(EXPOSURE.key, sa.BigInteger)
    return (
        consdb.table(join.exposure_schema, EXPOSURE.table, *keys(), number, *times),
        consdb.table(join.result_schema, EXPOSURE.provenance, *keys()),
    )


def _day_before(day_obs: int) -> int:
    """An observing day earlier by the overlap."""
    return int(f"{datetime.strptime(str(day_obs), '%Y%m%d').replace(tzinfo=UTC) - OVERLAP:%Y%m%d}")
