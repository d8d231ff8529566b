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
    from efd_pipelines.exposures.explaining import Explanation
    from efd_pipelines.settings import Settings

_SAMPLES_SHOWN = 10
_FIELDS_SHOWN = 6

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
    nulls_overwrite: Annotated[
        bool, typer.Option("--nulls-overwrite", help="A value that there is no more becomes NULL; by default it stays.")
    ] = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Compute the values of exposures and visits, into ConsDB.

    Only those columns whose telemetry or configuration is new or has changed since they were computed.
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.exposures.configured import find_join
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
            nulls_overwrite=nulls_overwrite,
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
        "visits": result.visits,
    }
    if as_json:
        print_json(
            {
                "instrument": result.instrument,
                **counts,
                "skipped": result.skipped,
                "warnings": result.warnings,
            }
        )
    else:
        print_facts({**counts, "columns not computed": len(result.skipped)}, result.instrument)
        print_table(
            "Not computed", ("column", "because"), sorted(result.skipped.items()), empty="Every column was computed."
        )
        if result.warnings:
            print_table("Computed without some topics", ("column", "because"), sorted(result.warnings.items()))
    if strict and result.skipped:
        raise typer.Exit(1)


@app.command("check", epilog=example("efd exposures check config_lsstcam.yaml", "efd exposures check lsstcam --json"))
def check(config: Config, as_json: AsJson = False) -> None:
    """Validate a transformation configuration.

    Its form, and its topics and fields against those there are; exit 1 where some are missing.

    Topics are those of the schema registry where brokers and registry are set, else those of the archive.
    """
    from efd_pipelines.exposures.checking import check_configuration
    from efd_pipelines.exposures.configuration import load_transformation
    from efd_pipelines.exposures.configured import find_join
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


@app.command(
    "verify",
    epilog=example(
        "efd exposures verify lsstcam --day-obs 20261121", "efd exposures verify latiss --exposures 100 --json"
    ),
)
def verify(
    config: Config,
    day_obs: Annotated[
        int | None, typer.Option("--day-obs", metavar="YYYYMMDD", help="The exposures of this observing day.")
    ] = None,
    start: Beginning = None,
    end: End = None,
    exposures: Annotated[
        int, typer.Option("--exposures", metavar="N", min=0, help="How many are computed again, chosen by chance.")
    ] = 20,
    as_json: AsJson = False,
) -> None:
    """Compare ConsDB with the archive, value by value.

    With the numbers of samples and the versions: that a row is there says nothing.

    Exit 1 where exposures are stale or values differ.
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.exposures.configured import find_join
    from efd_pipelines.exposures.reconciling import reconcile
    from efd_pipelines.settings import load_settings

    settings = load_settings()
    begins, ends = parse_interval(start, end)
    join = find_join(settings, config)
    found = reconcile(Archive(settings), settings, join, day_obs=day_obs, start=begins, end=ends, most=exposures)
    document = {"ok": found.ok, **{name: getattr(found, name) for name in found.__slots__}}
    if as_json:
        print_json(document)
    else:
        print_facts({name: value for name, value in document.items() if name != "differences"})
        rows = [(str(one.exposure), one.column, one.stored, one.computed) for one in found.differences]
        print_table("Differences", ("exposure", "column", "in ConsDB", "from the archive"), rows, empty="None.")
    if not found.ok:
        raise typer.Exit(1)


@app.command(
    "explain",
    epilog=example(
        "efd exposures explain mt_mount_azimuth_position_mean 2026112100042",
        "efd exposures explain at_mount_jitter_azimuth 2026112100042 --config config_latiss.yaml --json",
    ),
)
def explain_value(
    column: Annotated[str, typer.Argument(metavar="COLUMN", help="A column of the transformation configuration.")],
    exposure: Annotated[int, typer.Argument(metavar="EXPOSURE", help="Its exposure_id, or visit_id.")],
    config: Annotated[
        str, typer.Option("--config", metavar="CONFIG", help="An instrument or a file, where several have the column.")
    ] = "",
    all_samples: Annotated[bool, typer.Option("--all", help="All samples, not the first and last ten.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show where one value comes from.

    The window, the topics, the samples, the arithmetic.

    It is computed again from the archive; exit 1 where ConsDB has another value.
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.exposures.configured import find_join, join_with_column
    from efd_pipelines.exposures.explaining import explain
    from efd_pipelines.settings import load_settings

    settings = load_settings()
    join = find_join(settings, config) if config else join_with_column(settings, column)
    found = explain(Archive(settings), settings, join, column, exposure)
    document = {name: getattr(found, name) for name in found.__slots__}
    if as_json:
        print_json(document)
    else:
        _print_explanation(document, found, all_samples)
    if not found.agrees:
        raise typer.Exit(1)


def _print_explanation(document: dict[str, Any], found: Explanation, all_samples: bool) -> None:
    tables = ("sources", "samples", "steps", "value", "stored", "fields")
    # A window's edges count to the microsecond, and an exposure's number is no quantity.
    exact = {name: f"{document[name]:%Y-%m-%d %H:%M:%S.%f}" for name in ("window_begin", "window_end", "reads_from")}
    facts = {name: value for name, value in document.items() if name not in tables}
    print_facts({**facts, **exact, "exposure": str(found.exposure)})
    print_table(
        "Topics",
        ("topic", "columns of the archive", "version", "samples"),
        [(one.topic, _shortened(one.columns), one.version, one.samples) for one in found.sources],
    )
    shown = list(found.samples)
    if not all_samples and len(shown) > 2 * _SAMPLES_SHOWN:
        shown = shown[:_SAMPLES_SHOWN] + shown[-_SAMPLES_SHOWN:]
    print_table(
        f"Samples: {len(shown)} of {len(found.samples)}",
        ("time", _shortened(found.fields)),
        [(one.time.isoformat(), _shortened(one.values)) for one in shown],
        empty="No sample in the window.",
    )
    print_facts({"arithmetic": "; ".join(found.steps), "value": found.value, "in ConsDB": found.stored})


def _shortened(values: tuple[Any, ...]) -> str:
    texts = [str(value) for value in values]
    return ", ".join(texts if len(texts) <= _FIELDS_SHOWN else [*texts[:_FIELDS_SHOWN], f"… {len(texts)} in all"])


def _known_topics(settings: Settings) -> KnownTopics:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.exposures.checking import KnownTopics
    from efd_pipelines.kafka.catalogue import read_catalogue

    if settings.kafka_bootstrap and settings.registry_url:
        topics = read_catalogue(settings).topics
        return KnownTopics.of_schemas([(one.dataset, one.schema) for one in topics if one.schema is not None])
    return KnownTopics.of_archive(Archive(settings))
