"""Chart: one picture of where the bytes come from.

Bars by component for telemetry and events, with their sizes and shares written at them, and for a range of
weeks the sum of each week. Sections differ by hatching as well as by shade, so that it reads without colour.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from efd_pipelines.storage.render import megabytes, period
from efd_pipelines.storage.sizes import MB
from efd_pipelines.storage.throughput import SECTIONS, StorageReport
from efd_pipelines.storage.tidy import RECEIVED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BARS = 12
_LABELS = 8
_LOOKS = {
    "telemetry": {"color": "#1f4e79", "hatch": ""},
    "events": {"color": "#e08214", "hatch": "///"},
    "commands": {"color": "#7fbf9b", "hatch": "..."},
    "acks": {"color": "#bdbdbd", "hatch": "xxx"},
    "metrics": {"color": "#c994c7", "hatch": "\\\\\\"},
}


def picture(report: StorageReport, dpi: int = 130) -> bytes:
    """The report's picture, as PNG, ten inches wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in SECTIONS if len(report.section(name))][:2]
    panels = [("weeks", 3.0)] * (len(report.weeks) > 1 and len(report.topics) > 0)
    panels += [(name, 1.1 + 0.3 * min(len(report.section(name)), BARS + 1)) for name in names]
    heights = [height for _, height in panels] or [1.5]
    figure = Figure(figsize=(10, sum(heights) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    figure.suptitle(headline(report), fontsize=13, fontweight="bold", wrap=True)
    for (name, _), axis in zip(panels, axes, strict=False):
        _draw_weeks(axis, report) if name == "weeks" else _draw_section(axis, report, name)
    if not panels:
        axes[0].set_axis_off()
        axes[0].text(0.5, 0.5, "No rows in this period", ha="center", va="center")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def headline(report: StorageReport) -> str:
    """What one sees, in a sentence."""
    for name in SECTIONS:
        rows = report.section(name)
        if len(rows) and rows["size_mb"][0] > 0:
            who, share = rows["csc"][0], rows["percent"][0]
            sizes = f"{megabytes(rows['size_mb'][0])} of {megabytes(rows['size_mb'].sum())} MB"
            return f"{who} sends {share:.0f} % of the {name}: {sizes}\n{period(report.weeks)}"
    return f"Nothing was stored\n{period(report.weeks)}"


def _draw_section(axis: Axes, report: StorageReport, name: str) -> None:
    rows = report.section(name)
    bars = [(row["csc"], row["size_mb"], row["percent"]) for row in rows.head(BARS).to_dict("records")]
    rest = rows.iloc[BARS:]
    if len(rest):
        bars.append((f"{len(rest)} others", rest["size_mb"].sum(), rest["percent"].sum()))
    labels, sizes, percents = zip(*bars, strict=True)
    drawn = axis.barh(range(len(bars)), sizes, edgecolor="black", linewidth=0.6, **_look(name))
    texts = [f"{megabytes(size)} MB  ({percent:.2f} %)" for size, percent in zip(sizes, percents, strict=True)]
    axis.bar_label(drawn, labels=texts, padding=4, fontsize=8)
    axis.set_yticks(range(len(bars)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, (max(sizes) or 1.0) * 1.25)
    axis.set_title(f"{name.capitalize()} by component", loc="left", fontsize=10)
    _finish(axis.xaxis, report)
    axis.set_ylabel("component")
    axis.spines[["top", "right"]].set_visible(False)


def _draw_weeks(axis: Axes, report: StorageReport) -> None:
    """The sum of each week, by section, one upon the other."""
    import numpy as np
    from matplotlib.dates import date2num

    sums = weekly_mb(report)
    # One outline of each kind: a bar for each of ten years' weeks would take ten seconds.
    edges: Any = date2num([*(week.start for week in report.weeks), report.weeks[-1].end])  # type: ignore[no-untyped-call]
    bottom = np.zeros(len(report.weeks))
    for name, kind in SECTIONS.items():
        heights = np.array([sums.get((week.key, kind.value), 0.0) for week in report.weeks])
        if heights.any():
            top = bottom + heights
            axis.stairs(top, edges, baseline=bottom, fill=True, label=name, lw=0.4, ec="black", **_look(name))
            bottom = top
    axis.set_title("Each week", loc="left", fontsize=10)
    every = -(-len(report.weeks) // _LABELS)
    axis.set_xticks(edges[:-1:every], [week.key for week in report.weeks[::every]])
    axis.set_xlabel("week, by its Monday (UTC)")
    _finish(axis.yaxis, report)
    axis.legend(fontsize=8, ncols=5, loc="upper left")
    axis.margins(y=0.2)
    axis.spines[["top", "right"]].set_visible(False)


def weekly_mb(report: StorageReport) -> dict[tuple[str, str], float]:
    """MB received in each week, by week and kind."""
    import polars as pl

    received = report.gathered.totals.filter(pl.col("store") == RECEIVED)
    rows = received.group_by("week", "kind").agg(pl.col("bytes").sum()).iter_rows()
    return {(week, kind): size / MB for week, kind, size in rows}


def _finish(axis: Any, report: StorageReport) -> None:
    axis.set_label_text(f"MB (10⁶ bytes): {report.measure.value}", fontsize=8)
    axis.set_major_formatter("{x:,.6g}")


def _look(name: str) -> Any:
    return _LOOKS[name]
