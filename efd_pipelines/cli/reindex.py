"""`efd archive reindex`: the ledger made anew from the tables."""

from __future__ import annotations

import typer

from efd_pipelines.cli.answers import plain, print_facts, print_json, print_table
from efd_pipelines.cli.options import AsJson, example
from efd_pipelines.cli.progress import Gauge

_FACTS = ("tables", "commits", "rows", "changed", "dropped")


def add_to(app: typer.Typer) -> None:
    """Makes it a command of `efd archive`."""
    app.command("reindex", epilog=example("efd archive reindex", "efd archive reindex --json"))(reindex)


def reindex(as_json: AsJson = False) -> None:
    """Make the ledger anew from the tables.

    For when it is lost, or `efd archive verify` says that it lies.
    Exit 1 where a table could not be read; what the old ledger said of it stays.
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.reindex import reindex as made_anew
    from efd_pipelines.settings import load_settings

    archive = Archive(load_settings())
    with Gauge("Reindexing", "tables") as gauge:
        result = made_anew(archive, progress=gauge.part)
    facts = {**{name: getattr(result, name) for name in _FACTS}, "seconds": round(result.seconds, 3)}
    if as_json:
        print_json({**facts, "problems": result.problems})
    else:
        print_facts(facts)
        if result.problems:
            rows = plain(result.problems)
            print_table("\nProblems", list(rows[0]), [list(row.values()) for row in rows])
    if result.problems:
        raise typer.Exit(1)
