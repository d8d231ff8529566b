"""`efd report`: what the engineering data takes to store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efd_pipelines.cli.answers import print_facts, print_json, print_table
from efd_pipelines.cli.options import AsJson, Beginning, End, Strict, WeekKey, example, parse_interval

if TYPE_CHECKING:
    from efd_pipelines.storage.throughput import StorageReport

app = typer.Typer(rich_markup_mode=None, help="What the engineering data takes to store.")

_COLUMNS = ("csc", "size_mb", "percent", "rows", "messages", "parquet_mb")


@app.callback()
def report() -> None:
    """What the engineering data takes to store."""


@app.command(
    "storage",
    epilog=example("efd report storage --week 2026-11-16", "efd report storage --sizes ../shared/seed_tables --json"),
)
def storage(
    week: WeekKey = None,
    start: Beginning = None,
    end: End = None,
    sizes: Annotated[
        Path | None,
        typer.Option(
            "--sizes",
            metavar="DIR",
            help="Published sizes (table4_telemetry_topics.csv, table5_event_topics.csv) instead of live ones.",
        ),
    ] = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Report sizes per component and topic.

    Of the newest week unless told otherwise. The report is kept in the archive too, as Parquet, Markdown and a chart.
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import load_settings
    from efd_pipelines.storage.throughput import SECTIONS, storage_report

    begins, ends = parse_interval(start, end)
    result = storage_report(Archive(load_settings()), week, begins, ends, sizes)
    if as_json:
        print_json(result.to_json())
    else:
        for name in SECTIONS:
            _print_section(result, name)
        print_facts({"total MB": result.total_mb, "of": result.measure.value})
        for line in (*result.missing, *result.notes):
            print(line)
        for file in result.files:
            print(file)
    if strict and result.missing:
        raise typer.Exit(1)


def _print_section(result: StorageReport, name: str) -> None:
    frame = result.section(name)
    if len(frame):
        print_table(name.capitalize(), _COLUMNS, frame[list(_COLUMNS)].itertuples(index=False))
        print()
