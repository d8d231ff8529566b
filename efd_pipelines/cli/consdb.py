"""`efd publish consdb`: chosen columns of the 1 s tier into ConsDB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from efd_pipelines.cli.answers import print_facts, print_json, print_table
from efd_pipelines.cli.options import AsJson, Components, WeekKey, check_components, example, parse_week
from efd_pipelines.cli.progress import Gauge

if TYPE_CHECKING:
    from efd_pipelines.publishing.consdb_weeks import HeldWeek

_FACTS = ("rows", "slices", "unchanged", "tables", "dropped", "seconds")


def add_to(app: typer.Typer) -> None:
    """Makes it a command of `efd publish`."""
    app.command(
        "consdb",
        epilog=example("efd publish consdb", "efd publish consdb --drop-before 2026-08-03 --dry-run"),
    )(consdb)


def consdb(
    components: Components = None,
    week: WeekKey = None,
    again: Annotated[bool, typer.Option("--again", help="Write also what is noted as written.")] = False,
    drop_before: Annotated[
        str | None,
        typer.Option("--drop-before", metavar="MONDAY", help="Drop all weeks before this one; write nothing."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which weeks would be dropped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write columns of the 1 s tier to ConsDB, and drop old weeks.

    Which and for how long, `publishing.consdb_1s` of EFD_CONFIG says; what has not changed is left alone.
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.publishing.consdb import ConsdbResult, publish_consdb
    from efd_pipelines.publishing.consdb_weeks import drop_weeks, due_weeks
    from efd_pipelines.settings import load_settings
    from efd_pipelines.times import Week

    archive, only = Archive(load_settings()), parse_week(week)
    before = None if drop_before is None else Week.parse(drop_before)
    if dry_run:
        _print_due(due_weeks(archive, before), as_json)
        return
    if before is not None:
        result = ConsdbResult(dropped=drop_weeks(archive, due_weeks(archive, before), f"asked for: before {before}"))
    else:
        datasets = archive.datasets()
        check_components(components, {dataset.component for dataset in datasets})
        chosen = [one for one in datasets if not components or one.component in components]
        with Gauge("Writing to ConsDB", "slices") as gauge:
            weeks = None if only is None else [only.key]
            result = publish_consdb(archive, chosen, weeks, again=again, progress=gauge.step)
    facts = {name: getattr(result, name) for name in _FACTS} | {"seconds": round(result.seconds, 3)}
    print_json(facts) if as_json else print_facts(facts)


def _print_due(weeks: Sequence[HeldWeek], as_json: bool) -> None:
    """What would go."""
    listed = [{"topic": one.dataset.text, "week": one.week.key, "rows": one.rows} for one in weeks]
    if as_json:
        print_json(listed)
        return
    rows = [list(one.values()) for one in listed]
    print_table("Would be dropped", ["topic", "week", "rows"], rows, empty="Nothing would be dropped.")
