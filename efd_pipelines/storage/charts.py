"""Charts: the pictures of the storage report, as SVG.

Each has a title that says what one sees, axes with their units, words or patterns where there are colours, and, for who
cannot see it, a description. What belongs here: one function per chart, from the report's figures to a drawing. What
they are drawn of: `svg.py`; where they stand: `page.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from efd_pipelines.storage.svg import (
    WIDTH,
    Drawing,
    Scale,
    bytes_text,
    number,
    shortened,
    spread,
    steps,
    ticks,
    unit,
)

if TYPE_CHECKING:
    from efd_pipelines.storage.annotations import Annotation

LEFT, RIGHT, TOP = 70.0, WIDTH - 110.0, 30.0
ROW = 20.0
WEEK_AXIS = "week, by its Monday 00:00 UTC (Sunday 20:00 or 21:00 in Chile)"


@dataclass(frozen=True, slots=True)
class Bar:
    """A line of a bar chart: its name, the bytes of each part, and words at its end."""

    name: str
    parts: Sequence[float]
    words: str


def weekly_series(
    name: str,
    title: str,
    weeks: Sequence[str],
    parts: Mapping[str, Sequence[float]],
    lines: Mapping[str, Sequence[float]],
    annotations: Sequence[tuple[float, Annotation]] = (),
) -> str:
    """Bytes of each week: parts upon each other, lines over them, annotations by number at their place among the weeks.

    A line is named at its end; where it has no value (NaN) it is not drawn.
    """
    totals = [sum(values) for values in zip(*parts.values(), strict=True)] or [0.0] * len(weeks)
    high = max([*totals, *(value for line in lines.values() for value in line if value == value)], default=0.0)
    size, unit_name = unit(high)
    marks = ticks(high / size)
    top, foot = TOP + (18.0 if annotations else 0.0), 290.0
    drawing = Drawing(name, title, _series_words(weeks, totals), foot + 70)
    x, y = Scale(0, max(len(weeks), 1), LEFT, RIGHT), Scale(0, marks[-1] * size, foot, top)
    _value_axis(drawing, marks, size, y, f"{unit_name} a week")
    _week_axis(drawing, weeks, x, foot)
    base = [0.0] * len(weeks)
    for fill, (part, values) in enumerate(parts.items()):
        if any(values):
            drawing.path(steps(values, base, x, y), "mark", fill, part)
        base = [below + value for below, value in zip(base, values, strict=True)]
    drawing.legend(LEFT, 12, [(n, part) for n, (part, values) in enumerate(parts.items()) if any(values)])
    _lines(drawing, lines, x, y)
    for count, (place, _) in enumerate(annotations, start=1):
        drawing.line(x(place), top - 8, x(place), foot, "annotation")
        drawing.text(x(place), top - 15, str(count), "middle", "annotation-number")
    return drawing.svg()


def bars(name: str, title: str, rows: Sequence[Bar], parts: Sequence[str], axis: str, fill: int = 0) -> str:
    """Horizontal bars, one under the other, with their words at their ends; `fill` is that of the first part."""
    sums = [sum(row.parts) for row in rows]
    high = max(sums, default=0.0)
    size, unit_name = unit(high)
    marks = ticks(high / size)
    has_legend = len(parts) > 1
    top = TOP if has_legend else 8.0
    foot = top + ROW * len(rows) + 4
    words = "; ".join(f"{row.name}: {row.words}" for row in rows[:20])
    drawing = Drawing(name, title, words, foot + 44)
    left = 20 + 7.0 * max((len(shortened(row.name, 44)) for row in rows), default=4)
    x = Scale(0, marks[-1] * size, left, WIDTH - 30 - 6.4 * max((len(row.words) for row in rows), default=0))
    for mark in marks:
        drawing.line(x(mark * size), top, x(mark * size), foot)
        drawing.text(x(mark * size), foot + 12, number(mark), "middle", "small")
    drawing.text((x.start + x.end) / 2, foot + 32, f"{axis} ({unit_name})", "middle", "axis")
    for n, row in enumerate(rows):
        middle = top + ROW * (n + 0.5)
        drawing.text(left - 6, middle, shortened(row.name, 44), "end", "small")
        start = 0.0
        for n_part, value in enumerate(row.parts):
            wide = x(start + value) - x(start)
            drawing.box(x(start), middle - 7, wide, 14, fill + n_part, f"{row.name}: {bytes_text(value)}")
            start += value
        drawing.text(x(start) + 5, middle, row.words, kind="small")
    if has_legend:
        drawing.legend(left, 12, [(n, part) for n, part in enumerate(parts) if any(row.parts[n] for row in rows)])
    return drawing.svg()


def movers(name: str, title: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """Bars to both sides of nothing: what became less, to the left and dotted, and what became more."""
    high = max((abs(change) for _, change, _ in rows), default=0.0)
    size, unit_name = unit(high)
    foot = 8 + ROW * len(rows) + 4
    words = "; ".join(f"{topic}: {text}" for topic, _, text in rows[:20])
    drawing = Drawing(name, title, words, foot + 44)
    left = 330.0
    reach = ticks(high / size, 3)
    room = max([100.0, *(8 + 6.6 * len(text) for _, _, text in rows)])
    x = Scale(-reach[-1] * size, reach[-1] * size, left + room - 10, WIDTH - room)
    for mark in sorted({sign * mark for mark in reach for sign in (-1, 1)}):
        drawing.line(x(mark * size), 8, x(mark * size), foot, "rule" if mark else "zero")
        drawing.text(x(mark * size), foot + 12, f"{mark:+,.10g}" if mark else "0", "middle", "small")
    drawing.text((x.start + x.end) / 2, foot + 32, f"less ← change ({unit_name}) → more", "middle", "axis")
    for n, (topic, change, text) in enumerate(rows):
        middle = 8 + ROW * (n + 0.5)
        drawing.text(left - 6, middle, shortened(topic, 46), "end", "small")
        low, end = sorted((x(0), x(change)))
        drawing.box(low, middle - 7, end - low, 14, 0 if change > 0 else 2, f"{topic}: {text}")
        drawing.text(end + 4 if change > 0 else low - 4, middle, text, "start" if change > 0 else "end", "small")
    return drawing.svg()


def sankey(name: str, title: str, flows: Sequence[tuple[str, str, int, float]], kinds: Sequence[str]) -> str:
    """Flows from components on the left to topics on the right: (component, topic, number of its kind, bytes)."""
    lefts, rights = _sums(flows, 0), _sums(flows, 1)
    total = sum(lefts.values()) or 1.0
    room = 420.0
    drawing = Drawing(name, title, "; ".join(f"{a} to {b}: {bytes_text(size)}" for a, b, _, size in flows[:20]), 0)
    left_at, right_at = _stacked(lefts, total, room), _stacked(rights, total, room)
    x1, x2 = 250.0, WIDTH - 362.0
    out, into = {name: at for name, (at, _) in left_at.items()}, {name: at for name, (at, _) in right_at.items()}
    for component, topic, kind, size in flows:
        thick = max(room * size / total, 0.4)
        start, end = TOP + out[component], TOP + into[topic]
        middle = (x1 + x2) / 2
        d = (
            f"M{x1 + 8:.1f},{start:.1f}C{middle:.1f},{start:.1f} {middle:.1f},{end:.1f} {x2:.1f},{end:.1f}"
            f"v{thick:.1f}C{middle:.1f},{end + thick:.1f} {middle:.1f},{start + thick:.1f} "
            f"{x1 + 8:.1f},{start + thick:.1f}Z"
        )
        drawing.path(d, "flow", kind, f"{component} → {topic}: {bytes_text(size)}")
        out[component] += room * size / total
        into[topic] += room * size / total
    for at, sums, x, anchor in ((left_at, lefts, x1, "end"), (right_at, rights, x2, "start")):
        bottom = _nodes(drawing, at, sums, total, x, anchor)
        drawing.height = max(drawing.height, bottom + 20)
    drawing.legend(x1, 10, [(n, kind) for n, kind in enumerate(kinds) if any(flow[2] == n for flow in flows)])
    return drawing.svg()


def hours(name: str, title: str, values: Sequence[float], limits: Mapping[str, float], start: datetime) -> str:
    """MB/s of each hour of a period as a line of steps, and limits as dashed lines that are named."""
    high = max([*values, *(limit for limit in limits.values() if limit <= 20 * max(values, default=0.0))], default=0.0)
    marks = ticks(high)
    foot = 230.0
    first = f"{start:%Y-%m-%d %H:%M}"
    words = f"From {first}, {len(values)} hours; highest {max(values, default=0.0):.3g} MB/s."
    drawing = Drawing(name, title, words, foot + 50)
    x, y = Scale(0, max(len(values), 1), LEFT, RIGHT), Scale(0, marks[-1], foot, TOP)
    _value_axis(drawing, marks, 1.0, y, "MB/s, mean of the hour")
    every = max(24, 24 * (len(values) // (24 * 8)))
    for hour in range(0, len(values) + 1, every):
        drawing.line(x(hour), foot, x(hour), foot + 4)
        if hour < len(values):
            drawing.text(x(hour), foot + 14, f"{start + timedelta(hours=hour):%a %m-%d}", "start", "small")
    drawing.text((LEFT + RIGHT) / 2, foot + 38, f"hours from {first} UTC", "middle", "axis")
    drawing.path(steps(list(values), [0.0] * len(values), x, y), "mark", 0)
    beyond = 0
    for limit, value in limits.items():
        if value <= marks[-1]:
            drawing.line(LEFT, y(value), RIGHT, y(value), "limit")
            drawing.text(RIGHT, y(value) - 8, f"{limit}: {value:.3g} MB/s", "end", "small")
        else:
            drawing.text(LEFT + 6, 10 + 14 * beyond, f"↑ {limit} is far above: {value:,.4g} MB/s", kind="small")
            beyond += 1
    return drawing.svg()


def _series_words(weeks: Sequence[str], totals: Sequence[float]) -> str:
    if not weeks:
        return "No week has data."
    largest = max(range(len(weeks)), key=totals.__getitem__)
    return (
        f"{len(weeks)} weeks from {weeks[0]} to {weeks[-1]}; the largest, {weeks[largest]}, has "
        f"{bytes_text(totals[largest])}, the last {bytes_text(totals[-1])}."
    )


def _value_axis(drawing: Drawing, marks: Sequence[float], size: float, y: Scale, words: str) -> None:
    for mark in marks:
        drawing.line(LEFT, y(mark * size), RIGHT, y(mark * size))
        drawing.text(LEFT - 6, y(mark * size), number(mark), "end", "small")
    drawing.turned(16, (y.start + y.end) / 2, words)


def _week_axis(drawing: Drawing, weeks: Sequence[str], x: Scale, foot: float) -> None:
    every = max(1, -(-len(weeks) // 10))
    for n in range(0, len(weeks), every):
        drawing.line(x(n), foot, x(n), foot + 4)
        drawing.text(x(n), foot + 14, weeks[n], "start", "small")
    drawing.text((LEFT + RIGHT) / 2, foot + 42, WEEK_AXIS, "middle", "axis")


def _lines(drawing: Drawing, lines: Mapping[str, Sequence[float]], x: Scale, y: Scale) -> None:
    ends = []
    for n, (line, values) in enumerate(lines.items()):
        known = [(k, value) for k, value in enumerate(values) if value == value]
        points = [(x(k + 0.5), y(value)) for k, value in known]
        if len(known) == 1:  # a point would not be seen: as wide as its column
            points = [(x(known[0][0] + end), y(known[0][1])) for end in (0, 1)]
        if points:
            d = "M" + "L".join(f"{px:.1f},{py:.1f}" for px, py in points)
            drawing.path(d, f"line line-{n}", None, line)
            ends.append((points[-1][1], line))
    ends.sort()
    places = spread([place for place, _ in ends], 13, y.end, y.start)
    for place, (_, line) in zip(places, ends, strict=True):
        drawing.text(RIGHT + 5, place, line, kind="small")


def _sums(flows: Sequence[tuple[str, str, int, float]], side: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for flow in flows:
        key = str(flow[side])
        found[key] = found.get(key, 0.0) + flow[3]
    return found


def _stacked(sums: Mapping[str, float], total: float, room: float) -> dict[str, tuple[float, float]]:
    """Where each node begins, and how high it is: one under the other, each with room for a line of words."""
    at, found = 0.0, {}
    for name, size in sums.items():
        high = room * size / total
        found[name] = at + max(0.0, (14 - high) / 2), high
        at += max(high, 14.0) + 2
    return found


def _nodes(
    drawing: Drawing,
    at: Mapping[str, tuple[float, float]],
    sums: Mapping[str, float],
    total: float,
    x: float,
    anchor: str,
) -> float:
    """The nodes of one side and their names, the names apart; where the lowest stands."""
    for name, (start, high) in at.items():
        drawing.path(f"M{x:.1f},{TOP + start:.1f}h8v{max(high, 1):.1f}h-8z", "node")
        side = -1 if anchor == "end" else 1
        edge = x if anchor == "end" else x + 8
        words = f"{shortened(name, 34)} {bytes_text(sums[name])} ({100 * sums[name] / total:.3g} %)"
        drawing.text(edge + side * 5, TOP + start + high / 2, words, anchor, "small")
    return TOP + max((start + max(high, 14) for start, high in at.values()), default=0.0)
