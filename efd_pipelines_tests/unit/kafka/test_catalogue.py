"""What changed between two catalogues, and how a catalogue is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from efd_pipelines.errors import DataError
from efd_pipelines.kafka.brokers import TopicConfig, Watermarks
from efd_pipelines.kafka.catalogue import Catalogue, CatalogueChange, CatalogueTopic
from efd_pipelines.topics.names import Dataset

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def a_schema(*fields: tuple[str, str]) -> str:
    documents = [{"name": name, "type": kind, "units": "m"} for name, kind in fields]
    return json.dumps({"type": "record", "name": "a", "namespace": "lsst.sal.A", "fields": documents})


def a_topic(name: str = "lsst.sal.A.a", records: int = 0, **changes: Any) -> CatalogueTopic:
    topic = CatalogueTopic(
        topic=name,
        dataset=Dataset.parse(name),
        topic_id="id1",
        partitions=(0,),
        watermarks={0: Watermarks(0, records)},
        config=TopicConfig("compact", 1000, "LogAppendTime", 5),
        covered=True,
        value_format="avro",
        schema_text=a_schema(("x", "int")),
        schema_version=1,
        schema_ids=(4,),
        rate_hz=0.5,
    )
    return replace(topic, **changes)


def a_catalogue(*topics: CatalogueTopic, **changes: Any) -> Catalogue:
    return replace(Catalogue(NOW, "cluster", topics), **changes)


def changed(before: CatalogueTopic, after: CatalogueTopic) -> CatalogueChange:
    return a_catalogue(after).difference(a_catalogue(before))


def test_without_an_earlier_one_everything_is_new() -> None:
    change = a_catalogue(a_topic(), a_topic("lsst.sal.B.b", 3)).difference(None)
    assert [topic.topic for topic in change.new_topics] == ["lsst.sal.A.a", "lsst.sal.B.b"]
    assert change.new_components == ("A", "B")
    assert [topic.topic for topic in change.first_records] == ["lsst.sal.B.b"]


def test_the_same_again_is_no_change() -> None:
    assert not changed(a_topic(), a_topic())
    assert changed(a_topic(records=1), a_topic(records=9)).lines() == []


def test_a_first_record_is_told_from_a_new_topic() -> None:
    change = changed(a_topic(), a_topic(records=1))
    assert (len(change.new_topics), len(change.first_records)) == (0, 1)
    assert change


def test_records_that_have_expired_came_nevertheless() -> None:
    assert a_topic(watermarks={0: Watermarks(7, 7)}).has_records
    assert a_topic(watermarks={0: Watermarks(7, 7)}).records == 0


def test_a_changed_schema_is_told_with_its_difference() -> None:
    change = changed(a_topic(), a_topic(schema_text=a_schema(("x", "long"), ("y", "string"))))
    (schema,) = change.schema_changes
    assert schema.lines == ("y: new, string in m", "x: int in m → long in m")
    assert change.lines() == ["lsst.sal.A.a: y: new, string in m", "lsst.sal.A.a: x: int in m → long in m"]


def test_a_first_schema_and_one_that_says_the_same_are_no_change() -> None:
    assert not changed(a_topic(schema_text=None), a_topic())
    assert not changed(a_topic(), a_topic(schema_text=a_schema(("x", "int")).replace(" ", "  ")))


def test_gone_created_again_grown_and_uncovered_topics_are_told() -> None:
    gone = a_catalogue().difference(a_catalogue(a_topic()))
    assert [topic.topic for topic in gone.removed] == ["lsst.sal.A.a"]
    assert gone.removed_components == ("A",)
    again = changed(a_topic(records=5), a_topic(records=2, topic_id="id2"))
    assert len(again.recreated) == len(again.first_records) == 1
    assert len(changed(a_topic(), a_topic(partitions=(0, 1))).more_partitions) == 1
    assert len(changed(a_topic(), a_topic(covered=False)).uncovered) == 1
    assert len(a_catalogue(a_topic(covered=False)).difference(None).uncovered) == 1


def test_a_change_can_be_looked_at_by_component() -> None:
    before = a_catalogue(a_topic("lsst.sal.A.a"), a_topic("lsst.sal.C.c"))
    after = a_catalogue(
        a_topic("lsst.sal.A.a", 1), a_topic("lsst.sal.B.b"), a_topic("lsst.sal.C.c", schema_text=a_schema(("y", "int")))
    )
    change = after.difference(before)
    assert change.components() == ["A", "B", "C"]
    assert [topic.topic for topic in change.of("A").first_records] == ["lsst.sal.A.a"]
    assert change.of("B").new_components == ("B",)
    assert not change.of("B").first_records
    assert len(change.of("C").schema_changes) == 1
    assert not change.of("D")


def test_many_topics_of_one_kind_are_one_line() -> None:
    topics = [a_topic(f"lsst.sal.A.t{number:03}") for number in range(300)]
    lines = a_catalogue(*topics).difference(None).lines()
    assert lines == [
        "component A is new",
        "300 topics new: lsst.sal.A.t000, lsst.sal.A.t001, lsst.sal.A.t002, lsst.sal.A.t003, lsst.sal.A.t004"
        " and 295 more",
    ]


def test_a_kept_catalogue_is_the_same() -> None:
    catalogue = a_catalogue(
        a_topic(records=3),
        a_topic("lsst.sal.B.b", config=None, schema_text=None, schema_ids=(), rate_hz=None, problem="no Avro"),
        retired=(a_topic("lsst.sal.C.c", retired_at=NOW),),
        rejected={"..": "no name"},
        highest_ids={"http://r": 9},
        part=3,
    )
    assert Catalogue.from_json(catalogue.to_json()) == catalogue


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 99}', '{"format": 1, "schemas": "x"}'])
def test_what_is_no_catalogue_is_refused(text: str) -> None:
    with pytest.raises(DataError) as failure:
        Catalogue.from_json(text)
    assert "anew" in failure.value.remedy


def test_columns_are_counted_as_the_archive_has_them() -> None:
    array = {"type": "array", "items": "float"}

    def with_array(length: int) -> CatalogueTopic:
        fields = [{"name": "x", "type": "int"}, {"name": "a", "type": array, "default": [0.0] * length}]
        return a_topic(schema_text=json.dumps({"type": "record", "name": "a", "fields": fields}))

    assert with_array(5).columns == 6
    assert with_array(5000).columns == 2
    assert a_topic(schema_text=None).columns == 0
