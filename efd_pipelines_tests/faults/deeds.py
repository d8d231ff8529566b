"""Deeds: the archive's work, as a process does it that is about to be struck, and the check afterwards.

Each deed takes settings and plain values and gives plain values, since they travel as JSON (`zygote.py`). Here and not
in the harness, because it is what the processes import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from efd_pipelines.archive import store
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.drain import DrainIncomplete, drain
from efd_pipelines.archive.merging import merge
from efd_pipelines.errors import EfdError
from efd_pipelines.kafka import registry
from efd_pipelines.settings import Settings
from efd_pipelines_tests.faults.recount import recount

Deed = Callable[..., dict[str, Any]]

_SURPRISE = "Report it"
"""How the remedy of an error begins that nobody has foreseen (`drain.py`)."""


class Surprise(Exception):
    """Work that met an error which is nobody's on purpose."""


def archive_all(settings: Settings, *, run: str = "struck", until_caught_up: bool = False) -> dict[str, Any]:
    """`efd archive run`."""
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


def check(settings: Settings, *, again: str, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Drains what is left and does the deed `again`, then counts by the audit and by the files that count."""
    archive_all(settings, run="after", until_caught_up=True)
    if again != "drain":
        DEEDS[again](settings, run="after")
    archive = Archive(settings)
    audit = verify(archive, deep=True)
    counted = recount(archive.store, expected)
    return {
        "rows": audit.rows,
        "lost": counted.lost,
        "doubled": counted.doubled,
        "problems": [
            *(f"{of.topic} {of.week}: {of.kind}: {of.detail}" for of in audit.problems),
            *counted.problems,
        ],
    }


DEEDS: Mapping[str, Deed] = {"drain": archive_all, "merge": merge_all, "check": check}


def be_patient(seconds: int) -> None:
    """How long this process's clients wait for S3 and the registry; 0 for as long as they always do."""
    if seconds:
        store._ANSWER_S = seconds
        registry._TIMEOUT = httpx.Timeout(float(seconds))


def do(deed: str, settings: Settings, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the deed gave, or the error that is the user's to read; whatever else is raised is a bug."""
    try:
        return DEEDS[deed](settings, **arguments)
    except EfdError as error:
        return {"error": type(error).__name__, "message": error.message}
