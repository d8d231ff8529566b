"""Metadata: the keys and values that assets, runs and checks show, in one place.

Numbers have the same key wherever they mean the same, so that the UI plots them; units are in the keys. Sizes of
events matter: a live partition is told of up to 96 times a day, and Dagster never forgets one by itself.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from efd_pipelines.times import from_microseconds

OWNERS = ["team:usdf-efd"]
MB = 1_000_000

Metadata = dict[str, Any]


def timestamp(time_us: int) -> dg.MetadataValue:
    """A time of UTC microseconds; the UI shows it in the zone of the reader."""
    return dg.MetadataValue.timestamp(from_microseconds(time_us))


def megabytes(size_bytes: float) -> float:
    """MB (10⁶ bytes), as the storage report counts them."""
    return round(size_bytes / MB, 6)


def table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> dg.MetadataValue:
    """A table that opens in the UI; `columns` are names with their types: string, int, float, bool."""
    records = [dg.TableRecord({name: _plain(row.get(name)) for name in columns}) for row in rows]
    schema = dg.TableSchema([dg.TableColumn(name, type=kind) for name, kind in columns.items()])
    return dg.MetadataValue.table(records=records, schema=schema)


def _plain(value: Any) -> str | int | float | bool | None:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def column_schema(columns: Sequence[dg.TableColumn]) -> Metadata:
    """What makes the UI show an asset's columns."""
    return {"dagster/column_schema": dg.TableSchema(columns=list(columns))}


def column(name: str, kind: str, description: str, unit: str = "") -> dg.TableColumn:
    """One column; its unit is a tag."""
    return dg.TableColumn(name, type=kind, description=description, tags={"unit": unit} if unit else {})


def picture_address(png: bytes) -> str:
    """A picture as an address that Markdown can carry."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def drawing_address(svg: str) -> str:
    """A drawing as an address that Markdown can carry."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
