"""Schemas that change, as they do over twenty years: every record stays whole, and Delta readers always see one table.

Each case of the archive's promise has a test of its own name. What is compared with what: `lossless.py`; sealed and
cleaned, readers that know nothing of Delta see the same: `plain.py`. Other registries, namespaces and formats:
`test_schemas_of_others.py`.
"""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.sealing import seal
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.simulator.sal import SalField, SalTopic, load_topics
from efd_pipelines.times import Week, microseconds
from efd_pipelines.topics import layout
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.integration.configured import configured
from efd_pipelines_tests.integration.conftest import MakeSettings
from efd_pipelines_tests.integration.lossless import assert_lossless, sent
from efd_pipelines_tests.integration.plain import assert_reads_plainly, assert_reads_plainly_when_sealed
from efd_pipelines_tests.integration.produced import NOW, delete_topic, produce

pytestmark = pytest.mark.timeout(180)


Fields = list[SalField]


WEEK = Week.containing(NOW).previous()


@pytest.fixture
def settings(local_settings: Settings) -> Settings:
    """A directory will do: what a schema becomes does not depend on the store. Slices of a day: a file for each."""
    return configured(local_settings, slices={"*": "day"})


@pytest.fixture
def name(unique: str) -> str:
    return f"lsst.sal.Test.{unique}"


def archived(settings: Settings, topic: str, *versions: Fields) -> pa.Table:
    """The table after some records of each version in turn, each on a day of its own; compared after each, for it is
    read at any time, and as plain files when the week is sealed."""
    archive = Archive(settings)
    for number, fields in enumerate(versions):
        when = WEEK.start + timedelta(days=number, hours=1)
        produce(settings, SalTopic.of(topic, fields), 4, first=1 + 10 * number, when=when)
        assert drain(archive, settings).dead_letters == 0
        table = assert_lossless(archive, topic, sent(settings, topic))
    audit = verify(archive, deep=True, datasets=[Dataset.parse(topic)])
    assert (audit.problems, audit.rows, audit.records) == ([], 4 * len(versions), 4 * len(versions))
    assert_reads_plainly_when_sealed(archive, topic, WEEK)
    return table


def test_a_new_field_is_null_in_older_rows(settings: Settings, name: str) -> None:
    table = archived(settings, name, [SalField("a", "int")], [SalField("a", "int"), SalField("b", "double", 3)])
    assert [table[f"b{n}"].is_valid().to_pylist() for n in range(3)] == [[False] * 4 + [True] * 4] * 3


def test_a_dropped_field_stays_and_is_null_in_newer_rows(settings: Settings, name: str) -> None:
    both, one = [SalField("a", "int"), SalField("b", "string")], [SalField("a", "int")]
    table = archived(settings, name, both, one, both)
    assert table["b"].is_valid().to_pylist() == [True] * 4 + [False] * 4 + [True] * 4


def test_a_renamed_field_is_a_new_column_beside_the_old(settings: Settings, name: str) -> None:
    table = archived(settings, name, [SalField("level", "float")], [SalField("fluidLevel", "float")])
    assert (table["level"].null_count, table["fluidLevel"].null_count) == (4, 4)


def test_a_field_renamed_only_in_case_is_told_apart(settings: Settings, name: str) -> None:
    table = archived(settings, name, [SalField("fooBar", "int")], [SalField("foobar", "int")])
    assert (table["fooBar"].null_count, table["foobar__"].null_count) == (4, 4)


def test_a_retyped_field_gets_a_column_of_its_own_for_each_type(settings: Settings, name: str) -> None:
    versions = [SalField("a", "int"), SalField("a", "string"), SalField("a", "double"), SalField("a", "boolean")]
    table = archived(settings, name, *([field] for field in versions), [SalField("a", "int")])
    counts = {column: len(table) - table[column].null_count for column in ("a", "a__string", "a__double", "a__boolean")}
    assert counts == {"a": 8, "a__string": 4, "a__double": 4, "a__boolean": 4}


def test_a_scalar_that_becomes_an_array_and_back(settings: Settings, name: str) -> None:
    table = archived(settings, name, [SalField("a", "float")], [SalField("a", "float", 3)], [SalField("a", "float")])
    assert [table[column].null_count for column in ("a", "a0", "a1", "a2")] == [4, 8, 8, 8]


def test_int_and_long_float_and_double_alternate(settings: Settings, name: str) -> None:
    narrow = [SalField("i", "int"), SalField("f", "float"), SalField("g", "float", 2), SalField("j", "int", 2)]
    wide = [
        SalField("i", "long long"),
        SalField("f", "double"),
        SalField("g", "double", 2),
        SalField("j", "long long", 2),
    ]
    table = archived(settings, name, narrow, wide, narrow, wide)
    types = [str(table.schema.field(column).type) for column in ("i", "f", "g1", "j0")]
    assert types == ["int64", "double", "double", "int64"]


def test_arrays_that_change_their_declared_length(settings: Settings, name: str) -> None:
    table = archived(settings, name, *([SalField("a", "double", count)] for count in (4, 6, 3)))
    assert [table[f"a{n}"].null_count for n in range(6)] == [0, 0, 0, 4, 8, 8]


def test_arrays_that_are_longer_or_shorter_than_declared(settings: Settings, name: str) -> None:
    topic = SalTopic.of(name, [SalField("a", "double", 4), SalField("b", "int")])
    archive = Archive(settings)
    with SalProducer(settings) as producer:
        producer.prepare([topic])
        head = producer.frames(random_series(topic, 1, microseconds(NOW)))[0][:5]
        schema = fastavro.parse_schema(json.loads(topic.avro_schema()))
        for number, length in enumerate((4, 0, 7, 1, 5)):
            producer.put(name, head + encoded(schema, {"a": [number + n / 8 for n in range(length)], "b": number}))
    drain(archive, settings)
    table = assert_lossless(archive, name, sent(settings, name))
    assert [table[f"a{n}"].null_count for n in range(7)] == [1, 2, 2, 2, 3, 4, 4]
    assert_reads_plainly_when_sealed(archive, name, Week.containing(NOW))


def encoded(schema: Any, values: dict[str, Any]) -> bytes:
    """A body of a SAL record with these values and this moment's stamps."""
    import io

    stamps = {"private_sndStamp": NOW.timestamp() + 37, "private_efdStamp": NOW.timestamp(), "private_rcvStamp": 0.0}
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, {**stamps, **values})
    return out.getvalue()


def test_versions_that_alternate_record_by_record_make_one_file(settings: Settings, name: str) -> None:
    versions = [
        SalTopic.of(name, [SalField("a", "int")]),
        SalTopic.of(name, [SalField("b", "float", 2), SalField("a", "long long")]),
        SalTopic.of(name, [SalField("a", "string"), SalField("b", "double", 3)]),
    ]
    with SalProducer(settings) as producer:
        for version in versions:
            producer.prepare([version])
        for number in range(60):
            one = random_series(versions[number % 3], 1, microseconds(NOW) + number, seed=number, first=number + 1)
            producer.put(name, producer.frames(one)[0])
    archive = Archive(settings)
    assert drain(archive, settings).commits == 1
    assert_lossless(archive, name, sent(settings, name))
    assert len(archive.snapshot(archive.datasets()[0]).files()) == 1
    assert_reads_plainly_when_sealed(archive, name, Week.containing(NOW))


def test_many_small_drains_of_changing_versions_make_a_file_each(settings: Settings, name: str) -> None:
    """No storm of tiny files: as many as commits, however many versions each of them has."""
    versions = [SalTopic.of(name, [SalField("a", "int"), SalField(f"b{n}", "double")]) for n in range(4)]
    archive = Archive(settings)
    with SalProducer(settings) as producer:
        for version in versions:
            producer.prepare([version])
        for batch in range(5):
            for number in range(8):
                one = random_series(versions[number % 4], 1, microseconds(NOW), seed=number, first=10 * batch + number)
                producer.put(name, producer.frames(one)[0])
            producer.flush()
            assert drain(archive, settings).commits == 1
    assert len(archive.snapshot(archive.datasets()[0]).files()) == 5
    assert_lossless(archive, name, sent(settings, name))


def test_a_sealed_week_is_read_by_plain_readers_and_keeps_its_types(site: MakeSettings, name: str) -> None:
    """Whatever came in it, and although the dataset grows wider later."""
    settings = configured(site(), slices={"*": "day"})
    archive, week = Archive(settings), Week.containing(NOW - timedelta(days=21))
    monday = datetime.combine(week.monday, datetime.min.time(), UTC)
    versions: list[Fields] = [
        [SalField("a", "int"), SalField("b", "float")],
        [SalField("b", "double"), SalField("c", "string")],
        [SalField("a", "int"), SalField("b", "float"), SalField("d", "double", 2)],
    ]
    for number, fields in enumerate(versions):
        for day in range(3):
            at = monday + timedelta(days=day)
            produce(settings, SalTopic.of(name, fields), 5, first=1 + 10 * number + 100 * day, when=at)
        drain(archive, settings)
    sealed = seal(archive, settings, week=week)
    assert (sealed.problems, sealed.sealed) == ([], 1)
    directory = assert_reads_plainly(archive, name, week)
    wider = [SalField("a", "long long"), SalField("b", "double"), SalField("d", "double", 2)]
    produce(settings, SalTopic.of(name, wider), 5, first=1000)
    drain(archive, settings)
    table = assert_lossless(archive, name, sent(settings, name))
    assert str(table.schema.field("a").type) == "int64"
    # The sealed week is as it was; all readers that know Delta read both as one.
    assert assert_reads_plainly(archive, name, week) == directory
    assert all(str(pq.read_schema(path).field("a").type) == "int32" for path in directory.glob("*.parquet"))
    # A late record of the wide schema reopens the week; sealed again, it is of one type again.
    produce(settings, SalTopic.of(name, wider), 1, first=2000, when=monday + timedelta(hours=5))
    drain(archive, settings)
    assert_lossless(archive, name, sent(settings, name))
    again = seal(archive, settings, week=week)
    assert (again.problems, again.sealed) == ([], 1)
    assert_reads_plainly(archive, name, week)
    assert all(str(pq.read_schema(path).field("a").type) == "int64" for path in directory.glob("*.parquet"))


def test_nullable_unions_of_camera_topics(settings: Settings) -> None:
    topic = builtin_topic("MTCamera.focal_plane_reb_data")
    assert topic.is_ccs
    produce(settings, topic, 30)
    archive = Archive(settings)
    drain(archive, settings)
    table = assert_lossless(archive, topic.name, sent(settings, topic.name))
    unions = [field.name for field in topic.public_fields if "double" in field.sal_type]
    assert any(table[field].null_count for field in unions)
    assert any(pc.any(pc.is_nan(table[field])).as_py() for field in unions)
    assert_reads_plainly_when_sealed(archive, topic.name, Week.containing(NOW))


COLLIDING = (
    "GIS.logevent_afeDecentralizedIOOutputs",
    "GIS.logevent_laserDecentralizedIOInput",
    "GIS.logevent_laserDecentralizedIOOutputs",
    "GIS.logevent_m2cDecentralizedIOInput",
    "GIS.logevent_m2cDecentralizedIOOutput",
    "MTCamera.logevent_imageReadoutParameters",
    "MTCamera.rebpower_Reb",
)


"""The topics whose names collide when their arrays are flattened; the last two pass 2,000 columns and keep lists."""


def test_the_seven_flattening_collisions_and_topics_past_two_thousand_columns(settings: Settings, shared: Path) -> None:
    catalogue = load_topics(shared / "sal" / "topics.json.gz")
    topics = [catalogue[f"lsst.sal.{topic}"] for topic in COLLIDING]
    widest = max(catalogue.values(), key=lambda topic: sum(field.count for field in topic.fields))
    for topic in (*topics, widest):
        produce(settings, topic, 3)
    archive = Archive(settings)
    drain(archive, settings)
    for topic in (*topics, widest):
        table = assert_lossless(archive, topic.name, sent(settings, topic.name))
        flat = sum(field.count for field in topic.fields)
        has_lists = any(pa.types.is_list(column.type) for column in table.schema)
        assert has_lists == (flat > 2000), f"{topic.name}: {flat} columns"
    for topic in (*topics, widest):
        assert_reads_plainly_when_sealed(archive, topic.name, Week.containing(NOW))


@pytest.fixture
def few_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets keep lists from 40 columns on: at 2,000 the same takes a hundred times as long."""
    monkeypatch.setattr(layout, "MAX_FLAT_COLUMNS", 40)


@pytest.mark.usefixtures("few_columns")
def test_a_flat_dataset_stays_flat_and_one_of_lists_stays_one(settings: Settings, name: str) -> None:
    """Decided once, whatever the schema becomes: readers' columns never change their shape."""
    small, large = [SalField("a", "float", 10)], [SalField("a", "float", 50)]
    flat = archived(settings, name, small, large)
    assert (len(flat.column_names) > 50, pa.types.is_list(flat.schema.field("a9").type)) == (True, False)
    listed = archived(settings, f"{name}List", large, small)
    assert pa.types.is_list(listed.schema.field("a").type)


@pytest.mark.usefixtures("few_columns")
def test_lists_whose_items_grow_wider(settings: Settings, name: str) -> None:
    narrow, wide = ([SalField("a", kind, 50)] for kind in ("int", "long long"))
    table = archived(settings, name, narrow, wide)
    assert table.schema.field("a").type == pa.list_(pa.int64())


def test_a_topic_deleted_and_created_again_has_two_sources(settings: Settings, name: str) -> None:
    archive, topic = Archive(settings), SalTopic.of(name, [SalField("a", "int")])
    produce(settings, topic, 6)
    first = sent(settings, name)
    drain(archive, settings)
    delete_topic(settings, name)
    # The same offsets with another schema: an incarnation is told by its id, not by what is in it.
    produce(settings, SalTopic.of(name, [SalField("a", "string")]), 5, first=50)
    drain(archive, settings)
    table = assert_lossless(archive, name, [*first, *sent(settings, name)])
    assert sorted(pc.value_counts(table["archive_source"]).field("counts").to_pylist()) == [5, 6]
    assert_reads_plainly_when_sealed(archive, name, Week.containing(NOW))


def test_partitions_that_are_added_while_it_drains(settings: Settings, name: str) -> None:
    archive, topic = Archive(settings), SalTopic.of(name, [SalField("a", "int")])
    produce(settings, topic, 200)
    admin = AdminClient({"bootstrap.servers": settings.require_kafka(), "log_level": 2})
    grown = threading.Event()

    def grow_once(records: int, backlog: int, size_bytes: int) -> None:
        if not grown.is_set():
            grown.set()
            admin.create_partitions([NewPartitions(name, 4)])[name].result(30)
            with SalProducer(settings) as producer:
                producer.prepare([topic])
                for number, value in enumerate(producer.frames(random_series(topic, 40, microseconds(NOW), first=500))):
                    producer.put(name, value, partition=number % 4)

    drain(archive, settings, until_caught_up=True, progress=grow_once)
    assert grown.is_set()
    table = assert_lossless(archive, name, sent(settings, name))
    assert sorted(set(table["kafka_partition"].to_pylist())) == [0, 1, 2, 3]
    assert_reads_plainly_when_sealed(archive, name, Week.containing(NOW))
