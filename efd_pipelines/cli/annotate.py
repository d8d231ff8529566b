"""`efd annotate`: what happened at the observatory, shown on the charts of the storage report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efd_pipelines.cli.answers import print_facts, print_json, print_table
from efd_pipelines.cli.options import AsJson, example, parse_when
from efd_pipelines.errors import UsageError

if TYPE_CHECKING:
    from efd_pipelines.storage.annotations import Annotation


def add_to(app: typer.Typer) -> None:
    """Puts the command beside the others."""
    app.command(
        "annotate",
        epilog=example(
            'efd annotate "Mirror washed" --at 2026-11-16T12:00 --until 2026-11-17 --topics "lsst.sal.MTM1M3.*"',
            "efd annotate --import chronograf.lp",
            "efd annotate --list",
        ),
    )(annotate)


def annotate(
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="What happened.")] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="WHEN", help="When (UTC).")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="WHEN", help="Until when (UTC).")] = None,
    topics: Annotated[list[str] | None, typer.Option("--topics", metavar="GLOB", help="Which datasets; all.")] = None,
    imported: Annotated[
        Path | None,
        typer.Option("--import", metavar="FILE", help="A YAML file, or line protocol of Chronograf's database."),
    ] = None,
    removed: Annotated[str | None, typer.Option("--remove", metavar="KEY", help="Take one away again.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show all, with their keys.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add, import or show what happened, for the charts.

    Annotations are kept in the archive, beside those of the file that the configuration names (reports.annotations).
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import load_settings
    from efd_pipelines.storage import annotations as domain

    if sum(one is not None for one in (text, imported, removed)) + listed != 1:
        raise UsageError("One thing at a time", remedy="Give TEXT with --at, or --import, --remove or --list.")
    archive = Archive(load_settings())
    if listed:
        _show(domain.all_annotations(archive), as_json)
        return
    if removed is not None:
        domain.remove(archive, removed)
    new = domain.read_annotations(imported) if imported is not None else []
    if text is not None:
        begins, ends = parse_when(at), parse_when(until)
        if begins is None:
            raise UsageError("When did it happen?", remedy="Give --at, e.g. --at 2026-11-16T12:00.")
        if ends is not None and ends < begins:
            raise UsageError("It ends before it begins", remedy="Give --until a time after --at.")
        new = [domain.Annotation(begins, ends or begins, text, tuple(topics or ()), "efd annotate")]
    answer = {"read": len(new), "added": domain.add(archive, new), "removed": int(removed is not None)}
    print_json(answer) if as_json else print_facts(answer)


def _show(rows: list[Annotation], as_json: bool) -> None:
    if as_json:
        print_json([{"key": one.key, **one.as_dict()} for one in rows])
        return
    columns = ("key", "at", "until", "text", "topics", "source")
    cells = [(one.key, one.at, one.until, one.text, " ".join(one.topics), one.source) for one in rows]
    print_table("", columns, cells, empty="No annotations.")
