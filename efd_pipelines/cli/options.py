"""Options: what several commands take, spelt and explained once."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from efd_pipelines.errors import UsageError

if TYPE_CHECKING:
    from efd_pipelines.times import Week

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit 1 where something was set aside or is missing.")]
WeekKey = Annotated[str | None, typer.Option("--week", metavar="MONDAY", help="The week that begins on this Monday.")]
Beginning = Annotated[
    str | None, typer.Option("--from", metavar="WHEN", help="From this time on (UTC), e.g. 2026-11-21T23:36:14.")
]
End = Annotated[str | None, typer.Option("--to", metavar="WHEN", help="Up to this time (UTC), excluded.")]
Components = Annotated[
    list[str] | None, typer.Argument(metavar="COMPONENT", help="Only these components, e.g. MTM1M3; all without.")
]
TierName = Annotated[str, typer.Option("--tier", metavar="raw|1s", help="The records, or their summaries.")]


def example(*lines: str) -> str:
    """The end of a command's help: how it is called. `\\b` keeps the lines as they are."""
    return "\b\n" + "\n".join(["Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])


def parse_when(text: str | None) -> datetime | None:
    """The time of an option that may be absent."""
    from efd_pipelines.times import parse_time

    return None if text is None else parse_time(text)


def parse_week(text: str | None) -> Week | None:
    """The week of an option that may be absent."""
    from efd_pipelines.times import Week

    return None if text is None else Week.parse(text)


def parse_interval(start: str | None, end: str | None) -> tuple[datetime | None, datetime | None]:
    """The times of --from and --to.

    Raises:
        UsageError: one is no time, or the end is not after the beginning.
    """
    begins, ends = parse_when(start), parse_when(end)
    if begins is not None and ends is not None and ends <= begins:
        raise UsageError(f"--to {end} is not after --from {start}", remedy="Give the earlier time to --from.")
    return begins, ends


def check_components(given: Iterable[str] | None, known: Iterable[str]) -> None:
    """Refuses components that are not known: a misspelt one would be an empty answer.

    Raises:
        UsageError: with the nearest names.
    """
    from efd_pipelines.topics.names import nearest

    there = set(known)
    for name in given or ():
        if name not in there:
            raise UsageError(
                f"No component is called {name!r}{nearest(name, there)}", remedy="`efd topics` lists them."
            )


def run_name() -> str:
    """What the ledger calls this call of the command line."""
    return f"cli-{datetime.now(UTC):%Y%m%dT%H%M%S}"
