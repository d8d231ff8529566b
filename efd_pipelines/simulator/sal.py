"""SAL: what a topic of the observatory's control system looks like on the wire.

A `SalTopic` knows its Avro schema in the exact shape of ts_xml (efd-facts §1), its subject, its keys and how
many partitions it has. Camera topics that come from CCS have a shape of their own (§1.5): nullable unions,
tags, a `timestamp` in UTC milliseconds, private fields last.
Built-in definitions: `fixtures.py`. Putting values into the schema: `encoding.py`; onto Kafka: `producer.py`.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efd_pipelines.errors import UsageError
from efd_pipelines.topics.names import Dataset, Kind

AVRO_TYPES: Mapping[str, str] = {
    "boolean": "boolean",
    "byte": "int",
    "short": "int",
    "int": "int",
    "long": "int",
    "unsigned short": "int",
    "unsigned int": "long",
    "long long": "long",
    "float": "float",
    "double": "double",
    "string": "string",
}
"""SAL type → Avro type; SAL's `long` has 32 bits (efd-facts §1.5)."""

MULTIPARTITION_CSCS = frozenset({"MTM1M3", "MTM2", "MTHexapod", "MTMount", "MTVMS"})
"""Components whose telemetry operators spread over partitions (efd-facts §1.2)."""

TELEMETRY_PARTITIONS = 4
_CCS_CSCS = frozenset({"MTCamera", "CCCamera", "ATCamera"})
# Strings of CCS topics that say where a value was measured; all other strings are values.
_CCS_TAGS = frozenset(
    "Agent Aspic Axis Bay Buffer Canbus Cip Clamp Cold Controller Cryo Gateway Hardware Hip Hook Latch "  # noqa: SIM905
    "Location Ps RTD Raft Reb Segment Sensor Socket Source Truck VersionType".split()
)
_DEFAULTS: Mapping[str, Any] = {
    "boolean": False,
    "int": 0,
    "long": 0,
    "float": 0.0,
    "double": 0.0,
    "string": "",
}


@dataclass(frozen=True, slots=True)
class SalField:
    """One field: `count` above 1 makes it an array of that length.

    `nullable` is for fields of which a recording has gaps that their type cannot tell: SAL itself has none.
    """

    name: str
    sal_type: str
    count: int = 1
    units: str = "unitless"
    nullable: bool = False

    @property
    def description(self) -> str:
        return _PRIVATE_DESCRIPTIONS.get(self.name) or _words(self.name)

    @property
    def is_private(self) -> bool:
        return self.name.startswith("private_")


PRIVATE_FIELDS: tuple[SalField, ...] = (
    SalField("private_sndStamp", "double", 1, "second"),
    SalField("private_rcvStamp", "double", 1, "second"),
    SalField("private_efdStamp", "double", 1, "second"),
    SalField("private_kafkaStamp", "double", 1, "second"),
    SalField("private_seqNum", "long"),
    SalField("private_revCode", "string"),
    SalField("private_identity", "string"),
    SalField("private_origin", "long"),
)
"""In the order in which they are written (efd-facts §1.3)."""

SAL_INDEX = SalField("salIndex", "long")
_PRIVATE_DESCRIPTIONS: Mapping[str, str] = {
    "salIndex": "Which instance of an indexed component",
    "private_sndStamp": "When the writer published it, TAI",
    "private_rcvStamp": "When a reader received it, TAI; 0 on the wire",
    "private_efdStamp": "When the writer published it, UTC",
    "private_kafkaStamp": "When the Kafka message was made, TAI",
    "private_seqNum": "Counts up per writer, from 1",
    "private_revCode": "Beginning of the schema's hash",
    "private_identity": "Who published it: component[:index] or user@host",
    "private_origin": "Process id of the writer",
}


@dataclass(frozen=True, slots=True)
class SalTopic:
    """One topic: `name` is its dataset's, e.g. `lsst.sal.MTM1M3.forceActuatorData`.

    `fields` are all of them, private ones too, in the order of the catalogue (salIndex or private first).
    """

    name: str
    csc: str
    kind: Kind
    indexed: bool
    partitions: int
    fields: tuple[SalField, ...]

    @classmethod
    def of(cls, name: str, public: Sequence[SalField], *, indexed: bool = False) -> SalTopic:
        """The topic with these public fields; salIndex and private fields are added."""
        dataset = Dataset(name)
        csc, kind = dataset.component, dataset.kind
        fast = csc in MULTIPARTITION_CSCS and kind is Kind.TELEMETRY
        head = (SAL_INDEX,) if indexed else ()
        fields = head + PRIVATE_FIELDS + tuple(public)
        return cls(name, csc, kind, indexed, TELEMETRY_PARTITIONS if fast else 1, fields)

    @property
    def sal_name(self) -> str:
        return Dataset(self.name).name

    @property
    def subject(self) -> str:
        return f"{self.name}-value"

    @property
    def public_fields(self) -> tuple[SalField, ...]:
        return tuple(field for field in self.fields if not field.is_private and field.name != "salIndex")

    @property
    def is_ccs(self) -> bool:
        """Whether it is one of the camera's own (`.avsc`) topics: told by their `Agent` tag."""
        camera = self.csc in _CCS_CSCS and self.kind is Kind.TELEMETRY
        return camera and any(field.name == "Agent" for field in self.fields)

    def field(self, name: str) -> SalField | None:
        return next((field for field in self.fields if field.name == name), None)

    def avro_schema(self) -> str:
        """The schema's JSON text as it is registered."""
        return _schema_text(self)

    @property
    def rev_code(self) -> str:
        """`private_revCode`: the first 8 hex digits of the MD5 of the schema, indented by 4."""
        return _rev_code(self.avro_schema())

    def key(self, sal_index: int = 0) -> bytes:
        """The Kafka key: empty for telemetry, else JSON of name, topic and index (efd-facts §1.2)."""
        if self.kind in (Kind.TELEMETRY, Kind.METRIC):
            return b""
        key: dict[str, Any] = {"name": self.csc, "topic": self.sal_name}
        if self.indexed:
            key["index"] = int(sal_index)
        return json.dumps(key).encode()

    def identity(self, sal_index: int = 0) -> str:
        """`private_identity` of the component itself."""
        return f"{self.csc}:{sal_index}" if self.indexed else self.csc


@functools.lru_cache(maxsize=8192)
def _schema_text(topic: SalTopic) -> str:
    fields = [_ccs_field(field) for field in topic.public_fields] if topic.is_ccs else []
    if topic.is_ccs:
        fields += [_field(field) for field in topic.fields if field.is_private]
    else:
        fields = [_field(field) for field in topic.fields]
    schema = {
        "type": "record",
        "name": topic.sal_name,
        "namespace": Dataset(topic.name).namespace,
        "fields": fields,
        "description": _words(topic.sal_name.removeprefix("logevent_").removeprefix("command_")),
    }
    return json.dumps(schema)


@functools.lru_cache(maxsize=8192)
def _rev_code(schema: str) -> str:
    indented = json.dumps(json.loads(schema), indent=4)
    return hashlib.md5(indented.encode(), usedforsecurity=False).hexdigest()[:8]


def _field(field: SalField) -> dict[str, Any]:
    kind = AVRO_TYPES[field.sal_type]
    declared: Any = kind
    default = _DEFAULTS[kind]
    if field.count > 1:
        declared = {"type": "array", "items": kind}
        default = [default] * field.count
    if field.nullable:
        declared, default = ["null", declared], None
    return {
        "name": field.name,
        "type": declared,
        "default": default,
        "description": field.description,
        "units": field.units,
    }


def _ccs_field(field: SalField) -> dict[str, Any]:
    """CCS names Avro types itself, so its `long` has 64 bits."""
    if field.name == "timestamp":
        return {
            "name": field.name,
            "type": "long",
            "description": "When it was measured, UTC",
            "units": "millisecond",
        }
    if field.name in _CCS_TAGS:
        return {"name": field.name, "type": "string", "description": "Tag"}
    return {
        "name": field.name,
        "type": ["null", field.sal_type],
        "default": None,
        "description": field.description,
        "units": field.units,
    }


def _words(name: str) -> str:
    """A name as words: `primaryCylinderForce` → `Primary cylinder force`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z0-9])|_", " ", name)
    return spaced[:1].upper() + spaced[1:]


def load_topics(path: Path) -> dict[str, SalTopic]:
    """The topics of a `topics.json[.gz]`, by name.

    The file: `{name: {csc, kind, indexed, partitions, fields: [[name, SAL type, count, units], …]}}`.

    Raises:
        UsageError: there is no such file, or it is another's.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as stream:
            document = json.load(stream)
        return {name: _loaded(name, entry) for name, entry in document.items()}
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error})", remedy="Name a sal/topics.json.gz.") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path} holds no SAL topics ({error!r})", remedy="Name a sal/topics.json.gz.") from error


def _loaded(name: str, entry: Mapping[str, Any]) -> SalTopic:
    fields = tuple(SalField(*field) for field in entry["fields"])
    unknown = {field.sal_type for field in fields} - AVRO_TYPES.keys()
    if unknown:
        raise ValueError(f"{name} has fields of the unknown type {min(unknown)}")
    kind = Kind(entry["kind"])
    fast = entry["csc"] in MULTIPARTITION_CSCS and kind is Kind.TELEMETRY
    partitions = max(int(entry["partitions"]), TELEMETRY_PARTITIONS if fast else 1)
    return SalTopic(name, str(entry["csc"]), kind, bool(entry["indexed"]), partitions, fields)
