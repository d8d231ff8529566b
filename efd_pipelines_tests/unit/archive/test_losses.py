"""Losses: what compaction took is told from holes that prove nothing."""

from __future__ import annotations

import numpy as np
import pytest

from efd_pipelines.archive.losses import compacted, gap_note, has_holes, missing_records
from efd_pipelines.kafka.brokers import TopicConfig
from efd_pipelines.kafka.frames import FrameBatch

DAY_MS = 86_400_000
NOW_MS = 1_795_000_000_000
COMPACTED = TopicConfig("compact", -1, "CreateTime", 1_000_000, compaction_lag_ms=7 * DAY_MS)


def frames(offsets: list[int], age_days: float = 30, partition: int = 0) -> FrameBatch:
    count = len(offsets)
    return FrameBatch.of(
        "lsst.sal.Test.logevent_x",
        [b""] * count,
        [b""] * count,
        np.full(count, partition, np.int32),
        np.array(offsets, np.int64),
        np.full(count, NOW_MS - int(age_days * DAY_MS), np.int64),
    )


def test_offsets_without_holes_say_nothing() -> None:
    assert not has_holes(frames([5, 6, 7]), {0: 5})
    assert compacted(frames([5, 6, 7]), {0: 5}, COMPACTED, [], NOW_MS) == []


def test_holes_before_old_records_of_a_compacted_topic_are_counted() -> None:
    found = frames([8, 9, 12, 13])
    assert has_holes(found, {0: 5})
    assert compacted(found, {0: 5}, COMPACTED, [], NOW_MS) == [(0, 5, 12, 5)]


def test_a_drain_that_is_in_time_is_never_alarmed() -> None:
    """Markers of transactions leave holes, too: what follows them is young."""
    assert compacted(frames([8, 9, 12], age_days=6.9), {0: 5}, COMPACTED, [], NOW_MS) == []


def test_holes_of_a_topic_that_is_not_compacted_are_none_of_its_losses() -> None:
    config = TopicConfig("delete", 7 * DAY_MS, "CreateTime", 1_000_000)
    assert compacted(frames([8, 9]), {0: 5}, config, [], NOW_MS) == []


def test_what_expired_is_not_counted_again() -> None:
    expired = gap_note("c/t", 0, 5, 8, "expired before it was read")
    config = TopicConfig("compact,delete", DAY_MS, "CreateTime", 1_000_000)
    assert compacted(frames([8, 9, 11]), {0: 5}, config, [expired], NOW_MS) == [(0, 10, 11, 1)]


def test_what_was_never_read_before_is_not_missed() -> None:
    """A partition that is read for the first time begins where Kafka begins."""
    assert compacted(frames([8, 12]), {}, COMPACTED, [], NOW_MS) == []
    assert compacted(frames([8, 12]), {1: 0}, COMPACTED, [], NOW_MS) == []


@pytest.mark.parametrize(
    ("gap", "missing"),
    [
        (gap_note("c/t", 0, 5, 8, ""), 3),
        (gap_note("c/t", 0, 5, 80, "", kind="compacted", records=4), 4),
        (gap_note("c/t", 0, 5, 8, "", kind="truncated"), 0),
        ({"first": 5, "end": 8}, 3),
    ],
)
def test_how_much_a_gap_says_is_missing(gap: dict[str, object], missing: int) -> None:
    assert missing_records(gap) == missing
