"""`efd export`: a Parquet dataset for Dask, pandas and everyone; `efd exports`: those that there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from efd_pipelines.cli.answers import duration, print_facts, print_json, print_table, size
from efd_pipelines.cli.options import AsJson, example
from efd_pipelines.cli.progress import Gauge

if TYPE_CHECKING:
    from efd_pipelines.exports.estimate import Estimate
    from efd_pipelines.exports.export import ExportResult

app = typer.Typer(no_args_is_help=True, help="Exports that there are, and those that the configuration asks for.")

Places = Annotated[
    list[str] | None,
    typer.Argument(metavar="PLACE", help="Directories or prefixes with exports; the configured ones' without."),
]


def add_to(root: typer.Typer) -> None:
    root.command(
        "export",
        epilog=example(
            "efd export lsst.sal.MTMount.azimuth --from 2026-11-21 --to 2026-11-22 --out azimuth",
            "efd export 'lsst.sal.MTM1M3.*' --day-obs 20261121 --tier 1s --arrays list --out m1m3 --estimate",
            "efd export lsst.sal.ESS.temperature --day-obs 20261121 --visits lsstcam --time-scale both --out visits",
        ),
    )(export)
    root.add_typer(app, name="exports")


def export(
    topics: Annotated[
        list[str], typer.Argument(metavar="TOPIC", help="Datasets, [cluster@]namespace.name, or globs in quotes.")
    ],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="A directory, or s3://bucket/prefix.")],
    start: Annotated[str | None, typer.Option("--from", metavar="WHEN", help="From this time on (UTC).")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="WHEN", help="Up to this time (UTC), excluded.")] = None,
    day_obs: Annotated[
        str | None, typer.Option("--day-obs", metavar="D[..D]", help="Observing days, as 20261121, instead of times.")
    ] = None,
    exposures: Annotated[
        str | None,
        typer.Option("--exposures", metavar="INSTRUMENT[:N[..N]]", help="Only what was sent during exposures."),
    ] = None,
    visits: Annotated[
        str | None, typer.Option("--visits", metavar="INSTRUMENT[:N[..N]]", help="Only what was sent during visits.")
    ] = None,
    padding: Annotated[
        float, typer.Option("--padding", metavar="SECONDS", help="More on both sides of each exposure.")
    ] = 0.0,
    fields: Annotated[
        list[str] | None,
        typer.Option("--fields", metavar="NAME,...", help="Only these fields, arrays by their name; repeatable."),
    ] = None,
    tier: Annotated[
        str, typer.Option("--tier", metavar="raw|1s|1m|1h", help="The records, or their summaries.")
    ] = "raw",
    resample: Annotated[
        str | None,
        typer.Option("--resample", metavar="WINDOW", help="Summaries in windows as 10s or 5min, instead of a tier."),
    ] = None,
    arrays: Annotated[
        str,
        typer.Option("--arrays", metavar="archived|flat|list", help="Arrays as they are, a column an element, lists."),
    ] = "archived",
    time_scale: Annotated[
        str, typer.Option("--time-scale", metavar="utc|tai|both", help="Column `time` in UTC, `tai_time` in TAI.")
    ] = "utc",
    limit: Annotated[
        str, typer.Option("--limit", metavar="SIZE", help="Refuse an export larger than this; `none` for no limit.")
    ] = "100GB",
    keep: Annotated[
        float | None, typer.Option("--keep", metavar="DAYS", help="After which `efd exports expire` may remove it.")
    ] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Only say how large it would be.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write topics of a time range as a Parquet dataset.

    It is sorted by time, and `dask.dataframe.read_parquet`, pandas, Polars and DuckDB open it as it lies. All of it
    appears at once; what was interrupted goes on when it is called again.
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.exports.export import foresee, make
    from efd_pipelines.exports.request import Request
    from efd_pipelines.settings import load_settings

    archive = Archive(load_settings())
    names = [name for entry in fields or () for name in entry.split(",") if name]
    request = Request.of(
        topics,
        start,
        end,
        names or None,
        tier,
        resample=resample,
        arrays=arrays,
        time_scale=time_scale,
        day_obs=day_obs,
        exposures=exposures,
        visits=visits,
        padding_s=padding,
    )
    limit_bytes = parse_size(limit)
    if estimate:
        _print_estimate(foresee(archive, request), as_json)
        return
    with Gauge("Exporting", "rows") as gauge:
        result = make(archive, request, out, limit_bytes=limit_bytes, keep_days=keep, progress=gauge.step)
    print_json(result.to_json()) if as_json else _print_result(result)


def parse_size(text: str) -> int | None:
    """Bytes of a size as `500MB` or `2TB`; None of `none`.

    Raises:
        UsageError: it is none.
    """
    import re

    from efd_pipelines.errors import UsageError

    if text.lower() == "none":
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", text, re.IGNORECASE)
    if found is None:
        raise UsageError(f"{text!r} is no size", remedy="Write it as 500MB, 20GB or 1.5TB, or `none`.")
    return round(float(found[1]) * 1000.0 ** " kmgt".index(found[2].lower() or " "))


@app.command("run", epilog=example("efd exports run", "efd exports run m1m3 --at 2026-11-22T15:00"))
def run(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Only these; all without.")] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="WHEN", help="Of the last whole period before this time (UTC).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the exports that the configuration asks for.

    They are in the section `exports` of EFD_CONFIG, each of its last whole period. What was kept for long enough goes.
    """
    from datetime import UTC, datetime

    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.cli.options import parse_when
    from efd_pipelines.exports import requested
    from efd_pipelines.settings import load_settings

    archive = Archive(load_settings())
    when = parse_when(at) or datetime.now(UTC)
    done = []
    with Gauge("Exporting", "rows") as gauge:
        for asked in requested.named(archive.settings.configuration.exports, names or []):
            done.append(requested.run(archive, asked, when, progress=gauge.step))
    if as_json:
        print_json(
            [
                {
                    "name": one.name,
                    "period": one.period,
                    **one.result.to_json(),
                    "removed": [of.place for of in one.expired],
                }
                for one in done
            ]
        )
        return
    rows = [
        (one.name, one.period, one.result.rows, size(one.result.bytes), one.result.made, one.result.manifest)
        for one in done
    ]
    print_table("", ["name", "period", "rows", "size", "made now", "manifest"], rows, empty="EFD_CONFIG asks for none.")


@app.command("list", epilog=example("efd exports list", "efd exports list /exports --json"))
def list_exports(places: Places = None, as_json: AsJson = False) -> None:
    """The exports in some places.

    When they were made, how large they are, and until when they are kept.
    """
    from efd_pipelines.exports.expiry import exports_in
    from efd_pipelines.settings import load_settings

    settings = load_settings()
    found = [one for place in _places(places) for one in exports_in(settings, place)]
    columns = ("place", "made_at", "expires_at", "topics", "rows", "bytes")
    if as_json:
        print_json([{name: getattr(one, name) for name in columns} for one in found])
        return
    print_table("", columns, [[getattr(one, name) for name in columns] for one in found], empty="No exports.")


@app.command("expire", epilog=example("efd exports expire --dry-run", "efd exports expire /exports"))
def expire(
    places: Places = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove exports whose time is over.

    And what exports that were never finished left a week ago. Only what a manifest names is removed.
    """
    from efd_pipelines.exports.expiry import expire as remove
    from efd_pipelines.settings import load_settings

    gone = remove(load_settings(), _places(places), dry_run=dry_run)
    if as_json:
        print_json({"removed": [] if dry_run else gone, "due": gone})
        return
    rows = [(one.place, one.why, size(one.bytes)) for one in gone]
    print_table("", ["would be removed" if dry_run else "removed", "why", "size"], rows, empty="Nothing is due.")


@app.command("check", epilog=example("efd exports check azimuth --deep"))
def check(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="The directory or prefix of one export.")],
    deep: Annotated[bool, typer.Option("--deep", help="Compare every byte, by SHA-256.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare an export with its manifest; exit 1 where it differs."""
    from efd_pipelines.exports.checking import check as compare
    from efd_pipelines.settings import load_settings

    found = compare(load_settings(), place, deep=deep)
    if as_json:
        print_json(found)
    else:
        print_facts({"place": found.place, "files": found.files, "size": size(found.bytes), "as it was made": found.ok})
        for problem in found.problems:
            print(problem)
    if not found.ok:
        raise typer.Exit(1)


def _places(given: list[str] | None) -> list[str]:
    from efd_pipelines.settings import load_settings

    return given or sorted({one.parent for one in load_settings().configuration.exports})


def _print_estimate(found: Estimate, as_json: bool) -> None:
    if as_json:
        print_json(found.to_json())
        return
    print_facts(
        {
            "rows, about": found.rows,
            "size": size(found.bytes),
            "in memory": size(found.memory_bytes),
            "files": found.files,
            "topics": found.topics,
            "takes": duration(found.seconds),
        }
    )


def _print_result(result: ExportResult) -> None:
    print_facts(
        {
            "rows": result.rows,
            "size": size(result.bytes),
            "files": result.files,
            "manifest": result.manifest,
            "made": "now" if result.made else "before: the archive has nothing newer for it",
            **({"kept until": result.expires_at} if result.expires_at else {}),
        }
    )
    for line in (*result.directories, *result.notes):
        print(line)
