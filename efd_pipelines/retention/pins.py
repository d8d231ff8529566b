"""Pins: what must never expire, whatever the policy says: a week, a night, a topic, or a topic in a week or night.

They are kept in the archive, `retention/pins/<number>.json`, each file the whole list after one change, made only where
there is none of that number: of two who change it at once one is refused and starts again from the other's, and what
was pinned when, by whom and why stays readable for ever. Whoever pins and whoever lets go take turns (`turns`), so
that a pin that was answered holds.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from efd_pipelines.archive.store import Store
from efd_pipelines.errors import ArchiveError, UsageError
from efd_pipelines.history.turns import Turn
from efd_pipelines.times import Week, day_obs_interval, weeks_between
from efd_pipelines.topics.names import Dataset, match

DIRECTORY = "retention/pins"
TURN = "retention/turn.json"
LEASE_S = 9.0
_ATTEMPTS = 50


class DamagedPins(ArchiveError):
    """The list of pins cannot be read: nothing may expire."""

    remedy = "Restore the newest file of retention/pins from a copy of the store; nothing expires meanwhile."


@dataclass(frozen=True, slots=True)
class Pin:
    """What never expires: all that lies in `week` or `night` (day_obs) and of which the topic fits `topic` (a glob).

    What is not given does not matter; one of them is.
    """

    name: str
    week: str | None
    night: int | None
    topic: str | None
    why: str
    by: str
    at: str

    def holds(self, dataset: Dataset, week: Week) -> bool:
        """Whether it keeps a week of a dataset."""
        if self.topic is not None and not match([self.topic], dataset.text):
            return False
        return (self.week is None and self.night is None) or week in self.weeks()

    def weeks(self) -> list[Week]:
        """The weeks that it keeps; none where it keeps all. A night may lie in two."""
        if self.night is not None:
            begins, ends = day_obs_interval(self.night)
            return weeks_between(Week.containing(begins), Week.containing(ends - timedelta(microseconds=1)))
        return [] if self.week is None else [Week.parse(self.week)]

    def __str__(self) -> str:
        parts = [
            "" if self.week is None else f"week {self.week}",
            "" if self.night is None else f"night {self.night}",
            "" if self.topic is None else self.topic,
        ]
        return " of ".join(part for part in parts[::-1] if part)


def turns(store: Store, who: str) -> AbstractContextManager[object]:
    """The turn to pin, or to let something go: one process of a deployment at a time."""
    return Turn(store, who, name=TURN, lease_s=LEASE_S)


def pins(store: Store) -> list[Pin]:
    """What is pinned, the oldest first.

    Raises:
        DamagedPins: the list cannot be read.
        StoreUnavailable: the store did not answer.
    """
    return _read(store, _numbers(store))


def pin(
    store: Store,
    *,
    why: str,
    week: str | None = None,
    night: int | None = None,
    topic: str | None = None,
    by: str = "",
) -> Pin:
    """Pins something; it holds when this returns.

    Raises:
        UsageError: nothing, or both a week and a night, is named; or no such week or night; or it is not said why.
        StoreUnavailable: it was not pinned.
    """
    if week is None and night is None and topic is None:
        raise UsageError("Nothing is named", remedy="Give a week, a night or a topic.")
    if week is not None and night is not None:
        raise UsageError("Both a week and a night are named", remedy="Pin them one after the other.")
    if not why.strip():
        raise UsageError("It is not said why", remedy="Say why it is to be kept: whoever reads it later must know.")
    made = Pin(
        name=uuid.uuid4().hex[:8],
        week=None if week is None else Week.parse(week).key,
        night=night,
        topic=topic,
        why=why.strip(),
        by=by,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    made.weeks()  # raises where there is no such night
    with turns(store, by or "a pin"):
        _change(store, lambda held: [*held, made])
    return made


def unpin(store: Store, name: str) -> Pin:
    """Takes a pin away; what it kept may expire again.

    Raises:
        UsageError: there is no such pin.
        StoreUnavailable: it is still pinned.
    """
    with turns(store, f"unpin {name}"):
        before = _change(store, lambda held: _without(held, name))
    return next(one for one in before if one.name == name)


def _without(held: Sequence[Pin], name: str) -> list[Pin]:
    left = [one for one in held if one.name != name]
    if len(left) == len(held):
        raise UsageError(f"There is no pin {name!r}", remedy="`efd retention pins` lists them.")
    return left


def _change(store: Store, change: Callable[[list[Pin]], list[Pin]]) -> list[Pin]:
    """Puts a changed list in the place of the one that there was, which it gives."""
    for _ in range(_ATTEMPTS):
        numbers = _numbers(store)
        before = _read(store, numbers)
        document = {"format": 1, "pins": [dataclasses.asdict(one) for one in change(before)]}
        data = json.dumps(document, indent=1, ensure_ascii=False).encode()
        if store.create(_path(max(numbers, default=0) + 1), data):
            return before
    raise ArchiveError(f"The pins were changed by others {_ATTEMPTS} times", remedy="Try again.")


def _path(number: int) -> str:
    return f"{DIRECTORY}/{number:08d}.json"


def _numbers(store: Store) -> list[int]:
    names = [name.removesuffix(".json") for name in store.list(DIRECTORY) if name.endswith(".json")]
    return [int(name) for name in names if name.isdigit()]


def _read(store: Store, numbers: Sequence[int]) -> list[Pin]:
    if not numbers:
        return []
    relative = _path(max(numbers))
    try:
        return [Pin(**one) for one in json.loads(store.read_bytes(relative))["pins"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedPins(f"{relative} cannot be read ({error!r})") from error
