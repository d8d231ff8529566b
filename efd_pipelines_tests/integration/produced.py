"""What tests of the archive do to topics on the real broker, and what they count afterwards.

Records of any content are produced, topics are deleted, records expire. Comparing what is archived with what was
produced, value by value: `lossless.py`.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.drain import drain
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines.simulator.sal import SalTopic
from efd_pipelines.simulator.series import Series
from efd_pipelines.times import microseconds

NOW = datetime.now(UTC).replace(microsecond=0)
LAST_WEEK = NOW - timedelta(days=7)


def produce(settings: Settings, topic: SalTopic, records: int, when: datetime = NOW, first: int = 1) -> Series:
    """Random records of a topic, one microsecond apart and more."""
    with SalProducer(settings) as producer:
        series = random_series(topic, records, microseconds(when), seed=first, first=first)
        producer.send([series])
    return series


def delete_topic(settings: Settings, name: str) -> None:
    """Returns when the topic is no longer listed, so that one of the same name can be made."""
    admin = AdminClient({"bootstrap.servers": settings.require_kafka(), "log_level": 2})
    admin.delete_topics([name])[name].result(30)
    deadline = time.monotonic() + 30
    while name in admin.list_topics(timeout=10).topics:
        assert time.monotonic() < deadline, f"{name} does not go away"
        time.sleep(0.1)


def expire(settings: Settings, topic: str, before_offset: int) -> None:
    """Makes the broker forget the records before an offset, as retention does."""
    admin = AdminClient({"bootstrap.servers": settings.require_kafka(), "log_level": 2})
    for done in admin.delete_records([TopicPartition(topic, 0, before_offset)]).values():
        done.result(30)


def drain_twice_at_once(settings: Settings) -> None:
    """Two drains of everything, neither of which may fail."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            drain(Archive(settings), settings, until_caught_up=True)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def rows_and_records(archive: Archive) -> tuple[int, int]:
    """What a deep audit counts, which must find nothing wrong."""
    audit = verify(archive, deep=True)
    assert audit.problems == []
    return audit.rows, audit.records
