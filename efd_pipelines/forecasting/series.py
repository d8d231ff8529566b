"""Series: what has really arrived, week by week, as the forecast and the projection of live rates want it.

From the tidy table of weekly sizes (`storage/weekly.py`): Parquet bytes of the archive and of each tier. A week whose
records were let go counts with the bytes that its records would have: growth is of what arrives, not of what is left.
What belongs here: turning the tidy table into plain arrays and streams.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from efd_pipelines.forecasting.growth import RAW, Stream
from efd_pipelines.forecasting.smoothing import Floats
from efd_pipelines.storage.weekly import ARCHIVE, RECEIVED
from efd_pipelines.times import Week, this_week, weeks_between

if TYPE_CHECKING:
    import polars as pl

TB = 1e12
RECENT_WEEKS = 52
"""What shares and compression are taken of."""

_TIER = "tier_"


@dataclass(frozen=True, slots=True)
class WeeklySeries:
    """Bytes a week in the archive and its tiers: whole weeks only, from the first to the last, none left out.

    `streams` have what each component and kind has stored of each level, and its share of the last year's weeks.
    """

    weeks: tuple[Week, ...]
    bytes: Floats = field(repr=False)
    streams: tuple[Stream, ...] = field(repr=False)
    stored_bytes: float
    notes: tuple[str, ...] = ()


def weekly_series(table: pa.Table, now: datetime) -> WeeklySeries:
    """The series of a tidy table (`WEEKLY_SIZES`), up to the last week that is over at `now`."""
    import polars as pl

    running = this_week(now)
    frame = pl.DataFrame(table.select(["week", "store", "component", "subsystem", "kind", "bytes"]))
    frame = frame.with_columns(pl.col("week", "store", "component", "subsystem", "kind").cast(pl.String))
    here = pl.col("store").is_in([RECEIVED, ARCHIVE]) | pl.col("store").str.starts_with(_TIER)
    frame = frame.filter(here & (pl.col("bytes") > 0))
    past = frame.filter(pl.col("week") < running.key)
    if not past.height:
        return WeeklySeries((), np.zeros(0), _streams(frame, frame), _stored(frame), ("No week is over yet.",))
    weeks = tuple(weeks_between(Week.parse(str(past["week"].min())), running.previous()))
    sums, notes = _arrived(past, weeks)
    recent = past.filter(pl.col("week") >= weeks[-min(RECENT_WEEKS, len(weeks))].key)
    return WeeklySeries(weeks, sums, _streams(frame, recent), _stored(frame), notes)


def _arrived(past: pl.DataFrame, weeks: tuple[Week, ...]) -> tuple[Floats, tuple[str, ...]]:
    """Bytes of each week; where the archive let records go, what those that came in have in it elsewhere."""
    received, kept = (_by_week(past, weeks, is_received=flag) for flag in (True, False))
    both = (received > 0) & (kept > 0)
    lately = both & (np.arange(len(weeks)) >= len(weeks) - RECENT_WEEKS)
    of = lately if lately.any() else both
    ratio = float(kept[of].sum() / received[of].sum()) if of.any() else 0.0
    estimated = np.maximum(kept, np.where(kept < 0.5 * ratio * received, ratio * received, 0.0))
    changed = int((estimated > kept).sum())
    note = f"Of {changed} weeks little or nothing is kept: they count as {ratio:.3g} of what Kafka delivered."
    return estimated, (note,) if changed else ()


def _by_week(past: pl.DataFrame, weeks: tuple[Week, ...], *, is_received: bool) -> Floats:
    import polars as pl

    rows = past.filter((pl.col("store") == RECEIVED) == is_received).group_by("week").agg(pl.col("bytes").sum())
    found = dict(rows.iter_rows())
    return np.array([float(found.get(week.key, 0)) for week in weeks])


def _streams(frame: pl.DataFrame, recent: pl.DataFrame) -> tuple[Stream, ...]:
    """What is stored of each component, kind and level, and its share of what arrived lately."""
    import polars as pl

    by = ["component", "subsystem", "kind", "store"]
    stored, arriving = (
        of.filter(pl.col("store") != RECEIVED).group_by(by).agg(pl.col("bytes").sum()) for of in (frame, recent)
    )
    whole = float(arriving["bytes"].sum()) or 1.0
    rows = stored.join(arriving, on=by, how="left", suffix="_recent").sort(by)
    return tuple(
        Stream(component, subsystem, kind, _level(store), (lately or 0) / whole, held / TB)
        for component, subsystem, kind, store, held, lately in rows.iter_rows()
    )


def _level(store: str) -> str:
    return RAW if store == ARCHIVE else store.removeprefix(_TIER)


def _stored(frame: pl.DataFrame) -> float:
    import polars as pl

    return float(frame.filter(pl.col("store") != RECEIVED)["bytes"].sum())


def by_the_end_of(year: int, series: WeeklySeries, year_bytes: float, now: datetime) -> tuple[Stream, ...]:
    """The streams with what they will hold when the year ends, at the rate of `year_bytes` a year."""
    end = datetime(year + 1, 1, 1, tzinfo=now.tzinfo)
    part = max(0.0, (end - now) / timedelta(days=365.25))
    return tuple(replace(one, stored_tb=one.stored_tb + part * one.share * year_bytes / TB) for one in series.streams)
