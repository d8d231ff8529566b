"""`efd archive restore`: records of the archive back to InfluxDB, files of line protocol or Kafka."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from efd_pipelines.cli.answers import print_facts, print_json, print_table, size
from efd_pipelines.cli.backfill import parse_weeks
from efd_pipelines.cli.options import AsJson, check_components, example
from efd_pipelines.cli.progress import Gauge

if TYPE_CHECKING:
    from efd_pipelines.restoring.asked import Asked
    from efd_pipelines.restoring.restore import Estimate, RestoreResult

_FACTS = ("topics", "rows", "before", "left_out", "values", "bytes", "portions", "seconds")
_ESTIMATE = ("topics", "portions", "rows", "quarantined", "dead", "values", "bytes", "hours")
_WEEK = ("topic", "week", "archived", "restored", "before", "left_out", "expected", "counted")


def add_to(app: typer.Typer) -> None:
    """Makes it a command of `efd archive`."""
    app.command(
        "restore",
        epilog=example(
            "efd archive restore MTMount --weeks 2026-11-02..2026-11-16 --to influx --dry-run",
            "efd archive restore MTMount --weeks 2026-11-16 --to influx --database efd",
            "efd archive restore MTMount --weeks 2026-11-16 --to kafka --prefix restored.",
            "efd archive restore MTMount --weeks 2026-11-16 --to lines --out lines --json",
        ),
    )(restore)


def restore(
    component: Annotated[str, typer.Argument(metavar="COMPONENT", help="The component, e.g. MTMount.")],
    weeks: Annotated[str, typer.Option(metavar="A..B", help="Mondays of the first and the last week; or one.")],
    to: Annotated[str, typer.Option("--to", metavar="influx|lines|kafka", help="Where to.")],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="With `lines`: the directory.")] = "",
    database: Annotated[
        str, typer.Option(metavar="NAME", help="With `influx` and `lines`; `efd`, or a namespace, without.")
    ] = "",
    prefix: Annotated[
        str | None,
        typer.Option(metavar="PREFIX", help="With `kafka`: other topics, e.g. `restored.`; the same ones without."),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="FIELD", help="A field that is a tag; repeatable. SAL has none."),
    ] = None,
    history: Annotated[
        bool, typer.Option("--with-history", help="With `kafka`: also rows that came from InfluxDB.")
    ] = False,
    values_s: Annotated[
        float | None, typer.Option("--values-s", metavar="N", help="At most so many values a second (1,000,000).")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also what is known to have been restored.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much there is.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give archived records back to where they were lost. What is done is passed over; the counts are compared."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.restoring.asked import VALUES_S, Asked, target_of
    from efd_pipelines.restoring.restore import estimate, planned
    from efd_pipelines.restoring.restore import restore as give_back
    from efd_pipelines.settings import load_settings

    settings = load_settings()
    archive = Archive(settings)
    asked = Asked(
        component,
        tuple(parse_weeks(weeks)),
        to,
        out=out,
        database=database,
        prefix=prefix,
        tags=tuple(tag or ()),
        with_history=history,
        values_s=VALUES_S if values_s is None else values_s,
    )
    asked.check()
    check_components([component], {dataset.component for dataset in archive.datasets()})
    with target_of(asked, archive, settings) as target:
        portions = planned(archive, component, asked.weeks, target)
        if dry_run:
            _print_estimate(asked, estimate(portions, asked.values_s), as_json)
            return
        with Gauge(f"Restoring {component}", "rows") as gauge:
            result = give_back(portions, target, again=again, progress=gauge.step)
    _print(asked, result, as_json)
    if not result.ok:
        raise typer.Exit(1)


def _what(asked: Asked) -> dict[str, Any]:
    return {"component": asked.component, "weeks": [asked.weeks[0].key, asked.weeks[-1].key], "to": asked.to}


def _print_estimate(asked: Asked, found: Estimate, as_json: bool) -> None:
    facts = {**_what(asked), **{name: getattr(found, name) for name in _ESTIMATE}}
    if as_json:
        print_json(facts)
        return
    print_facts({**facts, "weeks": "..".join(facts["weeks"]), "bytes": size(found.bytes)})


def _print(asked: Asked, result: RestoreResult, as_json: bool) -> None:
    facts = {**_what(asked), **{name: getattr(result, name) for name in _FACTS}}
    facts["seconds"] = round(result.seconds, 3)
    rows = [{name: getattr(week, name) for name in _WEEK} | {"whole": week.is_whole} for week in result.weeks]
    if as_json:
        print_json({**facts, "ok": result.ok, "counts": rows, "notes": result.notes})
        return
    print_facts({**facts, "weeks": "..".join(facts["weeks"]), "bytes": size(result.bytes)})
    columns = [*_WEEK, "whole"]
    print_table("\nCounts", columns, [[row[name] for name in columns] for row in rows], empty="Nothing to restore.")
    for note in result.notes:
        print(note)
    if not result.ok:
        typer.echo(
            "The counts differ. Run it again with --again, which also gives back what is known to be there.", err=True
        )
