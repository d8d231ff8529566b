"""Schemas from the real registry: what is registered comes back as it was."""

from __future__ import annotations

import json

import pytest

from efd_pipelines.errors import RegistryUnavailable, SchemaError
from efd_pipelines.kafka.registry import Registries, UnknownSchema
from efd_pipelines.servers.registry import RegistryServer
from efd_pipelines.settings import load_settings
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.topics.schemas import parse_schema


@pytest.fixture
def registries(registry: RegistryServer) -> Registries:
    return Registries(load_settings({"EFD_REGISTRY_URL": registry.url}, None))


def text_of(name: str, kind: str = "int") -> str:
    return json.dumps({"type": "record", "name": name, "fields": [{"name": "x", "type": kind, "units": "m"}]})


def test_a_registered_schema_comes_back_by_id_and_by_subject(registries: Registries, unique: str) -> None:
    subject, text = f"lsst.sal.{unique}.a-value", text_of(unique)
    schema_id = registries.register("", subject, text)
    latest = registries.latest("", subject)
    # The registry leaves out white space; the token, by which the archive knows a schema, does not see it.
    assert (latest.id, latest.version, latest.schema.token) == (schema_id, 1, parse_schema(text).token)
    assert json.loads(registries.schema("", schema_id).text) == json.loads(text)
    assert subject in registries.subjects("")
    assert registries.versions("", schema_id) == {subject: 1}


def test_the_same_schema_again_is_no_new_version(registries: Registries, unique: str) -> None:
    first = registries.register("", unique, text_of(unique))
    assert registries.register("", unique, text_of(unique)) == first
    second = registries.register("", unique, text_of(unique, "double"))
    assert second > first
    assert registries.latest("", unique).version == 2
    assert registries.schema("", first).fields[0].type == "int"


def test_a_sal_schema_keeps_units_descriptions_and_lengths(registries: Registries) -> None:
    topic = builtin_topic("lsst.sal.MTM1M3.forceActuatorData")
    schema_id = registries.register("", topic.subject, topic.avro_schema())
    schema, sent = registries.schema("", schema_id), parse_schema(topic.avro_schema())
    assert (schema.token, schema.fields) == (sent.token, sent.fields)
    forces = schema.field("zForce")
    assert forces is not None
    assert (forces.length, forces.type) == (156, "float")


def test_what_is_not_there_is_unknown(registries: Registries, unique: str) -> None:
    with pytest.raises(UnknownSchema, match="2000000000"):
        registries.schema("", 2_000_000_000)
    with pytest.raises(UnknownSchema, match=unique):
        registries.latest("", f"{unique}-value")
    assert registries.versions("", 2_000_000_000) == {}


def test_what_is_no_schema_is_refused(registries: Registries, unique: str) -> None:
    with pytest.raises(SchemaError):
        registries.register("", unique, "{")


def test_a_url_without_its_path_is_told_from_an_unknown_schema(registry: RegistryServer) -> None:
    wrong = Registries(load_settings({"EFD_REGISTRY_URL": f"http://127.0.0.1:{registry.port('clients')}"}, None))
    with pytest.raises(RegistryUnavailable) as failure:
        wrong.schema("", 1)
    assert "path" in failure.value.remedy
