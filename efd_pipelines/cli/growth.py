"""`efd report growth`: what each year needs, by assumptions and by live rates, and what if."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from efd_pipelines.cli.answers import print_facts, print_json, print_table
from efd_pipelines.cli.options import AsJson, Strict, example

if TYPE_CHECKING:
    from efd_pipelines.forecasting.report import GrowthReport, LiveGrowth

_ROW = (
    "year",
    "replication_factor",
    "increase_tb",
    "stored_tb",
    "storage_per_data_node_tb",
    "total_cluster_storage_tb",
    "data_nodes",
    "disks_per_node",
)
_STORE = ("store", "used_tb", "capacity_tb", "tb_per_year", "months_to_full", "months_at_least")
_DATABASE = ("name", "subsystem", "first_year", "last_year", "size_tb")


def add_to(app: typer.Typer) -> None:
    """Makes it a command of `efd report`."""
    app.command(
        "growth",
        epilog=example(
            "efd report growth",
            "efd report growth --reduce MTM1M3=0.5 --replication 4 --retention raw=30d --json",
            "efd report growth --assume margin_tb=20 --assume data_nodes=4",
        ),
    )(growth)


def growth(
    reduce: Annotated[
        list[str] | None,
        typer.Option("--reduce", metavar="COMPONENT=PART", help="It no longer sends this part (0.5: half)."),
    ] = None,
    replication: Annotated[int | None, typer.Option("--replication", min=1, help="Another replication factor.")] = None,
    retention: Annotated[
        list[str] | None,
        typer.Option("--retention", metavar="LEVEL=TIME", help="Telemetry of raw, 1s, 1m, 1h is kept for 30d, 3m, 1y."),
    ] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option("--assume", metavar="NAME=VALUE", help="Another value of an assumption that the output lists."),
    ] = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Growth, forecast and what-if: storage that each year needs.

    By the configuration's assumptions (section `growth`), and by what the archive has received. Without what-ifs the
    report is kept in the archive too, as Parquet, Markdown and a chart.
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.forecasting.report import growth_report, keep
    from efd_pipelines.forecasting.what_if import parse_what_if
    from efd_pipelines.settings import load_settings

    asked = parse_what_if(reduce or (), retention or (), assume or (), replication)
    settings = load_settings()
    archive = Archive(settings)
    report = growth_report(settings.configuration, archive, asked)
    if not asked and not report.missing:
        report = keep(archive, report)
    print_json(report.to_json()) if as_json else _print(report)
    if strict and report.missing:
        raise typer.Exit(1)


def _print(report: GrowthReport) -> None:
    for line in report.asked.in_words():
        print(f"What if {line}:")
    rows = (_cells(row, _ROW) for row in report.projection.rows)
    print_table("Storage by assumptions, TB (10¹² bytes)", _ROW, rows)
    print()
    assumptions = report.assumptions.model_dump(exclude={"periods", "published_mb", "stores"})
    assumptions |= {name: str(assumptions[name]) for name in ("base_year", "last_year")}
    print_facts(assumptions, "Assumptions")
    for week in report.reference_weeks:
        print(f"from {week.from_year}: {week.gb_per_week:g} GB/week = {week.tb_per_year:.2f} TB/year ({week.why})")
    print()
    databases = (_cells(one, _DATABASE) for one in report.databases)
    print_table(f"Databases, each below {report.assumptions.split_below_tb:g} TB", _DATABASE, databases)
    if report.live:
        _print_live(report.live)
    print()
    for line in (*report.missing, *report.notes, *report.files):
        print(line)


def _print_live(live: LiveGrowth) -> None:
    from efd_pipelines.forecasting.report import LABEL
    from efd_pipelines.forecasting.series import TB

    made = live.forecast
    print()
    rows = (_cells(row, _ROW) for row in live.projection.rows)
    print_table(f"Storage by live rates, TB: {LABEL}", _ROW, rows)
    print(
        f"The coming year brings {made.year / TB:.4g} TB "
        f"({100 * made.level:.0f} %: {made.year_lower / TB:.4g} to {made.year_upper / TB:.4g}), by {made.method}."
    )
    print()
    print_table("Room in the stores", _STORE, (_cells(one, _STORE) for one in live.stores))


def _cells(of: Any, names: Sequence[str]) -> list[Any]:
    """A line of a table; years are names, not counts."""
    return [
        str(getattr(of, name)) if name in ("year", "first_year", "last_year") else getattr(of, name) for name in names
    ]
