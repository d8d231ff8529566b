"""`efd archive quarantine` and `efd archive release`: rows whose time cannot be, and their way home."""

from __future__ import annotations

from typing import Annotated

import typer

from efd_pipelines.cli.answers import plain, print_facts, print_json, print_table
from efd_pipelines.cli.options import AsJson, Strict, example, parse_interval, run_name

Datasets = Annotated[
    list[str] | None,
    typer.Argument(metavar="TOPIC", help="Only these datasets, [cluster@]namespace.name; all without."),
]


def add_to(app: typer.Typer) -> None:
    """Makes them commands of `efd archive`."""
    app.command("quarantine", epilog=example("efd archive quarantine", "efd archive quarantine --strict --json"))(
        quarantine
    )
    app.command(
        "release",
        epilog=example(
            "efd archive release lsst.sal.ESS.temperature --clock-error 86400 --dry-run",
            "efd archive release lsst.sal.ESS.temperature --clock-error -1700000000.5 --identity ESS:301",
        ),
    )(release)


def quarantine(topics: Datasets = None, strict: Strict = False, as_json: AsJson = False) -> None:
    """List rows whose time cannot be. By topic, writer and cause, with how far the clock seems to have been off."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.quarantine import quarantined
    from efd_pipelines.settings import load_settings
    from efd_pipelines.topics.names import Dataset

    datasets = [Dataset.parse(text) for text in topics] if topics else None
    found = plain(quarantined(Archive(load_settings()), datasets))
    if as_json:
        print_json(found)
    else:
        names = list(found[0]) if found else []
        print_table("", names, [list(row.values()) for row in found], empty="Nothing is in quarantine.")
    if strict and found:
        raise typer.Exit(1)


def release(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="[cluster@]namespace.name")],
    clock_error: Annotated[
        float, typer.Option(metavar="SECONDS", help="By how much the clock was ahead; negative: behind.")
    ],
    identity: Annotated[str | None, typer.Option(help="Only of this writer (private_identity).")] = None,
    origin: Annotated[int | None, typer.Option(help="Only of this process (private_origin).")] = None,
    index: Annotated[int | None, typer.Option(help="Only of this salIndex.")] = None,
    received_from: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Only what Kafka received from this time on (UTC).")
    ] = None,
    received_before: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Only what Kafka received before this time (UTC).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say where the rows would be.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring rows home from quarantine. Once the clock error is known.

    `time` is corrected and `archive_clock_error` keeps by how much; what was sent stays as it was sent.
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.quarantine import Choice
    from efd_pipelines.archive.quarantine import release as bring_home
    from efd_pipelines.settings import load_settings
    from efd_pipelines.topics.names import Dataset

    begins, ends = parse_interval(received_from, received_before)
    result = bring_home(
        Archive(load_settings()),
        Dataset.parse(topic),
        round(clock_error * 1e6),
        Choice(identity, origin, index, begins, ends),
        dry_run=dry_run,
        run=run_name(),
    )
    facts = {name: getattr(result, name) for name in ("rows", "stayed", "others", "commits")}
    facts["seconds"] = round(result.seconds, 3)
    if as_json:
        print_json({**facts, "weeks": result.weeks})
        return
    print_facts(facts)
    rows = sorted(result.weeks.items())
    print_table("\nWould be in" if dry_run else "\nAre in", ["week", "rows"], rows, empty="No row moves.")
