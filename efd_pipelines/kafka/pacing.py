"""Pacing: partitions of a topic are read side by side, by the times that their records have in Kafka.

librdkafka asks for whatever it has room for: of four partitions one was an hour behind after 3 GB, and each chunk had
rows of several slices, of which each makes a file. So partitions far ahead are laid aside until the others have come
as far. What librdkafka has fetched of them is then fetched again.
"""

from __future__ import annotations

from collections.abc import Iterable

from efd_pipelines.kafka.chunks import PartitionReading

AHEAD_MS = 300_000
"""How far a partition may be ahead of its topic's others."""
RUN_BYTES = 8 * 1024 * 1024
"""What is read of a partition at least before it is laid aside: four times what is fetched again."""


def to_change(states: Iterable[PartitionReading]) -> tuple[list[PartitionReading], list[PartitionReading]]:
    """Of the open partitions of one topic, those to lay aside, and those to go on with."""
    open_states = [state for state in states if not state.done]
    running = [state for state in open_states if not state.is_aside]
    if not running:
        return [], open_states
    least_ms = min(state.time_ms for state in running)
    far = [state for state in running if state.run_bytes > RUN_BYTES and state.time_ms > least_ms + AHEAD_MS]
    near = [state for state in open_states if state.is_aside and state.time_ms <= least_ms]
    return far, near
