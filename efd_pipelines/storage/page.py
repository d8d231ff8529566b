"""Page: sections of a report as one HTML file that needs no network: it opens from a disk, by mail, on paper.

Light and dark by the reader's setting, black on white on paper. What belongs here: the page's frame and its looks.
Which sections there are: `sections.py`, and whoever passes some of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from efd_pipelines.storage.svg import definitions


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a report: what one sees, in a sentence, a chart, words about it, a table.

    Args:
        key: its name in addresses, e.g. `movers`; unlike all others of a page.
        title: what one sees; plain text.
        svg: the chart, as `charts.py` draws it; empty where there is none.
        words: paragraphs below the chart; plain text.
        columns, rows: the table below, texts; columns in `texts` are aligned to the left, the others to the right.
    """

    key: str
    title: str
    svg: str = ""
    words: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    texts: Sequence[str] = ()


def page(title: str, subtitle: str, warnings: Iterable[str], sections: Sequence[Section]) -> str:
    """The HTML document."""
    warned = "".join(f'<p class="warning"><strong>Missing:</strong> {escape(line)}</p>' for line in warnings)
    contents = "".join(f'<li><a href="#{one.key}">{escape(one.title)}</a></li>' for one in sections)
    parts = "".join(_section(one) for one in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{_LOOKS}</style>\n</head>\n<body>\n{definitions()}\n"
        f'<header><h1>{escape(title)}</h1><p class="subtitle">{escape(subtitle)}</p>{warned}'
        f"<nav><ol>{contents}</ol></nav></header>\n<main>\n{parts}</main>\n</body>\n</html>\n"
    )


def drawing(svg: str) -> str:
    """A chart as a file of its own: with the page's light looks, on white, whoever shows it."""
    head, _, rest = svg.partition(">")
    font = 'font:12.5px system-ui,"Segoe UI","Liberation Sans",sans-serif'
    looks = f"<style>:root{{{_LIGHT}{font}}}{_CHART_LOOKS}</style>"
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f"{head}>{definitions()}{looks}{ground}{rest}"


def _section(one: Section) -> str:
    chart = f"<figure>{one.svg}</figure>" if one.svg else ""
    words = "".join(f"<p>{escape(text)}</p>" for text in one.words)
    return f'<section id="{one.key}"><h2>{escape(one.title)}</h2>{chart}{words}{_table(one)}</section>\n'


def _table(one: Section) -> str:
    if not one.columns:
        return ""
    left = [n == 0 or name in one.texts for n, name in enumerate(one.columns)]
    head = "".join(_cell("th", name, is_left) for name, is_left in zip(one.columns, left, strict=True))
    body = "".join(
        "<tr>" + "".join(_cell("td", text, is_left) for text, is_left in zip(row, left, strict=True)) + "</tr>"
        for row in one.rows
    )
    shown = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    if not one.svg or len(one.rows) <= 12:
        return f'<div class="table">{shown}</div>'
    return f'<details><summary>The figures ({len(one.rows)} rows)</summary><div class="table">{shown}</div></details>'


def _cell(tag: str, text: str, is_left: bool) -> str:
    return f"<{tag}>{escape(text)}</{tag}>" if is_left else f'<{tag} class="number">{escape(text)}</{tag}>'


_LIGHT = """
--paper:#ffffff;--ink:#1a1d21;--soft:#5a626c;--rule:#d9dde2;--stroke:rgba(255,255,255,.75);--edge:#33383f;--warn:#fff3cd;
--c0:#0072b2;--c1:#e69f00;--c2:#009e73;--c3:#cc79a7;--c4:#56b4e9;--c5:#d55e00;--c6:#8a8f98;--c7:#b8a100;--link:#0b5cad;
"""
_DARK = """
--paper:#14171b;--ink:#e8eaed;--soft:#a6aeb8;--rule:#343a42;--stroke:rgba(15,17,20,.65);--edge:#c9ced6;--warn:#4a3c10;
--c0:#4fa3dd;--c1:#f0b840;--c2:#3cc49a;--c3:#e09cc3;--c4:#8fd0f5;--c5:#f08a4b;--c6:#9aa1ab;--c7:#e3d24a;--link:#7db7f0;
"""
_GROUNDS = "".join(f".ground-{n}{{fill:var(--c{n})}}" for n in range(8))
_CHART_LOOKS = f"""
svg text{{fill:var(--ink);font-size:12.5px}} svg .small{{font-size:11.5px}}
svg .axis{{font-size:12.5px;fill:var(--soft)}} svg .rule{{stroke:var(--rule);stroke-width:1}}
svg .zero{{stroke:var(--edge);stroke-width:1}}
svg .mark{{stroke:var(--edge);stroke-width:.6}} svg .node{{fill:var(--edge)}}
svg .lead{{stroke:var(--soft);fill:none;stroke-width:.8}} svg .flow{{opacity:.75}}
svg .line{{fill:none;stroke:var(--ink);stroke-width:2;stroke-linejoin:round}} svg .line-1{{stroke-dasharray:6 4}}
svg .line-2{{stroke-dasharray:2 3}} svg .line-3{{stroke-dasharray:10 3 2 3}}
svg .limit{{stroke:var(--c5);stroke-width:1.5;stroke-dasharray:7 4}}
svg .annotation{{stroke:var(--soft);stroke-width:1.2;stroke-dasharray:3 3}} svg .annotation-number{{font-weight:700}}
svg .band{{fill:var(--c4);opacity:.35}}
pattern .strokes{{stroke:var(--stroke);stroke-width:1.4}} pattern .strokes circle{{fill:var(--stroke)}}
{_GROUNDS}"""
_LOOKS = f"""
:root{{{_LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
*{{box-sizing:border-box}}
body{{margin:0 auto;padding:1.5rem;max-width:72rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}}
h1{{font-size:1.7rem;line-height:1.2;margin:0 0 .3rem}}
h2{{font-size:1.2rem;line-height:1.3;margin:2.2rem 0 .6rem}}
a{{color:var(--link)}} nav ol{{columns:2 22rem;column-gap:3.5rem;padding-left:1.8rem;font-size:.9rem}}
.subtitle,details summary{{color:var(--soft)}}
.warning{{background:var(--warn);border-left:4px solid var(--c5);padding:.5rem .8rem;margin:.5rem 0}}
figure{{margin:.4rem 0}} svg.chart{{width:100%;height:auto;display:block}} svg.patterns{{position:absolute}}
{_CHART_LOOKS}
.table{{overflow-x:auto}} table{{border-collapse:collapse;font-size:.88rem;margin:.4rem 0}}
th,td{{padding:.22rem .6rem;border-bottom:1px solid var(--rule);text-align:left;vertical-align:top}}
.number{{white-space:nowrap}} td:first-child{{white-space:nowrap}}
.number{{text-align:right;font-variant-numeric:tabular-nums}}
@page{{margin:14mm}}
@media print{{
:root{{{_LIGHT}}}
body{{padding:0;max-width:none;font-size:10pt}} nav{{display:none}}
h2{{break-after:avoid;break-inside:avoid}} figure,tr{{break-inside:avoid}} thead{{display:table-header-group}}
svg,.warning{{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
details:not([open])>*:not(summary){{display:none}} .table{{overflow:visible}} table{{font-size:7.5pt}}
td,th,th.number,td:first-child{{white-space:normal;padding:.15rem .3rem}} td{{overflow-wrap:anywhere}}
}}
"""
