"""Killing who restores: this module, run, gives a week back to files of lines and dies by SIGKILL in the middle.

    python -m efd_pipelines_tests.unit.restoring.killed ARCHIVE OUT MONDAY COMPONENT MOMENT

MOMENT: `writing`, with half of the second file's rows written; `written`, with that file there and not in the manifest.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from efd_pipelines.restoring.lines import LinesTarget
from efd_pipelines.restoring.restore import planned, restore
from efd_pipelines.times import Week
from efd_pipelines_tests.unit.tiers.builders import an_archive

_MOMENTS: dict[str, tuple[str, int]] = {"writing": ("_write", 2), "written": ("_keep", 2)}


def _dying(function: Callable[..., Any], at: int, *, after: bool) -> Callable[..., Any]:
    calls = iter(range(1, 1000))

    def dies(*given: Any, **options: Any) -> Any:
        is_last = next(calls) == at
        result = function(*given, **options) if after or not is_last else None
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return dies


def main(root: str, out: str, monday: str, component: str, moment: str) -> None:
    name, at = _MOMENTS[moment]
    setattr(LinesTarget, name, _dying(getattr(LinesTarget, name), at, after=moment == "writing"))
    archive, target = an_archive(root), LinesTarget(Path(out), "efd")
    restore(planned(archive, component, [Week.parse(monday)], target), target)


if __name__ == "__main__":
    main(*sys.argv[1:])
