"""Recordings: results of the EFD as files, read back into the records that they once were.

A recording is a directory of CSV files as InfluxDB returned them: `time` in nanoseconds, arrays flattened to
`name0…nameN-1` in any order. What a recording says, stays, bit for bit; a field's type is the one that SAL
declares for it, arrays are put together again where SAL has them, and what a record needs and the recording
lacks (private fields) is made as design.md §5 says. The schema holds what the recording has, which may be less
or other than what SAL has today.
Onto Kafka: `replay.py`.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from efd_pipelines.errors import DataError, UsageError
from efd_pipelines.simulator.encoding import Column
from efd_pipelines.simulator.fixtures import builtin_topics
from efd_pipelines.simulator.sal import AVRO_TYPES, PRIVATE_FIELDS, SalField, SalTopic
from efd_pipelines.simulator.series import Series, Writer, private_columns
from efd_pipelines.times import tai_unix_from_utc_unix
from efd_pipelines.topics.names import Dataset, Kind

_NUMBERS = {"float": pa.float64(), "double": pa.float64(), "int": pa.int64(), "long": pa.int64()}
_BOOLEANS = {"True": "true", "False": "false", "true": "true", "false": "false"}
_PRIVATE = {field.name: field for field in PRIVATE_FIELDS}


class BadRecording(DataError):
    """A file of a recording that cannot be read."""

    remedy = "A recording is CSV as InfluxDB returns it, with a column `time` in nanoseconds since 1970."


@dataclass(frozen=True, slots=True)
class RecordedField:
    """A field of a recording, of the columns that it was flattened to."""

    field: SalField
    names: tuple[str, ...]


def recorded_series(directory: Path, definitions: Mapping[str, SalTopic] | None = None) -> list[Series]:
    """The recordings in a directory, one series per file, files of a topic in order of time.

    Raises:
        UsageError: there is none.
        BadRecording: one cannot be read.
    """
    known = {**builtin_topics(), **(definitions or {})}
    paths = sorted(path for path in directory.glob("*") if path.name.endswith((".csv", ".csv.gz")))
    if not paths:
        raise UsageError(f"{directory} has no recordings", remedy="They are <topic>_<anything>.csv[.gz].")
    recordings = [_Recording.read(path, known) for path in paths]
    recordings.sort(key=lambda recording: recording.first_us)
    numbers: dict[tuple[str, int], int] = {}
    return [recording.series(numbers) for recording in recordings if len(recording.times_us)]


def topic_of(path: Path, known: Mapping[str, SalTopic]) -> str:
    """The topic that a file `<topic>_<anything>.csv[.gz]` is named for; topics may have underscores too."""
    stem = path.name.removesuffix(".gz").removesuffix(".csv")
    parts = stem.split("_")
    heads = ["_".join(parts[:count]) for count in range(len(parts), 0, -1)]
    for head in heads:
        if head in known:
            return head
    return re.split(r"_(?=\d)", stem, maxsplit=1)[0] if re.search(r"_\d", stem) else stem.rpartition("_")[0] or stem


@dataclass(frozen=True, slots=True)
class _Recording:
    """One file, read: all values as text."""

    topic: str
    definition: SalTopic | None
    times_us: NDArray[np.int64]
    texts: Mapping[str, pa.StringArray]

    @property
    def first_us(self) -> int:
        return int(self.times_us[0]) if len(self.times_us) else 0

    @classmethod
    def read(cls, path: Path, known: Mapping[str, SalTopic]) -> _Recording:
        topic = Dataset(topic_of(path, known)).topic
        table = _read_csv(path)
        if "time" not in table.column_names:
            raise BadRecording(f"{path} has no column `time`")
        try:
            times_us = pc.cast(table["time"], pa.int64()).to_numpy() // 1000
        except pa.ArrowInvalid as error:
            raise BadRecording(f"{path} has a time that is no whole number ({error})") from error
        order = np.argsort(times_us, kind="stable")
        texts = {
            name: pc.take(table[name].combine_chunks(), pa.array(order))
            for name in table.column_names
            if name and name != "time"
        }
        return cls(topic, known.get(topic), times_us[order], texts)

    def series(self, numbers: dict[tuple[str, int], int]) -> Series:
        """The series, with what it lacks; `numbers` counts the records of each writer so far."""
        dataset = Dataset(self.topic)
        fields, columns = [], {}
        for recorded in _fields(self.texts, self.definition):
            field, column = _column(recorded, [self.texts[name] for name in recorded.names], self._is_ccs)
            fields.append(field)
            columns[field.name] = column
        indices = columns.get("salIndex")
        private = () if dataset.kind is Kind.METRIC else PRIVATE_FIELDS
        topic = self._topic(fields, private, indexed=indices is not None)
        if private:
            columns = {**self._made(topic, columns, numbers), **columns}
        keys: bytes | list[bytes] = topic.key()
        if indices is not None:
            keys = [topic.key(index) for index in np.asarray(indices).tolist()]
        return Series(topic, self.times_us, columns, keys)

    @property
    def _is_ccs(self) -> bool:
        return self.definition is not None and self.definition.is_ccs and "Agent" in self.texts

    def _topic(self, fields: Sequence[SalField], private: Sequence[SalField], *, indexed: bool) -> SalTopic:
        """The topic as recorded: SAL's order, what SAL does not know (any more) last."""
        dataset = Dataset(self.topic)
        definition = self.definition or SalTopic.of(self.topic, [])
        rank = {field.name: number for number, field in enumerate(definition.fields)}
        rest = [field for field in fields if field.name not in _PRIVATE and field.name != "salIndex"]
        rest.sort(key=lambda field: rank.get(field.name, len(rank)))
        recorded = {field.name: field for field in fields}
        head = [recorded["salIndex"]] if indexed else []
        middle = [recorded.get(field.name, field) for field in private]
        if not private:
            middle = [field for field in fields if field.name in _PRIVATE]
        return SalTopic(
            self.topic,
            dataset.component,
            dataset.kind,
            indexed,
            definition.partitions,
            (*head, *middle, *rest),
        )

    def _made(
        self, topic: SalTopic, columns: Mapping[str, Column], numbers: dict[tuple[str, int], int]
    ) -> dict[str, Column]:
        """All private fields, as the writers would have set them."""
        indices, efd_stamps = columns.get("salIndex"), columns.get("private_efdStamp")
        whose = np.zeros(len(self.times_us), np.int64) if indices is None else np.asarray(indices)
        sequence = np.empty(len(whose), dtype=np.int64)
        origins = np.empty(len(whose), dtype=np.int64)
        for index in np.unique(whose).tolist():
            rows = whose == index
            before = numbers.get((self.topic, index), 0)
            sequence[rows] = np.arange(before + 1, before + 1 + rows.sum())
            numbers[self.topic, index] = before + int(rows.sum())
            origins[rows] = Writer.of(topic, index).origin
        made = private_columns(self.times_us)
        if efd_stamps is not None:
            made["private_sndStamp"] = tai_unix_from_utc_unix(np.asarray(efd_stamps))
        return {
            **made,
            "private_seqNum": sequence,
            "private_revCode": topic.rev_code,
            "private_identity": [topic.identity(index) for index in whose.tolist()],
            "private_origin": origins,
        }


def _read_csv(path: Path) -> pa.Table:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as stream:
            names = _header(stream)
        with opener(path, "rb") as stream:
            return pa.csv.read_csv(
                stream,
                parse_options=pa.csv.ParseOptions(newlines_in_values=True),
                convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
            )
    except (OSError, EOFError, pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise BadRecording(f"{path} cannot be read ({error})") from error


def _header(stream: IO[bytes]) -> list[str]:
    """The columns' names; several of one name are no recording."""
    names = [name.strip('"') for name in stream.readline().decode().rstrip("\r\n").split(",")]
    if len(set(names)) < len(names):
        raise pa.ArrowInvalid("two columns have the same name")
    return names


def _fields(texts: Mapping[str, pa.StringArray], definition: SalTopic | None) -> list[RecordedField]:
    """The columns as fields: those of SAL's arrays together, each other one by itself."""
    found: list[RecordedField] = []
    used: set[str] = set()
    for field in definition.fields if definition else ():
        names = _elements(field, texts) if field.count > 1 else ()
        if names and not _is_ragged(field, [texts[name] for name in names]):
            found.append(RecordedField(replace(field, count=len(names)), names))
            used.update(names)
    found += [RecordedField(_alone(name, definition), (name,)) for name in texts if name not in used]
    return found


def _alone(name: str, definition: SalTopic | None) -> SalField:
    """The field of a column by itself: a scalar, or an element of an array that the recording has not whole."""
    declared = _PRIVATE.get(name)
    if definition is not None:
        declared = definition.field(name) or definition.field(name.rstrip("0123456789")) or declared
    return replace(declared, name=name, count=1) if declared else SalField(name, "")


def _elements(field: SalField, texts: Mapping[str, pa.StringArray]) -> tuple[str, ...]:
    """`name0`, `name1`, … as far as they go: a recording may have more or fewer than SAL has today.

    Where flattening has given two arrays the same column (efd-facts §1.5), both get it.
    """
    names: list[str] = []
    while f"{field.name}{len(names)}" in texts:
        names.append(f"{field.name}{len(names)}")
    return tuple(names) if len(names) > 1 else ()


def _is_ragged(field: SalField, texts: Sequence[pa.StringArray]) -> bool:
    """Whether some elements were there and others not, of a type that has no NaN to say so."""
    if field.sal_type in ("float", "double"):
        return False
    empty = _empty(texts)
    return bool((empty.any(axis=1) != empty.all(axis=1)).any())


def _empty(texts: Sequence[pa.StringArray]) -> NDArray[np.bool_]:
    return np.column_stack([pc.equal(text, "").to_numpy(zero_copy_only=False) for text in texts])


def _column(recorded: RecordedField, texts: Sequence[pa.StringArray], ccs: bool) -> tuple[SalField, Column]:
    """The field with the type that fits its values, and the values."""
    kind = recorded.field.sal_type
    avro = (kind if ccs else AVRO_TYPES.get(kind)) or _inferred(texts)
    parsed = _parsed(texts, avro)
    if parsed is None:
        kind, avro = "", _inferred(texts)
        parsed = _parsed(texts, avro)
        assert parsed is not None, "what was inferred from the values reads them"
    if kind == "":
        kind = avro if ccs or avro != "long" else "long long"
    values, missing = parsed
    field = replace(recorded.field, sal_type=kind)
    if avro == "string":
        return field, values
    array = values if len(recorded.names) > 1 else values[:, 0]
    if not missing.any():
        return field, array
    if avro in ("float", "double") and not ccs:
        return field, array
    gone = np.asarray(missing).any(axis=1, keepdims=array.ndim == 2)
    return replace(field, nullable=not ccs), np.ma.masked_array(array, np.broadcast_to(gone, array.shape))


def _inferred(texts: Sequence[pa.StringArray]) -> str:
    """The narrowest of boolean, long, double and string that holds all values."""
    if all(pc.all(pc.equal(text, "")).as_py() for text in texts):
        return "string"
    return next((avro for avro in ("boolean", "long", "double") if _parsed(texts, avro)), "string")


def _parsed(texts: Sequence[pa.StringArray], avro: str) -> tuple[Any, NDArray[np.bool_]] | None:
    """Values (records, columns) and where there is none; None where one is not of that type.

    Floats are parsed to the nearest double (Arrow's parser rounds correctly) and from there to the nearest
    float: InfluxDB held a float's value as a double, so that gives the same float again.
    """
    if avro == "string":
        return texts[0].to_pylist(), np.zeros((len(texts[0]), 1), dtype=np.bool_)
    target = pa.bool_() if avro == "boolean" else _NUMBERS[avro]
    filler = "false" if avro == "boolean" else ("nan" if target == pa.float64() else "0")
    try:
        columns = [
            pc.cast(pc.replace_with_mask(_worded(text, avro), pc.equal(text, ""), filler), target).to_numpy(
                zero_copy_only=False
            )
            for text in texts
        ]
    except pa.ArrowInvalid:
        return None
    values = np.column_stack(columns)
    if avro == "int" and values.size and not (values.min() >= -(2**31) and values.max() < 2**31):
        return None
    return values.astype(np.float32) if avro == "float" else values, _empty(texts)


def _worded(text: pa.StringArray, avro: str) -> pa.StringArray:
    """Booleans as Arrow reads them: pandas writes True."""
    if avro != "boolean":
        return text
    encoded = text.dictionary_encode()
    words = [_BOOLEANS.get(word, "no boolean") if word else word for word in encoded.dictionary.to_pylist()]
    return pa.DictionaryArray.from_arrays(encoded.indices, pa.array(words, pa.string())).cast(pa.string())
