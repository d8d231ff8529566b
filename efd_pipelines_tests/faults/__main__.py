"""The fault harness: seeded cases of work that is struck, resumed and compared with what was produced.

    python -m efd_pipelines_tests.faults --cases 1000 --seed 1        (make faults)

What strikes: `cases.py`. Each case is told on stderr as it ends; then how often each kind came and how long it took.
The last line is `N cases, N lost, N doubled, N failed`; the exit code is 1 unless the last three are 0.
`--first N` begins with the group of cases that N belongs to: the same seed plays each group alike, whatever came
before it. Ctrl-C lets each player end its case, and counts what was played.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from efd_pipelines_tests.faults.cases import KINDS, KindOfCase, Outcome, Report, draw, play
from efd_pipelines_tests.faults.gate import IS_AVAILABLE
from efd_pipelines_tests.faults.site import Servers, scratch
from efd_pipelines_tests.faults.stage import Stage, Store, staged

CASES_OF_AN_ARCHIVE = 5


class Tally:
    """The groups of cases that are still to be played, and what those came to that were; for several players."""

    def __init__(self, cases: int, seed: int, first: int, kinds: Sequence[KindOfCase]) -> None:
        self.outcome = Outcome()
        self.kinds = kinds
        self._seed = seed
        self._end = first + cases
        self._begins = iter(range(first - first % CASES_OF_AN_ARCHIVE, self._end, CASES_OF_AN_ARCHIVE))
        self._lock = threading.Lock()
        self._is_stopped = threading.Event()

    def play_all(self, stage: Stage) -> None:
        """Plays group after group, as long as there is one."""
        while (begin := self._next()) is not None:
            group = begin // CASES_OF_AN_ARCHIVE
            rng, store = np.random.default_rng([self._seed, group]), _store(group, self.kinds)
            stage.begin(store)
            for number in range(begin, min(begin + CASES_OF_AN_ARCHIVE, self._end)):
                report = play(stage, number, draw(self.kinds, store, rng), rng)
                self._take(report)
                if self._is_stopped.is_set():
                    return
                if report.problems:
                    stage.begin(store)  # what is broken must not break the next

    def stop(self) -> None:
        """Plays what was begun to its end, and no more."""
        self._is_stopped.set()

    def _next(self) -> int | None:
        with self._lock:
            return None if self._is_stopped.is_set() else next(self._begins, None)

    def _take(self, report: Report) -> None:
        with self._lock:
            self.outcome.count(report)
            print(report, file=sys.stderr, flush=True)


def play_on_servers(tally: Tally, directory: Path) -> None:
    """A player with servers of its own."""
    directory.mkdir()
    with Servers.started(directory) as servers, staged(servers, directory) as stage:
        tally.play_all(stage)


def _store(group: int, kinds: Sequence[KindOfCase]) -> Store:
    """One group of four on S3, one of forty from three brokers; others where the kinds do not allow it."""
    store: Store = "cluster" if group % 40 == 39 else "s3" if group % 4 == 1 else "directory"
    return store if any(store in kind.stores for kind in kinds) else kinds[0].stores[0]


def summary(outcome: Outcome) -> str:
    """How often each kind came, and how long a case of it took."""
    lines = [
        f"{len(seconds):5} × {kind}, {sum(seconds) / len(seconds):.1f} s each"
        for kind, seconds in sorted(outcome.by_kind.items())
    ]
    return "\n".join([*lines, f"{outcome.missed:5} ended before they could be struck"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m efd_pipelines_tests.faults")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument(
        "--together", type=int, default=len(os.sched_getaffinity(0)), help="players at once, each on servers of its own"
    )
    parser.add_argument("--kind", default="", help="only the kinds whose name has this in it")
    arguments = parser.parse_args()
    if not IS_AVAILABLE:
        parser.error("this system has no seccomp user notification: Linux 5.5 or later, x86-64 or ARM")
    kinds = tuple(kind for kind in KINDS if arguments.kind in kind.name)
    tally = Tally(arguments.cases, arguments.seed, arguments.first, kinds)
    with scratch() as directory, ThreadPoolExecutor(arguments.together) as pool:
        players = [pool.submit(play_on_servers, tally, Path(directory) / str(n)) for n in range(arguments.together)]
        try:
            for player in players:
                player.result()
        except KeyboardInterrupt:
            tally.stop()
    outcome = tally.outcome
    print(summary(outcome))
    print(outcome)
    return int(not outcome.is_clean)


if __name__ == "__main__":
    sys.exit(main())
