"""How much a drain takes: memory whatever the backlog, time for all topics of the observatory.

Scaled down here; `make scale` runs it at full size (`EFD_TEST_SCALE=1`: 2 GB of backlog in one topic and in 500
partitions, 10,000 messages of 116 kB, all 3,348 topics instead of every fourth).
"""

from __future__ import annotations

import gzip
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.backlog import backlog
from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.status import status
from efd_pipelines.kafka.catalogue import read_catalogue
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.everything import produce_topics, random_series
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.simulator.sal import SalField, SalTopic
from efd_pipelines.times import microseconds
from efd_pipelines_tests.faults.processes import environment

SCALE = float(os.environ.get("EFD_TEST_SCALE", "0.15"))
LIMIT_BYTES = 1 << 30
_DRAIN = """
import json
from pathlib import Path
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.drain import drain
from efd_pipelines.settings import load_settings

settings = load_settings(env_file=None)
result = drain(Archive(settings), settings)
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({"records": result.records, "avro_bytes": result.avro_bytes, "peak": peak, "s": result.seconds,
                  "commits": result.commits}))
"""


def drained_elsewhere(settings: Settings) -> dict[str, float]:
    """Drains in a process of its own, which tells its peak of memory; it has no children."""
    command = [sys.executable, "-c", _DRAIN]
    done = subprocess.run(command, env=environment(settings), check=True, capture_output=True, timeout=3000)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def fill(settings: Settings, topic: SalTopic, total: int, at_once: int) -> None:
    """Random records, made once and sent again and again: what is archived is each record on the log."""
    series = random_series(topic, at_once, microseconds(datetime.now(UTC)))
    with SalProducer(settings) as producer:
        producer.prepare([topic])
        frames, name = producer.frames(series), producer.topic_name(topic)
        for n in range(total):
            producer.put(name, frames[n % at_once], b"", n % topic.partitions)


@pytest.mark.timeout(3600)
def test_memory_stays_bounded_with_a_large_backlog(local_settings: Settings) -> None:
    topic = builtin_topic("MTM1M3.forceActuatorData")
    total = int(600_000 * SCALE)
    fill(local_settings, topic, total, 5000)
    found = drained_elsewhere(local_settings)
    print(f"{found['avro_bytes'] / 1e6:.0f} MB in {found['s']:.0f} s, peak {found['peak'] / 2**20:.0f} MiB")
    assert found["records"] == total
    assert found["peak"] < LIMIT_BYTES


@pytest.mark.timeout(3600)
def test_memory_stays_bounded_with_large_messages(local_settings: Settings) -> None:
    topic = SalTopic.of("lsst.sal.Test.large", [SalField("values", "double", 14_500)])
    total = int(10_000 * SCALE)
    fill(local_settings, topic, total, 50)
    found = drained_elsewhere(local_settings)
    print(f"{found['avro_bytes'] / 1e6:.0f} MB in {found['s']:.0f} s, peak {found['peak'] / 2**20:.0f} MiB")
    assert found["records"] == total
    assert found["avro_bytes"] / total > 116_000
    assert found["peak"] < LIMIT_BYTES


@pytest.mark.timeout(3600)
def test_memory_stays_bounded_with_500_partitions_and_their_files_are_few(local_settings: Settings) -> None:
    """Ten times the backlog of an interval in all of them at once: at full size 2 GB."""
    names = [f"lsst.sal.MTM1M3.many{n}" for n in range(125)]
    topics = [SalTopic.of(name, [SalField("values", "double", 100)]) for name in names]
    assert sum(topic.partitions for topic in topics) == 500
    each = int(17_500 * SCALE**2)
    with SalProducer(local_settings) as producer:
        producer.prepare(topics)
        for topic in topics:
            frames = producer.frames(random_series(topic, 100, microseconds(datetime.now(UTC))))
            for n in range(each):
                producer.put(topic.name, frames[n % 100], b"", n % topic.partitions)
    found = drained_elsewhere(local_settings)
    print(
        f"{found['avro_bytes'] / 1e6:.0f} MB in {found['s']:.0f} s, {found['commits']:.0f} commits, "
        f"peak {found['peak'] / 2**20:.0f} MiB"
    )
    assert found["records"] == each * len(topics)
    assert found["peak"] < LIMIT_BYTES
    assert found["commits"] <= 3 * len(topics) + found["avro_bytes"] / (1 << 22)


@pytest.mark.timeout(1800)
def test_all_topics_of_the_observatory_are_found_and_archived_in_time(
    local_settings: Settings, shared: Path, tmp_path: Path
) -> None:
    every = 1 if SCALE >= 1 else 4
    everything = json.loads(gzip.decompress((shared / "sal" / "topics.json.gz").read_bytes()))
    topics = dict(list(everything.items())[::every])
    count = len(topics)
    assert count == 3348 // every
    (tmp_path / "topics.json.gz").write_bytes(gzip.compress(json.dumps(topics).encode()))
    assert produce_topics(local_settings, tmp_path / "topics.json.gz").topics == count
    archive = Archive(local_settings)
    first = read_catalogue(local_settings)
    assert len(first.components()) == 63
    elapsed_s: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any], times: int = 1) -> Any:
        """The result, and the shortest of so many times: other processes of the machine are no property of ours."""
        for _ in range(times):
            started = time.monotonic()
            result = work()
            elapsed_s[name] = min(time.monotonic() - started, elapsed_s.get(name, math.inf))
        return result

    timed("discovery tick", lambda: read_catalogue(local_settings, first), 3)
    found = timed("archive", lambda: drain(archive, local_settings))
    assert (found.records, found.rows, found.dead_letters) == (count, count, 0)
    assert timed("tick with nothing to do", lambda: backlog(Archive(local_settings), local_settings), 3) == []
    weeks = timed("status", lambda: status(Archive(local_settings), local_settings), 3)
    assert len(weeks) == count
    audit = timed("verify", lambda: verify(Archive(local_settings)), 3)
    assert (audit.ok, audit.topics, audit.rows) == (True, count, count)
    print({name: round(value, 1) for name, value in elapsed_s.items()})
    limits_s = {"discovery tick": 10, "archive": 300, "tick with nothing to do": 5, "status": 5, "verify": 5}
    assert {name for name, value in elapsed_s.items() if value > limits_s[name]} == set()
