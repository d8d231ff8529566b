"""Runs `efd archive run`'s work in a process that kills itself with SIGKILL at one chosen point.

    python -m efd_pipelines_tests.faults.killed POINT NTH

POINT names a step of the archive, `before …` or `after …`; the process dies the NTH time it comes there. Settings
come from the environment. Exit code 0 means that the point was never reached and the drain ended by itself.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from efd_pipelines.archive import drain as drain_module
from efd_pipelines.archive import tables, writing
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.ledger import Ledger
from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.settings import load_settings

STEPS: dict[str, tuple[Any, str]] = {
    "schemas": (WriterSchemas, "keep"),
    "file": (writing, "put_file"),
    "commit": (writing, "commit"),
    "create": (tables, "_create"),
    "append": (tables, "_append"),
    "ledger": (Ledger, "append"),
}


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


def main() -> None:
    point, nth = sys.argv[1], int(sys.argv[2])
    kill_at(point, nth)
    settings = load_settings(env_file=None)
    drain_module.drain(Archive(settings), settings, run="killed")


if __name__ == "__main__":
    main()
