"""Transformation configurations: which columns an instrument's exposures get, in the observatory's YAML grammar.

The grammar is that of the ConsDB transformed EFD (efd-facts.md §5.1): its files load unchanged. Stricter than the
service it comes from: a key that is not known is an error with its line, and `start_offset` is honoured both on the
column and in `function_args`. Comparing a configuration with the topics that exist: `checking.py`. Which instruments
are joined, and with which file: `configured.py`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from efd_pipelines.errors import NameRejected, SettingsError
from efd_pipelines.exposures.functions import FUNCTIONS, Arguments, Function
from efd_pipelines.exposures.identifiers import check_identifier
from efd_pipelines.topics.names import Dataset, nearest

BUILTIN = "builtin:"
EXPOSURE_TABLE = "exposure_efd"
UNPIVOTED = "_unpivoted"
SYSTEM_COLUMNS = frozenset({"day_obs", "seq_num", "exposure_id", "visit_id", "created_at"})
CALCULATION = 2
"""Raise it when the same configuration gives other values than before: every exposure is then computed again."""

MAX_FIELD_NAME = 32
"""Characters that the tables of unpivoted columns have for a field (efd-facts.md §5.3)."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTERVAL = re.compile(r"(\d+)(us|ms|s|m|h)")
_INTERVAL_US: Mapping[str, int] = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
}
_US_PER_HOUR = 3_600_000_000

TableName = Literal["exposure_efd", "visit1_efd", "exposure_efd_unpivoted", "visit1_efd_unpivoted"]
SubsetValue = bool | int | float | str


class TransformationError(SettingsError):
    """A transformation configuration is wrong."""

    remedy = "Mend the file; `efd exposures check` validates it."


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FieldName(_Part):
    """A field of a topic; elements of arrays are written `name0`, all of them `name`."""

    name: str = Field(min_length=1)


class TopicFields(_Part):
    """The fields of one topic that go into a column."""

    name: str
    fields: tuple[FieldName, ...] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _is_a_dataset(cls, name: str) -> str:
        try:
            Dataset.parse(name)
        except NameRejected as error:
            raise ValueError(error.message) from None
        return name

    @property
    def dataset(self) -> Dataset:
        return Dataset.parse(self.name)


class Ivoa(_Part):
    """Unit and UCD (unified content descriptor) as the Virtual Observatory writes them; `""` is no unit."""

    unit: str = ""
    ucd: str = ""

    @field_validator("unit")
    @classmethod
    def _unquoted(cls, unit: str) -> str:
        return "" if unit == '""' else unit


class ExposureColumn(_Part):
    """One column of results and where its values come from."""

    name: str
    tables: tuple[TableName, ...] = Field(min_length=1)
    function: str
    function_args: dict[str, Any] = {}
    start_offset: float = Field(default=0.0, allow_inf_nan=False)
    pre_aggregate_interval: str | None = None
    store_unpivoted: bool = False
    datatype: Literal["float", "double"]
    ivoa: Ivoa = Ivoa()
    description: str
    packed_series: bool = False
    subset_field: str | None = None
    subset_value: SubsetValue | tuple[SubsetValue, ...] | None = None
    topics: tuple[TopicFields, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _start_offset_of_both_places(cls, column: Any) -> Any:
        """`start_offset` may stand on the column or among the function's arguments: it is the column's."""
        if not isinstance(column, dict) or not isinstance(column.get("function_args"), dict):
            return column
        arguments = dict(column["function_args"])
        if "start_offset" not in arguments:
            return column
        offset = arguments.pop("start_offset")
        if column.get("start_offset", offset) != offset:
            raise ValueError("start_offset stands on the column and in function_args, and differs")
        return {**column, "function_args": arguments, "start_offset": offset}

    @field_validator("name")
    @classmethod
    def _is_an_identifier(cls, name: str) -> str:
        try:
            check_identifier(name)
        except NameRejected as error:
            raise ValueError(error.message) from None
        if name in SYSTEM_COLUMNS:
            raise ValueError(f"{name} is a column that every table of results has")
        return name

    @field_validator("pre_aggregate_interval")
    @classmethod
    def _is_an_interval(cls, interval: str | None) -> str | None:
        if interval is not None and (not _INTERVAL.fullmatch(interval) or int(interval.rstrip("umsh")) == 0):
            raise ValueError(f"{interval!r} is no interval; write it as 1s, 500ms, 1m or 1h")
        return interval

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.function not in FUNCTIONS:
            raise ValueError(f"{self.function!r} is no function; there are {', '.join(sorted(FUNCTIONS))}")
        FUNCTIONS[self.function].parse_arguments(self.function_args)
        if (self.subset_field is None) != (self.subset_value is None):
            raise ValueError("subset_field and subset_value belong together")
        if self.subset_value == ():
            raise ValueError("subset_value must not be an empty list")
        if {table.endswith("_unpivoted") for table in self.tables} != {self.store_unpivoted}:
            raise ValueError("store_unpivoted: True goes with tables …_unpivoted, and only with them")
        if any(not self.measured(topic) for topic in self.topics):
            raise ValueError("a topic needs a field besides the subset_field")
        names = [topic.name for topic in self.topics]
        if len(set(names)) < len(names):
            raise ValueError("a topic stands twice; put its fields together")
        long = [name for topic in self.topics for name in self.measured(topic) if len(name) > MAX_FIELD_NAME]
        if self.store_unpivoted and long:
            raise ValueError(
                f"the name of {long[0]} is longer than the {MAX_FIELD_NAME} characters of an unpivoted table"
            )
        return self

    @property
    def digest(self) -> str:
        """Changes with what changes the column's values, and with nothing else: not with its name or description."""
        without = {"name", "tables", "description", "ivoa", "datatype"}
        meaning = [CALCULATION, self.model_dump(mode="json", exclude=without)]
        text = json.dumps(meaning, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def computes(self) -> Function:
        return FUNCTIONS[self.function]

    @property
    def arguments(self) -> Arguments:
        return self.computes.parse_arguments(self.function_args)

    @property
    def start_offset_us(self) -> int:
        """What is added to the window's beginning; in the file it is in hours."""
        return round(self.start_offset * _US_PER_HOUR)

    @property
    def pre_aggregate_us(self) -> int | None:
        if self.pre_aggregate_interval is None:
            return None
        found = _INTERVAL.fullmatch(self.pre_aggregate_interval)
        assert found is not None  # the validator saw to it
        return int(found[1]) * _INTERVAL_US[found[2]]

    @property
    def subset_values(self) -> tuple[SubsetValue, ...]:
        if self.subset_value is None:
            return ()
        return self.subset_value if isinstance(self.subset_value, tuple) else (self.subset_value,)

    @property
    def comment(self) -> str:
        """What the database says about the column: description and unit."""
        text = " ".join(self.description.split())
        return f"{text} [{self.ivoa.unit}]" if self.ivoa.unit else text

    def measured(self, topic: TopicFields) -> tuple[str, ...]:
        """The fields of a topic whose values count: all but the one that only selects."""
        return tuple(field.name for field in topic.fields if field.name != self.subset_field)


class _File(_Part):
    version: str
    columns: tuple[ExposureColumn, ...]

    @model_validator(mode="after")
    def _columns_are_distinct(self) -> Self:
        if not self.columns:
            raise ValueError("there are no columns")
        names = [column.name for column in self.columns]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"columns that stand twice: {', '.join(repeated)}")
        return self


@dataclass(frozen=True, slots=True)
class Transformation:
    """A transformation configuration as it was read; `lines` has the line of each column in `source`."""

    source: str
    version: str
    columns: tuple[ExposureColumn, ...]
    lines: Mapping[str, int]

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """The datasets that its columns are computed from, sorted."""
        return tuple(sorted({topic.dataset for column in self.columns for topic in column.topics}))

    def at(self, column: str) -> str:
        """Where a column stands, for messages."""
        return f"{self.source}, line {self.lines[column]}" if column in self.lines else self.source


def load_transformation(config: str) -> Transformation:
    """The configuration of a file, or of `builtin:<name>`: what the package ships.

    Raises:
        TransformationError: it is not there, no YAML, or has something that is not allowed; with line and what is.
    """
    return parse_transformation(_text_of(config), config)


@functools.lru_cache(maxsize=16)
def parse_transformation(text: str, source: str) -> Transformation:
    """The configuration of a YAML text; `source` names it in messages. Kept: it takes a second, and ticks ask for it.

    Raises:
        TransformationError: as `load_transformation`.
    """
    document, lines = _compose(text, source)
    if not isinstance(document, dict):
        raise TransformationError(f"{source} must be a mapping with version and columns")
    try:
        parsed = _File.model_validate(document)
    except ValidationError as error:
        raise TransformationError("; ".join(_explained(error, source, lines))) from None
    columns = {column.name: lines.get(("columns", n), 0) for n, column in enumerate(parsed.columns)}
    return Transformation(source, parsed.version, parsed.columns, columns)


def builtin_transformations() -> list[str]:
    """The configurations that the package ships, as `builtin:<name>`."""
    names = [entry.name for entry in files("efd_pipelines.exposures").joinpath("configurations").iterdir()]
    return sorted(
        f"{BUILTIN}{name.removesuffix('.yaml').partition('_')[0]}" for name in names if name.endswith(".yaml")
    )


def _text_of(config: str) -> str:
    if config.startswith(BUILTIN):
        return _builtin_text(config)
    try:
        return Path(config).read_text(encoding="utf-8")
    except OSError as error:
        raise TransformationError(
            f"{config} cannot be read ({error.strerror})",
            remedy="Name a file, or what the package ships: " + ", ".join(builtin_transformations()) + ".",
        ) from error
    except UnicodeDecodeError as error:
        raise TransformationError(f"{config} is no UTF-8 text") from error


def _builtin_text(config: str) -> str:
    name = config.removeprefix(BUILTIN)
    for entry in files("efd_pipelines.exposures").joinpath("configurations").iterdir():
        if entry.name.endswith(".yaml") and entry.name.removesuffix(".yaml").partition("_")[0] == name:
            return entry.read_text(encoding="utf-8")
    known = ", ".join(builtin_transformations())
    raise TransformationError(f"The package ships no {config}", remedy=f"There is {known}.")


_Path = tuple[str | int, ...]


def _compose(text: str, source: str) -> tuple[Any, dict[_Path, int]]:
    """The document and the line of each of its places; a key that stands twice is refused, YAML would drop one."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise TransformationError(f"{source} is empty")
        lines: dict[_Path, int] = {}
        for where, line in _places(root, ()):
            if where in lines:
                raise TransformationError(
                    f"{source}, line {line}: {where[-1]} stands here twice, first in line {lines[where]}"
                )
            lines[where] = line
        return loader.construct_document(root), lines
    except yaml.YAMLError as error:
        raise TransformationError(f"{source} is no YAML ({' '.join(str(error).split())})") from error
    finally:
        loader.dispose()


def _places(node: yaml.Node, where: _Path) -> Iterator[tuple[_Path, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*where, str(key.value)), key.start_mark.line + 1
            yield from _places(value, (*where, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*where, index), value.start_mark.line + 1
            yield from _places(value, (*where, index))


def _explained(error: ValidationError, source: str, lines: Mapping[_Path, int]) -> Iterator[str]:
    for problem in error.errors():
        where = problem["loc"]
        line = next((lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in lines), None)
        at = f"{source}, line {line}" if line else source
        if problem["type"] == "extra_forbidden":
            allowed = _keys_allowed(where)
            hint = nearest(str(where[-1]), allowed)
            yield f"{at}: {where[-1]} is no key that is known here{hint} (allowed: {', '.join(allowed)})"
        else:
            yield f"{at}: {'.'.join(map(str, where)) or 'file'}: {problem['msg'].removeprefix('Value error, ')}"


def _keys_allowed(where: _Path) -> list[str]:
    """The keys of the part of the file in which an unknown one stands."""
    part: type[_Part] = _File
    for step in where[:-1]:
        part = _PARTS.get(step, part) if isinstance(step, str) else part
    return list(part.model_fields)


_PARTS: Mapping[str, type[_Part]] = {
    "columns": ExposureColumn,
    "topics": TopicFields,
    "fields": FieldName,
    "ivoa": Ivoa,
}
