"""SVG: the elements that charts are drawn of, as text that stands in a page by itself.

Colours are the page's variables, so that one drawing reads in light, dark and on paper; what colours tell, patterns and
words beside it tell too. What belongs here: elements, scales and axes. The charts: `charts.py`; the page: `page.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH = 960
"""Of every chart, in its own units; it is as wide as the page lets it be."""

PATTERNS = ("solid", "rising", "dots", "falling", "crossed", "level", "upright", "rings")
"""What fills are told apart by; the number of one is that of its colour."""

_PERIOD = 8
_STROKES = {
    "solid": "",
    "rising": '<path d="M-2,2 l4,-4 M0,8 l8,-8 M6,10 l4,-4"/>',
    "dots": '<circle cx="2" cy="2" r="1.2"/><circle cx="6" cy="6" r="1.2"/>',
    "falling": '<path d="M-2,6 l4,4 M0,0 l8,8 M6,-2 l4,4"/>',
    "crossed": '<path d="M0,0 l8,8 M8,0 l-8,8"/>',
    "level": '<path d="M0,2 h8 M0,6 h8"/>',
    "upright": '<path d="M2,0 v8 M6,0 v8"/>',
    "rings": '<circle cx="4" cy="4" r="2.2" fill="none"/>',
}


def definitions() -> str:
    """The patterns, once for a page: `fill="url(#fill-0)"` …"""
    found = []
    for n, name in enumerate(PATTERNS):
        ground = f'<rect width="{_PERIOD}" height="{_PERIOD}" class="ground-{n}"/>'
        strokes = f'<g class="strokes">{_STROKES[name]}</g>' if _STROKES[name] else ""
        size = f'width="{_PERIOD}" height="{_PERIOD}" patternUnits="userSpaceOnUse"'
        found.append(f'<pattern id="fill-{n}" {size}>{ground}{strokes}</pattern>')
    return f'<svg width="0" height="0" aria-hidden="true" class="patterns"><defs>{"".join(found)}</defs></svg>'


@dataclass(slots=True)
class Drawing:
    """One chart as it is drawn; `title` and `description` are for who cannot see it."""

    name: str
    title: str
    description: str
    height: float
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> None:
        """Words whose middle line is at y."""
        named = f' class="{kind}"' if kind else ""
        place = f'x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}" dominant-baseline="central"'
        self.parts.append(f"<text {place}{named}>{escape(words)}</text>")

    def turned(self, x: float, y: float, words: str) -> None:
        """Words that run upwards, as those of a vertical axis."""
        place = f'transform="translate({_n(x)},{_n(y)}) rotate(-90)" text-anchor="middle"'
        self.parts.append(f'<text {place} class="axis">{escape(words)}</text>')

    def box(self, x: float, y: float, width: float, height: float, fill: int, words: str = "") -> None:
        """A filled rectangle, with words that show when it is pointed at."""
        place = f'x="{_n(x)}" y="{_n(y)}" width="{_n(max(width, 0))}" height="{_n(max(height, 0))}"'
        hint = f"<title>{escape(words)}</title>" if words else ""
        self.parts.append(f'<rect {place} fill="url(#fill-{fill})" class="mark">{hint}</rect>')

    def path(self, d: str, kind: str, fill: int | None = None, words: str = "") -> None:
        """A path; filled with a pattern, or as its class says."""
        filled = f' fill="url(#fill-{fill})"' if fill is not None else ""
        hint = f"<title>{escape(words)}</title>" if words else ""
        self.parts.append(f'<path d="{d}" class="{kind}"{filled}>{hint}</path>')

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str = "rule") -> None:
        place = f'x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"'
        self.parts.append(f'<line {place} class="{kind}"/>')

    def legend(self, x: float, y: float, entries: Sequence[tuple[int, str]]) -> None:
        """Fills and what they are, beside each other."""
        for fill, words in entries:
            self.box(x, y - 6, 16, 12, fill)
            self.text(x + 21, y, words, kind="small")
            x += 38 + 7.0 * len(words)

    def svg(self) -> str:
        told = f'role="img" aria-labelledby="{self.name}-title {self.name}-words"'
        words = f'<title id="{self.name}-title">{escape(self.title)}</title>'
        words += f'<desc id="{self.name}-words">{escape(self.description)}</desc>'
        box = f'viewBox="0 0 {WIDTH} {_n(self.height)}"'
        space = 'xmlns="http://www.w3.org/2000/svg"'
        return f'<svg {space} id="chart-{self.name}" class="chart" {box} {told}>{words}{"".join(self.parts)}</svg>'


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places: `low` and `high` of values stand at `start` and `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return self.start + (self.end - self.start) * ((value - self.low) / span if span else 0.0)


def ticks(high: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to at least `high`."""
    if not high > 0:
        return [0.0, 1.0]
    raw = high / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * of for of in (1, 2, 2.5, 5, 10) if raw <= power * of * (1 + 1e-9))
    return [step * n for n in range(math.ceil(high / step - 1e-9) + 1)]


def unit(high_bytes: float) -> tuple[float, str]:
    """The unit that bytes of this size are told in, and its number of bytes."""
    for size, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if high_bytes >= size:
            return size, name
    return 1.0, "B"


def bytes_text(count: float) -> str:
    """Bytes with three digits and their unit."""
    if not count:
        return "0"
    size, name = unit(abs(count))
    value = count / size
    return f"{value:,.0f} {name}" if abs(value) >= 99.95 or size == 1 else f"{value:.3g} {name}"


def number(value: float) -> str:
    """A tick's number, as short as it can be."""
    return f"{value:,.10g}"


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near those wanted (rising), at least `gap` apart where there is room for that."""
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + gap if places else low))
    for n in range(len(places) - 1, -1, -1):
        places[n] = min(places[n], high if n == len(places) - 1 else places[n + 1] - gap)
    return places


def shortened(text: str, most: int) -> str:
    """A name that fits; what is left out is in the middle."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - most // 2 - 1) :]}"


_NARROW = 8.0


def steps(values: Sequence[float], bottom: Sequence[float], x: Scale, y: Scale) -> str:
    """An area of bars side by side: value n stands between n and n + 1. Narrow bars have one outline together."""
    return " ".join((_bars if x(1) - x(0) >= _NARROW else _outline)(values, bottom, x, y))


def _outline(values: Sequence[float], bottom: Sequence[float], x: Scale, y: Scale) -> Iterator[str]:
    """As `_bars`, without gaps and edges between bars: of ten years' weeks nothing but edges would be seen."""
    yield f"M{_n(x(0))},{_n(y(bottom[0]))}"
    for n, (value, base) in enumerate(zip(values, bottom, strict=True)):
        yield f"V{_n(y(base + value))}H{_n(x(n + 1))}"
    for n in range(len(bottom) - 1, -1, -1):
        yield f"V{_n(y(bottom[n]))}H{_n(x(n))}"
    yield "Z"


def _bars(values: Sequence[float], bottom: Sequence[float], x: Scale, y: Scale) -> Iterator[str]:
    gap = min(0.12 * (x(1) - x(0)), 4.0)
    for n, (value, base) in enumerate(zip(values, bottom, strict=True)):
        if value > 0:
            left, right, top, foot = x(n) + gap / 2, x(n + 1) - gap / 2, y(base + value), y(base)
            yield f"M{_n(left)},{_n(foot)}V{_n(top)}H{_n(right)}V{_n(foot)}Z"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
