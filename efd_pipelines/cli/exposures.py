"""`efd exposures`: the telemetry of each exposure, into the Consolidated Database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from efd_pipelines.cli.answers import print_facts, print_json, print_table
from efd_pipelines.cli.options import AsJson, Beginning, End, Strict, example, parse_interval, run_name
from efd_pipelines.cli.progress import Gauge
from efd_pipelines.errors import UsageError

if TYPE_CHECKING:
    from efd_pipelines.exposures.checking import KnownTopics
    from efd_pipelines.settings import Settings

app = typer.Typer(rich_markup_mode=None, help="Join telemetry to exposures, into ConsDB.")

Config = Annotated[
    str,
    typer.Argument(metavar="CONFIG", help="An instrument, as lsstcam, or a transformation configuration's file."),
]


@app.command(
    "run",
    epilog=example(
        "efd exposures run lsstcam --day-obs 20261121",
        "efd exposures run config_lsstcam.yaml --from 2026-11-21 --to 2026-11-22 --json",
    ),
)
def run(
    config: Config,
    day_obs: Annotated[
        int | None, typer.Option("--day-obs", metavar="YYYYMMDD", help="The exposures of this observing day.")
    ] = None,
    start: Beginning = None,
    end: End = None,
    recompute: Annotated[bool, typer.Option("--recompute", help="Also exposures whose values are up to date.")] = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Compute the values of exposures and write them to ConsDB.

    Only those whose telemetry is new or has changed since they were computed.
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.exposures.configuration import find_join
    from efd_pipelines.exposures.joins import join_exposures
    from efd_pipelines.settings import load_settings

    settings = load_settings()
    begins, ends = parse_interval(start, end)
    if day_obs is not None and (begins or ends):
        raise UsageError("Both an observing day and times are given", remedy="Give --day-obs, or --from and --to.")
    with Gauge("Joining", "topics") as gauge:
        result = join_exposures(
            Archive(settings),
            settings,
            find_join(settings, config),
            day_obs=day_obs,
            start=begins,
            end=ends,
            run=run_name(),
            recompute=recompute,
            progress=gauge.step,
        )
    counts = {
        "exposures": result.exposures,
        "columns": result.columns,
        "values": result.values,
        "nulls": result.nulls,
        "seconds": round(result.seconds, 3),
        "unchanged": result.unchanged,
        "unended": result.unended,
        "waiting": result.waiting,
    }
    if as_json:
        print_json({"instrument": result.instrument, **counts, "skipped": result.skipped})
    else:
        print_facts({**counts, "columns not computed": len(result.skipped)}, result.instrument)
        print_table(
            "Not computed", ("column", "because"), sorted(result.skipped.items()), empty="Every column was computed."
        )
    if strict and result.skipped:
        raise typer.Exit(1)


@app.command("check", epilog=example("efd exposures check config_lsstcam.yaml", "efd exposures check lsstcam --json"))
def check(config: Config, as_json: AsJson = False) -> None:
    """Validate a transformation configuration.

    Its form, and its topics and fields against those there are; exit 1 where some are missing.

    Topics are those of the schema registry where brokers and registry are set, else those of the archive.
    """
    from efd_pipelines.exposures.checking import check_configuration
    from efd_pipelines.exposures.configuration import find_join, load_transformation
    from efd_pipelines.settings import load_settings

    settings = load_settings()
    transformation = load_transformation(find_join(settings, config).config)
    found = check_configuration(transformation, _known_topics(settings))
    document: dict[str, Any] = {
        "ok": found.ok,
        "columns": found.columns,
        "topics": found.topics,
        "source": found.source,
        "version": found.version,
        "problems": list(found.problems),
    }
    if as_json:
        print_json(document)
    else:
        print_facts({name: value for name, value in document.items() if name != "problems"})
        rows = [(one.at, one.column, one.kind, one.detail) for one in found.problems]
        print_table("Problems", ("at", "column", "kind", "detail"), rows, empty="No problems.")
    if not found.ok:
        raise typer.Exit(1)


def _known_topics(settings: Settings) -> KnownTopics:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.exposures.checking import KnownTopics
    from efd_pipelines.kafka.catalogue import read_catalogue

    if settings.kafka_bootstrap and settings.registry_url:
        topics = read_catalogue(settings).topics
        return KnownTopics.of_schemas([(one.dataset, one.schema) for one in topics if one.schema is not None])
    return KnownTopics.of_archive(Archive(settings))
