"""`efd tiers`: summaries at fixed windows, built from the archive."""

from __future__ import annotations

from typing import Annotated

import typer

from efd_pipelines.cli.answers import print_facts, print_json
from efd_pipelines.cli.options import AsJson, Components, WeekKey, check_components, example, parse_week, run_name
from efd_pipelines.cli.progress import Gauge

app = typer.Typer(rich_markup_mode=None, help="Summaries at fixed windows, built from the archive.")


@app.command("run", epilog=example("efd tiers run", "efd tiers run MTM1M3 MTMount --week 2026-11-16 --json"))
def run(
    components: Components = None,
    week: WeekKey = None,
    tier: Annotated[str | None, typer.Option("--tier", metavar="1s", help="Only this tier: 1s, 1m or 1h.")] = None,
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="How many share the work, without Dask; each takes 0.35 GiB.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Build what is stale of the tiers. Stale is what has changed in the archive since it was computed."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import load_settings
    from efd_pipelines.tiers.build import build_tier
    from efd_pipelines.tiers.tier import TIERS, tier_named

    tiers = list(TIERS.values()) if tier is None else [tier_named(tier)]
    archive = Archive(load_settings())
    only = parse_week(week)
    datasets = archive.datasets() if components else None
    if components and datasets is not None:
        check_components(components, {one.component for one in datasets})
        datasets = [one for one in datasets if one.component in components]
    results = []
    for one in tiers:
        with Gauge(f"Summarising at {one}", "slices") as gauge:
            results.append(
                build_tier(
                    archive,
                    one,
                    datasets=datasets,
                    weeks=None if only is None else [only],
                    run=run_name(),
                    progress=gauge.step,
                    processes=processes,
                )
            )
    windows = {one.name: result.windows for one, result in zip(tiers, results, strict=True)}
    document = {
        "windows": sum(windows.values()),
        "rows": sum(result.rows for result in results),
        "seconds": round(sum(result.seconds for result in results), 3),
    }
    if as_json:
        print_json({**document, "tiers": windows})
    else:
        print_facts({**document, **{f"windows of {name}": count for name, count in windows.items()}})
