"""Runs a drain, or a replay of the dead, in a process that kills itself with SIGKILL at one chosen point.

A point names a step of the archive, `before …` or `after …`; the process dies the nth time it comes there. It is forked
from one that has imported everything, so that a death costs what was done before it, and not an interpreter's start.
Deaths at any system call: `strikes.py`.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

from efd_pipelines.archive import drain as drain_module
from efd_pipelines.archive import tables, writing
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.dead_letters import replay
from efd_pipelines.archive.ledger import Ledger
from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.settings import Settings, load_settings
from efd_pipelines_tests.faults.processes import environment

STEPS: dict[str, tuple[Any, str]] = {
    "schemas": (WriterSchemas, "keep"),
    "file": (writing, "put_file"),
    "commit": (writing, "commit"),
    "create": (tables, "_create"),
    "append": (tables, "_append"),
    "ledger": (Ledger, "append"),
}


IMPORTED_LATE = ("confluent_kafka.admin", "deltalake", "numba", "polars", "pyarrow.compute", "pyarrow.parquet", "s3fs")
"""What a drain imports only when it needs it."""


def kill_at(point: str, nth: int) -> None:
    """Arranges that the process dies the `nth` time it comes to `point` ("before commit", "after file", …)."""
    moment, _, step = point.partition(" ")
    owner, name = STEPS[step]
    original: Callable[..., Any] = getattr(owner, name)
    times = itertools.count(1)

    def stepped(*args: Any, **kwargs: Any) -> Any:
        is_it = next(times) == nth
        if moment == "before" and is_it:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if moment == "after" and is_it:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, stepped)


def killed_at(settings: Settings, point: str, nth: int, deed: str = "drain") -> int:
    """Drains (or replays) in a process that is to die at the point; its exit code, 0 where it never came there."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__, *IMPORTED_LATE])
    process = processes.Process(target=_work, args=(environment(settings), point, nth, deed))
    process.start()
    process.join(120)
    assert process.exitcode is not None, f"a {deed} that was to die {point} still runs"
    return process.exitcode


def _work(environ: Mapping[str, str], point: str, nth: int, deed: str) -> None:
    os.environ.clear()
    os.environ.update(environ)
    kill_at(point, nth)
    settings = load_settings(env_file=None)
    if deed == "replay":
        replay(Archive(settings), settings, run="killed")
    else:
        drain_module.drain(Archive(settings), settings, run="killed")
