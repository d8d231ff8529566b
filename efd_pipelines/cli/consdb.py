"""`efd publish consdb`: chosen columns of the 1 s tier into ConsDB."""

from __future__ import annotations

from typing import Annotated

import typer

from efd_pipelines.cli.answers import print_facts, print_json
from efd_pipelines.cli.options import AsJson, Components, WeekKey, check_components, example, parse_week
from efd_pipelines.cli.progress import Gauge

_FACTS = ("rows", "slices", "unchanged", "tables", "dropped", "seconds")


def add_to(app: typer.Typer) -> None:
    """Makes it a command of `efd publish`."""
    app.command(
        "consdb",
        epilog=example("efd publish consdb", "efd publish consdb --drop-before 2026-08-03 --json"),
    )(consdb)


def consdb(
    components: Components = None,
    week: WeekKey = None,
    again: Annotated[bool, typer.Option("--again", help="Write also what is noted as written.")] = False,
    drop_before: Annotated[
        str | None,
        typer.Option("--drop-before", metavar="MONDAY", help="Drop all weeks before this one; write nothing."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write chosen columns of the 1 s tier to ConsDB.

    Which, `publishing.consdb_1s` of EFD_CONFIG says; what has not changed is left alone.
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.publishing.consdb import ConsdbResult, expire, publish_consdb
    from efd_pipelines.settings import load_settings
    from efd_pipelines.times import Week

    archive, only = Archive(load_settings()), parse_week(week)
    if drop_before is not None:
        result = ConsdbResult(dropped=expire(archive, Week.parse(drop_before)))
    else:
        datasets = archive.datasets()
        check_components(components, {dataset.component for dataset in datasets})
        chosen = [one for one in datasets if not components or one.component in components]
        with Gauge("Writing to ConsDB", "slices") as gauge:
            weeks = None if only is None else [only.key]
            result = publish_consdb(archive, chosen, weeks, again=again, progress=gauge.step)
    facts = {name: getattr(result, name) for name in _FACTS} | {"seconds": round(result.seconds, 3)}
    print_json(facts) if as_json else print_facts(facts)
