"""Columns: how the results of a tier are named, typed and ordered.

`time` (begin of the window), `salIndex` where there is one, `window_size` in seconds, `count`; then, for each field in
the archive's order, the statistic and the field's name: `first_x, min_x, max_x, mean_x, median_x, stdev_x` (the grammar
of kafka-aggregator, efd-facts §4), and where the configuration asks for quartiles `q1_x, q3_x`. Numbers have all;
strings, booleans, bytes and the private fields have `first_` only: a mean of time stamps and sequence numbers says
nothing. Kafka's coordinates are not summarised.
No prefix begins another, so no two columns can have the same name, whatever the fields are called.
A table that would pass 6,000 columns when first built keeps its arrays as lists, for ever (design.md §6).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from efd_pipelines.archive.files import FileForm
from efd_pipelines.topics.layout import RESERVED, TIME, Arrays, wider

QUARTILES = ("q1", "q3")
STATISTICS = ("first", "min", "max", "mean", "median", "stdev", *QUARTILES)
USUAL = STATISTICS[: -len(QUARTILES)]
FIRST = ("first",)
MAX_FLAT_COLUMNS = 6000

_NUMBERS = (pa.int32(), pa.int64(), pa.float32(), pa.float64())
_OWN_TYPE = frozenset({"first", "min", "max"})


@dataclass(frozen=True, slots=True)
class SummaryField:
    """One field of a tier: what it is called there, and the archive's columns that it is made of.

    `sources` is one column, or the elements of an array that the archive has flattened and the tier keeps as a list.
    `type` is that of the archive's column.
    """

    name: str
    sources: tuple[str, ...]
    type: pa.DataType
    statistics: tuple[str, ...]
    is_list: bool = False
    metadata: Mapping[bytes, bytes] = field(default_factory=dict, compare=False)

    @property
    def item_type(self) -> pa.DataType:
        return self.type.value_type if pa.types.is_list(self.type) else self.type

    def item_type_of(self, statistic: str) -> pa.DataType:
        """Floats keep their type; of integers, mean, median and stdev are double."""
        is_real = statistic not in _OWN_TYPE and pa.types.is_integer(self.item_type)
        return pa.float64() if is_real else self.item_type

    def type_of(self, statistic: str) -> pa.DataType:
        return pa.list_(self.item_type_of(statistic)) if self.is_list else self.item_type_of(statistic)

    def names(self) -> list[str]:
        """The names of its columns."""
        return [f"{statistic}_{self.name}" for statistic in self.statistics]

    def columns(self) -> Iterator[tuple[str, pa.Field[Any]]]:
        """Each statistic with its column."""
        own, real = self.type_of("first"), self.type_of("mean")
        for statistic in self.statistics:
            metadata = {**self.metadata, b"statistic": statistic.encode()}
            kind = own if statistic in _OWN_TYPE else real
            yield statistic, pa.field(f"{statistic}_{self.name}", kind, metadata=metadata)


def tier_columns(schema: pa.Schema, arrays: Arrays, *, quartiles: bool = False) -> list[SummaryField]:
    """The fields of a tier over an archive's table of `schema`."""
    columns = [column for column in schema if column.name not in RESERVED and column.name != "salIndex"]
    of_numbers = STATISTICS if quartiles else USUAL
    if arrays == "flat":
        return [_field([column], of_numbers, is_list=pa.types.is_list(column.type)) for column in columns]
    return [
        _field(group, of_numbers, is_list=_element(group[0]) is not None or pa.types.is_list(group[0].type))
        for group in _arrays(columns)
    ]


def tier_schema(schema: pa.Schema, fields: list[SummaryField]) -> pa.Schema:
    """The columns of a tier's table over an archive's table of `schema`."""
    head = [pa.field("time", TIME)]
    if "salIndex" in schema.names:
        head.append(schema.field("salIndex").with_metadata(_sorted(schema.field("salIndex"))))
    head += [pa.field("window_size", pa.float64(), metadata={"units": "second"}), pa.field("count", pa.int64())]
    return pa.schema([*head, *(column for one in fields for _, column in one.columns())])


@dataclass(frozen=True, eq=False)
class TierForm:
    """The fields of a tier over one schema, and its columns: with 800 fields they take a tenth of a second to make.

    So those of some schemas are kept: all tiers of a dataset have the same.
    """

    fields: list[SummaryField]
    schema: pa.Schema

    @classmethod
    def of(cls, schema: pa.Schema, arrays: Arrays, *, quartiles: bool = False) -> TierForm:
        return _form(_Columns(tuple(map(_content, schema)), schema), arrays, quartiles)

    @cached_property
    def file(self) -> FileForm:
        """How files are written that have all columns."""
        return FileForm.of(self.schema)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Columns by what they are: schemas are equal in spite of other units, and Delta gives metadata in any order."""

    content: tuple[tuple[str, pa.DataType, frozenset[tuple[bytes, bytes]]], ...]
    schema: pa.Schema = field(compare=False)


def _content(column: pa.Field[Any]) -> tuple[str, pa.DataType, frozenset[tuple[bytes, bytes]]]:
    return column.name, column.type, frozenset((column.metadata or {}).items())


@functools.lru_cache(maxsize=64)
def _form(columns: _Columns, arrays: Arrays, quartiles: bool) -> TierForm:
    fields = tier_columns(columns.schema, arrays, quartiles=quartiles)
    return TierForm(fields, tier_schema(columns.schema, fields))


def decide_arrays(schema: pa.Schema, *, quartiles: bool = False) -> Arrays:
    """Whether a tier over `schema` has a column for each element of an array, or lists."""
    form = TierForm.of(schema, "flat", quartiles=quartiles)
    return "flat" if len(form.schema) <= MAX_FLAT_COLUMNS else "list"


def _field(columns: list[pa.Field[Any]], of_numbers: tuple[str, ...], *, is_list: bool) -> SummaryField:
    first = columns[0]
    kind = functools.reduce(_wider, (column.type for column in columns))
    item = kind.value_type if pa.types.is_list(kind) else kind
    numbers = item in _NUMBERS and not first.name.startswith("private_")
    metadata = {key: value for key, value in _sorted(first).items() if key != b"element" or not is_list}
    return SummaryField(
        name=_base(first) if _element(first) is not None and is_list else first.name,
        sources=tuple(column.name for column in columns),
        type=kind,
        statistics=of_numbers if numbers else FIRST,
        is_list=is_list,
        metadata=metadata,
    )


def _sorted(column: pa.Field[Any]) -> dict[bytes, bytes]:
    """Metadata in one order: Delta gives it in any, and it is in the bytes of a file, of which its name is a hash."""
    return dict(sorted((column.metadata or {}).items()))


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    return wider(one, other) or one


def _arrays(columns: list[pa.Field[Any]]) -> list[list[pa.Field[Any]]]:
    """Columns, those of one flattened array together in the order of its elements, where its first one stood."""
    groups: dict[tuple[str, str], list[pa.Field[Any]]] = {}
    for column in columns:
        key = ("array", _base(column)) if _element(column) is not None else ("column", column.name)
        groups.setdefault(key, []).append(column)
    return [sorted(group, key=lambda column: _element(column) or 0) for group in groups.values()]


def _element(column: pa.Field[Any]) -> int | None:
    text = (column.metadata or {}).get(b"element")
    return None if text is None else int(text)


def _base(column: pa.Field[Any]) -> str:
    return str(column.name).removesuffix(str(_element(column)))
