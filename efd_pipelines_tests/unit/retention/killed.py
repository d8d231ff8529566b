"""Killing what lets weeks go: this module, run, forks processes that enforce a policy and die at a chosen moment.

It imports everything once and starts no thread itself, so that each fork is as a process of its own, in milliseconds.

    python -m efd_pipelines_tests.unit.retention.killed ROOT NOW POINT…

Each POINT is a directory ROOT/POINT that has an archive: `3` dies by SIGKILL before or after the 3rd thing that is done
to the store, `two` has two processes at once, `all` is left alone. It prints each point and how its processes ended.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from efd_pipelines.archive import expiry, tables
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.store import Store
from efd_pipelines.configuration import Configuration, load_configuration
from efd_pipelines.retention.enforce import enforce
from efd_pipelines.retention.policy import read_policy
from efd_pipelines.settings import load_settings
from efd_pipelines.tiers.statistics import window_statistics

_MOMENTS = [(Store, "write_bytes"), (Store, "create"), (Store, "delete"), (tables, "_append"), (expiry, "rows_of")]
_done = 0


def _counted(of: Any, name: str, last: int | None) -> None:
    """Counts the moments before and after each call; at the chosen one the process dies."""
    function: Callable[..., Any] = getattr(of, name)

    def moment() -> None:
        global _done
        _done += 1
        if _done == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(*given: Any, **options: Any) -> Any:
        moment()
        result = function(*given, **options)
        moment()
        return result

    setattr(of, name, counted)


def _enforce(root: Path, now: datetime, last: int | None) -> None:
    for of, name in (
        (Store, "write_bytes"),
        (Store, "create"),
        (Store, "delete"),
        (tables, "_append"),
        (expiry, "rows_of"),
    ):
        _counted(of, name, last)
    archive = Archive(load_settings({}, None, archive=str(root), configuration=_configuration()))
    done = enforce(archive, policy=read_policy("summit"), now=now, run=f"killed-{root.name}")
    gone = [[one.level, one.week.key] for one in done.gone]
    (root.parent / f"{root.name}-{os.getpid()}.json").write_text(
        json.dumps({"moments": _done, "gone": gone, "refused": len(done.refused), "elsewhere": done.elsewhere})
    )


def _forked(root: Path, now: datetime, last: int | None) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        _enforce(root, now, last)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


@functools.cache
def _configuration() -> Configuration:
    return load_configuration(None)


def _warm() -> None:
    """Loads what each process would load for itself."""
    _configuration()
    for name in (
        "deltalake",
        "duckdb",
        "fsspec.implementations.local",
        "pandas",
        "polars",
        "pyarrow.compute",
        "pyarrow.parquet",
    ):
        importlib.import_module(name)
    for kind in (np.float32, np.float64, np.int64):
        window_statistics(np.ones((1, 4), kind), np.array([0]), np.array([4]))


def main(root: Path, now: datetime, points: list[str]) -> None:
    _warm()
    for point in points:
        last = int(point) if point.isdigit() else None
        pids = [_forked(root / point, now, last) for _ in range(2 if point == "two" else 1)]
        print(point, *(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), datetime.fromisoformat(sys.argv[2]), sys.argv[3:])
