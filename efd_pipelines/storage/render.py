"""Rendering: the storage report as files: Parquet for programs, Markdown and a picture for people.

Nothing in them depends on when or where they are made, so that making the same report again changes no byte.
The picture is drawn by `chart.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from efd_pipelines.storage.sizes import Measure
from efd_pipelines.storage.stores import as_parquet
from efd_pipelines.storage.text import section_text, table
from efd_pipelines.storage.throughput import SECTIONS, StorageReport
from efd_pipelines.storage.weekly import SNAPSHOTS
from efd_pipelines.times import Week

if TYPE_CHECKING:
    import pandas as pd

    from efd_pipelines.storage.page import Section

TABLE, TEXT, PICTURE, PAGE = "throughput.parquet", "throughput.md", "throughput.png", "throughput.html"
TOPICS_SHOWN = 50
DRAWN = ("weekly", "flows", "movers", "rates", "tiers")
_TABLES = ("by-", "topics-")
"""The page's tables that the text has as tables of its own."""

LOCAL = ZoneInfo("America/Santiago")


def documents(report: StorageReport, more: Sequence[Section] = ()) -> dict[str, bytes]:
    """The report's files by name; the text comes last: what it points to is there by then."""
    from efd_pipelines.storage.chart import picture
    from efd_pipelines.storage.sections import sections

    made = sections(report)
    kept = {}
    if report.stores is not None and report.stores.num_rows and len(report.weeks) == 1:
        kept[SNAPSHOTS] = as_parquet(report.stores)
    return {
        **kept,
        TABLE: report.gathered.parquet,
        PICTURE: picture(report),
        PAGE: html(report, more, made).encode(),
        TEXT: markdown(report, made=made).encode(),
    }


def html(report: StorageReport, more: Sequence[Section] = (), made: Sequence[Section] | None = None) -> str:
    """The report as one page that needs no network; `more` are sections after its own (`made`, where they are)."""
    from efd_pipelines.storage.page import page
    from efd_pipelines.storage.sections import sections

    title = f"What the EFD's data takes: {period(report.weeks)}"
    notes = " ".join([_bounds(report), f"Sizes are {report.measure.value} where nothing else is said.", *report.notes])
    return page(title, notes.strip(), report.missing, [*(made or sections(report)), *more])


def drawings(report: StorageReport) -> dict[str, str]:
    """The page's main charts by their sections' keys, each as an SVG file; beside the picture of components."""
    from efd_pipelines.storage.page import drawing
    from efd_pipelines.storage.sections import sections

    return {one.key: drawing(one.svg) for one in sections(report) if one.key in DRAWN and one.svg}


def markdown(
    report: StorageReport,
    picture: str = PICTURE,
    charts: Mapping[str, str] | None = None,
    made: Sequence[Section] | None = None,
) -> str:
    """The report for people; `picture` is where its chart is (a path, or a data address), `charts` are those of
    sections, by their keys; `made` are the page's own sections, where they are made."""
    from efd_pipelines.storage.sections import sections

    shown = [one for one in made or sections(report) if not one.key.startswith(_TABLES)]
    parts = [
        f"# What the EFD's data takes: {period(report.weeks)}",
        _bounds(report),
        f"Sizes are **{report.measure.value}**, in MB (10⁶ bytes). "
        "A percentage in a component's or topic's line is of its section."
        + (" Acknowledgements are counted as telemetry, as published." if not report.weeks else ""),
        *(f"> **Missing:** {line}" for line in report.missing),
        *(f"> {line}" for line in report.notes),
        f"![Share of each component]({picture})" if picture else "",
        _totals(report),
        *(_section(report, name) for name in SECTIONS if len(report.section(name))),
        *(section_text(one, charts or {}, PAGE) for one in shown),
        _topics(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def period(weeks: Sequence[Week]) -> str:
    """The weeks in words."""
    if not weeks:
        return "published sizes"
    if len(weeks) == 1:
        return f"week of {weeks[0]}"
    return f"{len(weeks)} weeks, {weeks[0]} to {weeks[-1].next()}"


def megabytes(size_mb: float) -> str:
    """A size in MB, whole from 100 on and with three digits below; a dash for what was not measured."""
    if size_mb != size_mb:
        return "–"
    if size_mb >= 100 or size_mb == 0:
        return f"{size_mb:,.0f}"
    return f"{size_mb:.3g}" if size_mb >= 1e-4 else f"{size_mb:.1g}"


def _bounds(report: StorageReport) -> str:
    if not report.weeks:
        return ""
    begin, end = report.weeks[0].start, report.weeks[-1].end
    local = f"{begin.astimezone(LOCAL):%Y-%m-%d %H:%M} to {end.astimezone(LOCAL):%Y-%m-%d %H:%M}"
    return f"{begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC ({local} in Chile), by event time."


def _totals(report: StorageReport) -> str:
    components = report.components
    lines = []
    for name, kind in SECTIONS.items():
        rows = components[components["kind"] == kind.value]
        if len(rows):
            lines.append(_total_line(report, name, rows, report.topics[report.topics["kind"] == kind.value]))
    lines.append(_total_line(report, "**total**", components, report.topics))
    return "## All of it\n\n" + table(["section", "topics", *_head(report), *_compression(report)], lines)


def _total_line(report: StorageReport, name: str, rows: pd.DataFrame, topics: pd.DataFrame) -> list[str]:
    sums = {column: float(rows[column].sum()) for column in _COLUMNS}
    whole = report.total("size_mb")
    sums["percent"] = 100 * sums["size_mb"] / whole if whole else float("nan")
    line = [name, f"{len(topics):,}", *_figures(report, sums)]
    if report.measure is Measure.AVRO:
        kept = sums["parquet_mb"]
        line.append(f"{sums['avro_mb'] / kept:.2f} ×" if kept > 0 and sums["avro_mb"] > 0 else "–")
    return line


_COLUMNS = {
    "rows": "rows",
    "messages": "messages",
    "size_mb": "size (MB)",
    "avro_mb": "Avro (MB)",
    "parquet_mb": "Parquet (MB)",
    "tier_mb": "tiers (MB)",
    "percent": "%",
}


def _shown(report: StorageReport) -> list[str]:
    """The columns that this report measured; live, the size is the Avro size, and shown once."""
    if report.measure is Measure.PUBLISHED:
        return ["size_mb", "percent"]
    return [column for column in _COLUMNS if column != "size_mb"]


def _head(report: StorageReport) -> list[str]:
    return [_COLUMNS[column] for column in _shown(report)]


def _compression(report: StorageReport) -> list[str]:
    return ["Avro : Parquet"] if report.measure is Measure.AVRO else []


def _section(report: StorageReport, name: str) -> str:
    lines = _lines(report, report.section(name), "csc")
    return f"## {name.capitalize()} by component\n\n" + table(["component", *_head(report)], lines)


def _topics(report: StorageReport) -> str:
    if not len(report.topics):
        return ""
    shown = report.topics.head(TOPICS_SHOWN)
    rest = len(report.topics) - len(shown)
    more = f"\n\n{rest:,} more topics are in `{TABLE}`." if rest else ""
    return "## Largest topics\n\n" + table(["topic", *_head(report)], _lines(report, shown, "topic")) + more


def _lines(report: StorageReport, rows: pd.DataFrame, name: str) -> list[list[str]]:
    return [[str(row[name]), *_figures(report, row)] for row in rows.to_dict("records")]


def _figures(report: StorageReport, row: Mapping[Any, Any]) -> list[str]:
    return [_figure(column, row[column]) for column in _shown(report)]


def _figure(column: str, value: float) -> str:
    if value != value:
        return "–"
    if column == "percent":
        return f"{value:.2f} %"
    return megabytes(value) if column.endswith("_mb") else f"{int(value):,}"
