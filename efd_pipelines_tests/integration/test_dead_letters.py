"""Dead letters on a real broker and registry: replayed once fixed, each once, and everything else stays."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta

import dagster as dg
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.dead_letters import dead_letters, replay
from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.slices import DEAD
from efd_pipelines.avro.frames import TOMBSTONE
from efd_pipelines.kafka.registry import Registries, UnknownSchema
from efd_pipelines.settings import Settings
from efd_pipelines.simulator import faulty
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.simulator.sal import SalField, SalTopic
from efd_pipelines.times import Week, microseconds
from efd_pipelines.topics.names import Dataset

NOW = datetime.now(UTC).replace(microsecond=0)
LAST_WEEK = NOW - timedelta(days=7)


def unused_id(settings: Settings, topic: SalTopic) -> int:
    """The id that the registry will give to the next schema."""
    with Registries(settings) as registries:
        number = registries.register("", topic.subject, topic.avro_schema()) + 1
        while True:
            try:
                registries.schema("", number)
            except UnknownSchema:
                return number
            number += 1


def late_schema(settings: Settings, name: str) -> tuple[SalTopic, SalTopic, int]:
    """A topic, its next version that nobody registered yet, and the id that this one will have."""
    topic = SalTopic.of(name, [SalField("value", "float")])
    with SalProducer(settings) as producer:
        producer.prepare([topic])
    later = SalTopic.of(name, [SalField("value", "double"), SalField("more", "int", 3)])
    return topic, later, unused_id(settings, topic)


def register(settings: Settings, topic: SalTopic) -> int:
    with Registries(settings) as registries:
        return registries.register("", topic.subject, topic.avro_schema())


@pytest.mark.timeout(120)
def test_dead_letters_whose_schema_became_known_move_to_their_weeks_once(
    settings: Settings, archive: Archive, unique: str
) -> None:
    topic, later, next_id = late_schema(settings, f"lsst.sal.Test.{unique}")
    dataset = Dataset.parse(topic.name)
    with SalProducer(settings) as producer:
        producer.prepare([topic])
        producer.send([random_series(topic, 5, microseconds(NOW))])
        for start, first in ((NOW, 100), (LAST_WEEK, 200)):
            faulty.send_unregistered(producer, random_series(later, 6, microseconds(start), first=first), next_id)
        garbage = faulty.send_random_bytes(producer, topic, 2)
        faulty.send_tombstones(producer, topic, 1)
    assert drain(archive, settings).dead_letters == 15
    assert replay(archive, settings).replayed == 0
    assert register(settings, later) == next_id
    done = replay(archive, settings)
    assert (done.topics, done.frames, done.replayed, done.dead_letters, done.commits) == (1, 15, 12, 3, 1)
    assert done.by_component_week == {
        ("Test", Week.containing(NOW).key): 6,
        ("Test", Week.containing(LAST_WEEK).key): 6,
        ("Test", "dead"): 3,
    }
    again = replay(archive, settings)
    assert (again.replayed, again.commits) == (0, 0)
    # The column grew wider by what was replayed; the new ones are there; every row says where it came from.
    table = archive.read(dataset)
    assert table.num_rows == 17
    assert str(table.schema.field("value").type) == "double"
    assert table["more2"].null_count == 5
    assert len(pc.unique(table["kafka_offset"])) == 17
    assert {letter.reason for letter in dead_letters(archive) if letter.reason != TOMBSTONE} == {
        f"not a frame: its first byte is 0x{garbage[0][0]:02x}, not 0"
    }
    audit = verify(archive, deep=True)
    assert (audit.problems, audit.rows, audit.records, audit.dead_letters) == ([], 20, 20, 3)


@pytest.mark.timeout(120)
def test_two_that_replay_beside_a_drain_replay_each_letter_once(local_settings: Settings, unique: str) -> None:
    topic, later, next_id = late_schema(local_settings, f"lsst.sal.Test.{unique}")
    archive = Archive(local_settings)
    with SalProducer(local_settings) as producer:
        producer.prepare([topic])
        for first in range(1, 7):
            faulty.send_unregistered(producer, random_series(later, 3, microseconds(NOW), first=10 * first), next_id)
            producer.flush()
            drain(archive, local_settings)
        producer.send([random_series(topic, 40, microseconds(NOW), first=100)])
    register(local_settings, later)
    failures: list[BaseException] = []

    def work(draining: bool) -> None:
        mine = Archive(local_settings)
        try:
            drain(mine, local_settings) if draining else replay(mine, local_settings)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(draining,)) for draining in (False, True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert archive.snapshot(Dataset.parse(topic.name)).files({DEAD}) == []
    audit = verify(archive, deep=True)
    assert (audit.problems, audit.rows, audit.records) == ([], 58, 58)


@pytest.fixture
def in_force(local_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings, as the process's own."""
    for name in ("kafka_bootstrap", "registry_url", "archive"):
        monkeypatch.setenv(f"EFD_{name.upper()}", str(getattr(local_settings, name)))
    return local_settings


def drained(settings: Settings, name: str) -> tuple[SalTopic, SalTopic, int]:
    """The same, after three records of the next version were drained."""
    topic, later, next_id = late_schema(settings, name)
    with SalProducer(settings) as producer:
        producer.prepare([topic])
        faulty.send_unregistered(producer, random_series(later, 3, microseconds(NOW)), next_id)
    drain(Archive(settings), settings)
    return topic, later, next_id


@pytest.mark.timeout(120)
def test_the_job_replays(in_force: Settings, unique: str) -> None:
    from efd_pipelines.defs.dead_letters import replay_dead_letters
    from efd_pipelines.resources import Deployment

    topic, later, _ = drained(in_force, f"lsst.sal.Test.{unique}")
    register(in_force, later)
    config = {"ops": {"replay_dead": {"config": {"topics": [topic.name]}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        done = replay_dead_letters.execute_in_process(
            run_config=config, instance=instance, resources={"deployment": Deployment()}
        )
        told = instance.fetch_materializations(dg.AssetKey("raw_archive"), limit=10).records
    assert done.success
    assert {record.partition_key for record in told} == {f"Test|{Week.containing(NOW).key}"}
    assert Archive(in_force).read(Dataset.parse(topic.name)).num_rows == 3


@pytest.mark.timeout(120)
def test_the_command_lists_and_replays(in_force: Settings, unique: str) -> None:
    from efd_pipelines.cli import app

    topic, later, next_id = drained(in_force, f"lsst.sal.Test.{unique}")
    command = ["archive", "dead-letters", topic.name, "--json"]
    (listed,) = json.loads(CliRunner().invoke(app, command).stdout)
    assert (listed["topic"], listed["count"]) == (topic.name, 3)
    assert str(next_id) in listed["reason"]
    assert CliRunner().invoke(app, [*command, "--replay", "--strict"]).exit_code == 1
    register(in_force, later)
    done = CliRunner().invoke(app, [*command, "--replay", "--strict"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["replayed"] == 3
    assert json.loads(CliRunner().invoke(app, command).stdout) == []
