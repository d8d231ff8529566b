"""Changes: what became more, what became less, what is new and what has vanished, against the period before.

As many weeks before are compared as the period has. A running week is compared as it is, and the report says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from efd_pipelines.storage.gathering import of_topics

if TYPE_CHECKING:
    from efd_pipelines.storage.gathering import Gathered


@dataclass(frozen=True, slots=True)
class Change:
    """Bytes that Kafka delivered of a topic, in the period before and in this one."""

    topic: str
    component: str
    before_bytes: int
    after_bytes: int
    before_records: int
    after_records: int

    @property
    def change_bytes(self) -> int:
        return self.after_bytes - self.before_bytes

    @property
    def factor(self) -> float:
        """How many times as much; NaN for what is new."""
        return self.after_bytes / self.before_bytes if self.before_bytes else float("nan")


@dataclass(frozen=True, slots=True)
class Changes:
    """All topics that came in either period, by how much they changed; `new` had never come before this period, `back`
    had, but not in the period before; `vanished` came then and no longer do."""

    movers: tuple[Change, ...]
    new: tuple[Change, ...]
    back: tuple[Change, ...]
    vanished: tuple[Change, ...]


def changes(gathered: Gathered) -> Changes:
    """The changes of what was gathered; of topics of which nothing came in either period, none."""
    found = _changes(gathered)
    both = tuple(one for one in found if one.before_records and one.after_records)
    came = [one for one in found if not one.before_records]
    return Changes(
        movers=both,
        new=tuple(one for one in came if one.topic not in gathered.seen),
        back=tuple(one for one in came if one.topic in gathered.seen),
        vanished=tuple(one for one in found if not one.after_records),
    )


def _changes(gathered: Gathered) -> list[Change]:
    import polars as pl

    columns = ["topic", "component", "received_bytes", "messages"]
    now, then = (of_topics(sums).select(columns) for sums in (gathered.topics, gathered.before))
    both = now.join(then, on=["topic", "component"], how="full", suffix="_before", coalesce=True).fill_null(0)
    came = both.filter((pl.col("messages") != 0) | (pl.col("messages_before") != 0))
    changed = came.with_columns((pl.col("received_bytes") - pl.col("received_bytes_before")).abs().alias("by"))
    ordered = changed.sort("by", "topic", descending=[True, False])
    names = ("topic", "component", "received_bytes_before", "received_bytes", "messages_before", "messages")
    return [Change(*row) for row in ordered.select(names).iter_rows()]
