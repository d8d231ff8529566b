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
    tier: Annotated[str, typer.Option("--tier", metavar="1s", help="Which tier.")] = "1s",
    as_json: AsJson = False,
) -> None:
    """Build what is stale of a tier. Stale is what has changed in the archive since it was computed."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import load_settings
    from efd_pipelines.tiers.build import build_tier
    from efd_pipelines.tiers.tier import tier_named

    archive = Archive(load_settings())
    only = parse_week(week)
    datasets = archive.datasets() if components else None
    if components and datasets is not None:
        check_components(components, {one.component for one in datasets})
        datasets = [one for one in datasets if one.component in components]
    with Gauge("Summarising", "slices") as gauge:
        result = build_tier(
            archive,
            tier_named(tier),
            datasets=datasets,
            weeks=None if only is None else [only],
            run=run_name(),
            progress=gauge.step,
        )
    document = {"windows": result.windows, "rows": result.rows, "seconds": round(result.seconds, 3)}
    if as_json:
        print_json(document)
    else:
        print_facts(document)
