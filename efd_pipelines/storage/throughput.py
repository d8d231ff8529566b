"""Throughput: the weekly report of what the engineering data costs, per component and topic.

The tables of seed 001 from live data: telemetry, events, commands, acknowledgements and metrics by component
with their shares, and the topics behind them, for one week or a range of weeks.
What belongs here: summing up sizes and keeping the report. Measuring them: `sizes.py`. How it looks:
`render.py`, `chart.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from efd_pipelines.errors import ArchiveError, ServiceUnavailable, UsageError
from efd_pipelines.storage.sizes import (
    Measure,
    Sizes,
    newest_week,
    published_sizes,
    sizes_of_weeks,
)
from efd_pipelines.times import Week, this_week, weeks_between
from efd_pipelines.topics.names import Kind

if TYPE_CHECKING:
    import pandas as pd

    from efd_pipelines.archive.archive import Archive

SECTIONS: Mapping[str, Kind] = {
    "telemetry": Kind.TELEMETRY,
    "events": Kind.EVENT,
    "commands": Kind.COMMAND,
    "acks": Kind.ACK,
    "metrics": Kind.METRIC,
}
"""The report's sections and the kind of each."""

DIRECTORY = "reports/storage"


@dataclass(frozen=True, slots=True)
class StorageReport:
    """What the topics of one period cost to keep.

    The frames have a row per component (`csc`), largest first: `size_mb` (of `measure`), `percent` (of the
    section), `rows, messages, files, avro_mb, parquet_mb, tier_mb`; `topics` has the same per topic, with
    `percent` of its section and `percent_of_total`. MB = 10⁶ bytes. What was not measured is NaN.
    """

    key: str
    weeks: tuple[Week, ...]
    measure: Measure
    tidy: pa.Table = field(repr=False)
    topics: pd.DataFrame = field(repr=False)
    components: pd.DataFrame = field(repr=False)
    outside: Mapping[str, int]
    last_at: str
    notes: tuple[str, ...]
    missing: tuple[str, ...]
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
        }


def storage_report(
    archive: Archive | None,
    week: Week | str | None = None,
    start: Week | datetime | None = None,
    end: Week | datetime | None = None,
    sizes: Path | None = None,
) -> StorageReport:
    """The storage report of a week, of a range of weeks, or of published sizes, kept in the archive.

    Written to `<archive>/reports/storage/<week>/` as Parquet (a row per week and topic), Markdown and a
    picture; the same ledger gives the same files. The ledger is brought up to date first; where that fails
    the report is made all the same and `missing` says what may lack.

    Args:
        archive: whose ledger is asked and where the report goes; None (with `sizes` only) keeps no files.
        week: its Monday; without week and start, the newest week that has rows.
        start: beginning of a range; widened to whole weeks.
        end: end of the range, excluded; without it the newest week that has rows is the last.
        sizes: a directory of published tables that is reported instead of the archive.

    Raises:
        UsageError: no such period, or `sizes` is no such directory.
        StoreUnavailable: neither figures nor files can be had.
    """
    if sizes is not None:
        if not (week is None and start is None and end is None):
            raise UsageError("Published sizes are of their own period", remedy="Give --sizes without weeks.")
        report = _report(published_sizes(sizes), (), (), ())
    elif archive is None:
        raise UsageError("A report needs an archive or published sizes", remedy="Set EFD_ARCHIVE.")
    else:
        report = measure(archive, week, start, end)
    return report if archive is None else write(archive, report)


def measure(
    archive: Archive,
    week: Week | str | None = None,
    start: Week | datetime | None = None,
    end: Week | datetime | None = None,
) -> StorageReport:
    """The report of a period, without keeping it; arguments and errors as for `storage_report`."""
    missing = _catch_up(archive)
    ledger = archive.ledger.table()
    weeks, notes = _period(week, start, end, lambda: newest_week(ledger))
    sizes = sizes_of_weeks(ledger, weeks)
    return _report(sizes, weeks, (*notes, *_remarks(sizes, weeks)), missing)


def write(archive: Archive, report: StorageReport) -> StorageReport:
    """The report with the addresses of its files, after writing each of them atomically."""
    from efd_pipelines.storage.render import documents

    written = []
    for name, content in documents(report).items():
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


def _remarks(sizes: Sizes, weeks: Sequence[Week]) -> list[str]:
    """What a reader must know to take the figures for what they are."""
    remarks = []
    if this_week() in weeks:
        remarks.append(f"The week of {this_week()} is running: figures are up to {sizes.last_at or 'now'} UTC.")
    if sizes.topics.num_rows == 0:
        remarks.append("The archive has no rows of this period.")
    for place, what in (("quarantine", "an impossible time"), ("dead", "frames that cannot be decoded")):
        if sizes.outside.get(place):
            count = sizes.outside[place]
            remarks.append(f"{count:,} records that arrived in this period count in no week: {what} ({place}).")
    unsized = sum(
        row["rows"] > 0 and not row["avro_bytes"] for row in sizes.topics.select(["rows", "avro_bytes"]).to_pylist()
    )
    if unsized:
        remarks.append(f"{unsized:,} topics have rows without an Avro size (history that was filled in).")
    kept = sizes.topics.select(["messages", "parquet_bytes"]).to_pylist()
    let_go = sum(row["messages"] > 0 and not row["parquet_bytes"] for row in kept)
    if let_go:
        remarks.append(f"The records of {let_go:,} weeks of topics were let go; Parquet sizes are of what is left.")
    return remarks


def _report(sizes: Sizes, weeks: Sequence[Week], notes: Sequence[str], missing: Sequence[str]) -> StorageReport:
    tidy, topics, components = _roll_up(sizes.topics)
    return StorageReport(
        key=sizes.label or "_".join(dict.fromkeys(week.key for week in (weeks[0], weeks[-1]))),
        weeks=tuple(weeks),
        measure=sizes.measure,
        tidy=tidy,
        topics=topics,
        components=components,
        outside=sizes.outside,
        last_at=sizes.last_at,
        notes=tuple(notes),
        missing=tuple(missing),
    )


_TIDY_QUERY = """
    SELECT *,
           100.0 * size_bytes / nullif(sum(size_bytes) OVER (PARTITION BY week, kind), 0) AS percent,
           100.0 * size_bytes / nullif(sum(size_bytes) OVER (PARTITION BY week), 0) AS percent_of_total
    FROM sizes ORDER BY week, topic
"""

_TOPIC_QUERY = """
    SELECT topic, component AS csc, kind, sum(size_bytes) / 1e6 AS size_mb,
           100.0 * sum(size_bytes) / nullif(sum(sum(size_bytes)) OVER (PARTITION BY kind), 0) AS percent,
           CAST(sum(rows) AS DOUBLE) AS rows, CAST(sum(messages) AS DOUBLE) AS messages,
           CAST(sum(files) AS DOUBLE) AS files, sum(avro_bytes) / 1e6 AS avro_mb,
           sum(parquet_bytes) / 1e6 AS parquet_mb, sum(tier_bytes) / 1e6 AS tier_mb,
           100.0 * sum(size_bytes) / nullif(sum(sum(size_bytes)) OVER (), 0) AS percent_of_total
    FROM sizes GROUP BY topic, component, kind ORDER BY size_mb DESC, topic
"""

_COMPONENT_QUERY = """
    SELECT csc, kind, sum(size_mb) AS size_mb, sum(percent) AS percent,
           sum(rows) AS rows, sum(messages) AS messages, sum(files) AS files,
           sum(avro_mb) AS avro_mb, sum(parquet_mb) AS parquet_mb, sum(tier_mb) AS tier_mb
    FROM topics GROUP BY csc, kind ORDER BY size_mb DESC, csc
"""


def _roll_up(sizes: pa.Table) -> tuple[pa.Table, pd.DataFrame, pd.DataFrame]:
    """The sizes with their shares in each week; by topic and by component over the whole period."""
    import duckdb

    with duckdb.connect() as connection:
        connection.register("sizes", sizes)
        tidy = connection.sql(_TIDY_QUERY).to_arrow_table()
        topics = connection.sql(_TOPIC_QUERY)
        return tidy, topics.df(), connection.sql(_COMPONENT_QUERY).df()


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
