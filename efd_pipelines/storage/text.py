"""Text: a page's sections as Markdown, for a file beside the page and for Dagster's UI.

What belongs here: how Markdown is written. What is in a section: `sections.py`; the same as HTML: `page.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from efd_pipelines.storage.page import Section

ROWS_SHOWN = 15
_MEANT = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_[]|~#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})
_PLAIN = str.maketrans("[]", "()")


def section_text(one: Section, charts: Mapping[str, str], rest_in: str) -> str:
    """One section: what one sees, its chart where `charts` has its address, its words, and its table's first rows.

    Args:
        rest_in: the name of the file that has the rows that are left out.
    """
    parts = [f"## {plain(one.title)}"]
    if one.key in charts:
        parts.append(f"![{one.title.translate(_PLAIN)}]({charts[one.key]})")
    parts += [plain(text) for text in one.words]
    if one.columns and one.rows:
        lines = [[_cell(cell, name in one.texts) for cell, name in zip(row, one.columns, strict=True)] for row in
                 one.rows[:ROWS_SHOWN]]  # fmt: skip
        parts.append(table([plain(name) for name in one.columns], lines, left={plain(name) for name in one.texts}))
        if len(one.rows) > ROWS_SHOWN:
            parts.append(f"{len(one.rows) - ROWS_SHOWN:,} more are in `{rest_in}`.")
    return "\n\n".join(parts)


def plain(text: str) -> str:
    """Text as it is, whatever Markdown would make of it."""
    return text.translate(_MEANT)


def _cell(text: str, is_prose: bool) -> str:
    """A cell; a number stays on one line with its unit."""
    return plain(text) if is_prose else plain(text).replace(" ", "\N{NO-BREAK SPACE}")


def table(head: Sequence[str], lines: Sequence[Sequence[str]], left: Collection[str] = ()) -> str:
    """A table of Markdown; the first column and those in `left` are aligned to the left, the others to the right."""
    rule = ["---" if n == 0 or name in left else "---:" for n, name in enumerate(head)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])
