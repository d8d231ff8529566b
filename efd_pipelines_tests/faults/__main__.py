"""The fault harness: seeded cases of drains that are killed, on a real broker and registry.

    python -m efd_pipelines_tests.faults --cases 1000 --seed 1        (make faults)

Each case produces records of several weeks, poison among them, kills a drain at a random step, sometimes with a
second drain beside it, drains again, and compares the archive with what was produced. The last line is
`N cases, N lost, N doubled, N failed`; the exit code is 1 unless the last three are 0.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.drain import drain
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.servers.registry import RegistryServer
from efd_pipelines.settings import Settings, load_settings
from efd_pipelines.simulator import faulty
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.times import microseconds
from efd_pipelines_tests.faults.killed import STEPS
from efd_pipelines_tests.faults.processes import environment

TOPICS = ("MTMount.azimuth", "ESS.temperature", "Test.scalars", "MTM1M3.hardpointActuatorData")
CASES_OF_AN_ARCHIVE = 25
_TIMEOUT_S = 180


@dataclass(slots=True)
class Outcome:
    """What the cases came to."""

    cases: int = 0
    lost: int = 0
    doubled: int = 0
    failed: int = 0

    def __str__(self) -> str:
        return f"{self.cases} cases, {self.lost} lost, {self.doubled} doubled, {self.failed} failed"


def run(settings: Settings, case: int, rng: np.random.Generator, produced: int, outcome: Outcome) -> int:
    """One case; how many records there are now in all."""
    produced += produce(settings, rng, first=1 + 1000 * case)
    step = str(rng.choice(sorted(STEPS)))
    point, nth = f"{rng.choice(['before', 'after'])} {step}", int(rng.integers(1, 6))
    drains = [start(settings, point, nth)]
    if rng.random() < 0.3:
        drains.append(start(settings, f"before {step}", int(rng.integers(1, 12))))
    for one in drains:
        one.wait(_TIMEOUT_S)
    archive = Archive(settings)
    drain(archive, settings, until_caught_up=True)
    audit = verify(archive, deep=True)
    outcome.cases += 1
    outcome.lost += max(0, produced - audit.rows)
    outcome.doubled += max(0, audit.rows - produced, audit.duplicates)
    outcome.failed += bool(audit.problems)
    print(f"case {case}: killed {point} {nth}, {audit.rows} of {produced} rows", file=sys.stderr, flush=True)
    for problem in audit.problems:
        print(f"  {problem.topic} {problem.week}: {problem.kind}: {problem.detail}", file=sys.stderr, flush=True)
    return produced


def produce(settings: Settings, rng: np.random.Generator, first: int) -> int:
    """Records of a few topics over three weeks, with frames that cannot be decoded and times that cannot be."""
    now = datetime.now(UTC)
    total = 0
    with SalProducer(settings) as producer:
        for name in rng.choice(TOPICS, size=int(rng.integers(1, 4)), replace=False):
            topic = builtin_topic(str(name))
            for week in range(int(rng.integers(1, 4))):
                count = int(rng.integers(1, 40))
                when = microseconds(now - timedelta(days=7 * week, minutes=5))
                producer.send([random_series(topic, count, when, seed=first, first=first + 50 * week)])
                total += count
            if rng.random() < 0.4:
                total += len(faulty.send_random_bytes(producer, topic, int(rng.integers(1, 4)), seed=first))
            if rng.random() < 0.3:
                total += len(faulty.send_at(producer, topic, datetime(1970, 1, 2, tzinfo=UTC), 2, first=first + 200))
    return total


def start(settings: Settings, point: str, nth: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "efd_pipelines_tests.faults.killed", point, str(nth)]
    return subprocess.Popen(command, env=environment(settings))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m efd_pipelines_tests.faults")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng, outcome, produced = np.random.default_rng(arguments.seed), Outcome(), 0
    with (
        tempfile.TemporaryDirectory(prefix="efd-faults-") as scratch,
        KafkaServer(Path(scratch) / "kafka", die_with_parent=True) as kafka,
        RegistryServer(Path(scratch) / "registry", die_with_parent=True) as registry,
    ):
        environ = {"EFD_KAFKA_BOOTSTRAP": kafka.bootstrap, "EFD_REGISTRY_URL": registry.url}
        total = 0
        for case in range(arguments.cases):
            if case % CASES_OF_AN_ARCHIVE == 0:
                settings = load_settings(environ, None, archive=f"{scratch}/archive-{case}")
                produced = total
            before = produced
            produced = run(settings, case, rng, produced, outcome)
            total += produced - before
    print(outcome)
    return int(bool(outcome.lost or outcome.doubled or outcome.failed))


if __name__ == "__main__":
    sys.exit(main())
