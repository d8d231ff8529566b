"""Plans: what would be let go now, and what is due and may not go, each with its reason.

A plan changes nothing. What it finds is looked at again, from scratch, before anything goes: `enforce.py`. Reasons to
refuse: `pinned`, `unsealed` (no valid certificate), `uncovered` (a coarser window is missing, or says something else),
`finer` (what is finer is still there), `late` (late records of an expired week), `damaged` (something cannot be read).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from efd_pipelines.retention.due import Due, due, finer
from efd_pipelines.retention.pins import Pin, pins
from efd_pipelines.retention.policy import Policy, policy_of
from efd_pipelines.retention.refusal import Depth, Refused
from efd_pipelines.retention.verification import Evidence, Tables, verified

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.times import Week
    from efd_pipelines.topics.names import Dataset

Progress = Callable[[str, int, int], None]
"""Called with what is looked at, how many have been, and how many there are."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that is due and may not go: a word for why, the reason, and what to do."""

    one: Due
    kind: str
    detail: str
    remedy: str


@dataclass(slots=True)
class Plan:
    """What would go, and what is refused; `depth` is how much was read to find out."""

    policy: Policy
    at: datetime
    depth: Depth
    going: list[Due] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in self.going)

    @property
    def rows(self) -> int:
        return sum(one.rows for one in self.going)

    def weeks(self) -> Iterable[str]:
        return sorted({one.week.key for one in self.going})


def plan(
    archive: Archive,
    *,
    policy: Policy | None = None,
    now: datetime | None = None,
    datasets: Collection[Dataset] | None = None,
    weeks: Collection[Week] | None = None,
    depth: Depth = "counts",
    progress: Progress | None = None,
) -> Plan:
    """What would be let go now.

    Args:
        policy: the deployment's by default.
        now: from when ages are counted back; the present by default.
        datasets, weeks: only these.
        depth: how much is read of what is due.

    Raises:
        PolicyError: the policy is wrong.
        DamagedPins: it is not known what is pinned.
        StoreUnavailable: the store did not answer.
    """
    at = datetime.now(UTC) if now is None else now
    policy = policy_of(archive.settings) if policy is None else policy
    found = Plan(policy, at, depth)
    wanted = due(archive, policy, at, datasets=datasets, weeks=weeks)
    held = pins(archive.store) if wanted else []
    tables = Tables(archive)
    for n, one in enumerate(wanted):
        if progress:
            progress(str(one), n, len(wanted))
        try:
            judged(tables, one, held, depth, going=_goes_before(one, found.going))
        except Refused as error:
            found.refused.append(Refusal(one, error.kind, error.message, error.remedy))
        else:
            found.going.append(one)
    return found


def _goes_before(one: Due, going: Sequence[Due]) -> bool:
    before = finer(one.level)
    return any((of.level, of.dataset, of.week) == (before, one.dataset, one.week) for of in going)


def judged(tables: Tables, one: Due, held: Sequence[Pin], depth: Depth, *, going: bool = False) -> Evidence:
    """Proof that something that is due may go.

    Raises:
        Refused: it may not.
        StoreUnavailable: the store did not answer.
    """
    check_pins(one, held)
    return verified(tables, one, depth, going=going)


def check_pins(one: Due, held: Iterable[Pin]) -> None:
    """Refuses what is pinned.

    Raises:
        Refused: it is.
    """
    for pin in held:
        if pin.holds(one.dataset, one.week):
            remedy = f"`efd retention unpin {pin.name}` lets it go, if it need not be kept any more."
            raise Refused("pinned", f"{pin} is pinned: {pin.why}", remedy=remedy)
