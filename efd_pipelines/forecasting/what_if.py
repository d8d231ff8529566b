"""What if: other assumptions for one question, as `--reduce MTM1M3=0.5 --replication 4 --retention raw=30d` asks it.

What belongs here: reading such questions, refusing those that cannot be, and changing assumptions and streams
accordingly. The arithmetic: `growth.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from efd_pipelines.configuration import Growth
from efd_pipelines.errors import UsageError
from efd_pipelines.forecasting.growth import RAW, Stream, kept, reduced
from efd_pipelines.tiers.tier import TIERS
from efd_pipelines.topics.names import nearest

LEVELS = (RAW, *TIERS)
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(d|w|m|y)")
_DAYS = {"d": 1.0, "w": 7.0, "m": 365.25 / 12, "y": 365.25}
_SCALARS = (
    "base_year",
    "last_year",
    "stored_tb",
    "margin_tb",
    "replication_factor",
    "data_nodes",
    "disk_tb",
    "duty_cycle",
    "weeks_per_year",
    "round_up_tb",
    "split_below_tb",
)


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What is asked to be otherwise. `reduce`: by component, the part (0 to 1) that it no longer sends; `retention`:
    by level, for how many days telemetry is kept; `assume`: assumptions by name."""

    reduce: Mapping[str, float] = field(default_factory=dict)
    retention: Mapping[str, float] = field(default_factory=dict)
    assume: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.reduce or self.retention or self.assume)

    def assumptions(self, given: Growth) -> Growth:
        """The assumptions with what is asked.

        Raises:
            UsageError: there is no such assumption, or it cannot have that value.
        """
        for name in self.assume:
            if name not in _SCALARS:
                raise UsageError(
                    f"No assumption is called {name!r}{nearest(name, _SCALARS)}",
                    remedy=f"There are {', '.join(_SCALARS)}; the rest is in the configuration (growth).",
                )
        try:
            return Growth.model_validate(given.model_dump() | dict(self.assume))
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise UsageError(f"The assumption {where}: {problem['msg']}", remedy="Give a value that can be.") from error

    def check(self, components: Collection[str]) -> None:
        """Refuses to reduce what nobody knows: a misspelt component would be an answer to another question.

        Raises:
            UsageError: with the nearest names.
        """
        for name in self.reduce:
            if name not in components:
                raise UsageError(
                    f"{name!r} sends nothing{nearest(name, components)}", remedy="Name a component that does."
                )

    def streams(self, given: Sequence[Stream]) -> tuple[Stream, ...]:
        """The streams with what is asked."""
        return kept(reduced(given, self.reduce), self.retention)

    def in_words(self) -> list[str]:
        """What is asked, for the report."""
        lines = [f"{name} sends {100 * part:g} % less" for name, part in self.reduce.items()]
        lines += [f"telemetry of level {level} is kept for {days:g} days" for level, days in self.retention.items()]
        return lines + [f"{name} = {value}" for name, value in self.assume.items()]


def parse_what_if(
    reduce: Sequence[str] = (),
    retention: Sequence[str] = (),
    assume: Sequence[str] = (),
    replication: int | None = None,
) -> WhatIf:
    """What options say: `MTM1M3=0.5`, `raw=30d`, `margin_tb=20`.

    Raises:
        UsageError: one of them is of no such form.
    """
    assumed = dict(_pair(text, "assume", "margin_tb=20") for text in assume)
    if replication is not None:
        assumed["replication_factor"] = str(replication)
    return WhatIf(
        reduce=dict(_reduction(text) for text in reduce),
        retention=dict(pair for text in retention for pair in _retention(text)),
        assume=assumed,
    )


def _pair(text: str, option: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UsageError(f"--{option} {text} says nothing", remedy=f"Give it as --{option} {example}.")
    return name.strip(), value.strip()


def _reduction(text: str) -> tuple[str, float]:
    name, value = _pair(text, "reduce", "MTM1M3=0.5")
    try:
        part = float(value)
    except ValueError:
        part = -1.0
    if not 0 <= part <= 1:
        raise UsageError(f"--reduce {text}: {value} is no part between 0 and 1", remedy="0.5 is half as much.")
    return name, part


def _retention(text: str) -> list[tuple[str, float]]:
    found = []
    for one in text.split(","):
        level, value = _pair(one, "retention", "raw=30d")
        if level not in LEVELS:
            raise UsageError(f"There is no level {level!r}", remedy=f"Levels are {', '.join(LEVELS)}.")
        span = _SPAN.fullmatch(value)
        if span is None:
            raise UsageError(f"{value!r} is no time to keep for", remedy="Give it as 30d, 4w, 3m or 1y.")
        found.append((level, float(span[1]) * _DAYS[span[2]]))
    return found


def assumptions_of(growth: Growth) -> dict[str, Any]:
    """Every assumption by its name, as the report lists them."""
    return growth.model_dump(mode="json")
