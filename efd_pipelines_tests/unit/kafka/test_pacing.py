"""Which partitions of a topic wait for the others."""

from __future__ import annotations

import pytest

from efd_pipelines.kafka.chunks import PartitionReading, Position, TopicBuffer
from efd_pipelines.kafka.pacing import AHEAD_MS, RUN_BYTES, to_change

MINE = 10 * AHEAD_MS


def state(time_ms: int, *, run_bytes: int = RUN_BYTES + 1, is_aside: bool = False) -> PartitionReading:
    made = PartitionReading.starting(TopicBuffer("t"), 0, Position(0), 100)
    made.time_ms, made.run_bytes, made.is_aside = time_ms, run_bytes, is_aside
    return made


@pytest.mark.parametrize(
    ("mine", "others_ms", "is_far"),
    [
        (state(MINE), [MINE - AHEAD_MS - 1], True),
        (state(MINE), [MINE - AHEAD_MS, MINE], False),
        (state(MINE), [-1], True),  # nothing of it has come yet
        (state(MINE), [], False),
        (state(MINE, run_bytes=RUN_BYTES), [0], False),
        (state(-1), [-1], False),
    ],
)
def test_who_is_far_ahead_and_has_read_enough_is_laid_aside(
    mine: PartitionReading, others_ms: list[int], is_far: bool
) -> None:
    assert to_change([mine, *map(state, others_ms)]) == ([mine] if is_far else [], [])


def test_who_was_laid_aside_goes_on_when_all_the_others_have_come_as_far() -> None:
    mine, slow = state(MINE, is_aside=True), state(MINE - 1)
    assert to_change([mine, slow, state(MINE)]) == ([], [])
    slow.time_ms = MINE
    assert to_change([mine, slow, state(MINE)]) == ([], [mine])


def test_who_was_laid_aside_goes_on_when_the_others_are_done() -> None:
    mine, other = state(MINE, is_aside=True), state(0)
    other.done = True
    assert to_change([mine, other]) == ([], [mine])
