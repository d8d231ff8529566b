"""Answers: what a command prints on stdout, as a table for people or as one JSON document for programs.

What belongs here: turning results into JSON and tables. Progress and messages go to stderr: `progress.py`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import Any

WIDE = 4000
"""Columns where stdout is no terminal: nothing is cut off there."""


def print_json(document: Any) -> None:
    """The document on stdout, alone."""
    json.dump(plain(document), sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """What JSON can hold: times as ISO text in UTC, what is not a number as null."""
    if value is None or isinstance(value, bool | int) or type(value) is str:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, date | Path | str):
        return str(value)
    if hasattr(value, "item"):  # a scalar of numpy
        return plain(value.item())
    return str(value)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "Nothing.") -> None:
    """Rows on stdout; numbers are aligned to the right, every column as wide as it must be."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else WIDE, markup=False, highlight=False, emoji=False)
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        console.print(empty)
        return
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        is_number = all(kind for kind, _ in (row[number] for row in cells))
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in cells:
        table.add_row(*(text for _, text in row))
    console.print(table)


def _cell(value: Any) -> tuple[bool, str]:
    """Whether it is a number (or nothing), and its text."""
    if value is None or value == "":
        return True, ""
    if isinstance(value, bool):
        return False, "yes" if value else "no"
    if isinstance(value, int):
        return True, f"{value:,}"
    if isinstance(value, float):
        return True, "" if math.isnan(value) else f"{value:,.6g}"
    if isinstance(value, datetime):
        return False, value.strftime("%Y-%m-%d %H:%M:%S")
    return False, str(value)


def print_facts(facts: Mapping[str, Any], title: str = "") -> None:
    """Names and what they are, one a line."""
    if title:
        print(title)
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        print(f"{name:<{width}}  {_fact(value)}")


def _fact(value: Any) -> str:
    return _cell(value)[1] or "-"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def duration(seconds: float | None) -> str:
    """A lag for people."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
