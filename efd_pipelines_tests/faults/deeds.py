"""Deeds: the archive's work, as a process does it that is about to be struck, and the check afterwards.

Each deed takes settings and plain values and gives plain values, since they travel as JSON (`zygote.py`). Here and not
in the harness, because it is what the processes import.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from efd_pipelines.archive import cleaning, store
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import Audit, verify
from efd_pipelines.archive.dead_letters import replay
from efd_pipelines.archive.drain import drain
from efd_pipelines.archive.drained import DrainIncomplete
from efd_pipelines.archive.merging import merge
from efd_pipelines.archive.quarantine import datasets_with_quarantine, release
from efd_pipelines.archive.reindex import reindex
from efd_pipelines.archive.sealing import seal, unsealed_weeks
from efd_pipelines.avro.compiled import Compiled
from efd_pipelines.errors import EfdError
from efd_pipelines.history import answers, influx, turns
from efd_pipelines.history.healing import heal
from efd_pipelines.kafka import consumers, registry
from efd_pipelines.settings import Settings
from efd_pipelines.simulator.everything import random_series
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.times import Week, microseconds
from efd_pipelines.topics.layout import plan_layout
from efd_pipelines.topics.schemas import parse_schema
from efd_pipelines_tests.faults.recount import recount, superseded, torn

Deed = Callable[..., dict[str, Any]]

QUARANTINED_AT = datetime(1970, 1, 2, tzinfo=UTC)
"""Where the clocks stood of whose rows are quarantined."""

_SURPRISE = "Report it"
"""How the remedy of an error begins that nobody has foreseen (`drain.py`)."""


class Surprise(Exception):
    """Work that met an error which is nobody's on purpose."""


def archive_all(
    settings: Settings, *, run: str = "struck", until_caught_up: bool = False, compiled: bool = False
) -> dict[str, Any]:
    """`efd archive run`; `compiled`: reading as it reads much."""
    if compiled:
        consumers.WORTH_COMPILING = 0
    try:
        result = drain(Archive(settings), settings, run=run, until_caught_up=until_caught_up)
    except DrainIncomplete as error:
        for problem in error.result.problems:
            if problem.remedy.startswith(_SURPRISE):
                raise Surprise(f"{problem.topic}: {problem.detail}") from error
        raise
    return {"records": result.records, "rows": result.rows, "problems": [of.detail for of in result.problems]}


def merge_all(settings: Settings, *, run: str = "struck") -> dict[str, Any]:
    """Merges every slice of which there are two files, as if all were over."""
    result = merge(Archive(settings), now=datetime.now(UTC) + timedelta(days=14), run=run)
    if result.problems:
        raise Surprise(f"{result.problems[0].topic}, {result.problems[0].slice}: {result.problems[0].detail}")
    return {"slices": result.slices, "rows": result.rows}


def seal_all(settings: Settings, *, run: str = "struck") -> dict[str, Any]:
    """Seals every week that is not, as if all were over."""
    archive, later = Archive(settings), datetime.now(UTC) + timedelta(days=30)
    sealed = 0
    for week in unsealed_weeks(archive, settings, later):
        result = seal(archive, settings, week=week, now=later, run=run)
        if result.problems:
            raise Surprise(f"{result.problems[0].topic}, {week}: {result.problems[0].detail}")
        sealed += result.sealed
    return {"sealed": sealed}


def replay_all(settings: Settings, *, run: str = "struck") -> dict[str, Any]:
    """`efd archive dead-letters --replay`."""
    result = replay(Archive(settings), settings, run=run)
    return {"replayed": result.replayed, "commits": result.commits}


def release_all(settings: Settings, *, run: str = "struck") -> dict[str, Any]:
    """Brings the rows of 1970 home, whose clock was so long behind."""
    archive = Archive(settings)
    behind_us = microseconds(QUARANTINED_AT) - microseconds(datetime.now(UTC) - timedelta(hours=3))
    released = [release(archive, dataset, behind_us, run=run).rows for dataset in datasets_with_quarantine(archive)]
    return {"released": sum(released)}


def heal_all(settings: Settings, *, weeks: Sequence[str], lines: bool = False, run: str = "struck") -> dict[str, Any]:
    """`efd archive backfill` of these weeks, from InfluxDB and then from files; `lines`: from files alone.

    In pieces and commits that are small enough for some of them to come before the strike, and some after it.
    """
    influx.VALUES_OF_A_PIECE, answers.COMMIT_BYTES = 300, 2_000
    if lines:
        settings = settings.model_copy(update={"history_influx_url": None})
    wanted = [Week.parse(week) for week in weeks]
    result = heal(Archive(settings), settings, component="Heal", weeks=wanted, run=run)
    return {"rows": result.rows, "known": result.known}


def reindex_all(settings: Settings, *, run: str = "struck") -> dict[str, Any]:
    """`efd archive reindex`."""
    result = reindex(Archive(settings))
    if result.problems:
        raise Surprise(f"{result.problems[0].table}: {result.problems[0].detail}")
    return {"rows": result.rows, "changed": result.changed}


def clean_all(settings: Settings, *, run: str = "struck") -> dict[str, Any]:
    """Removes what does not count, however young: nobody else may be at work."""
    cleaning._HOURS_PER_DAY = 0
    return look_for_old_files(settings, run=run)


def look_for_old_files(settings: Settings, *, run: str = "struck") -> dict[str, Any]:
    """The daily cleaning, which leaves alone what is younger than a week."""
    return {"files": cleaning.clean(Archive(settings), run=run).files}


def audit(settings: Settings) -> dict[str, Any]:
    """`efd archive verify --deep`, beside whatever else goes on."""
    found = verify(Archive(settings), deep=True)
    return {"rows": found.rows, "problems": _told(found)}


def look(settings: Settings, *, lows: Mapping[str, Sequence[int]], seconds: float) -> dict[str, Any]:
    """Opens every table afresh for some time and wants each snapshot to be whole."""
    began, looks, problems = time.monotonic(), 0, list[str]()
    store = Archive(settings).store
    while time.monotonic() - began < seconds and not problems:
        for topic, of in lows.items():
            problems += [f"{topic}: {problem}" for problem in torn(store, topic, of)]
            looks += 1
    return {"looks": looks, "problems": problems}


def check(
    settings: Settings, *, again: str, expected: Mapping[str, Any], arguments: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Drains what is left and does the deed `again`, then counts by the audit and by the files that count."""
    archive_all(settings, run="after", until_caught_up=True)
    if again != "drain":
        DEEDS[again](settings, run="after", **(arguments or {}))
    archive = Archive(settings)
    found = verify(archive, deep=True)
    counted = recount(archive.store, expected)
    return {
        "rows": found.rows,
        "lost": counted.lost,
        "doubled": counted.doubled,
        "problems": [
            *_told(found),
            *counted.problems,
            *(superseded(archive.store, expected) if again == "seal" else ()),
        ],
    }


def _told(found: Audit) -> list[str]:
    return [f"{of.topic} {of.week}: {of.kind}: {of.detail}" for of in found.problems]


DEEDS: Mapping[str, Deed] = {
    "drain": archive_all,
    "merge": merge_all,
    "seal": seal_all,
    "clean": clean_all,
    "daily cleaning": look_for_old_files,
    "replay": replay_all,
    "release": release_all,
    "heal": heal_all,
    "reindex": reindex_all,
    "audit": audit,
    "look": look,
    "check": check,
}


def warm() -> None:
    """Loads the decoder's compiled code, or compiles it, which no deed should have to."""
    topic = builtin_topic("Test.scalars")
    schema = parse_schema(topic.avro_schema())
    Compiled().attempt(random_series(topic, 1, 0).bodies(), schema, plan_layout(schema))


def be_patient(seconds: int) -> None:
    """How long this process's clients wait for S3, the registry and InfluxDB; 0 for as long as they always do.

    And for how long others wait for a turn that it took with it into its grave.
    """
    if seconds:
        store._ANSWER_S = seconds
        registry._TIMEOUT = httpx.Timeout(float(seconds))
        influx._LONGEST_WAIT_S = seconds / 20
        turns.LEASE_S = float(seconds)


def do(deed: str, settings: Settings, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the deed gave, or the error that is the user's to read; whatever else is raised is a bug."""
    try:
        return DEEDS[deed](settings, **arguments)
    except EfdError as error:
        return {"error": type(error).__name__, "message": error.message}
