"""Sources: what the archive is fed from: the brokers' topics by component, and what lies outside.

`kafka_topics` is brought up to date by discovery (the job and the sensor `discover`) for the components whose topics
changed, and by hand for any. What there is and what changed is found by `kafka/catalogue.py`. What Dagster was told
stands in its events, as the data version of each component, so what a run that died has not told, the next one tells.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from efd_pipelines.configuration import Configuration
from efd_pipelines.defs.failures import explained
from efd_pipelines.defs.metadata import OWNERS, Metadata, column, column_schema, table
from efd_pipelines.partitions import COMPONENTS, add_components, check_components, component_key, component_of
from efd_pipelines.resources import Deployment

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.kafka.catalogue import Catalogue, CatalogueChange, CatalogueTopic

DATA_VERSION = "dagster/data_version"
FIELDS_SHOWN = 1500
_COMPONENTS_AT_ONCE = 20
_DAY_MS = 86_400_000
_TOPIC_COLUMNS = {"topic": "string", "kind": "string", "archived": "bool", "columns": "int", "description": "string"}
_KAFKA_COLUMNS = {
    "topic": "string",
    "partitions": "int",
    "records": "int",
    "offsets": "string",
    "rate_hz": "float",
    "declared_hz": "float",
    "cleanup": "string",
    "retention_days": "float",
    "schema": "string",
}
_FIELD_COLUMNS = {
    "topic": "string",
    "field": "string",
    "type": "string",
    "units": "string",
    "description": "string",
}

kafka = dg.AssetSpec(
    "kafka",
    description="The observatory's Kafka brokers and schema registry (EFD_KAFKA_BOOTSTRAP, EFD_REGISTRY_URL), only "
    "read here. They keep records for 30 hours to 7 days; what is not archived by then is gone.",
    group_name="sources",
    kinds={"kafka"},
    owners=OWNERS,
)


@dg.asset(
    partitions_def=COMPONENTS,
    deps=[kafka],
    group_name="sources",
    kinds={"kafka", "avro"},
    owners=OWNERS,
    backfill_policy=dg.BackfillPolicy.multi_run(_COMPONENTS_AT_ONCE),
    metadata=column_schema(
        [
            column("topic", "string", "The topic's name without its component, as in `raw_archive`"),
            column("kind", "string", "telemetry, event, command, ack or metric"),
            column("archived", "bool", "Whether the configuration covers it (`topics` of EFD_CONFIG)"),
            column("columns", "int", "Columns of its messages in the archive, arrays flattened"),
            column("partitions", "int", "Partitions of the topic"),
            column("records", "int", "Records that Kafka holds now, at most"),
            column("offsets", "string", "First and next offset of each partition"),
            column("rate_hz", "float", "Records per second since the reading before", "Hz"),
            column("declared_hz", "float", "Declared rate (`rates_hz` of EFD_CONFIG)", "Hz"),
            column("cleanup", "string", "Kafka's clean-up policy: delete, or compact for events"),
            column("retention_days", "float", "How long Kafka keeps a record; empty: for ever", "day"),
            column("schema", "string", "Version and ids in the registry; or why it cannot be read"),
            column("description", "string", "What the topic's schema says of it"),
        ]
    ),
)
def kafka_topics(context: dg.AssetExecutionContext, deployment: Deployment) -> dg.MaterializeResult[Any]:
    """The topics of each component (CSC) on the brokers: what they carry, how fast, how long Kafka keeps them.

    Open a component's partition: `topics` and `in_kafka` have a line per topic, `fields` each field with type, units
    and description, `changes` what was new when this was noticed. The sensor `discover` looks every two minutes and
    tells what changed: new topics and components, first records, changed schemas. A topic that is gone is retired, not
    forgotten.

    **When a run fails**, the brokers or the registry did not answer: its last error says which, and what to check.
    """
    with explained():
        archive = deployment.archive()
        components = check_components(context.instance, [component_of(key) for key in context.partition_keys])
        found = discovered(context.instance, archive)
        for component in components:
            context.add_asset_metadata(found.metadata(component), partition_key=component_key(component))
        # The catalogue is not kept: what changed of other components is still to be told by discovery.
    if len(components) > 1:
        return dg.MaterializeResult()
    return dg.MaterializeResult(data_version=dg.DataVersion(found.version(components[0])))


@dg.op(ins={"after": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
def discover_topics(context: dg.OpExecutionContext, deployment: Deployment) -> None:
    """Reads the catalogue, gives partitions to new components, and tells Dagster which components' topics changed."""
    from efd_pipelines.archive.discovered import keep

    with explained():
        archive = deployment.archive()
        found = discovered(context.instance, archive)
        for component in add_components(context.instance, found.catalogue.components()):
            context.log.info(f"Component {component} is new to Dagster.")
        for event in found.events():
            context.log_event(event)
        keep(archive.store, found.catalogue)
        for line in found.change.lines():
            context.log.info(line)
        context.add_output_metadata(
            {
                "topics": len(found.catalogue.topics),
                "components": len(found.catalogue.components()),
                "components_changed": len(found.changed),
            }
        )


@dataclass(frozen=True, slots=True)
class Discovery:
    """What discovery found: `changed` are the components of whose topics Dagster knows another state."""

    catalogue: "Catalogue"
    topics: Mapping[str, Sequence["CatalogueTopic"]]
    change: "CatalogueChange"
    changed: tuple[str, ...]
    configuration: Configuration

    def version(self, component: str) -> str:
        """The data version of a component's topics: the same while nothing but their records and rates changes."""
        return version_of(self.topics.get(component, ()))

    def events(self) -> Iterator[dg.AssetMaterialization]:
        for component in self.changed:
            yield dg.AssetMaterialization(
                asset_key=kafka_topics.key,
                partition=component_key(component),
                metadata=self.metadata(component),
                tags={DATA_VERSION: self.version(component)},
            )

    def metadata(self, component: str) -> Metadata:
        """The topics and fields of a component as tables, and what changed in words."""
        topics = self.topics.get(component, ())
        retired = [topic.dataset.text for topic in self.catalogue.retired if topic.component == component]
        rows = [_topic(topic, self.configuration) for topic in topics]
        fields = [row for topic in topics for row in _fields(topic)]
        found: Metadata = {
            "topics_count": len(topics),
            "columns_count": sum(topic.columns for topic in topics),
            "records": sum(topic.records for topic in topics),
            "topics": table(rows, _TOPIC_COLUMNS),
            "in_kafka": table(rows, _KAFKA_COLUMNS),
            "fields": table(fields[:FIELDS_SHOWN], _FIELD_COLUMNS),
            "changes": dg.MetadataValue.md(
                _listed(self.change.of(component).lines()) or "Nothing since the last look."
            ),
        }
        if len(fields) > FIELDS_SHOWN:
            more = f"The first {FIELDS_SHOWN:,} of {len(fields):,}; all by `efd topics --component {component} --json`."
            found["fields_shown"] = more
        if retired:
            found["retired"] = dg.MetadataValue.md(_listed(retired))
        return found


def discovered(instance: dg.DagsterInstance, archive: "Archive") -> Discovery:
    """The catalogue as it is now, what changed since the last that was kept, and of which components Dagster must hear.

    Raises:
        KafkaUnavailable, RegistryUnavailable, StoreUnavailable: a service did not answer.
    """
    from efd_pipelines.archive.discovered import kept
    from efd_pipelines.kafka.catalogue import read_catalogue

    previous = kept(archive.store)
    return _discovery(instance, archive, previous, read_catalogue(archive.settings, previous))


def discovered_within(instance: dg.DagsterInstance, archive: "Archive", seconds: float) -> Discovery | None:
    """The same, or None where not everything was answered in time.

    When the observatory deploys a release, thousands of schemas are new at once: more than a tick may take. The
    reading that is given up ends by itself.
    """
    from efd_pipelines.archive.discovered import kept
    from efd_pipelines.kafka.catalogue import read_catalogue

    previous = kept(archive.store)
    reader = ThreadPoolExecutor(1)
    reading = reader.submit(read_catalogue, archive.settings, previous)
    reader.shutdown(wait=False)
    try:
        return _discovery(instance, archive, previous, reading.result(seconds))
    except TimeoutError:
        return None


def _discovery(
    instance: dg.DagsterInstance, archive: "Archive", previous: "Catalogue | None", catalogue: "Catalogue"
) -> Discovery:
    topics: dict[str, list[CatalogueTopic]] = {topic.component: [] for topic in catalogue.retired}
    for topic in catalogue.topics:
        topics.setdefault(topic.component, []).append(topic)
    known = known_versions(instance)
    changed = tuple(name for name in sorted(topics) if known.get(component_key(name)) != version_of(topics[name]))
    return Discovery(catalogue, topics, catalogue.difference(previous), changed, archive.settings.configuration)


def known_versions(instance: dg.DagsterInstance) -> dict[str, str]:
    """What Dagster was last told of each component: its data version, by partition key."""
    found = instance.event_log_storage.get_latest_tags_by_partition(
        kafka_topics.key, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION]
    )
    return {key: tags[DATA_VERSION] for key, tags in found.items() if DATA_VERSION in tags}


def version_of(topics: Sequence["CatalogueTopic"]) -> str:
    """A digest of what discovery tells of: topics, partitions, schemas, settings, whether anything ever came."""
    state = [
        [
            topic.topic,
            topic.topic_id,
            list(topic.partitions),
            topic.schema.token if topic.schema else topic.problem,
            [topic.config.cleanup_policy, topic.config.retention_ms] if topic.config else None,
            topic.covered,
            topic.has_records,
        ]
        for topic in topics
    ]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]


def _topic(topic: "CatalogueTopic", configuration: Configuration) -> dict[str, Any]:
    config = topic.config
    forever = config is None or config.retention_ms < 0
    ids = ", ".join(str(schema_id) for schema_id in topic.schema_ids)
    return {
        "topic": topic.dataset.name,
        "kind": topic.kind.value,
        "archived": topic.covered,
        "columns": topic.columns,
        "partitions": len(topic.partitions),
        "records": topic.records,
        "offsets": ", ".join(f"{n}: {marks.low}–{marks.high}" for n, marks in sorted(topic.watermarks.items())),
        "rate_hz": None if topic.rate_hz is None else round(topic.rate_hz, 3),
        "declared_hz": configuration.rate_hz(topic.dataset),
        "cleanup": config.cleanup_policy if config else None,
        "retention_days": None if forever or config is None else round(config.retention_ms / _DAY_MS, 2),
        "schema": topic.problem or (f"version {topic.schema_version}, id {ids}" if topic.schema_ids else "none"),
        "description": topic.schema.description if topic.schema else "",
    }


def _fields(topic: "CatalogueTopic") -> Iterator[dict[str, Any]]:
    """The fields that are a topic's own: every topic has the private ones."""
    for field in topic.schema.fields if topic.schema else ():
        if not field.name.startswith("private_"):
            yield {
                "topic": topic.dataset.name,
                "field": field.name,
                "type": f"{field.type}[{field.length or ''}]" if field.array else field.type,
                "units": field.units,
                "description": field.description,
            }


def _listed(lines: Sequence[str], most: int = 50) -> str:
    more = [f"… and {len(lines) - most} more"] if len(lines) > most else []
    return "\n".join(f"- {line}" for line in [*lines[:most], *more])
