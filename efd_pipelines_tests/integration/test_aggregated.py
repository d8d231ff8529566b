"""Aggregated topics on a real broker and registry: the tier's windows, each once, with a schema."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from efd_pipelines.configuration import AggregatedPolicy, Publishing
from efd_pipelines.errors import KafkaUnavailable
from efd_pipelines.kafka.registry import Registries
from efd_pipelines.publishing import aggregated
from efd_pipelines.publishing.aggregated import publish_aggregated, topic_of
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.servers.registry import RegistryServer
from efd_pipelines.settings import load_settings
from efd_pipelines.tiers.build import build_tier
from efd_pipelines.tiers.tier import TIERS
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.integration.lossless import records_of
from efd_pipelines_tests.unit.exports.builders import (
    FORCES,
    MONDAY,
    PRIVATE,
    ArchiveBuilder,
    column,
    messages,
    seconds,
)

DATASET = Dataset(FORCES)
COLUMNS = [
    column("salIndex", pa.int32()),
    *PRIVATE,
    *(column(f"zForces{n}", pa.float32(), "newton", field="zForces", element=n) for n in range(3)),
    column("state", pa.string()),
]
NOW = MONDAY + timedelta(hours=3)


@pytest.fixture
def builder(tmp_path: Path, empty_kafka: KafkaServer, registry: RegistryServer) -> ArchiveBuilder:
    publishing = Publishing(aggregated=AggregatedPolicy(topics=(FORCES,)))
    configuration = load_settings({}, None).configuration.model_copy(update={"publishing": publishing})
    overrides = {
        "configuration": configuration,
        "kafka_bootstrap": empty_kafka.bootstrap,
        "registry_url": registry.url,
    }
    builder = ArchiveBuilder(str(tmp_path / "archive"), overrides)
    for index in (1, 2):
        builder.add(FORCES, messages(seconds(3595, 3605, 0.02), columns=COLUMNS, sal_index=index))
    build_tier(builder.archive, TIERS["1s"])
    return builder


def records(builder: ArchiveBuilder) -> list[dict[str, Any]]:
    settings = builder.archive.settings
    found = records_of(settings.require_kafka(), settings.require_registry(), topic_of(DATASET))
    return sorted((dict(one.values) for one in found), key=lambda one: (one["salIndex"], one["time"]))


def assert_equal_to_the_tier(builder: ArchiveBuilder, found: list[dict[str, Any]]) -> None:
    tier = builder.archive.read(DATASET, tier="1s").to_pylist()
    assert len(found) == len(tier)
    for record, row in zip(found, tier, strict=True):
        assert record.pop("time") == row.pop("time").timestamp() + 0.5
        assert record == row


@pytest.mark.timeout(600)
def test_windows_go_back_to_kafka_once_and_again_where_they_changed(
    builder: ArchiveBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(aggregated, "_packed", _dies)
        with pytest.raises(KafkaUnavailable, match="cable"):
            publish_aggregated(builder.archive, now=NOW)
    assert records(builder) == []
    result = publish_aggregated(builder.archive, now=NOW)
    assert (result.records, result.slices, result.topics) == (20, 2, 1)
    assert_equal_to_the_tier(builder, records(builder))
    again = publish_aggregated(builder.archive, now=NOW)
    assert (again.records, again.unchanged) == (0, 2)
    builder.add(FORCES, messages(seconds(3597.001, 3598, 0.02), columns=COLUMNS, sal_index=3, first_seq=90_000))
    build_tier(builder.archive, TIERS["1s"])
    assert publish_aggregated(builder.archive, now=NOW).slices == 1
    newest = {(one["salIndex"], one["time"]): one for one in records(builder)}
    assert_equal_to_the_tier(builder, [newest[key] for key in sorted(newest)])
    assert publish_aggregated(builder.archive, now=NOW + timedelta(days=2)).unchanged == 0


def _dies(_: object) -> str:
    raise KafkaUnavailable("The cable was pulled")


@pytest.mark.timeout(600)
def test_the_schema_has_kafka_aggregators_names_and_units(builder: ArchiveBuilder) -> None:
    publish_aggregated(builder.archive, now=NOW)
    with Registries(builder.archive.settings) as registries:
        schema = registries.latest("", f"{FORCES}-aggregated-value").schema
    assert [one.name for one in schema.fields[:3]] == ["time", "window_size", "count"]
    assert {"mean_zForces0", "stdev_zForces2", "first_state", "salIndex"} <= {one.name for one in schema.fields}
    field = schema.field("mean_zForces0")
    assert field is not None
    assert (field.units, field.nullable, field.type) == ("newton", True, "float")
