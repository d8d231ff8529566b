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
    """Rows on stdout, nothing cut off; columns of numbers are aligned to the right.

    Thousands of topics are usual: drawn by rich they take seconds.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        print(empty)
        return
    texts = [list(columns), *([text for _, text in row] for row in cells)]
    widths = [max(len(row[n]) for row in texts) for n in range(len(columns))]
    is_number = [all(row[n][0] for row in cells) for n in range(len(columns))]
    if title:
        print(title)
    for row in texts:
        aligned = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, is_number, strict=True)
        )
        print("  ".join(aligned).rstrip())


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
