"""Topics look on the wire as efd-facts §1 says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import fastavro
import pytest

from efd_pipelines.errors import UsageError
from efd_pipelines.simulator.fixtures import builtin_topic, builtin_topics
from efd_pipelines.simulator.sal import SalField, SalTopic, load_topics
from efd_pipelines.topics.names import Kind
from efd_pipelines.topics.schemas import parse_schema

PRIVATE = [
    ("private_sndStamp", "double", 0.0, "second"),
    ("private_rcvStamp", "double", 0.0, "second"),
    ("private_efdStamp", "double", 0.0, "second"),
    ("private_kafkaStamp", "double", 0.0, "second"),
    ("private_seqNum", "int", 0, "unitless"),
    ("private_revCode", "string", "", "unitless"),
    ("private_identity", "string", "", "unitless"),
    ("private_origin", "int", 0, "unitless"),
]


def schema_of(name: str) -> dict[str, object]:
    document = json.loads(builtin_topic(name).avro_schema())
    assert isinstance(document, dict)
    return document


def shapes(schema: dict[str, object]) -> list[tuple[object, ...]]:
    fields = schema["fields"]
    assert isinstance(fields, list)
    return [(f["name"], f["type"], f.get("default", "none"), f.get("units", "none")) for f in fields]


def test_an_indexed_topic_has_salindex_private_fields_and_then_its_own() -> None:
    schema = schema_of("ESS.temperature")

    assert (schema["type"], schema["name"], schema["namespace"]) == ("record", "temperature", "lsst.sal.ESS")
    array = {"type": "array", "items": "float"}
    assert shapes(schema) == [
        ("salIndex", "int", 0, "unitless"),
        *PRIVATE,
        ("sensorName", "string", "", "unitless"),
        ("timestamp", "double", 0.0, "second"),
        ("numChannels", "int", 0, "unitless"),
        ("temperatureItem", array, [0.0] * 16, "deg_C"),
        ("location", "string", "", "unitless"),
    ]
    assert all(field["description"] for field in json.loads(json.dumps(schema["fields"])))


def test_a_camera_topic_has_unions_tags_and_its_private_fields_last() -> None:
    schema = schema_of("MTCamera.thermal_trim")

    null_double, null_string = ["null", "double"], ["null", "string"]
    assert shapes(schema) == [
        ("timestamp", "long", "none", "millisecond"),
        ("V", null_double, None, "Volt"),
        ("V_state", null_string, None, "unitless"),
        ("I", null_double, None, "A"),
        ("I_state", null_string, None, "unitless"),
        ("P", null_double, None, "Watt"),
        ("P_state", null_string, None, "unitless"),
        ("Source", "string", "none", "none"),
        ("Agent", "string", "none", "none"),
        *PRIVATE,
    ]


def test_every_sal_type_has_the_avro_type_of_version_28() -> None:
    types = {name: kind for name, kind, *_ in shapes(schema_of("Test.scalars"))}

    assert {name: types[name] for name in types if str(name).endswith("0")} == {
        "boolean0": "boolean",
        "byte0": "int",
        "short0": "int",
        "int0": "int",
        "long0": "int",
        "longLong0": "long",
        "unsignedShort0": "int",
        "unsignedInt0": "long",
        "float0": "float",
        "double0": "double",
        "string0": "string",
    }


def test_array_lengths_are_in_the_defaults_where_the_archive_looks_for_them() -> None:
    schema = parse_schema(builtin_topic("MTM1M3.forceActuatorData").avro_schema())

    assert sum((field.length or 1) if field.array else 1 for field in schema.fields) == 820
    force = schema.field("zForce")
    assert force is not None
    assert (force.length, force.units, force.type) == (156, "N", "float")


def test_the_revision_code_is_the_hash_of_the_indented_schema() -> None:
    topic = builtin_topic("MTMount.azimuth")

    expected = hashlib.md5(json.dumps(json.loads(topic.avro_schema()), indent=4).encode()).hexdigest()[:8]
    assert topic.rev_code == expected


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("MTMount.azimuth", b""),
        ("ESS.temperature", b""),
        ("MTMount.logevent_heartbeat", b'{"name": "MTMount", "topic": "logevent_heartbeat"}'),
        ("ScriptQueue.command_add", b'{"name": "ScriptQueue", "topic": "command_add", "index": 2}'),
        ("ScriptQueue.ackcmd", b'{"name": "ScriptQueue", "topic": "ackcmd", "index": 2}'),
    ],
)
def test_keys_are_empty_for_telemetry_and_json_for_the_rest(name: str, key: bytes) -> None:
    assert builtin_topic(name).key(2) == key


def test_only_telemetry_of_the_fast_components_has_several_partitions() -> None:
    several = {topic.name for topic in builtin_topics().values() if topic.partitions > 1}

    assert "lsst.sal.MTM1M3.forceActuatorData" in several
    assert {name.split(".")[2] for name in several} == {"MTM1M3", "MTM2", "MTHexapod", "MTMount"}
    assert not any("logevent_" in name for name in several)


def test_the_subject_and_namespace_are_the_datasets() -> None:
    topic = SalTopic.of("lsst.dm.FAKE_metric", [SalField("value", "double", 1, "m")])

    assert topic.subject == "lsst.dm.FAKE_metric-value"
    assert json.loads(topic.avro_schema())["namespace"] == "lsst.dm"
    assert topic.kind is Kind.METRIC


def test_built_in_definitions_are_those_of_the_catalogue(shared: Path) -> None:
    catalogue = load_topics(shared / "sal" / "topics.json.gz")

    assert {name: catalogue[name] for name in builtin_topics()} == dict(builtin_topics())


def test_all_3348_schemas_are_valid_avro(shared: Path) -> None:
    catalogue = load_topics(shared / "sal" / "topics.json.gz")

    for topic in catalogue.values():
        fastavro.parse_schema(json.loads(topic.avro_schema()))
    assert len(catalogue) == 3348
    assert sum(topic.is_ccs for topic in catalogue.values()) == 161


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[1]",
        '{"lsst.sal.A.b": {}}',
        '{"lsst.sal.A.b": {"csc": "A", "kind": "odd", "indexed": false, "partitions": 1, "fields": []}}',
        '{"lsst.sal.A.b": {"csc": "A", "kind": "event", "indexed": false, "partitions": 1, '
        '"fields": [["x", "complex", 1, "m"]]}}',
    ],
)
def test_a_file_that_is_no_catalogue_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "topics.json"
    path.write_text(content)

    with pytest.raises(UsageError, match=r"topics\.json"):
        load_topics(path)


def test_a_missing_catalogue_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.json\.gz"):
        load_topics(tmp_path / "nowhere.json.gz")


def test_an_unknown_built_in_topic_is_named_with_its_nearest() -> None:
    with pytest.raises(UsageError, match=r"MTMount\.azimuth"):
        builtin_topic("MTMount.azimut")
