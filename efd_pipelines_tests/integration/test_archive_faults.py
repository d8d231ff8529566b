"""The archive while something breaks: killed drains, brokers and stores, full disks. Every record is archived once.

Many more of such cases, drawn at random: `make faults`.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.dead_letters import dead_frames, replay
from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.drained import DrainIncomplete
from efd_pipelines.archive.status import status
from efd_pipelines.errors import KafkaUnavailable, RegistryUnavailable, ServiceUnavailable
from efd_pipelines.kafka.registry import Registries
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.servers.s3 import S3Server
from efd_pipelines.settings import Settings
from efd_pipelines.simulator import faulty
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.simulator.sal import SalField, SalTopic
from efd_pipelines.times import microseconds
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.faults.killed import killed_at
from efd_pipelines_tests.faults.processes import environment
from efd_pipelines_tests.integration.configured import with_kafka
from efd_pipelines_tests.integration.conftest import MakeSettings
from efd_pipelines_tests.integration.produced import LAST_WEEK, NOW, drain_twice_at_once, produce, rows_and_records

KILL_POINTS = [
    ("before schemas", 1),
    ("before file", 1),
    ("after file", 3),
    ("before create", 2),
    ("after create", 1),
    ("before commit", 3),
    ("after commit", 2),
    ("before append", 2),
    ("after append", 1),
    ("before ledger", 1),
    ("after ledger", 1),
]


@pytest.mark.timeout(600)
def test_a_drain_killed_anywhere_and_repeated_archives_every_record_once(settings: Settings, archive: Archive) -> None:
    topics = [builtin_topic(name) for name in ("MTMount.azimuth", "ESS.temperature", "Test.scalars")]
    total = 0
    # What a step is does not depend on the store: all of them in a directory, every third on S3.
    for first, (point, nth) in enumerate(KILL_POINTS[:: 3 if settings.is_remote else 1], 1):
        for topic in topics:
            produce(settings, topic, 40, LAST_WEEK + timedelta(minutes=first), first=1 + 100 * first)
            produce(settings, topic, 20, NOW - timedelta(minutes=60 - first), first=41 + 100 * first)
        total += 60 * len(topics)
        assert killed_at(settings, point, nth) == -signal.SIGKILL, f"{point} was never reached"
    drain(archive, settings)
    assert rows_and_records(archive) == (total, total)


@pytest.mark.timeout(300)
def test_two_drains_at_once_archive_every_record_once(settings: Settings, archive: Archive) -> None:
    topics = [builtin_topic(name) for name in ("MTMount.azimuth", "MTM1M3.hardpointActuatorData", "Test.arrays")]
    for topic in topics:
        produce(settings, topic, 500)
    drain_twice_at_once(settings)
    drain(archive, settings)
    assert rows_and_records(archive) == (1500, 1500)


@pytest.mark.timeout(300)
def test_a_broker_restart_in_the_middle_loses_and_doubles_nothing(
    local_settings: Settings, empty_kafka: KafkaServer
) -> None:
    topic = builtin_topic("MTM1M3.forceActuatorData")
    produce(local_settings, topic, 6000)
    archive = Archive(local_settings)
    restarted = False

    def restart_once(done: int, expected: int, size_bytes: int) -> None:
        nonlocal restarted
        if not restarted:
            restarted = True
            empty_kafka.kill()
            empty_kafka.restart()

    small = with_kafka(local_settings, byte_budget=4 << 20)
    # Going on or giving up are both right: what was committed stands, and the next run reads the rest.
    with contextlib.suppress(KafkaUnavailable):
        drain(archive, small, progress=restart_once)
    drain(archive, local_settings, until_caught_up=True)
    assert restarted
    assert rows_and_records(archive) == (6000, 6000)


@pytest.mark.timeout(300)
def test_s3_killed_and_restarted_in_the_middle_loses_and_doubles_nothing(s3_settings: Settings, s3: S3Server) -> None:
    topic = builtin_topic("MTM1M3.forceActuatorData")
    produce(s3_settings, topic, 6000)
    small = with_kafka(s3_settings, byte_budget=4 << 20)
    killed = threading.Event()

    def kill_once(done: int, expected: int, size_bytes: int) -> None:
        if not killed.is_set():
            killed.set()
            s3.kill()

    with pytest.raises(ServiceUnavailable):
        drain(Archive(small), small, progress=kill_once)
    s3.restart()
    archive = Archive(s3_settings)
    drain(archive, s3_settings, until_caught_up=True)
    assert killed.is_set()
    assert rows_and_records(archive) == (6000, 6000)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("point", ["before commit", "after commit"])
def test_a_batch_killed_and_repeated_after_its_schema_became_known_is_whole(
    local_settings: Settings, point: str
) -> None:
    """The unknown schema's frames are routed differently the second time: to a week, not to the dead."""
    name = f"lsst.sal.Test.lateSchema_{point.replace(' ', '_')}"
    topic = SalTopic.of(name, [SalField("value", "double")])
    with Registries(local_settings) as registries, SalProducer(local_settings) as producer:
        producer.prepare([topic])
        known = registries.latest("", topic.subject).id
        other = SalTopic.of(name, [SalField("value", "double"), SalField("more", "int")])
        late = random_series(other, 7, microseconds(NOW), first=100)
        producer.send([random_series(topic, 3, microseconds(NOW)), random_series(topic, 3, microseconds(LAST_WEEK))])
        next_id = known + 1
        while has_schema(registries, next_id):
            next_id += 1
        faulty.send_unregistered(producer, late, next_id)
        faulty.send_random_bytes(producer, topic, 2)
        producer.flush()
        assert killed_at(local_settings, point, 1) == -signal.SIGKILL
        assert registries.register("", topic.subject, other.avro_schema()) == next_id
    archive = Archive(local_settings)
    drain(archive, local_settings)
    assert rows_and_records(archive) == (15, 15)
    dead = dead_frames(archive, Dataset.parse(topic.name)).num_rows
    assert dead == (2 if point == "before commit" else 9)
    if dead == 9:
        replay_dying_at_every_commit(local_settings)
        assert dead_frames(archive, Dataset.parse(topic.name)).num_rows == 2
        assert archive.read(Dataset.parse(topic.name)).num_rows == 13
        assert (rows_and_records(archive), verify(archive, deep=True).problems) == ((15, 15), [])


def replay_dying_at_every_commit(settings: Settings) -> None:
    """Replays the dead again and again, each time killed one commit further, until one has nothing left to commit."""
    assert killed_at(settings, "before append", 1, "replay") == -signal.SIGKILL
    deaths = 0
    while (code := killed_at(settings, "after append", 1, "replay")) == -signal.SIGKILL:
        deaths += 1
        assert deaths < 10, "a replay that is repeated commits again and again"
    assert (code, deaths > 0) == (0, True)
    assert replay(Archive(settings), settings).replayed == 0


def has_schema(registries: Registries, schema_id: int) -> bool:
    from efd_pipelines.kafka.registry import UnknownSchema

    try:
        registries.schema("", schema_id)
    except UnknownSchema:
        return False
    return True


@pytest.mark.timeout(300)
def test_what_a_run_killed_before_the_ledger_committed_is_not_invisible(local_settings: Settings) -> None:
    topic = builtin_topic("MTMount.azimuth")
    produce(local_settings, topic, 30)
    assert killed_at(local_settings, "before ledger", 1) == -signal.SIGKILL
    archive = Archive(local_settings)
    assert [(week.rows, week.lag) for week in status(archive, local_settings)] == [(30, 0)]
    assert drain(archive, local_settings).records == 0
    assert rows_and_records(archive) == (30, 30)


@pytest.mark.timeout(300)
def test_a_table_whose_log_is_lost_gets_no_new_one_in_its_place(local_settings: Settings, tmp_path: Path) -> None:
    """Cleaning would take the old one's files for leftovers."""
    topic, other = builtin_topic("MTMount.azimuth"), builtin_topic("MTMount.elevation")
    produce(local_settings, topic, 30)
    archive = Archive(local_settings)
    drain(archive, local_settings)
    log = Path(archive.store.path(archive.relative(Dataset.parse(topic.name)))) / "_delta_log"
    log.rename(tmp_path / "copy")
    produce(local_settings, topic, 20)
    produce(local_settings, other, 10)
    with pytest.raises(DrainIncomplete, match="raw/MTMount/azimuth has no log") as refused:
        drain(archive, local_settings, until_caught_up=True)
    assert not log.exists()
    assert refused.value.result.records == 10
    (tmp_path / "copy").rename(log)
    drain(archive, local_settings)
    assert rows_and_records(archive) == (60, 60)


@pytest.mark.timeout(120)
def test_an_unreachable_broker_or_registry_is_named_and_nothing_is_lost(site: MakeSettings) -> None:
    settings = site()
    topic = builtin_topic("Test.scalars")
    produce(settings, topic, 5)
    quick = with_kafka(settings, timeout_s=2.0, stall_s=2.0)
    no_broker = quick.model_copy(update={"kafka_bootstrap": "127.0.0.1:9"})
    with pytest.raises(KafkaUnavailable, match=r"127\.0\.0\.1:9"):
        drain(Archive(no_broker), no_broker)
    no_registry = quick.model_copy(update={"registry_url": "http://127.0.0.1:9/apis"})
    with pytest.raises(RegistryUnavailable, match=r"127\.0\.0\.1:9"):
        drain(Archive(no_registry), no_registry)
    archive = Archive(settings)
    drain(archive, settings)
    assert rows_and_records(archive) == (5, 5)


@pytest.mark.timeout(120)
def test_a_directory_that_cannot_be_written_is_named(site: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    settings = site(archive=str(tmp_path / "file" / "archive"))
    produce(settings, builtin_topic("Test.scalars"), 1)
    with pytest.raises(ServiceUnavailable, match="file/archive"):
        drain(Archive(settings), settings)


@pytest.mark.timeout(300)
def test_a_full_disk_is_named_and_nothing_is_lost(local_settings: Settings, tmp_path: Path) -> None:
    for name in ("MTM1M3.forceActuatorData", "MTMount.azimuth", "Test.scalars"):
        produce(local_settings, builtin_topic(name), 1500)
    full = tmp_path / "full"
    full.mkdir()
    command = ["unshare", "-Urm", sys.executable, "-m", "efd_pipelines_tests.faults.full_disk", str(full)]
    done = subprocess.run(
        command, env=environment(local_settings), check=False, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["error"] == "StoreFull"
    assert str(full) in found["message"]
    assert (found["rows"], found["records"], found["problems"]) == (4500, 4500, [])
