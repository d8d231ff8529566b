"""Plots: a quick look at a selection.

Records where they are few, else the tier that fits: the mean as a line and what lies between the smallest and the
largest as a band, so that a week of 50 Hz shows every spike and draws in a second. UTC below, the observatory's local
time above; where nothing came for much longer than usual the line is broken, and what the ledger knows to be lost is
grey.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np

from efd_pipelines.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from efd_pipelines.client.selection import Selection

LOCAL = ZoneInfo("America/Santiago")
_GAP = 5.0
_MOST_LINES = 24
_BINS = 1000
"""A band of more points than the picture has columns is drawn so thin that its spikes fade away."""


def plot(selection: Selection, axes: Axes | None, points: int) -> Axes:
    """Draws the columns of a selection; see `Selection.plot`.

    Raises:
        UsageError: none of them is a number.
    """
    drawn = _fitting(selection, points)
    lines = _fields(drawn)
    if not lines:
        raise UsageError(f"None of the fields of {selection.dataset} that were chosen is a number")
    if len(lines) > _MOST_LINES:
        raise UsageError(f"{len(lines)} fields are too many for one picture", remedy=f"Choose up to {_MOST_LINES}.")
    frame, device = _frame(drawn)
    if axes is None:
        from matplotlib import pyplot

        axes = pyplot.subplots(figsize=(11, 4.5), layout="constrained")[1]
    for name, columns in lines.items():
        for number, rows in _devices(frame, device):
            label = name if number is None else f"{name} ({device} {number})"
            _draw(axes, _with_breaks(_binned(rows, columns), drawn), columns, label)
    _shade(axes, drawn)
    _label(axes, drawn, lines)
    return axes


def _fitting(selection: Selection, points: int) -> Selection:
    """The selection itself where it has few rows, else that of a tier."""
    if selection.tier is not None or selection.estimate().rows <= points:
        return selection
    names = [one.name for one in selection.schema if one.name != "time"]
    return selection.again(names, resolution="auto", points=points)


def _fields(selection: Selection) -> dict[str, dict[str, str]]:
    """The columns of each line: `mean`, `min` and `max`, or the `value` itself."""
    import pyarrow as pa

    found: dict[str, dict[str, str]] = {}
    for one in selection.schema:
        if not (pa.types.is_integer(one.type) or pa.types.is_floating(one.type) or pa.types.is_boolean(one.type)):
            continue
        statistic, _, name = one.name.partition("_")
        if selection.tier is not None and statistic in ("mean", "min", "max"):
            found.setdefault(name, {})[statistic] = one.name
        else:
            found[one.name] = {"value": one.name}
    return found


def _frame(selection: Selection) -> tuple[pd.DataFrame, str | None]:
    """The rows, and the column that tells devices apart where no one of them was chosen."""
    whole = selection.raw.schema.names if selection.raw is not None else []
    if "salIndex" not in whole or selection.question.device is not None or "salIndex" in selection.schema.names:
        return selection.to_pandas(), None
    names = [one.name for one in selection.schema if one.name != "time"]
    return selection.again([*names, "salIndex"]).to_pandas(), "salIndex"


def _devices(frame: pd.DataFrame, device: str | None) -> list[tuple[int | None, pd.DataFrame]]:
    if device is None or frame[device].nunique() < 2:
        return [(None, frame)]
    numbers: list[Any] = sorted(frame[device].unique())
    return [(int(number), frame[frame[device] == number]) for number in numbers]


def _binned(frame: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """Of a band of many windows: the smallest, the largest and the mean of as many stretches as can be seen."""
    import pandas as pd

    if "min" not in columns or "max" not in columns or len(frame) <= 2 * _BINS:
        return frame
    time_us = frame.index.as_unit("us").astype(np.int64).to_numpy()  # type: ignore[attr-defined]
    step_us = -(-(int(time_us[-1]) - int(time_us[0]) + 1) // _BINS)
    number = (time_us - time_us[0]) // step_us
    first = np.append(0, np.flatnonzero(np.diff(number)) + 1)
    values = {statistic: frame[name].to_numpy(dtype=np.float64) for statistic, name in columns.items()}
    binned = {
        columns["min"]: np.fmin.reduceat(values["min"], first),
        columns["max"]: np.fmax.reduceat(values["max"], first),
    }
    if "mean" in columns:
        there = ~np.isnan(values["mean"])
        total = np.add.reduceat(np.where(there, values["mean"], 0.0), first)
        with np.errstate(invalid="ignore"):
            binned[columns["mean"]] = total / np.add.reduceat(there, first, dtype=np.int64)
    starts = pd.to_datetime(time_us[0] + number[first] * step_us, unit="us", utc=True).as_unit("ns")
    return pd.DataFrame(binned, index=starts)


def _with_breaks(frame: pd.DataFrame, selection: Selection) -> pd.DataFrame:
    """The rows, and one without values in each stretch where nothing came for long."""
    import pandas as pd

    time_us = frame.index.as_unit("us").astype(np.int64).to_numpy()  # type: ignore[attr-defined]
    if len(time_us) < 3:
        return frame
    apart = np.diff(time_us)
    usual = float(np.median(apart))
    window_us = 0 if selection.tier is None else selection.tier.window_us
    broken = np.flatnonzero(apart > max(_GAP * usual, 2 * window_us))
    if not len(broken):
        return frame
    within = pd.to_datetime(time_us[broken] + 1, unit="us", utc=True).as_unit("ns")
    holes = pd.DataFrame(np.nan, index=within, columns=frame.columns)
    numbers = frame.select_dtypes(["number", "bool"]).astype(np.float64)
    return pd.concat([numbers, holes[numbers.columns]]).sort_index()


def _draw(axes: Axes, frame: pd.DataFrame, columns: dict[str, str], label: str) -> None:
    index: Any = frame.index
    times = index.tz_localize(None).to_numpy()  # with a zone it would be a Python object for each row
    middle = columns.get("value") or columns.get("mean") or next(iter(columns.values()))
    (line,) = axes.plot(times, frame[middle].to_numpy(dtype=np.float64), linewidth=0.9, label=label)
    if "min" in columns and "max" in columns:
        low, high = (frame[columns[one]].to_numpy(dtype=np.float64) for one in ("min", "max"))
        axes.fill_between(times, low, high, color=line.get_color(), alpha=0.25, linewidth=0)


def _shade(axes: Axes, selection: Selection) -> None:
    """What the ledger says is lost."""
    window = selection.question.window
    for gap in selection.completeness.gaps:
        if gap.missing:
            start, end = gap.after or window.start, gap.before or window.end
            axes.axvspan(_naive(max(start, window.start)), _naive(min(end, window.end)), color="0.85", zorder=0)


def _naive(when: Any) -> Any:
    """Matplotlib's own time is UTC."""
    return np.datetime64(when.replace(tzinfo=None))


def _label(axes: Axes, selection: Selection, lines: dict[str, dict[str, str]]) -> None:
    import matplotlib.dates

    dates: Any = matplotlib.dates

    units = {selection.units.get(next(iter(columns.values())), "") for columns in lines.values()} - {"", "unitless"}
    axes.set_ylabel(" / ".join(sorted(units)))
    axes.set_title(f"{selection.dataset}{'' if selection.tier is None else f', {selection.tier} tier'}", loc="left")
    if len(axes.lines) > 1 or len(lines) > 1:
        axes.legend(loc="best", fontsize="small")
    else:
        axes.set_ylabel(f"{next(iter(lines))} [{' / '.join(sorted(units))}]" if units else next(iter(lines)))
    locator = dates.AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    axes.set_xlabel("UTC")
    above = axes.secondary_xaxis("top")
    local = dates.AutoDateLocator(tz=LOCAL)
    above.xaxis.set_major_locator(local)
    above.xaxis.set_major_formatter(dates.ConciseDateFormatter(local, tz=LOCAL))
    above.set_xlabel("America/Santiago")
