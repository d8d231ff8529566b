"""The soak: everything at once on one archive for minutes, under kill -9, with readers that look all the time.

    python -m efd_pipelines_tests.faults.soak --minutes 20 --seed 1 [--store s3]

Two drains, merging, sealing, cleaning, replay and deep audits go round and round beside a producer that sends late
records, poison and changing schemas; half of all the writers are killed somewhere. Readers open every table afresh,
again and again, and want each snapshot to be whole: no row twice, and as many rows of each Kafka partition as its
position says (design.md §4). At the end all is drained and compared with what was produced. The last line is
`N rounds, N looks, N lost, N doubled, N failed`; the exit code is 1 unless the last three are 0.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from efd_pipelines_tests.faults.site import Servers, scratch
from efd_pipelines_tests.faults.stage import Stage, Store, staged
from efd_pipelines_tests.faults.zygote import Running

WRITERS = ("drain", "drain", "merge", "seal", "daily cleaning", "replay")
_KILLED_WITHIN_S = 3.0
_LOOK_S = 5.0
_PAUSE_S = {"drain": 0.2, "merge": 0.5, "seal": 3.0, "daily cleaning": 3.0, "replay": 3.0, "audit": 1.0}
_TIMEOUT_S = 300.0


@dataclass(slots=True)
class Soaked:
    """What the soak came to: rounds by deed, how many of them were killed, looks of readers."""

    rounds: Counter[str] = field(default_factory=Counter)
    killed: int = 0
    looks: int = 0
    records: int = 0
    lost: int = 0
    doubled: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rounds = sum(self.rounds.values())
        failed = len(self.problems)
        return f"{rounds} rounds, {self.looks} looks, {self.lost} lost, {self.doubled} doubled, {failed} failed"


def soak(stage: Stage, seconds: float, seed: int, store: Store = "directory") -> Soaked:
    """Lets everything go on at once for a while, then counts."""
    soaked = Soaked()
    stage.problems = []
    stage.begin(store)
    until = time.monotonic() + seconds
    loops: list[Callable[[], None]] = [lambda: _read(stage, soaked, until), lambda: _audit(stage, soaked, until)]
    for n, deed in enumerate(WRITERS):
        rng = np.random.default_rng([seed, n])
        loops.append(lambda deed=deed, rng=rng: _write(stage, soaked, deed, rng, until))  # type: ignore[misc]
    _together([*loops, lambda: _produce(stage, np.random.default_rng([seed, 99]), until)], soaked)
    soaked.records = stage.site.records
    _count(stage, soaked)
    return soaked


def _together(loops: Sequence[Callable[[], None]], soaked: Soaked) -> None:
    """Runs all of them at once; what one of them raises is a problem of the soak."""

    def guarded(loop: Callable[[], None]) -> None:
        try:
            loop()
        except Exception as error:
            soaked.problems.append(f"a loop ended with {type(error).__name__}: {error}")

    threads = [threading.Thread(target=guarded, args=(loop,)) for loop in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _produce(stage: Stage, rng: np.random.Generator, until: float) -> None:
    while time.monotonic() < until:
        stage.site.produce(stage.producer, rng)
        time.sleep(float(rng.uniform(0.1, 1.0)))


def _write(stage: Stage, soaked: Soaked, deed: str, rng: np.random.Generator, until: float) -> None:
    """One writer after the other does the same deed; every second one is killed, if it is not faster."""
    while time.monotonic() < until:
        running = stage.do(deed, run=f"soak-{deed}")
        timer = None
        if rng.random() < 0.5:
            timer = threading.Timer(float(rng.uniform(0.05, _KILLED_WITHIN_S)), _kill, [running])
            timer.start()
        ended = stage.ended(running)
        if timer is not None:
            timer.cancel()
        soaked.rounds[deed] += 1
        soaked.killed += ended.end == "killed"
        time.sleep(_PAUSE_S[deed])


def _kill(running: Running) -> None:
    with suppress(ProcessLookupError):
        os.kill(running.pid, signal.SIGKILL)


def _read(stage: Stage, soaked: Soaked, until: float) -> None:
    while time.monotonic() < until:
        lows = {topic: account.lows for topic, account in stage.site.accounts.items()}
        answer = _asked(stage, soaked, "look", lows=lows, seconds=_LOOK_S)
        soaked.looks += answer.get("looks", 0)


def _audit(stage: Stage, soaked: Soaked, until: float) -> None:
    while time.monotonic() < until:
        _asked(stage, soaked, "audit")
        soaked.rounds["audit"] += 1
        time.sleep(_PAUSE_S["audit"])


def _asked(stage: Stage, soaked: Soaked, deed: str, **arguments: Any) -> dict[str, Any]:
    """A deed that is not killed; what it says is wrong."""
    ended = stage.zygote.run(deed, stage.site.environ, _TIMEOUT_S, **arguments)
    answer = dict(ended.answer)
    if "error" in answer:
        soaked.problems.append(f"{deed}: {answer['error']}: {answer.get('message', '')}")
    soaked.problems += [f"{deed}: {problem}" for problem in answer.get("problems", [])]
    return answer


def _count(stage: Stage, soaked: Soaked) -> None:
    """All is drained, merged, sealed and cleaned once more, alone; then compared with what was produced."""
    for deed in ("drain", "replay", "merge", "seal", "clean"):
        stage.ended(stage.zygote.begin(deed, stage.site.environ, run="after"))
    answer = _asked(stage, soaked, "check", again="seal", expected=stage.site.expected())
    soaked.lost, soaked.doubled = answer.get("lost", 0), answer.get("doubled", 0)
    soaked.problems += stage.problems


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m efd_pipelines_tests.faults.soak")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=["directory", "s3"], default="directory")
    arguments = parser.parse_args()
    with (
        scratch() as directory,
        Servers.started(Path(directory)) as servers,
        staged(servers, Path(directory)) as stage,
    ):
        soaked = soak(stage, arguments.minutes * 60, arguments.seed, arguments.store)
    for problem in soaked.problems:
        print(problem, file=sys.stderr)
    rounds = ", ".join(f"{count} × {deed}" for deed, count in sorted(soaked.rounds.items()))
    print(f"{soaked.records} records, {rounds}, {soaked.killed} of them killed")
    print(soaked)
    return int(bool(soaked.lost or soaked.doubled or soaked.problems))


if __name__ == "__main__":
    sys.exit(main())
