"""`efd export`: a Parquet dataset for Dask, pandas and everyone."""

from __future__ import annotations

from typing import Annotated

import typer

from efd_pipelines.cli.answers import print_facts, print_json, size
from efd_pipelines.cli.options import AsJson, TierName, example
from efd_pipelines.cli.progress import Gauge


def add_to(app: typer.Typer) -> None:
    app.command(
        "export",
        epilog=example(
            "efd export lsst.sal.MTMount.azimuth --from 2026-11-21 --to 2026-11-22 --out azimuth",
            "efd export 'lsst.sal.MTM1M3.*' --from 2026-11-21T02:00 --to 2026-11-21T03:00 --tier 1s --out m1m3",
        ),
    )(export)


def export(
    topics: Annotated[
        list[str], typer.Argument(metavar="TOPIC", help="Datasets, [cluster@]namespace.name, or globs in quotes.")
    ],
    start: Annotated[str, typer.Option("--from", metavar="WHEN", help="From this time on (UTC).")],
    end: Annotated[str, typer.Option("--to", metavar="WHEN", help="Up to this time (UTC), excluded.")],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="A directory, or s3://bucket/prefix.")],
    fields: Annotated[
        list[str] | None,
        typer.Option("--fields", metavar="NAME,...", help="Only these fields, arrays by their name; repeatable."),
    ] = None,
    tier: TierName = "raw",
    as_json: AsJson = False,
) -> None:
    """Write topics of a time range as a Parquet dataset.

    It is sorted by time, and `dask.dataframe.read_parquet`, pandas, Polars and DuckDB open it as it lies.
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.exports.export import export as write
    from efd_pipelines.settings import load_settings
    from efd_pipelines.times import parse_time

    archive = Archive(load_settings())
    names = [name for entry in fields or () for name in entry.split(",") if name]
    with Gauge("Exporting", "rows") as gauge:
        result = write(
            archive,
            topics,
            parse_time(start),
            parse_time(end),
            fields=names or None,
            tier=tier,
            out=out,
            progress=gauge.step,
        )
    if as_json:
        print_json(result.to_json())
        return
    print_facts(
        {
            "rows": result.rows,
            "size": size(result.bytes),
            "files": result.files,
            "manifest": result.manifest,
            "made": "now" if result.made else "before: the archive has nothing newer for it",
        }
    )
    for line in (*result.directories, *result.notes):
        print(line)
