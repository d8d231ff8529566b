"""`efd publish`: tiers and events into InfluxDB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from efd_pipelines.cli.answers import print_facts, print_json, print_table
from efd_pipelines.cli.options import (
    AsJson,
    Components,
    Strict,
    WeekKey,
    check_components,
    example,
    parse_week,
    run_name,
)
from efd_pipelines.cli.progress import Gauge

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.publishing.policy import Publication
    from efd_pipelines.topics.names import Dataset

app = typer.Typer(rich_markup_mode=None, help="Publish tiers and events to InfluxDB.")

To = Annotated[
    list[str] | None,
    typer.Option("--to", metavar="NAME", help="influx_1s, influx_1m or influx_events; all three without."),
]
_FACTS = ("points", "fields", "bytes", "deleted", "unchanged", "rejected", "expired", "crowded", "slices", "datasets")


@app.command("run", epilog=example("efd publish run", "efd publish run MTM1M3 --week 2026-11-16 --to influx_1s --json"))
def run(
    components: Components = None,
    week: WeekKey = None,
    to: To = None,
    again: Annotated[
        bool, typer.Option("--again", help="Write everything that has not run out, whatever is recorded.")
    ] = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Publish what has changed since it was published. Exactly the points that differ are written."""
    from efd_pipelines.publishing.publish import publish
    from efd_pipelines.publishing.server import Influx

    archive, only = _archive(), parse_week(week)
    datasets = _datasets(archive, components)
    facts: dict[str, Any] = dict.fromkeys(_FACTS, 0)
    created: list[str] = []
    seconds = 0.0
    with Influx(archive.settings) as influx:
        for publication in _publications(archive, to):
            with Gauge(f"Publishing {publication.name}", "points") as gauge:
                result = publish(
                    archive,
                    influx,
                    publication.name,
                    datasets,
                    None if only is None else [only.key],
                    run=run_name(),
                    again=again,
                    progress=gauge.step,
                )
            for name in _FACTS:
                facts[name] += getattr(result, name)
            created += result.created
            seconds += result.seconds
    facts |= {"created": created, "seconds": round(seconds, 3)}
    _answer(facts, as_json)
    if strict and facts["rejected"]:
        raise typer.Exit(1)


@app.command("status", epilog=example("efd publish status --to influx_1s", "efd publish status MTM1M3 --count --json"))
def status(
    components: Components = None,
    week: WeekKey = None,
    to: To = None,
    count: Annotated[bool, typer.Option("--count", help="Ask the server how many points it has, and compare.")] = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """List what has been published, by topic and week. With --count, compare it with what the server has."""
    from efd_pipelines.publishing import counts
    from efd_pipelines.publishing.server import Influx

    archive, only = _archive(), parse_week(week)
    datasets, weeks = _datasets(archive, components), None if only is None else [only.key]
    rows: list[dict[str, Any]] = []
    with Influx(archive.settings) as influx:
        for publication in _publications(archive, to):
            found = (
                counts.compare(archive, influx, publication, datasets, weeks)
                if count
                else counts.published(archive, publication, influx.url, datasets, weeks)
            )
            late = set(counts.unpublished(archive, publication, influx.url, datasets))
            rows += [
                {
                    "publication": publication.name,
                    "topic": one.dataset.text,
                    "week": one.week.key,
                    "database": one.database,
                    "points": one.published,
                    "there": one.there,
                    "equal": one.is_equal if count else None,
                    "behind": one.dataset in late,
                }
                for one in found
            ]
    if as_json:
        print_json(rows)
    else:
        print_table(
            "", list(rows[0]) if rows else [], [list(row.values()) for row in rows], empty="Nothing is published."
        )
    if strict and any(row["equal"] is False for row in rows):
        raise typer.Exit(1)


@app.command("rejected", epilog=example("efd publish rejected", "efd publish rejected MTM1M3 --to influx_1s --json"))
def rejected(components: Components = None, to: To = None, strict: Strict = False, as_json: AsJson = False) -> None:
    """List points that InfluxDB rejected, with its reason. They are kept and tried again when their slice changes."""
    from efd_pipelines.publishing import counts
    from efd_pipelines.publishing.server import Influx
    from efd_pipelines.times import from_microseconds

    archive = _archive()
    datasets = _datasets(archive, components)
    rows: list[dict[str, Any]] = []
    with Influx(archive.settings) as influx:
        for publication in _publications(archive, to):
            rows += [
                {
                    "publication": publication.name,
                    "topic": point.dataset.text,
                    "time": from_microseconds(point.time_us),
                    "reason": point.reason,
                    "line": point.line,
                }
                for point in counts.rejected(archive, publication, influx.url, datasets)
            ]
    if as_json:
        print_json(rows)
    else:
        shown = [[row["publication"], row["topic"], row["time"], row["reason"]] for row in rows]
        print_table("", ["publication", "topic", "time", "reason"], shown, empty="Nothing was rejected.")
    if strict and rows:
        raise typer.Exit(1)


@app.command("admin", epilog=example("efd publish admin", "efd publish admin --apply --json"))
def admin(
    apply: Annotated[
        bool, typer.Option("--apply", help="Set the retention of what is there as the configuration says.")
    ] = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Show the server's health and databases. With the retention that each has and should have."""
    from efd_pipelines.publishing import administration
    from efd_pipelines.publishing.server import Influx

    archive = _archive()
    with Influx(archive.settings) as influx:
        found = administration.health(influx)
        if apply:
            administration.apply(archive, influx)
        rows = [
            {
                "database": one.destination.database,
                "retention_policy": one.destination.retention_policy,
                "days": one.retention_days,
                "should_be": should,
                "publication": publication,
                "right": right,
            }
            for one, publication, should, right in administration.compared(archive, influx)
        ]
    document = {
        "url": found.url,
        "version": found.version,
        "healthy": found.is_healthy,
        "message": found.message,
        "stores": rows,
    }
    if as_json:
        print_json(document)
    else:
        print_facts({key: value for key, value in document.items() if key != "stores"})
        print_table(
            "", list(rows[0]) if rows else [], [list(row.values()) for row in rows], empty="It has no databases."
        )
    if strict and not (found.is_healthy and all(row["right"] for row in rows)):
        raise typer.Exit(1)


def _archive() -> Archive:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import load_settings

    return Archive(load_settings())


def _datasets(archive: Archive, components: list[str] | None) -> list[Dataset] | None:
    """The datasets of components; None for all."""
    if not components:
        return None
    datasets = archive.datasets()
    check_components(components, {one.component for one in datasets})
    return [one for one in datasets if one.component in components]


def _publications(archive: Archive, names: list[str] | None) -> list[Publication]:
    from efd_pipelines.publishing.policy import PUBLICATIONS, Publication

    configuration = archive.settings.configuration
    return [Publication.named(name, configuration) for name in names or PUBLICATIONS]


def _answer(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        print_facts({**facts, "created": ", ".join(facts["created"])})
