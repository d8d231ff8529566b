"""`efd archive backfill`: what Kafka lost, from InfluxDB's history or from files exported from it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from efd_pipelines.cli.answers import duration, print_facts, print_json
from efd_pipelines.cli.options import AsJson, check_components, example, run_name
from efd_pipelines.cli.progress import Gauge
from efd_pipelines.errors import UsageError

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.history.results import Estimate, HealResult
    from efd_pipelines.history.sources import HistorySource
    from efd_pipelines.settings import Settings
    from efd_pipelines.times import Week

_FACTS = ("datasets", "rows", "known", "values", "bytes", "commits", "left")


def add_to(app: typer.Typer) -> None:
    """Makes it a command of `efd archive`."""
    app.command(
        "backfill",
        epilog=example(
            "efd archive backfill MTMount --weeks 2024-01-01..2024-03-25 --from influx --estimate",
            "efd archive backfill MTMount --weeks 2024-01-01 --from influx --hours 6",
            "efd archive backfill MTMount --weeks 2024-01-01 --from lines export.lp.gz --json",
        ),
    )(backfill)


def backfill(
    component: Annotated[str, typer.Argument(metavar="COMPONENT", help="The component, e.g. MTMount.")],
    weeks: Annotated[str, typer.Option(metavar="A..B", help="Mondays of the first and the last week; or one.")],
    source: Annotated[str, typer.Option("--from", metavar="influx|lines", help="Where from.")],
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="With `lines`: a file, or a directory of files.")
    ] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Only say how much there is, and how long it takes.")] = (
        False
    ),
    hours: Annotated[float | None, typer.Option(help="Stop after so many hours; the next call goes on.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Also ask for what was asked for before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fill what Kafka lost from InfluxDB or from files of it. Rows that are there stay; it can be repeated."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.history.healing import estimate as estimated
    from efd_pipelines.history.healing import heal
    from efd_pipelines.settings import load_settings

    settings = load_settings()
    archive, wanted = Archive(settings), parse_weeks(weeks)
    with ExitStack() as stack:
        history = stack.enter_context(_source(settings, source, path, component, wanted))
        check_components([component], _components(archive, history))
        if estimate:
            found = estimated(archive, settings, component=component, weeks=wanted, sources=[history])
            _print_estimate(component, wanted, found, as_json)
            return
        with Gauge(f"Healing {component}", "h of data") as gauge:
            result = heal(
                archive,
                settings,
                component=component,
                weeks=wanted,
                sources=[history],
                again=again,
                seconds=None if hours is None else hours * 3600,
                run=run_name(),
                progress=lambda so_far: gauge.part(so_far.asked_s / 3600, so_far.missing_s / 3600),
            )
    _print(component, wanted, history.name, result, as_json)


def parse_weeks(text: str) -> list[Week]:
    """The weeks of `A..B`, or of one Monday.

    Raises:
        UsageError: one is no Monday, or the last is before the first.
    """
    from efd_pipelines.times import Week, weeks_between

    first, dots, last = text.partition("..")
    found = weeks_between(Week.parse(first), Week.parse(last if dots else first))
    if not found:
        raise UsageError(f"{last} is before {first}", remedy="Give the earlier week first, as 2024-01-01..2024-03-25.")
    return found


def _source(settings: Settings, kind: str, path: Path | None, component: str, weeks: list[Week]) -> Any:
    from efd_pipelines.history.configured import lines_of
    from efd_pipelines.history.influx import InfluxHistory

    if kind == "influx":
        return InfluxHistory(settings)
    if kind != "lines":
        raise UsageError(f"--from {kind} is not known", remedy="There are influx and lines.")
    files = path or settings.history_lines
    if files is None:
        raise UsageError(
            "No file of line protocol is named", remedy="Write --from lines PATH, or set EFD_HISTORY_LINES."
        )
    return lines_of(files, component, weeks)


def _components(archive: Archive, history: HistorySource) -> set[str]:
    known = {dataset.component for dataset in history.datasets()}
    return known | {dataset.component for dataset in archive.datasets()}


def _print_estimate(component: str, weeks: list[Week], found: Estimate, as_json: bool) -> None:
    facts = {
        "component": component,
        "weeks": len(weeks),
        "datasets": found.datasets,
        "missing_hours": round(found.missing_s / 3600, 3),
        "values": found.values,
        "hours": round(found.hours, 3),
    }
    print_json(facts) if as_json else print_facts(facts)


def _print(component: str, weeks: list[Week], source: str, result: HealResult, as_json: bool) -> None:
    facts: dict[str, Any] = {"component": component, "weeks": [weeks[0].key, weeks[-1].key], "from": source}
    facts |= {name: getattr(result, name) for name in _FACTS}
    facts |= {
        "missing_hours": round(result.missing_s / 3600, 3),
        "asked_hours": round(result.asked_s / 3600, 3),
        "hours_left": None if result.hours_left is None else round(result.hours_left, 3),
        "seconds": round(result.seconds, 3),
    }
    if as_json:
        print_json({**facts, "ambiguous": result.ambiguous})
        return
    print_facts({**facts, "weeks": f"{weeks[0]}..{weeks[-1]}"})
    for dataset, names in result.ambiguous.items():
        print(f"{dataset}: left out, since two fields have these names: {', '.join(names)}")
    if result.left:
        left = "" if result.hours_left is None else f", about {duration(result.hours_left * 3600)} of it"
        print(f"Time was up before everything was asked for{left}: call it again to go on.")
