"""Discovery on a real broker and registry: what is there, what is new, and what went away."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from efd_pipelines.errors import KafkaUnavailable, RegistryUnavailable
from efd_pipelines.kafka.brokers import Watermarks
from efd_pipelines.kafka.catalogue import Catalogue, CatalogueTopic, read_catalogue
from efd_pipelines.kafka.registry import Registries
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.servers.registry import RegistryServer
from efd_pipelines.settings import load_settings
from efd_pipelines.topics.names import Kind
from efd_pipelines_tests.integration.configured import with_kafka


class Site:
    """A broker and a registry, and what happens there."""

    def __init__(self, kafka: KafkaServer, registry: RegistryServer, component: str) -> None:
        self.component = component
        self.environ = {"EFD_KAFKA_BOOTSTRAP": kafka.bootstrap, "EFD_REGISTRY_URL": registry.url}
        self.settings = load_settings(self.environ, None)
        self.admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
        self.producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})

    def name(self, name: str) -> str:
        return f"lsst.sal.{self.component}.{name}"

    def make(self, topic: str, partitions: int = 1, **config: str) -> str:
        self.admin.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic].result()
        self.wait(lambda: topic in self.admin.list_topics(timeout=10).topics)
        return topic

    def delete(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result()
        self.wait(lambda: topic not in self.admin.list_topics(timeout=10).topics)

    def put(self, topic: str) -> None:
        self.producer.produce(topic, b"x", b"key")
        assert self.producer.flush(30) == 0

    def register(self, subject: str, *fields: tuple[str, str]) -> int:
        documents = [{"name": name, "type": kind, "units": "m", "description": "of a test"} for name, kind in fields]
        # The component makes its text, and so its id, different from other tests'.
        schema = {"type": "record", "name": "t", "namespace": f"lsst.sal.{self.component}", "fields": documents}
        with Registries(self.settings) as registries:
            return registries.register("", subject, json.dumps(schema))

    def read(self, previous: Catalogue | None = None, **overrides: object) -> Catalogue:
        settings = load_settings(self.environ, None, **overrides) if overrides else self.settings
        return read_catalogue(settings, previous)

    def wait(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not until():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def site(empty_kafka: KafkaServer, registry: RegistryServer, unique: str) -> Site:
    return Site(empty_kafka, registry, unique)


def only(catalogue: Catalogue, component: str) -> CatalogueTopic:
    (topic,) = catalogue.of(component)
    return topic


def test_a_topic_is_known_with_all_that_it_is(site: Site) -> None:
    topic = site.make(site.name("logevent_a"), 2, **{"cleanup.policy": "compact", "retention.ms": "123456"})
    schema_id = site.register(f"{topic}-value", ("x", "int"), ("y", "string"))
    site.put(topic)
    found = only(site.read(), site.component)
    assert (found.topic, found.dataset.text, found.kind) == (topic, topic, Kind.EVENT)
    assert found.partitions == (0, 1)
    assert sum(marks.high for marks in found.watermarks.values()) == 1
    assert found.has_records
    assert found.covered
    assert found.config is not None
    assert (found.config.cleanup_policy, found.config.retention_ms) == ("compact", 123456)
    assert (found.schema_ids, found.schema_version, found.columns) == ((schema_id,), 1, 2)
    assert found.schema is not None
    assert [(field.name, field.units) for field in found.schema.fields] == [("x", "m"), ("y", "m")]


def test_what_happens_is_told_once(site: Site) -> None:
    topic = site.make(site.name("a"))
    first = site.read()
    change = first.difference(None).of(site.component)
    assert (len(change.new_topics), change.new_components, change.first_records) == (1, (site.component,), ())

    site.put(topic)
    second = site.read(first)
    change = second.difference(first)
    assert [event.topic for event in change.first_records] == [topic]
    assert change.new_topics == ()
    assert only(second, site.component).watermarks == {0: Watermarks(0, 1)}
    assert only(second, site.component).rate_hz is not None

    third = site.read(second)
    assert not third.difference(second)


def test_a_new_version_of_a_schema_is_noticed_and_told_with_its_difference(site: Site) -> None:
    topic = site.make(site.name("a"))
    old = site.register(f"{topic}-value", ("x", "int"))
    before = site.read()
    new = site.register(f"{topic}-value", ("x", "long"), ("y", "string"))
    after = site.read(before)
    (change,) = after.difference(before).of(site.component).schema_changes
    assert change.lines == ("y: new, string in m", "x: int in m → long in m")
    assert only(after, site.component).schema_ids == (old, new)
    assert only(after, site.component).schema_version == 2


def test_a_schema_that_comes_later_is_found(site: Site) -> None:
    topic = site.make(site.name("a"))
    before = site.read()
    assert only(before, site.component).schema is None
    site.register(f"{topic}-value", ("x", "int"))
    after = site.read(before)
    assert only(after, site.component).columns == 1
    assert not after.difference(before).of(site.component)


def test_a_schema_reverted_to_an_old_one_is_found_when_its_turn_comes(site: Site) -> None:
    """Its id is not new; each reading asks again about a part of all topics."""
    topic = site.make(site.name("a"))
    site.register(f"{topic}-value", ("x", "int"))
    catalogue = site.read()
    site.register(f"{topic}-value", ("x", "long"))
    # As if the new id were one that was known already.
    with Registries(site.settings) as registries:
        highest = {registries.url(): registries.latest("", f"{topic}-value").id}
    catalogue = catalogue_with_highest(catalogue, highest)
    for _ in range(20):
        catalogue = site.read(catalogue)
    schema = only(catalogue, site.component).schema
    assert schema is not None
    assert schema.fields[0].type == "long"


def catalogue_with_highest(catalogue: Catalogue, highest: dict[str, int]) -> Catalogue:
    document = json.loads(catalogue.to_json())
    document["highest_ids"] = highest
    return Catalogue.from_json(json.dumps(document))


def test_a_removed_topic_is_retired_and_comes_back_as_another(site: Site) -> None:
    topic = site.make(site.name("a"))
    site.put(topic)
    site.register(f"{topic}-value", ("x", "int"))
    before = site.read()
    site.delete(topic)
    gone = site.read(before)
    assert gone.of(site.component) == []
    assert [retired.topic for retired in gone.retired] == [topic]
    assert gone.retired[0].retired_at is not None
    assert gone.retired[0].schema == only(before, site.component).schema
    assert gone.difference(before).removed_components == (site.component,)
    assert site.read(gone).retired == gone.retired

    site.make(topic)
    again = site.read(gone)
    assert again.retired == ()
    assert only(again, site.component).topic_id != only(before, site.component).topic_id
    assert not only(again, site.component).has_records


def test_a_topic_created_again_between_two_readings_is_told(site: Site) -> None:
    topic = site.make(site.name("a"))
    site.put(topic)
    before = site.read()
    site.delete(topic)
    site.make(topic)
    change = site.read(before).difference(before)
    assert [found.topic for found in change.recreated] == [topic]
    assert change.removed == ()
    assert change.new_topics == ()


def test_partitions_that_are_added_are_told(site: Site) -> None:
    topic = site.make(site.name("a"))
    before = site.read()
    site.admin.create_partitions([NewPartitions(topic, 3)])[topic].result()
    site.wait(lambda: len(site.admin.list_topics(timeout=10).topics[topic].partitions) == 3)
    after = site.read(before)
    assert [found.partitions for found in after.difference(before).more_partitions] == [(0, 1, 2)]


def test_what_is_not_covered_is_there_and_said(site: Site, tmp_path: Path) -> None:
    topic = site.make(site.name("a"))
    config = tmp_path / "config.yaml"
    config.write_text(f"topics: {{exclude: ['{site.name('*')}']}}\n")
    catalogue = site.read(config=config)
    assert not only(catalogue, site.component).covered
    assert [found.topic for found in catalogue.difference(None).uncovered] == [topic]


def test_topics_of_others_are_not_the_efds_and_odd_ones_do_no_harm(site: Site) -> None:
    for name in ("connect-offsets", f"{site.component}", "lsst", "lsst.", f"lsst.sal.{site.component}..-_x"):
        site.make(name)
    catalogue = site.read()
    assert f"lsst.sal.{site.component}..-_x" in {topic.topic for topic in catalogue.topics}
    assert {topic.topic for topic in catalogue.topics}.isdisjoint({"connect-offsets", site.component, "lsst", "lsst."})


def test_a_mirrored_topic_has_the_dataset_and_the_schema_of_its_source(site: Site) -> None:
    topic = site.make(f"summit.{site.name('a')}")
    site.register(f"{site.name('a')}-value", ("x", "int"))
    at_usdf = only(site.read(profile="usdf"), site.component)
    assert (at_usdf.topic, at_usdf.dataset.text, at_usdf.columns) == (topic, site.name("a"), 1)
    elsewhere = only(site.read(), f"summit@{site.component}")
    assert elsewhere.dataset.text == f"summit@{site.name('a')}"


def test_a_schema_that_cannot_be_read_is_a_problem_of_one_topic(site: Site) -> None:
    topic, other = site.make(site.name("a")), site.make(site.name("b"))
    site.register(f"{other}-value", ("x", "int"))
    with Registries(site.settings) as registries:
        registries.register("", f"{topic}-value", '"string"')
    first, second = site.read().of(site.component)
    assert first.schema is None
    assert first.problem
    assert second.columns == 1


def test_json_topics_need_no_schema(site: Site, tmp_path: Path) -> None:
    site.make(site.name("a"))
    config = tmp_path / "config.yaml"
    config.write_text(f"value_formats: {{'{site.name('*')}': json}}\n")
    found = only(site.read(config=config), site.component)
    assert (found.value_format, found.schema, found.problem) == ("json", None, None)


def test_a_failed_read_is_an_error_and_no_empty_catalogue(site: Site) -> None:
    site.make(site.name("a"))
    with pytest.raises(KafkaUnavailable):
        read_catalogue(
            with_kafka(load_settings({**site.environ, "EFD_KAFKA_BOOTSTRAP": "127.0.0.1:9"}, None), timeout_s=1.0)
        )
    with pytest.raises(RegistryUnavailable):
        read_catalogue(load_settings({**site.environ, "EFD_REGISTRY_URL": "http://127.0.0.1:9"}, None))
