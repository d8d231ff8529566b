"""Cases: what strikes which deed, and when; each drawn from a seed, struck, and checked.

A case is one line of `KINDS`: what is done to a process at a moment that the seed chooses (`strikes.py`). After it the
deed is done again to its end and the archive is compared with the account of what was produced (`deeds.check`). A group
of cases shares an archive, so that faults meet archives of every age.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from efd_pipelines_tests.faults import strikes
from efd_pipelines_tests.faults.proxy import Fault, What
from efd_pipelines_tests.faults.stage import DEED_S, Stage, Store
from efd_pipelines_tests.faults.zygote import Ended

_ATTEMPTS = 2
# About as many calls or requests as a drain makes; one that ends before is tried again with an earlier one.
_FIRST_NTH = 100


@dataclass(slots=True)
class Outcome:
    """What the cases came to."""

    cases: int = 0
    lost: int = 0
    doubled: int = 0
    failed: int = 0
    by_kind: dict[str, list[float]] = field(default_factory=dict)
    missed: int = 0

    def __str__(self) -> str:
        return f"{self.cases} cases, {self.lost} lost, {self.doubled} doubled, {self.failed} failed"

    def count(self, report: Report) -> None:
        self.cases += 1
        self.lost += report.lost
        self.doubled += report.doubled
        self.failed += bool(report.problems)
        self.missed += not report.at
        self.by_kind.setdefault(report.kind, []).append(report.seconds)

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.failed)


@dataclass(frozen=True, slots=True)
class Report:
    """One case: what struck where, and what was found wrong afterwards."""

    number: int
    kind: str
    deed: str
    at: str
    seconds: float
    lost: int
    doubled: int
    problems: tuple[str, ...]

    def __str__(self) -> str:
        found = "; ".join(self.problems) or "well"
        return f"case {self.number}: {self.kind}, {self.deed}, {self.at or 'not struck'}, {self.seconds:.1f} s: {found}"


DEEDS = ("drain", "drain", "drain", "drain", "merge", "merge", "seal", "replay", "release")
"""What is struck, half of the time a drain. Cleaning is beside these only where nobody else is at work, since what it
removes here may be minutes old."""

Play = Callable[[Stage, np.random.Generator, str, int], Ended]


@dataclass(frozen=True, slots=True)
class KindOfCase:
    """One way to strike: on which stores, how often among a thousand, and what it does."""

    name: str
    stores: tuple[Store, ...]
    weight: float
    play: Play
    deeds: tuple[str, ...] = DEEDS
    is_late: bool = False
    """Whether Kafka first delivers what a history has given already."""

    @property
    def is_quick(self) -> bool:
        """Whether it is over in seconds: no server is started anew, and there is not much to prepare on S3."""
        return "restarted" not in self.name and not (self.is_late and "directory" not in self.stores)


_DIRECTORY: tuple[Store, ...] = ("directory",)
_S3: tuple[Store, ...] = ("s3",)
_BOTH: tuple[Store, ...] = ("directory", "s3")

_OF_ONE_WRITER = (*DEEDS, "clean", "reindex", "heal")
_HEAL = ("heal",)
_REARRANGING = ("merge", "seal")

KINDS: tuple[KindOfCase, ...] = (
    KindOfCase("SIGKILL at a system call", _DIRECTORY, 200, strikes.kill_at_a_call, _OF_ONE_WRITER),
    KindOfCase("SIGKILL at a message to Kafka", _BOTH, 50, strikes.kill_at_a_message, ("drain",)),
    KindOfCase("disk full or broken", _DIRECTORY, 110, strikes.fail_a_call, _OF_ONE_WRITER),
    KindOfCase("broken connections to Kafka", _BOTH, 50, strikes.break_connections, ("drain",)),
    KindOfCase("a second writer at a system call", _DIRECTORY, 90, strikes.rival_at_a_call),
    KindOfCase("two writers at once, one killed", _BOTH, 40, strikes.together),
    KindOfCase("SIGKILL at a request to S3", _S3, 110, strikes.kill_at_a_request, _OF_ONE_WRITER),
    KindOfCase("S3 answers 429, 500, 503", _S3, 50, strikes.refuse_requests, _OF_ONE_WRITER),
    KindOfCase("S3 answers 409, 412", _S3, 50, strikes.refuse_writes, (*DEEDS, "heal")),
    KindOfCase("S3 loses answers", _S3, 50, strikes.lose_answers, (*DEEDS, "heal")),
    KindOfCase("S3 cuts, refuses, is silent", _S3, 50, strikes.break_requests, _OF_ONE_WRITER),
    KindOfCase("a second writer at a request to S3", _S3, 40, strikes.rival_at_a_request, (*DEEDS, "heal")),
    KindOfCase("SIGKILL at a system call of healing", _DIRECTORY, 60, strikes.kill_at_a_call, _HEAL),
    KindOfCase("SIGKILL at a question to InfluxDB", _BOTH, 40, strikes.kill_at_a_question, _HEAL),
    KindOfCase("InfluxDB answers 429, 500, 503, cuts, is silent", _BOTH, 60, strikes.break_the_history, _HEAL),
    KindOfCase("a second healer at a system call", _DIRECTORY, 20, strikes.healer_at_a_call, _HEAL),
    KindOfCase(
        "late records over history, SIGKILL at a system call",
        _DIRECTORY,
        40,
        strikes.kill_at_a_call,
        _REARRANGING,
        is_late=True,
    ),
    KindOfCase(
        "late records over history, SIGKILL at a request to S3",
        _S3,
        20,
        strikes.kill_at_a_request,
        _REARRANGING,
        is_late=True,
    ),
    KindOfCase("registry down and back", _BOTH, 30, strikes.break_the_registry, ("drain",)),
    KindOfCase("broker killed and restarted", _BOTH, 12, strikes.restart_the_broker, ("drain",)),
    KindOfCase("leaders change, a broker restarted", ("cluster",), 20, strikes.change_the_leaders, ("drain",)),
    KindOfCase("registry killed and restarted", _BOTH, 6, strikes.restart_the_registry, ("drain",)),
    KindOfCase("S3 killed and restarted", _S3, 12, strikes.restart_the_store),
    KindOfCase("InfluxDB killed and restarted", _BOTH, 8, strikes.restart_the_history, _HEAL),
)


def play(stage: Stage, number: int, kind: KindOfCase, rng: np.random.Generator) -> Report:
    """One case, from producing to the check."""
    began = time.monotonic()
    stage.problems = []
    deed = str(rng.choice(list(kind.deeds)))
    nth = int(rng.integers(1, _FIRST_NTH))
    for _ in range(_ATTEMPTS):
        prepare(stage, rng, deed)
        if kind.is_late:
            deliver_late(stage, rng)
        ended = kind.play(stage, rng, deed, nth)
        if ended.was_struck or stage.problems:
            break
        nth = 1 + nth % max(1, max((count for name, count in ended.calls.items() if name != "other"), default=1))
    checked = stage.zygote.run("check", stage.site.environ, DEED_S, **_to_check(stage, deed))
    found = checked.answer
    if checked.end != "done" or "error" in found:
        stage.problems.append(f"the work cannot go on: {found.get('message', checked.end)}")
    stage.problems += found.get("problems", [])
    return Report(
        number,
        kind.name,
        deed,
        ended.at,
        time.monotonic() - began,
        found.get("lost", 0),
        found.get("doubled", 0),
        tuple(stage.problems),
    )


def _to_check(stage: Stage, deed: str) -> dict[str, Any]:
    return {"again": deed, "expected": stage.site.expected(), "arguments": stage.arguments(deed)}


def prepare(stage: Stage, rng: np.random.Generator, deed: str) -> None:
    """What the deed needs to have something to do."""
    if deed == "heal":
        stage.site.lose(rng)
        return
    if deed != "drain" and not stage.site.records:  # a slice is merged of two files
        stage.site.produce(stage.producer, rng)
        stage.ended(stage.do("drain", run="before"))
    stage.site.produce(stage.producer, rng)
    if deed == "drain":
        return
    if deed == "replay":  # what is archived while the registry has lost its schemas is dead, and replayed later
        stage.registry.strike(Fault(What.UNKNOWN, times=10_000))
    stage.ended(stage.do("drain", run="before"))
    stage.registry.strike(None)
    if deed == "clean":
        stage.ended(stage.do("merge", run="before"))


def deliver_late(stage: Stage, rng: np.random.Generator) -> None:
    """What a history has given comes from Kafka, too."""
    stage.site.lose(rng)
    stage.ended(stage.do("heal", run="before"))
    stage.site.deliver(stage.producer)
    stage.ended(stage.do("drain", run="before"))


def draw(kinds: Sequence[KindOfCase], store: Store, rng: np.random.Generator) -> KindOfCase:
    """A kind that this store may meet, by weight."""
    possible = [kind for kind in kinds if store in kind.stores]
    weights = np.array([kind.weight / len(kind.stores) for kind in possible])
    return possible[int(rng.choice(len(possible), p=weights / weights.sum()))]
