"""Rendering: the growth report as files: Parquet for programs, Markdown and a picture for people.

What belongs here: how it reads and looks. What is in it: `report.py`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from efd_pipelines.archive.findings import counted
from efd_pipelines.forecasting.forecast import WEEKS
from efd_pipelines.forecasting.growth import GrowthRow
from efd_pipelines.forecasting.series import TB
from efd_pipelines.forecasting.smoothing import Floats
from efd_pipelines.forecasting.what_if import assumptions_of
from efd_pipelines.storage.text import table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from efd_pipelines.forecasting.capacity import StoreRoom
    from efd_pipelines.forecasting.databases import Database
    from efd_pipelines.forecasting.report import GrowthReport, LiveGrowth

TABLE, TEXT, PICTURE = "growth.parquet", "growth.md", "growth.png"
_DATABASES_SHOWN = 60
_UNITS = (("TB", 1.0), ("GB", 1e-3), ("MB", 1e-6), ("kB", 1e-9))


def documents(report: GrowthReport) -> dict[str, bytes]:
    """The report's files by name; the text comes last: what it points to is there by then."""
    return {TABLE: parquet(report), PICTURE: picture(report), TEXT: markdown(report).encode()}


def parquet(report: GrowthReport) -> bytes:
    """The rows by assumptions and by live rates, told apart by `basis`."""
    import pyarrow.parquet as pq

    rows = [{"basis": "assumptions"} | asdict(row) for row in report.projection.rows]
    if report.live:
        rows += [{"basis": "live"} | asdict(row) for row in report.live.projection.rows]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, compression="zstd")
    return buffer.getvalue()


def markdown(report: GrowthReport, picture: str = PICTURE) -> str:
    """The report for people; `picture` is where its chart is (a path, or a data address)."""
    parts = [
        f"# {headline(report)}",
        *(f"> **Missing:** {line}" for line in report.missing),
        *(f"> **What if:** {line}" for line in report.asked.in_words()),
        *(f"> {line}" for line in report.notes),
        f"![Growth]({picture})" if picture else "",
        "## By assumptions\n\n" + _rows_table(report.projection.rows),
        "## The assumptions\n\n" + _assumptions(report),
        "## Databases\n\n" + _databases(report.databases, report.assumptions.split_below_tb),
        _live(report.live) if report.live else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def headline(report: GrowthReport) -> str:
    """What one sees, in a sentence."""
    last = report.projection.rows[-1]
    text = f"The EFD's cluster needs {size(last.total_cluster_storage_tb)} in {last.year} by assumptions"
    if report.live:
        made = report.live.forecast
        text += f"; live rates are {size(made.year / TB)} a year"
    return text


def size(tb: float) -> str:
    """A size given in TB, in the unit that suits it."""
    if tb == 0:
        return "0 TB"
    unit, scale = next(((unit, scale) for unit, scale in _UNITS if abs(tb) >= scale), _UNITS[-1])
    return f"{tb / scale:,.4g} {unit}"


def _rows_table(rows: Sequence[GrowthRow]) -> str:
    head = ["year", "RF", "added", "stored", "per data node", "whole cluster", "nodes", "disks a node"]
    lines = [
        [
            str(row.year),
            str(row.replication_factor),
            size(row.increase_tb),
            size(row.stored_tb),
            size(row.storage_per_data_node_tb),
            size(row.total_cluster_storage_tb),
            str(row.data_nodes),
            str(row.disks_per_node),
        ]
        for row in rows
    ]
    return table(head, lines)


def _assumptions(report: GrowthReport) -> str:
    given = assumptions_of(report.assumptions)
    lines = [[name, str(value)] for name, value in given.items() if not isinstance(value, list | dict)]
    for one in report.reference_weeks:
        what = f"{one.gb_per_week:g} GB a week → {one.tb_per_year:.2f} TB a year, taken as {one.rounded_tb:g}"
        lines.append([f"from {one.from_year}", f"{what} ({one.why})"])
    shares = {kind: sum(of.values()) for kind, of in report.assumptions.published_mb.items()}
    lines += [[f"published sizes, {kind}", f"{whole:,.0f} MB"] for kind, whole in shares.items()]
    return table(["assumption", "value"], lines, left=["value"])


def _databases(databases: Sequence[Database], below_tb: float) -> str:
    lines = [[one.name, one.subsystem, _years(one), size(one.size_tb)] for one in databases[:_DATABASES_SHOWN]]
    text = f"Each below {below_tb:g} TB, before replication.\n\n"
    return text + table(["database", "subsystem", "years", "size"], lines, left=["subsystem", "years"])


def _years(database: Database) -> str:
    one, other = database.first_year, database.last_year
    return str(one) if one == other else f"{one}–{other}"


def _live(live: LiveGrowth) -> str:
    made = live.forecast
    interval = f"{size(made.year_lower / TB)} to {size(made.year_upper / TB)}"
    year = f"{size(made.year / TB)} in the coming year (90 %: {interval}), by {made.method}."
    return "\n\n".join(
        [
            f"## By live rates\n\n{year}",
            _rows_table(live.projection.rows),
            "## Room in the stores\n\n" + _stores(live.stores),
        ]
    )


def _stores(stores: Sequence[StoreRoom]) -> str:
    head = ["store", "used", "capacity", "a year", "full in", "at the earliest"]
    lines = [
        [
            one.store,
            size(one.used_tb),
            "not known" if one.capacity_tb is None else f"{size(one.capacity_tb)} ({one.how})",
            size(one.tb_per_year),
            months(one.months_to_full),
            months(one.months_at_least),
        ]
        for one in stores
    ]
    return table(head, lines)


def months(count: float | None) -> str:
    """A time to full in words."""
    if count is None:
        return "–"
    if count < 1:
        return "less than a month"
    return counted(round(count), "month") if count < 60 else f"{count / 12:,.0f} years"


def picture(report: GrowthReport, dpi: int = 130) -> bytes:
    """The report's picture, as PNG, ten inches wide: the years, and where there is one the forecast."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with_forecast = report.live is not None and len(report.live.series.weeks) >= WEEKS
    figure = Figure(figsize=(10, 7.5 if with_forecast else 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 if with_forecast else 1, 1, squeeze=False)[:, 0]
    figure.suptitle(headline(report), fontsize=12, fontweight="bold", wrap=True)
    _draw_years(axes[0], report)
    if with_forecast and report.live is not None:
        _draw_forecast(axes[1], report.live)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def _draw_years(axis: Axes, report: GrowthReport) -> None:
    rows = report.projection.rows
    years = [row.year for row in rows]
    totals = [row.total_cluster_storage_tb for row in rows]
    drawn = axis.bar(years, totals, color="#1f4e79", edgecolor="black", lw=0.6, label="whole cluster")
    axis.bar_label(drawn, labels=[f"{total:,.4g}" for total in totals], fontsize=8, padding=2)
    if report.unchanged is not None:
        before = report.unchanged.rows
        axis.step(
            [row.year for row in before],
            [row.total_cluster_storage_tb for row in before],
            where="mid",
            color="black",
            ls="--",
            label="without what is asked",
        )
    axis.set_xticks(years)
    axis.set_xlabel("end of year")
    axis.set_ylabel("TB (10¹² bytes), with all replicas")
    axis.set_title("Storage of the cluster, by assumptions", loc="left", fontsize=10)
    axis.legend(fontsize=8, loc="upper left")
    axis.margins(y=0.12)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_forecast(axis: Axes, live: LiveGrowth) -> None:
    """The past by week, and the coming year by periods of four weeks with their interval, as means of a week."""
    made, series = live.forecast, live.series
    unit, scale = _unit_of(float(max(series.bytes.max(), made.upper.max() / WEEKS)) / TB)
    past: Any = [week.start for week in series.weeks]
    axis.step(past, series.bytes / TB / scale, where="post", color="#555555", lw=0.8, label="each week, measured")
    start = np.datetime64(series.weeks[-1].end.replace(tzinfo=None), "D")
    ahead: Any = (start + np.arange(len(made.periods) + 1) * 7 * WEEKS).astype("datetime64[us]").tolist()
    lower, middle, upper = (_stepped(of, scale) for of in (made.lower, made.periods, made.upper))
    axis.fill_between(
        ahead, lower, upper, step="post", color="#e08214", alpha=0.3, hatch="///", ec="#a65c00", lw=0, label="90 %"
    )
    axis.step(ahead, middle, where="post", color="#a65c00", lw=2, label="forecast, mean week of four")
    axis.set_ylabel(f"{unit} a week: Parquet", fontsize=9)
    axis.set_xlabel("week, by its Monday (UTC)")
    axis.set_title(f"What arrives: {made.method}", loc="left", fontsize=10)
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8, ncols=3, loc="upper left")
    axis.spines[["top", "right"]].set_visible(False)


def _stepped(of: Floats, scale: float) -> Any:
    """Period sums as mean weeks, the last one again: a step has an end."""
    return np.append(of, of[-1]) / WEEKS / TB / scale


def _unit_of(tb: float) -> tuple[str, float]:
    return next(((unit, scale) for unit, scale in _UNITS if tb >= scale), _UNITS[-1])
