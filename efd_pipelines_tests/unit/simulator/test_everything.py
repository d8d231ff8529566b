"""Random records of any topic are valid."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.fixtures import builtin_topics
from efd_pipelines.simulator.sal import load_topics
from efd_pipelines.times import event_time_us, microseconds
from efd_pipelines_tests.unit.simulator.reading import records_of

START_US = microseconds(datetime(2026, 11, 16, tzinfo=UTC))


def test_random_records_of_every_built_in_topic_are_valid_and_differ() -> None:
    for topic in builtin_topics().values():
        series = random_series(topic, 5, START_US)
        records = records_of(series)
        stamps = np.array([record["private_efdStamp"] for record in records])
        assert event_time_us(stamps).tolist() == series.times_us.tolist()
        assert len(set(series.bodies())) == 5
        assert [record["private_seqNum"] for record in records] == [1, 2, 3, 4, 5]


def test_one_record_of_every_topic_there_is(shared: Path) -> None:
    topics = load_topics(shared / "sal" / "topics.json.gz")

    for topic in topics.values():
        (record,) = records_of(random_series(topic, 1, START_US))
        assert set(record) == {field.name for field in topic.fields}
