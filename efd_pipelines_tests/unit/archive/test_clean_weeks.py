"""The audit raises no alarm where there is none: weeks of everything that happens to a healthy archive.

Retries, compaction, transactions, mirrors, late records, dead letters, quarantine, schemas that grow, runs that are
killed before the ledger, merges and seals. All of `make scale`'s 100 weeks by EFD_TEST_SCALE=1.
"""

from __future__ import annotations

import contextlib
import os
import random
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.merging import merge
from efd_pipelines.archive.reindex import reindex
from efd_pipelines.archive.sealing import seal
from efd_pipelines.settings import load_settings
from efd_pipelines.times import Week
from efd_pipelines_tests.unit.archive.builders import Topic, schema_of

SEEDS = range(100 if os.environ.get("EFD_TEST_SCALE") else 6)
WEEK = Week.parse("2026-11-16")
OVER = WEEK.next().start + timedelta(hours=30)
SCHEMAS = [
    schema_of("x", ("value", "float")),
    schema_of("x", ("value", "float"), ("number", "int")),
    schema_of("x", ("number", "int"), ("value", "float"), doc="in another order"),
    schema_of("x", ("value", "double"), ("number", "long")),
]


@dataclass
class SparseTopic(Topic):
    """A topic whose offsets have holes, as transactions and compaction leave them; also at its end."""

    holes: dict[int, int] = field(default_factory=dict)

    def offset(self, number: int) -> int:
        return number + sum(size for before, size in self.holes.items() if before <= number)


@dataclass
class Life:
    """What happens to a topic in a week, by dice."""

    topic: SparseTopic
    dice: random.Random

    def send(self) -> None:
        count = self.dice.randint(1, 30)
        schema = self.dice.choice(SCHEMAS)
        start_us = WEEK.start_us + self.dice.randrange(7 * 24 * 3600) * 1_000_000
        columns: dict[str, Any] = {"value": np.full(count, self.dice.random(), np.float32)}
        if schema.field("number"):
            columns["number"] = np.arange(count)
        index = self.dice.choice([1, 2])
        self.topic.send(schema, [start_us + n * 50_000 for n in range(count)], index, **columns)

    def retry(self) -> None:
        if self.topic.values:
            n = self.dice.randrange(len(self.topic.values))
            self.topic.values += self.topic.values[n : n + 5]
            self.topic.stamps_ms += self.topic.stamps_ms[n : n + 5]

    def leave_holes(self) -> None:
        """Markers, aborted records, or what was compacted before it was read."""
        at = len(self.topic.values)
        self.topic.holes[at] = self.topic.holes.get(at, 0) + self.dice.randint(1, 9)

    def have_no_clock(self) -> None:
        self.topic.send(SCHEMAS[0], [self.dice.choice([5_000_000, 1_000_000_000_000_000])], value=np.zeros(1))

    def poison(self) -> None:
        self.topic.values.append(self.dice.choice([b"", b"\x00\x00", b"\x00\x00\x00\x00\x01\xff"]))
        self.topic.stamps_ms.append(WEEK.start_us // 1000)

    def drain(self) -> None:
        if self.topic.position < len(self.topic.values) and self.topic.schemas:
            self.topic.drain(self.dice.randint(1, 40))

    def die_before_the_ledger(self) -> None:
        if self.topic.position < len(self.topic.values) and self.topic.schemas:
            with contextlib.suppress(KeyboardInterrupt):
                self._drain_and_die()

    def _drain_and_die(self) -> None:
        with self.topic.archive.ledger.announced("r", [(RAW, self.topic.dataset)]):
            self.topic.drain(self.dice.randint(1, 40), into_ledger=False)
            raise KeyboardInterrupt

    def merge(self) -> None:
        merge(self.topic.archive, now=self.dice.choice([None, OVER]))

    def audit(self) -> None:
        assert verify(self.topic.archive, deep=self.dice.random() < 0.3).problems == []


def lived(root: Path, seed: int) -> Archive:
    """A week of a topic and, sometimes, of its mirror."""
    dice = random.Random(seed)
    archive = Archive(load_settings({}, None, archive=str(root)))
    topics = [SparseTopic(archive)]
    if dice.random() < 0.5:
        topics.append(SparseTopic(archive, source="cluster/mirror", schemas=topics[0].schemas))
    for _ in range(dice.randint(15, 40)):
        life = Life(dice.choice(topics), dice)
        deeds = [life.send] * 5 + [life.drain] * 6 + [life.retry, life.leave_holes] * 2
        deeds += [life.have_no_clock, life.poison, life.die_before_the_ledger, life.merge, life.audit]
        dice.choice(deeds)()
    if len(topics) == 2:
        topics[1].values += topics[0].values
        topics[1].stamps_ms += topics[0].stamps_ms
    for topic in topics:
        if topic.position < len(topic.values) and topic.schemas:
            topic.drain()
    return archive


@pytest.mark.parametrize("seed", SEEDS)
def test_a_healthy_week_raises_no_alarm(tmp_path: Path, seed: int) -> None:
    archive = lived(tmp_path / "archive", seed)
    for deep in (False, True):
        audit = verify(archive, deep=deep)
        assert (audit.problems, audit.rows) == ([], audit.records)
    sealed = seal(archive, archive.settings, week=WEEK, now=OVER)
    assert sealed.problems == []
    for deep in (False, True):
        assert verify(archive, deep=deep).problems == []
    again = reindex(archive)
    assert (again.changed, again.dropped, again.problems) == (0, 0, [])
