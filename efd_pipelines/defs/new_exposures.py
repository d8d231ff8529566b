"""New exposures: what the sensors `drain` and `join` ask, so that values are there minutes after an exposure has ended.

A camera's endReadout, as soon as it is on the brokers, has the topics that its join reads archived, whether their turn
has come or not; ConsDB's row of the exposure has it joined. Neither is needed for a value to come in the end: topics of
the class `fast` are archived every two minutes, and the hourly join finds whatever is not there (design.md §3).
"""

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from efd_pipelines.configuration import ExposureJoin
from efd_pipelines.defs.runs import succeeded_at_s, why_not
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.backlog import Backlog
    from efd_pipelines.exposures.pending import Pending
    from efd_pipelines.settings import Settings

LATE_S = 600.0
"""How often exposures are looked at for late telemetry: it is in no hurry, and a run costs seconds."""

READ_OUT_EVERY_S = 60.0
"""How often a group is drained for exposures: one ends every 40 s, and a run of each group costs seconds."""

DAYS_JOINED = 15.0
"""Exposures of so many days are joined by the live job: a day more than are looked at."""


def waiting_topics(archive: "Archive") -> "Sequence[Backlog]":
    """The topics that Kafka has records of and the archive has not.

    Raises:
        KafkaUnavailable, StoreUnavailable: a service did not answer.
    """
    from efd_pipelines.archive.backlog import backlog

    return backlog(archive, archive.settings)


def due_topics(
    archive: "Archive", waiting: "Sequence[Backlog]", *, everything: bool = False, exposures: bool = False
) -> dict[str, list[str]]:
    """Of these topics those whose turn has come, by drain group; under "" those of all groups.

    What exposure joins read is of the class `fast`, whether `freshness` names it or not; with `exposures` it is due.
    """
    from efd_pipelines.exposures.configured import datasets_read

    configuration = archive.settings.configuration
    joined = datasets_read(configuration.exposures)
    interval_s = 0.0 if exposures else configuration.freshness.fast_interval_s
    groups: dict[str, list[str]] = {name: [] for name in ("", *configuration.drain_groups)}
    for one in waiting:
        if everything or one.due or (one.dataset in joined and _waited_s(one) >= interval_s):
            groups[configuration.drain_group_of(one.dataset.component)].append(one.topic)
            groups[""].append(one.topic)
    return groups


def _waited_s(one: "Backlog") -> float:
    return 0.0 if one.last_at is None else (datetime.now(UTC) - one.last_at).total_seconds()


@dataclass(frozen=True, slots=True)
class ReadOut:
    """Drain groups with topics that are joined to exposures that have been read out; `ready` may be drained now."""

    groups: frozenset[str]
    ready: frozenset[str]


def groups_read_out(archive: "Archive", waiting: "Sequence[Backlog]", left: Collection[str]) -> ReadOut:
    """What is to be archived for exposures just ended; `left` are groups that had to be left by the ticks before.

    A camera's endReadout that is not archived yet says so. Each group is drained for it once a minute at most.
    """
    from efd_pipelines.exposures.configured import datasets_read

    configuration = archive.settings.configuration
    there = {one.dataset.text for one in waiting}
    just_read_out = [join for join in configuration.exposures if join.end_readout in there]

    def groups(joins: Collection[ExposureJoin], waited_s: float = 0.0) -> set[str]:
        wanted = datasets_read(joins) | {Dataset(join.end_readout) for join in joins if join.end_readout}
        chosen = [one for one in waiting if one.dataset in wanted]
        rested = [one for one in chosen if one.last_at is None or _waited_s(one) >= waited_s]
        return {configuration.drain_group_of(one.dataset.component) for one in rested}

    found = groups(just_read_out) | (set(left) & groups(configuration.exposures))
    return ReadOut(frozenset(found), frozenset(found & groups(configuration.exposures, READ_OUT_EVERY_S)))


def look_for_exposures(settings: "Settings", before: "Mapping[str, Pending]") -> "dict[str, Pending]":
    """What each instrument has to be joined, by the instrument.

    Raises:
        DatabaseUnavailable: ConsDB does not answer.
    """
    from efd_pipelines.exposures.consdb import ConsDB
    from efd_pipelines.exposures.pending import look

    with ConsDB(settings.require_consdb()) as consdb:
        joins = settings.configuration.exposures
        return {join.instrument: look(consdb, join, before.get(join.instrument)) for join in joins}


def cursor_of(pending: "Mapping[str, Pending]") -> str:
    """What the next tick is told of this one."""
    return json.dumps({instrument: one.document for instrument, one in pending.items()})


def pending_of(cursor: str | None) -> "dict[str, Pending]":
    """What the last tick found; nothing where the cursor is lost, or of another version."""
    from efd_pipelines.exposures.pending import Pending

    try:
        document = json.loads(cursor or "{}")
    except ValueError:
        return {}
    if not isinstance(document, dict):
        return {}
    found = {name: Pending.parse(one) for name, one in document.items()}
    return {name: one for name, one in found.items() if one is not None}


def why_not_join(
    instance: dg.DagsterInstance,
    pending: "Mapping[str, Pending]",
    before: "Mapping[str, Pending]",
    archived_s: float | None,
) -> str | None:
    """Why exposures need not be joined now; None where they should."""
    now = time.time()
    new = [name for name, one in pending.items() if one.count and one != before.get(name)]
    reason = why_not(instance, "join", now if new and archived_s is not None else archived_s, now)
    if reason is not None or any(one.count for one in pending.values()):
        return reason
    joined_s = succeeded_at_s(instance, "join")
    if joined_s is not None and now - joined_s < LATE_S:
        return f"No exposure is new; late telemetry is looked for every {LATE_S / 60:.0f} minutes."
    return None
