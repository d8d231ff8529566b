"""Throughput: the weekly report of what the engineering data costs, per component and topic.

The tables of seed 001 from live data: telemetry, events, commands, acknowledgements and metrics by component
with their shares, and the topics behind them, for one week or a range of weeks.
What belongs here: summing up sizes and keeping the report. Measuring them: `sizes.py`. How it looks:
`render.py`, `chart.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.errors import ArchiveError, EfdError, ServiceUnavailable, UsageError
from efd_pipelines.storage.annotations import Annotation, all_annotations
from efd_pipelines.storage.gathering import Gathered, gather, of_topics, period_before
from efd_pipelines.storage.ledgered import Collected, collected
from efd_pipelines.storage.sizes import Measure, published_sizes
from efd_pipelines.storage.stores import Asked, ask_stores
from efd_pipelines.storage.tidy import tidy
from efd_pipelines.storage.weekly import DIRECTORY, parts_of, snapshots
from efd_pipelines.times import Week, from_microseconds, this_week, weeks_between
from efd_pipelines.topics.names import Kind

if TYPE_CHECKING:
    import pandas as pd

    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.storage.details import Details
    from efd_pipelines.storage.page import Section

More = Callable[["StorageReport"], Sequence["Section"]]
"""Sections of the page that a caller adds to the report's own."""

SECTIONS: Mapping[str, Kind] = {
    "telemetry": Kind.TELEMETRY,
    "events": Kind.EVENT,
    "commands": Kind.COMMAND,
    "acks": Kind.ACK,
    "metrics": Kind.METRIC,
}
"""The report's sections and the kind of each."""


@dataclass(frozen=True, slots=True)
class StorageReport:
    """What the topics of one period cost to keep.

    The frames have a row per component (`csc`), largest first: `size_mb` (of `measure`), `percent` (of the
    section), `rows, messages, files, avro_mb, parquet_mb, tier_mb`; `topics` has the same per topic, with
    `percent` of its section and `percent_of_total`. MB = 10⁶ bytes. What was not measured is NaN.
    `gathered` has what surrounds the period: all weeks' totals by store, and the period before. `stores` are the rows
    of the tidy table that the stores themselves told for the last week of the period.
    """

    key: str
    weeks: tuple[Week, ...]
    measure: Measure
    gathered: Gathered = field(repr=False)
    topics: pd.DataFrame = field(repr=False)
    components: pd.DataFrame = field(repr=False)
    outside: Mapping[str, int]
    last_at: str
    notes: tuple[str, ...]
    missing: tuple[str, ...]
    annotations: tuple[Annotation, ...] = ()
    stores: pa.Table | None = field(default=None, repr=False)
    details: Details | None = field(default=None, repr=False)
    files: tuple[str, ...] = ()

    def section(self, name: str) -> pd.DataFrame:
        """The components of one section (`telemetry`, `events` …), largest first."""
        rows = self.components[self.components["kind"] == SECTIONS[name].value]
        return rows.drop(columns="kind").reset_index(drop=True)

    @property
    def telemetry(self) -> pd.DataFrame:
        return self.section("telemetry")

    @property
    def events(self) -> pd.DataFrame:
        return self.section("events")

    @property
    def commands(self) -> pd.DataFrame:
        return self.section("commands")

    @property
    def acks(self) -> pd.DataFrame:
        return self.section("acks")

    @property
    def metrics(self) -> pd.DataFrame:
        return self.section("metrics")

    def total(self, column: str) -> float:
        """The sum over all components of `size_mb`, `rows`, `parquet_mb` …; 0 where nothing was measured."""
        return float(self.components[column].sum())

    @property
    def total_mb(self) -> float:
        return round(self.total("size_mb"), 6)

    def to_json(self) -> dict[str, Any]:
        """What `efd report storage --json` prints (interfaces.md)."""
        document: dict[str, Any] = {name: _records(self.section(name)) for name in SECTIONS}
        return document | {
            "total_mb": self.total_mb,
            "measure": self.measure.value,
            "weeks": [week.key for week in self.weeks],
            "rows": int(self.total("rows")),
            "messages": int(self.total("messages")),
            "avro_mb": round(self.total("avro_mb"), 6),
            "parquet_mb": round(self.total("parquet_mb"), 6),
            "tier_mb": round(self.total("tier_mb"), 6),
            "topics": _records(self.topics),
            "outside": dict(self.outside),
            "notes": list(self.notes),
            "missing": list(self.missing),
            "files": list(self.files),
            **(self.details.to_json() if self.details is not None else {}),
        }


def storage_report(
    archive: Archive | None,
    week: Week | str | None = None,
    start: Week | datetime | None = None,
    end: Week | datetime | None = None,
    sizes: Path | None = None,
    more: More | None = None,
) -> StorageReport:
    """The storage report of a week, of a range of weeks, or of published sizes, kept in the archive.

    Written to `<archive>/reports/storage/<week>/` as Parquet (a row per week, store and topic), a page, Markdown and a
    picture; the same ledger gives the same files. The ledger is brought up to date first; where that fails
    the report is made all the same and `missing` says what may lack.

    Args:
        archive: whose ledger is asked and where the report goes; None (with `sizes` only) keeps no files.
        week: its Monday; without week and start, the newest week that has rows.
        start: beginning of a range; widened to whole weeks.
        end: end of the range, excluded; without it the newest week that has rows is the last.
        sizes: a directory of published tables that is reported instead of the archive.
        more: gives sections that the page has after the report's own.

    Raises:
        UsageError: no such period, or `sizes` is no such directory.
        StoreUnavailable: neither figures nor files can be had.
    """
    if sizes is not None:
        if not (week is None and start is None and end is None):
            raise UsageError("Published sizes are of their own period", remedy="Give --sizes without weeks.")
        published = published_sizes(sizes)
        report = replace(_report(gather([published.topics], [""], []), Measure.PUBLISHED, (), ()), key=published.label)
    elif archive is None:
        raise UsageError("A report needs an archive or published sizes", remedy="Set EFD_ARCHIVE.")
    else:
        report = detailed(archive, measure(archive, week, start, end))
    return report if archive is None else write(archive, report, more)


def measure(
    archive: Archive,
    week: Week | str | None = None,
    start: Week | datetime | None = None,
    end: Week | datetime | None = None,
) -> StorageReport:
    """The report of a period, without keeping it; arguments and errors as for `storage_report`."""
    missing = list(_catch_up(archive))
    weeks, notes = _period(week, start, end, lambda: _newest(archive))
    before = period_before(weeks)
    found = collected(archive, apart={one.key for one in (*before, *weeks)})
    asked = ask_stores(archive, weeks[-1], found.mean_bytes()) if _is_current(weeks[-1]) else Asked()
    kept, own = _with_kept(archive, asked.table(), weeks)
    outside = _outside(found, weeks)
    last_at = max((found.last_at_us[week.key] for week in weeks if week.key in found.last_at_us), default=None)
    gathered = gather(parts_of(found, kept), [week.key for week in weeks], [week.key for week in before], found.seen)
    del found  # ten years of it are a hundred megabytes
    newest = "" if last_at is None else f"{from_microseconds(last_at):%Y-%m-%d %H:%M:%S}"
    missing += asked.missing
    none: list[Annotation] = []
    known = _asked(lambda: all_annotations(archive), "Annotations", missing, none)
    report = replace(_report(gathered, Measure.AVRO, weeks, missing), annotations=tuple(known))
    remarks = _remarks(report, outside, newest)
    return replace(report, outside=outside, last_at=newest, notes=(*notes, *remarks, *asked.notes), stores=own)


def detailed(archive: Archive, report: StorageReport) -> StorageReport:
    """The report with what has to be looked up in the records themselves: rates, latencies, advice."""
    from efd_pipelines.storage.advice import advise
    from efd_pipelines.storage.details import Details
    from efd_pipelines.storage.estimates import unexercised
    from efd_pipelines.storage.latency import latencies
    from efd_pipelines.storage.rates import rates

    missing = list(report.missing)
    found = Details(
        _asked(lambda: rates(archive, report), "Rates", missing, None),
        tuple(_asked(lambda: latencies(archive, report), "Latencies", missing, [])),
        _asked(lambda: advise(archive, report), "Advice", missing, None),
        tuple(_asked(lambda: unexercised(archive, report), "Estimates", missing, [])),
    )
    return replace(report, details=found, missing=tuple(missing))


def write(archive: Archive, report: StorageReport, more: More | None = None) -> StorageReport:
    """The report with the addresses of its files, after writing each of them atomically."""
    from efd_pipelines.storage.render import documents

    written = []
    for name, content in documents(report, more(report) if more is not None else ()).items():
        relative = f"{DIRECTORY}/{report.key}/{name}"
        archive.store.write_bytes(relative, content)
        written.append(archive.store.uri(relative))
    return replace(report, files=tuple(written))


def _catch_up(archive: Archive) -> tuple[str, ...]:
    """Bring the ledger up to date; what could not be, in words."""
    try:
        archive.ledger.catch_up_pending()
    except (ServiceUnavailable, ArchiveError) as error:
        return (f"The ledger may lag behind the archive: {error}",)
    return ()


Answer = TypeVar("Answer")


def _asked(question: Callable[[], Answer], what: str, missing: list[str], otherwise: Answer) -> Answer:
    """An answer, or what stands for it, with a line about what is missing: the report is made all the same."""
    try:
        return question()
    except EfdError as error:
        missing.append(f"{what}: {error}")
        return otherwise


def _period(
    week: Week | str | None,
    start: Week | datetime | None,
    end: Week | datetime | None,
    newest: Callable[[], Week | None],
) -> tuple[tuple[Week, ...], tuple[str, ...]]:
    if week is not None:
        if start is not None or end is not None:
            raise UsageError("Both a week and a range are given", remedy="Give either.")
        return (week if isinstance(week, Week) else Week.parse(week),), ()
    if start is None:
        if end is not None:
            raise UsageError("A range needs its beginning", remedy="Give --from too.")
        return (newest() or this_week(),), ()
    first = start if isinstance(start, Week) else Week.containing(start)
    last = _last_week(end) if end is not None else max(newest() or first, first)
    weeks = tuple(weeks_between(first, last))
    if not weeks or (isinstance(start, datetime) and isinstance(end, datetime) and end <= start):
        raise UsageError(f"The range ends ({end}) before it begins ({start})", remedy="Give --from before --to.")
    return weeks, _widened(start, end, first, last)


def _last_week(end: Week | datetime) -> Week:
    return end.previous() if isinstance(end, Week) else Week.containing(end - timedelta(microseconds=1))


def _widened(start: Week | datetime, end: Week | datetime | None, first: Week, last: Week) -> tuple[str, ...]:
    whole_start = isinstance(start, Week) or start == first.start
    whole_end = end is None or isinstance(end, Week) or end == last.end
    if whole_start and whole_end:
        return ()
    return (f"Widened to whole weeks: sizes are known by week ({first} to {last.next()}, excluded).",)


def _newest(archive: Archive) -> Week | None:
    key = archive.ledger.newest_week()
    return None if key is None else Week.parse(key)


def _is_current(week: Week) -> bool:
    """Whether what a store holds now can be counted as this week's: it runs, or was the last."""
    return week >= this_week().previous()


def _with_kept(archive: Archive, asked: pa.Table, weeks: Sequence[Week]) -> tuple[pa.Table, pa.Table]:
    """What stores told now in the place of what reports kept; and what is to be kept of the period's last week."""
    import polars as pl

    kept, new = (pl.DataFrame(table).with_columns(pl.col(pl.Categorical).cast(pl.String)) for table in (
        snapshots(archive), asked))  # fmt: skip
    kept = kept.join(new, on=["week", "store"], how="anti")
    whole = tidy(pl.concat([kept, new], how="vertical_relaxed").to_arrow())
    is_own = pc.equal(whole["week"].cast(pa.string()), weeks[-1].key)
    return whole, whole.filter(is_own)


def _outside(found: Collected, weeks: Sequence[Week]) -> dict[str, int]:
    """Rows that arrived in these weeks and belong to none, by `quarantine` and `dead`."""
    keys = {week.key for week in weeks}
    sums: Counter[str] = Counter()
    for (place, arrived), rows in found.outside.items():
        if arrived in keys:
            sums[place] += rows
    return {place: rows for place, rows in sums.items() if rows > 0}


def _remarks(report: StorageReport, outside: Mapping[str, int], last_at: str) -> list[str]:
    """What a reader must know to take the figures for what they are."""
    remarks = []
    if this_week() in report.weeks:
        until = f": figures are up to {last_at} UTC" if last_at else ""
        remarks.append(f"The week of {this_week()} is running{until}.")
    if not len(report.topics):
        remarks.append("The archive has no rows of this period.")
    for place, what in (("quarantine", "an impossible time"), ("dead", "frames that cannot be decoded")):
        if outside.get(place):
            remarks.append(
                f"{outside[place]:,} records that arrived in this period count in no week: {what} ({place})."
            )
    unsized = int(((report.topics["rows"] > 0) & ~(report.topics["avro_mb"] > 0)).sum())
    if unsized:
        remarks.append(f"{unsized:,} topics have rows without an Avro size (history that was filled in).")
    if report.gathered.let_go:
        weeks = report.gathered.let_go
        remarks.append(f"The records of {weeks:,} weeks of topics were let go; Parquet sizes are of what is left.")
    return remarks


def _report(gathered: Gathered, measure: Measure, weeks: Sequence[Week], missing: Sequence[str]) -> StorageReport:
    topics, components = _roll_up(gathered, measure)
    return StorageReport(
        key="_".join(dict.fromkeys(week.key for week in (weeks[0], weeks[-1]))) if weeks else "",
        weeks=tuple(weeks),
        measure=measure,
        gathered=gathered,
        topics=topics,
        components=components,
        outside={},
        last_at="",
        notes=(),
        missing=tuple(missing),
    )


_TOPIC_QUERY = """
    SELECT topic, component AS csc, kind, received_bytes / 1e6 AS size_mb,
           100.0 * received_bytes / nullif(sum(received_bytes) OVER (PARTITION BY kind), 0) AS percent,
           CAST(rows AS DOUBLE) AS rows, CAST(messages AS DOUBLE) AS messages, CAST(files AS DOUBLE) AS files,
           received_bytes / 1e6 AS avro_mb, parquet_bytes / 1e6 AS parquet_mb, tier_bytes / 1e6 AS tier_mb,
           100.0 * received_bytes / nullif(sum(received_bytes) OVER (), 0) AS percent_of_total
    FROM sizes ORDER BY size_mb DESC, topic
"""

_COMPONENT_QUERY = """
    SELECT csc, kind, sum(size_mb) AS size_mb, sum(percent) AS percent,
           sum(rows) AS rows, sum(messages) AS messages, sum(files) AS files,
           sum(avro_mb) AS avro_mb, sum(parquet_mb) AS parquet_mb, sum(tier_mb) AS tier_mb
    FROM topics GROUP BY csc, kind ORDER BY size_mb DESC, csc
"""


def _roll_up(gathered: Gathered, measure: Measure) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The period's sizes by topic and by component; of published ones, only the size was measured."""
    import duckdb

    with duckdb.connect() as connection:
        connection.register("sizes", of_topics(gathered.topics).to_arrow())
        topics = connection.sql(_TOPIC_QUERY).df()
        if measure is Measure.PUBLISHED:
            topics[["rows", "messages", "files", "avro_mb", "parquet_mb", "tier_mb"]] = float("nan")
        connection.register("topics", topics)
        return topics, connection.sql(_COMPONENT_QUERY).df()


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The frame's rows for JSON: whole counts as integers, sizes to the byte, null for what was not
    measured."""
    return [{str(name): _plain(str(name), value) for name, value in row.items()} for row in frame.to_dict("records")]


def _plain(name: str, value: Any) -> Any:
    if not isinstance(value, float):
        return value
    if value != value:
        return None
    return int(value) if name in ("rows", "messages", "files") else round(value, 6)
