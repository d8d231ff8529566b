"""Partitions: how components and weeks become Dagster's partition keys, and back.

A key is a contract: Dagster takes any text for one, a week that begins on a Tuesday as well, and shows it as a
partition of its own for ever. So keys are made and read here only, and checked both ways.
What a week is: `times.py`; what a component is: `topics/names.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import dagster as dg

from efd_pipelines.errors import UsageError
from efd_pipelines.times import FIRST_WEEK, Week
from efd_pipelines.topics.names import nearest

WEEKS = dg.WeeklyPartitionsDefinition(start_date=FIRST_WEEK.key, day_offset=1, timezone="UTC", end_offset=1)
"""Weeks by their Monday; `end_offset`: the running one is there, since the archive is fed all the time."""

COMPONENTS = dg.DynamicPartitionsDefinition(name="efd_component")
"""Components, added by discovery. Never deleted: a run of a deleted key dies; the catalogue retires what is gone."""

COMPONENT_WEEKS = dg.MultiPartitionsDefinition({"component": COMPONENTS, "week": WEEKS})
"""Keys are `<component>|<Monday>`. One key per topic and week would be a million: minutes per page of the UI."""

_EMPTY = "~"
_THREE_DOTS, _SPLIT = "...", ".~."


class PartitionRejected(UsageError):
    """A partition key that is none."""

    remedy = "Choose it in the launchpad, or write it as MTM1M3|2026-11-16: a component and the Monday of a week."


@dataclass(frozen=True, slots=True, order=True)
class ComponentWeek:
    """One partition of the archive and the tiers."""

    component: str
    week: Week

    @property
    def key(self) -> dg.MultiPartitionKey:
        return dg.MultiPartitionKey({"component": component_key(self.component), "week": self.week.key})

    def __str__(self) -> str:
        return f"{self.component}, week of {self.week}"

    @classmethod
    def parse(cls, key: str) -> ComponentWeek:
        """The partition of a key.

        Raises:
            PartitionRejected: it has no component or no week.
            UsageError: its week is no Monday, or before the first week of the EFD.
        """
        component, bar, week = key.rpartition("|")
        if not bar or not component or "|" in component:
            raise PartitionRejected(f"{key!r} is no partition of a component and a week")
        return cls(component_of(component), Week.parse(week))


def component_key(component: str) -> str:
    """The partition key of a component: its name, save what Kafka allows in names and Dagster not in keys."""
    if not component:
        return _EMPTY
    return component.replace("..", _SPLIT) if _THREE_DOTS in component else component


def component_of(key: str) -> str:
    """The component of a partition key."""
    return key.replace(_EMPTY, "")


def known_components(instance: dg.DagsterInstance) -> list[str]:
    """The components that have partitions, sorted."""
    return sorted(component_of(key) for key in instance.get_dynamic_partitions(str(COMPONENTS.name)))


def add_components(instance: dg.DagsterInstance, components: Iterable[str]) -> list[str]:
    """Gives partitions to components that have none; which these are, sorted."""
    new = sorted(set(components) - set(known_components(instance)))
    if new:
        instance.add_dynamic_partitions(str(COMPONENTS.name), [component_key(component) for component in new])
    return new


def check_components(instance: dg.DagsterInstance, components: Iterable[str]) -> list[str]:
    """The components, sorted, when each of them has partitions.

    Raises:
        PartitionRejected: one has none; with the nearest names.
    """
    wanted, known = sorted(set(components)), known_components(instance)
    for component in wanted:
        if component not in known:
            raise PartitionRejected(
                f"No component is called {component!r}{nearest(component, known)}",
                remedy="Run the job `discover` if it is new; `efd topics` lists the components.",
            )
    return wanted
