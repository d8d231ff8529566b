"""Losses: what Kafka no longer had when it was to be read, as the commit that passes it notes.

A gap names offsets of one source's partition and says of what kind it is: `expired` (retention was faster),
`compacted` (newer records of the same keys replaced them), `truncated` (the brokers lost the end of the log, and the
archive has it). Gaps stand in the commit's note and in the ledger, for ever; `efd archive gaps` lists them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from efd_pipelines.kafka.brokers import TopicConfig
from efd_pipelines.kafka.frames import FrameBatch

LossKind = Literal["expired", "compacted", "truncated"]


def gap_note(
    source: str, partition: int, first: int, end: int, reason: str, *, kind: LossKind = "expired", records: int = -1
) -> dict[str, Any]:
    """A gap as notes carry it: offsets from `first` to before `end`, of which `records` (all if negative) are gone."""
    return {
        "source": source,
        "partition": partition,
        "first": first,
        "end": end,
        "reason": reason,
        "kind": kind,
        "records": end - first if records < 0 else records,
        "noticed": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def missing_records(gap: Mapping[str, Any]) -> int:
    """How many records a gap says that the archive does not have, at most."""
    return 0 if gap.get("kind") == "truncated" else int(gap.get("records", gap["end"] - gap["first"]))


def compacted(
    frames: FrameBatch,
    starts: Mapping[int, int],
    config: TopicConfig,
    passed: Iterable[Mapping[str, Any]],
    now_ms: float,
) -> list[tuple[int, int, int, int]]:
    """Stretches that compaction took: (partition, first, end, offsets that are missing), one of each partition.

    Holes alone prove nothing: markers of transactions and aborted records leave them as well. But the cleaner only
    touches what is older than `min.compaction.lag.ms`, and what follows a hole that it made is of that age too: so
    a drain that is in time is never alarmed, whatever holes there are.

    Args:
        starts: where reading began, by partition, for those that had been read before.
        passed: gaps that are known already; their offsets are not counted again.
    """
    if "compact" not in config.cleanup_policy:
        return []
    found = []
    for partition, start in starts.items():
        mine = frames.partitions == partition
        known = [(gap["first"], gap["end"]) for gap in passed if gap["partition"] == partition]
        holes = _holes(
            frames.offsets[mine], start, known, frames.timestamps_ms[mine], now_ms - config.compaction_lag_ms
        )
        if holes:
            missing = sum(end - first for first, end in holes)
            found.append((partition, holes[0][0], holes[-1][1], missing))
    return found


def has_holes(frames: FrameBatch, starts: Mapping[int, int]) -> bool:
    """Whether the offsets between each start and the last frame are not all there."""
    for partition, start in starts.items():
        offsets = frames.offsets[frames.partitions == partition]
        if len(offsets) and int(offsets[-1]) - start + 1 != len(offsets):
            return True
    return False


def _holes(
    offsets: np.ndarray[Any, Any],
    start: int,
    known: Sequence[tuple[int, int]],
    timestamps_ms: np.ndarray[Any, Any],
    older_than_ms: float,
) -> list[tuple[int, int]]:
    """Holes before records of that age, without what is known."""
    if not len(offsets):
        return []
    expected = np.concatenate([[max([start, *(end for _, end in known)])], offsets[:-1] + 1])
    here = (offsets > expected) & (timestamps_ms >= 0) & (timestamps_ms < older_than_ms)
    return list(zip(expected[here].tolist(), offsets[here].tolist(), strict=True))
