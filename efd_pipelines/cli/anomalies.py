"""`efd report anomalies`: topics that leave their own past, their schedule, or the behaviour of their kind."""

from __future__ import annotations

from typing import Annotated

import typer

from efd_pipelines.cli.answers import print_json, print_table
from efd_pipelines.cli.options import AsJson, example
from efd_pipelines.errors import UsageError

_COLUMNS = ("what", "fault", "day", "surprise")


def add_to(app: typer.Typer) -> None:
    """Makes it a command of `efd report`."""
    app.command(
        "anomalies", epilog=example("efd report anomalies", "efd report anomalies --day 2026-11-21 --strict --json")
    )(anomalies)


def anomalies(
    day: Annotated[str | None, typer.Option("--day", metavar="DATE", help="A UTC day; yesterday without.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 where anything was flagged, or missing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Topics that left what was expected of them on a day.

    The most surprising first; of rates and sizes of records, and of the six days before, too.

    Expected is what their own past, their kind and component on the same half day, day and night apart, let expect.
    """
    from datetime import date

    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.forecasting.anomalies import anomaly_report
    from efd_pipelines.settings import load_settings

    try:
        wanted = None if day is None else date.fromisoformat(day)
    except ValueError:
        raise UsageError(f"{day!r} is no day", remedy="Give it as 2026-11-21.") from None
    report = anomaly_report(Archive(load_settings()), wanted)
    if as_json:
        print_json(report.to_json())
    else:
        both = (*report.anomalies, *report.recent)
        rows = ((one.text, one.fault, one.day, round(one.surprise, 1)) for one in both)
        print_table(
            f"Anomalies of the week up to {report.day}", _COLUMNS, rows, empty="Nothing was flagged in the week."
        )
        missing, moved = (one.text for one in report.outages), (one.text for one in report.components)
        for line in (*missing, *moved, *report.notes, *report.files):
            print(line)
    if strict and (report.anomalies or report.outages):
        raise typer.Exit(1)
