"""`efd report`: what the engineering data takes to store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efd_pipelines.cli.answers import print_facts, print_json, print_table
from efd_pipelines.cli.options import AsJson, Beginning, End, Strict, WeekKey, example, parse_interval

if TYPE_CHECKING:
    from efd_pipelines.storage.throughput import StorageReport

app = typer.Typer(rich_markup_mode=None, help="What the engineering data takes to store.")

_CHANGES = 10
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
    """Report sizes, rates, and what components could change.

    Of the newest week unless told otherwise. The report is kept in the archive too: Parquet, Markdown and a page with
    charts that opens from a disk. A store that cannot be asked is named in a warning; with --strict that exits 1.
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
        for line in result.notes:
            print(line)
        _print_details(result)
        for file in result.files:
            print(file)
    for line in result.missing:
        print(f"Warning: {line}", file=sys.stderr)
    if strict and result.missing:
        raise typer.Exit(1)


def _print_details(result: StorageReport) -> None:
    details = result.details
    if details is None:
        return
    if details.rates is not None:
        rates = details.rates
        print_facts({"mean MB/s": rates.mean_mb_s, "peak hour MB/s": rates.peak_mb_s, "peak hour": rates.peak_at})
    if details.advice is not None and details.advice.changes:
        print()
        rows = [(one.topic, one.kind, one.tb_year, one.what) for one in details.advice.changes[:_CHANGES]]
        print_table("What could be saved, in TB a year", ("topic", "change", "TB a year", "what"), rows)


def _print_section(result: StorageReport, name: str) -> None:
    frame = result.section(name)
    if len(frame):
        print_table(name.capitalize(), _COLUMNS, frame[list(_COLUMNS)].itertuples(index=False))
        print()
