"""Tiers: which windows there are, and which datasets are summarised at them.

The rate is the declared one, a policy of the configuration, so that a topic does not flip between summarised and
passed through when its measured rate wavers (design.md §6). What is not summarised, readers take from the archive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.configuration import Configuration
from efd_pipelines.errors import UsageError
from efd_pipelines.topics.names import Dataset, Kind


@dataclass(frozen=True, slots=True)
class Tier:
    """A summary at a fixed window; its tables are rewritten in slices of `unit`."""

    name: str
    window_us: int
    unit: SliceUnit

    @property
    def window_s(self) -> float:
        return self.window_us / 1e6

    def __str__(self) -> str:
        return self.name


TIERS: Mapping[str, Tier] = {
    "1s": Tier("1s", 1_000_000, SliceUnit.HOUR),
    "1m": Tier("1m", 60_000_000, SliceUnit.DAY),
    "1h": Tier("1h", 3_600_000_000, SliceUnit.WEEK),
}


def tier_named(name: str) -> Tier:
    """The tier of a name.

    Raises:
        UsageError: there is none of that name.
    """
    try:
        return TIERS[name]
    except KeyError:
        raise UsageError(f"There is no tier {name!r}", remedy=f"The tiers are {', '.join(TIERS)}.") from None


def aggregated(dataset: Dataset, configuration: Configuration, tier: Tier) -> bool:
    """Whether the dataset has this tier: telemetry that is declared to be faster than the window.

    Slower telemetry, events, commands, acks and metrics are never aggregated.
    """
    return dataset.kind is Kind.TELEMETRY and configuration.rate_hz(dataset) * tier.window_s > 1.0
