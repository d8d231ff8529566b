"""Schemas: what a topic's fields are, as lsst-efd-client's `get_schema` has it.

From the newest writer schema that the archive has seen; from the table's columns where there is none (JSON topics). A
unit that astropy cannot read is None in `aunits`, and its text stays: lsst-efd-client raises and gives nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.topics.layout import column_of
from efd_pipelines.topics.schemas import parse_schema

if TYPE_CHECKING:
    import pandas as pd

    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.tables import TableSnapshot
    from efd_pipelines.topics.names import Dataset

_NO_UNIT = ("unitless", "dimensionless")


def schema_frame(archive: Archive, dataset: Dataset, snapshot: TableSnapshot) -> pd.DataFrame:
    """A row for each field: name, description, units (text), aunits (astropy, where it is installed), is_array."""
    import pandas as pd

    text = WriterSchemas(archive.store).newest().get(dataset.topic)
    if text is not None:
        rows = [(f.name, f.description or None, f.units or None, f.array) for f in parse_schema(text).fields]
    else:
        rows = _of_columns(snapshot.schema)
    frame = pd.DataFrame(rows, columns=["name", "description", "units", "is_array"], dtype=object)
    frame.insert(3, "aunits", pd.Series([_unit(one) for one in frame["units"]], dtype=object))
    frame["is_array"] = frame["is_array"].astype(bool)
    return frame


def _of_columns(schema: pa.Schema) -> list[tuple[str, str | None, str | None, bool]]:
    found: dict[str, tuple[str, str | None, str | None, bool]] = {}
    for column in map(column_of, schema):
        if column is not None:
            array = column.element is not None or pa.types.is_list(column.type)
            found.setdefault(column.field, (column.field, column.description or None, column.units or None, array))
    return list(found.values())


def _unit(text: str | None) -> Any:
    try:
        from astropy import units
    except ImportError:
        return None
    if not text:
        return None
    if text in _NO_UNIT:
        return units.dimensionless_unscaled
    try:
        return units.Unit(text)
    except (ValueError, TypeError):
        return None
