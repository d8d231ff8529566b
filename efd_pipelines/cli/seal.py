"""`efd archive merge`, `seal` and `clean`: few files while a week runs, one per slice and a certificate afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from efd_pipelines.cli.answers import plain, print_facts, print_json, print_table
from efd_pipelines.cli.options import AsJson, Components, WeekKey, check_components, example, parse_week, run_name
from efd_pipelines.cli.progress import Gauge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.topics.names import Dataset

_MERGE_FACTS = ("slices", "files_before", "files_after", "rows", "bytes", "commits", "superseded")
_SEAL_FACTS = ("sealed", "already", "rows", "bytes", "files", "holes", "superseded")
_CLEAN_FACTS = ("tables", "files", "bytes", "busy")


def add_to(app: typer.Typer) -> None:
    """Makes them commands of `efd archive`."""
    app.command("merge", epilog=example("efd archive merge", "efd archive merge MTM1M3 --week 2026-11-16 --json"))(
        merge
    )
    app.command("seal", epilog=example("efd archive seal", "efd archive seal MTM1M3 --week 2026-11-09 --json"))(seal)
    app.command("clean", epilog=example("efd archive clean", "efd archive clean --json"))(clean)


def merge(components: Components = None, week: WeekKey = None, as_json: AsJson = False) -> None:
    """Merge slices with too many files. While they grow that is more than 8, when they are over more than one."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.merging import merge as merged
    from efd_pipelines.settings import load_settings

    only = parse_week(week)
    archive = Archive(load_settings())
    datasets = _datasets(archive, components)
    with Gauge("Merging", "slices") as gauge:
        result = merged(
            archive,
            datasets=datasets,
            weeks=None if only is None else [only],
            run=run_name(),
            progress=gauge.part,
        )
    _answer({name: getattr(result, name) for name in _MERGE_FACTS}, result.seconds, result.problems, as_json)


def seal(components: Components = None, week: WeekKey = None, as_json: AsJson = False) -> None:
    """Seal weeks that are over. Merge, audit and certify them; without --week, all that ended a day ago or more."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.sealing import seal as sealed
    from efd_pipelines.archive.sealing import unsealed_weeks
    from efd_pipelines.settings import load_settings

    settings, only = load_settings(), parse_week(week)
    archive = Archive(settings)
    _datasets(archive, components)
    weeks = unsealed_weeks(archive, settings) if only is None else [only]
    results = []
    for one in weeks:
        with Gauge(f"Sealing {one}", "topics") as gauge:
            results.append(
                sealed(
                    archive,
                    settings,
                    week=one,
                    components=components or None,
                    run=run_name(),
                    progress=gauge.part,
                )
            )
    facts: dict[str, Any] = {"weeks": [result.week for result in results]}
    facts |= {name: sum(getattr(result, name) for result in results) for name in _SEAL_FACTS}
    problems = [problem for result in results for problem in (*result.merged.problems, *result.problems)]
    _answer(facts, sum(result.seconds for result in results), problems, as_json)


def clean(as_json: AsJson = False) -> None:
    """Remove files that count no more. They were replaced, or left behind by killed runs, at least 7 days ago."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.cleaning import clean as cleaned
    from efd_pipelines.settings import load_settings

    result = cleaned(Archive(load_settings()), run=run_name())
    _answer({name: getattr(result, name) for name in _CLEAN_FACTS}, result.seconds, [], as_json)


def _datasets(archive: Archive, components: Sequence[str] | None) -> list[Dataset] | None:
    """The datasets of components, None for all; a component that is not there is refused."""
    if not components:
        return None
    datasets = archive.datasets()
    check_components(components, {one.component for one in datasets})
    return [one for one in datasets if one.component in components]


def _answer(facts: dict[str, Any], seconds: float, problems: Sequence[object], as_json: bool) -> None:
    """Prints the result; exit 1 where something could not be done."""
    document = {**facts, "seconds": round(seconds, 3)}
    if as_json:
        print_json({**document, "problems": problems})
    else:
        print_facts({name: ", ".join(value) if isinstance(value, list) else value for name, value in document.items()})
        rows = plain(list(problems))
        if rows:
            names = list(dict.fromkeys(name for row in rows for name in row))
            print_table("\nProblems", names, [[row.get(name) for name in names] for row in rows])
    if problems:
        raise typer.Exit(1)
