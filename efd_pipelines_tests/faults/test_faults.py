"""Work that is struck anywhere and done again: every record is there, once, and the audit is clean.

One case of each kind that is quick; a thousand of all kinds: `make faults`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from efd_pipelines.servers.influxdb import InfluxServer
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.servers.registry import RegistryServer
from efd_pipelines.servers.s3 import S3Server
from efd_pipelines_tests.faults.cases import KINDS, KindOfCase, Outcome, play
from efd_pipelines_tests.faults.gate import IS_AVAILABLE
from efd_pipelines_tests.faults.site import Servers
from efd_pipelines_tests.faults.soak import soak
from efd_pipelines_tests.faults.stage import Stage, staged

SECONDS = 12.0

pytestmark = [
    pytest.mark.skipif(not IS_AVAILABLE, reason="no seccomp user notification here: Linux 5.5 or later"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def stage(
    kafka: KafkaServer,
    registry: RegistryServer,
    s3: S3Server,
    influx: InfluxServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    with staged(Servers(kafka, registry, s3, influx), tmp_path_factory.mktemp("faults")) as stage:
        yield stage


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.is_quick], ids=lambda kind: kind.name)
def test_work_that_is_struck_and_done_again_leaves_every_record_once(stage: Stage, kind: KindOfCase) -> None:
    outcome, rng = Outcome(), np.random.default_rng(zlib.crc32(kind.name.encode()))
    stage.begin(kind.stores[0])
    if kind.stores[0] == "s3":
        kind = replace(kind, deeds=("drain",))  # the other deeds' cases on S3 take longer than CI has
    report = play(stage, 0, kind, rng)
    outcome.count(report)
    assert outcome.is_clean, report


def test_readers_beside_everything_under_kill_9_see_every_row_once(stage: Stage) -> None:
    soaked = soak(stage, SECONDS, seed=1)
    assert soaked.looks > 0
    assert soaked.killed > 0
    assert (soaked.lost, soaked.doubled, soaked.problems) == (0, 0, [])
