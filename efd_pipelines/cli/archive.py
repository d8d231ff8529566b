"""`efd archive`: filling the archive, and what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from efd_pipelines.cli.answers import plain, print_facts, print_json, print_table, size
from efd_pipelines.cli.options import (
    AsJson,
    Beginning,
    Components,
    End,
    Strict,
    TierName,
    WeekKey,
    check_components,
    example,
    parse_interval,
    parse_week,
    run_name,
)
from efd_pipelines.cli.progress import Gauge
from efd_pipelines.errors import KafkaUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.drained import DrainResult
    from efd_pipelines.archive.status import WeekStatus
    from efd_pipelines.settings import Settings
    from efd_pipelines.times import Week
    from efd_pipelines.topics.names import Dataset

app = typer.Typer(rich_markup_mode=None, help="Fill the archive from Kafka, and see what it holds.")

Datasets = Annotated[
    list[str] | None,
    typer.Argument(metavar="TOPIC", help="Only these datasets, [cluster@]namespace.name; all without."),
]

_RUN_FACTS = ("records", "rows", "bytes", "commits", "dead_letters", "quarantined", "gaps", "topics")
_REPLAY_FACTS = ("topics", "frames", "replayed", "quarantined", "dead_letters", "commits")
_STATUS = ("topic", "week", "rows", "bytes", "files", "sealed", "expired", "first", "last", "lag")
_AUDIT = ("ok", "topics", "records", "rows", "missing", "duplicates", "dead_letters", "quarantined", "expired")


@app.command("run", epilog=example("efd archive run", "efd archive run MTM1M3 ESS --until-caught-up --json"))
def run(
    components: Components = None,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="Again, until there is no backlog left.")
    ] = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Read the backlog of Kafka into the archive. It ends at the end offsets found at the start."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.drain import drain
    from efd_pipelines.archive.drained import DrainIncomplete
    from efd_pipelines.settings import load_settings

    settings = load_settings()
    settings.require_kafka()
    settings.require_registry()
    if components:
        check_components(components, _on_brokers(settings))
    with Gauge("Archiving", "records") as gauge:
        try:
            result = drain(
                Archive(settings),
                settings,
                components=components or None,
                until_caught_up=until_caught_up,
                run=run_name(),
                progress=lambda records, backlog, _: gauge.part(records, max(records, backlog)),
            )
        except DrainIncomplete as error:
            # The others were archived: say how much, and which were not.
            _answer(error.result, as_json)
            typer.echo(f"Error: {error.message}\nRemedy: {error.remedy}", err=True)
            raise typer.Exit(error.exit_code) from None
    _answer(result, as_json)
    if strict and (result.dead_letters or result.gaps):
        raise typer.Exit(1)


def _on_brokers(settings: Settings) -> set[str]:
    """The components that have topics."""
    from efd_pipelines.kafka.brokers import Brokers
    from efd_pipelines.topics.names import dataset_of

    with Brokers(settings) as brokers:
        datasets = [dataset_of(topic, settings.home_prefixes) for topic in brokers.topics()]
    return {dataset.component for dataset in datasets if dataset is not None}


def _answer(result: DrainResult, as_json: bool) -> None:
    document = {**{name: getattr(result, name) for name in _RUN_FACTS}, "seconds": round(result.seconds, 3)}
    if as_json:
        print_json({**document, "problems": result.problems})
        return
    print_facts(document)
    if result.problems:
        _print_rows(plain(result.problems), title="\nProblems")


@app.command("status", epilog=example("efd archive status", "efd archive status MTM1M3 --week 2026-11-16 --json"))
def status(components: Components = None, week: WeekKey = None, as_json: AsJson = False) -> None:
    """Say what is archived of each topic and week. Where brokers are set, also how many records they have more."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.status import status as archived
    from efd_pipelines.settings import load_settings

    settings = load_settings()
    archive, only = Archive(settings), parse_week(week)
    try:
        found = archived(archive, settings if settings.kafka_bootstrap else None)
    except KafkaUnavailable as error:
        # What is archived can be told without the brokers, and is what one wants to know when they are down.
        typer.echo(f"Warning: {error.message}: the lag is not known. {error.remedy}", err=True)
        found = archived(archive)
    check_components(components, {one.component for one in found})
    wanted = [one for one in found if _is_of(one, components) and (only is None or one.week == only.key)]
    rows = [{name: getattr(one, name) for name in _STATUS} for one in wanted]
    if as_json:
        print_json(rows)
        return
    shown = [{**row, "bytes": size(row["bytes"])} for row in rows]
    _print_rows(shown, empty="The archive holds nothing of this: `efd archive run` fills it.")


def _is_of(one: WeekStatus, components: Sequence[str] | None) -> bool:
    return not components or one.component in components


@app.command("verify", epilog=example("efd archive verify", "efd archive verify --deep --week 2026-11-16 --json"))
def verify(
    topics: Datasets = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also read every file, and recount.")] = False,
    week: WeekKey = None,
    as_json: AsJson = False,
) -> None:
    """Recount and audit the archive. Exit 1 when it is not as it should be."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.audit import verify as audit
    from efd_pipelines.settings import load_settings
    from efd_pipelines.topics.names import Dataset

    only, settings = parse_week(week), load_settings()
    found = audit(
        Archive(settings),
        deep=deep,
        week=None if only is None else only.key,
        datasets=[Dataset.parse(text) for text in topics] if topics else None,
        settings=settings if settings.kafka_bootstrap else None,
    )
    facts = {name: getattr(found, name) for name in _AUDIT}
    if as_json:
        print_json({**facts, "problems": found.problems, "notes": found.notes})
    else:
        print_facts(facts)
        if found.notes:
            _print_rows(plain(found.notes), title="\nWorth knowing")
        _print_rows(plain(found.problems), title="\nProblems", empty="No problems.")
    if not found.ok:
        raise typer.Exit(1)


@app.command(
    "files",
    epilog=example(
        "efd archive files lsst.sal.MTMount.azimuth",
        "efd archive files lsst.sal.MTMount.azimuth --from 2026-11-21 --to 2026-11-22 --json",
    ),
)
def files(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="[cluster@]namespace.name")],
    start: Beginning = None,
    end: End = None,
    tier: TierName = "raw",
    outside: Annotated[
        bool, typer.Option("--outside", help="The files of quarantine and of the dead instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the files of a dataset that count now.

    For any Parquet reader: the directory read as it lies may hold files that were replaced.
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.slices import DEAD, QUARANTINE
    from efd_pipelines.settings import load_settings
    from efd_pipelines.times import from_microseconds
    from efd_pipelines.topics.names import Dataset

    begins, ends = parse_interval(start, end)
    archive, wanted = Archive(load_settings()), Dataset.parse(dataset)
    found = [
        {
            "path": file.uri,
            "week": file.week,
            "slice": file.slice,
            "rows": file.rows,
            "bytes": file.size_bytes,
            "from": None if file.time_min_us is None else from_microseconds(file.time_min_us),
            "to": None if file.time_max_us is None else from_microseconds(file.time_max_us),
        }
        for file in archive.files(wanted, begins, ends, tier)
        if (file.week in (QUARANTINE, DEAD)) == outside
    ]
    let_go = [] if outside else _expired(archive, wanted, tier, begins, ends)
    if let_go:
        which = f"{len(let_go)} weeks of these have expired, from {let_go[0]} to {let_go[-1]}"
        typer.echo(f"Note: {which}; `efd retention show --expired` says why.", err=True)
    print_json(found) if as_json else _print_rows(found, empty="No files.")


def _expired(
    archive: Archive, dataset: Dataset, level: str, begins: datetime | None, ends: datetime | None
) -> list[Week]:
    """The weeks of an interval that were let go."""
    from efd_pipelines.archive.expiry import expired_weeks
    from efd_pipelines.times import Week

    weeks = [Week.parse(key) for key in sorted(expired_weeks(archive, level).get(dataset.text, ()))]
    return [one for one in weeks if (begins is None or one.end > begins) and (ends is None or one.start < ends)]


@app.command("gaps", epilog=example("efd archive gaps", "efd archive gaps lsst.sal.MTMount.azimuth --json"))
def gaps(topics: Datasets = None, strict: Strict = False, as_json: AsJson = False) -> None:
    """List what Kafka had no more, and who still has it.

    `in_kafka` counts the offsets that Kafka can still give, `in_history` the points that InfluxDB's history has
    between `from` and `to`, `in_files` those in files of line protocol (EFD_HISTORY_LINES); nothing where one of them
    is not set or does not answer.
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.audit import gaps as recorded
    from efd_pipelines.history.holders import holders
    from efd_pipelines.settings import load_settings
    from efd_pipelines.topics.names import Dataset

    settings = load_settings()
    datasets = [Dataset.parse(text) for text in topics] if topics else None
    found = holders(settings, recorded(Archive(settings), datasets))
    for warning in found.warnings:
        typer.echo(f"Warning: {warning}", err=True)
    print_json(found.gaps) if as_json else _print_rows(found.gaps, empty="No gaps.")
    if any(gap.get("in_history") or gap.get("in_files") for gap in found.gaps):
        note = "what the history has comes home by `efd archive backfill COMPONENT --weeks A..B --from influx`"
        typer.echo(f"Note: {note}, or `--from lines PATH`.", err=True)
    if strict and found.gaps:
        raise typer.Exit(1)


@app.command(
    "dead-letters",
    epilog=example("efd archive dead-letters", "efd archive dead-letters lsst.sal.MTMount.azimuth --replay"),
)
def dead_letters(
    topics: Datasets = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Decode them again; what has become a row moves to its week, once.")
    ] = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """List what could not be decoded. By topic and reason; the frames are kept whole."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.dead_letters import dead_letters as kept
    from efd_pipelines.settings import load_settings
    from efd_pipelines.topics.names import Dataset

    datasets = [Dataset.parse(text) for text in topics] if topics else None
    if replay:
        _replay(datasets, strict, as_json)
        return
    found = plain(kept(Archive(load_settings()), datasets))
    print_json(found) if as_json else _print_rows(found, empty="No dead letters.")
    if strict and found:
        raise typer.Exit(1)


def _replay(datasets: Sequence[Dataset] | None, strict: bool, as_json: bool) -> None:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.dead_letters import replay
    from efd_pipelines.settings import load_settings

    settings = load_settings()
    settings.require_registry()
    with Gauge("Replaying", "frames") as gauge:
        result = replay(Archive(settings), settings, datasets=datasets, run=run_name(), progress=gauge.part)
    facts = {**{name: getattr(result, name) for name in _REPLAY_FACTS}, "seconds": round(result.seconds, 3)}
    print_json(facts) if as_json else print_facts(facts)
    if strict and result.dead_letters:
        raise typer.Exit(1)


def _print_rows(rows: Sequence[dict[str, Any]], *, title: str = "", empty: str = "") -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    print_table(title, names, [[row.get(name) for name in names] for row in rows], empty=empty)
