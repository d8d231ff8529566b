"""The fault harness: seeded cases of work that is struck, resumed and compared with what was produced.

    python -m efd_pipelines_tests.faults --cases 1000 --seed 1        (make faults)

What strikes: `cases.py`. Each case is told on stderr as it ends; then how often each kind came and how long it took.
The last line is `N cases, N lost, N doubled, N failed`; the exit code is 1 unless the last three are 0.
`--first N` begins with the group of cases that N belongs to: the same seed plays each group alike, whatever came
before it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from efd_pipelines_tests.faults.cases import KINDS, KindOfCase, Outcome, Stage, Store, draw, play, staged
from efd_pipelines_tests.faults.gate import IS_AVAILABLE
from efd_pipelines_tests.faults.site import Servers, scratch

CASES_OF_AN_ARCHIVE = 5


def play_all(stage: Stage, cases: int, seed: int, first: int = 0, kinds: Sequence[KindOfCase] = KINDS) -> Outcome:
    """Plays cases `first` to `first + cases - 1`, group by group, and tells each."""
    outcome = Outcome()
    for begin in range(first - first % CASES_OF_AN_ARCHIVE, first + cases, CASES_OF_AN_ARCHIVE):
        group = begin // CASES_OF_AN_ARCHIVE
        rng, store = np.random.default_rng([seed, group]), _store(group, kinds)
        stage.begin(store)
        for number in range(begin, min(begin + CASES_OF_AN_ARCHIVE, first + cases)):
            report = play(stage, number, draw(kinds, store, rng), rng, outcome)
            print(report, file=sys.stderr, flush=True)
            if report.problems:
                stage.begin(store)  # what is broken must not break the next
    return outcome


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
    parser.add_argument("--kind", default="", help="only the kinds whose name has this in it")
    arguments = parser.parse_args()
    if not IS_AVAILABLE:
        parser.error("this system has no seccomp user notification: Linux 5.5 or later, x86-64 or ARM")
    kinds = tuple(kind for kind in KINDS if arguments.kind in kind.name)
    with (
        scratch() as directory,
        Servers.started(Path(directory)) as servers,
        staged(servers, Path(directory)) as stage,
    ):
        outcome = play_all(stage, arguments.cases, arguments.seed, arguments.first, kinds)
    print(summary(outcome))
    print(outcome)
    return int(not outcome.is_clean)


if __name__ == "__main__":
    sys.exit(main())
