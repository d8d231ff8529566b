"""Jobs: what runs together, and under which name.

The live ones (`discover`, `drain`, `summarise`, `publish`, `join`, `merge`) take whatever is due and are started by
sensors and schedules; `main` is the whole path once, in this order, for the demo and for whoever wants all of it now;
`export` is a form; `verify` and `daily_round` keep watch and order; `backfill_archive` is what a backfill of component
× week runs, `heal_archive` what a schedule submits for weeks that Kafka lost.
"""

from typing import Any

import dagster as dg

from efd_pipelines.defs.aggregated import publish_aggregated
from efd_pipelines.defs.anomalies import find_anomalies
from efd_pipelines.defs.archive import drain_backlog, drain_whole_backlog, raw_archive
from efd_pipelines.defs.checks import archive_checks
from efd_pipelines.defs.consdb import publish_consdb
from efd_pipelines.defs.dead_letters import replay_dead_letters
from efd_pipelines.defs.exports import export_dataset, export_if_asked, requested_exports
from efd_pipelines.defs.exposures import join_new_exposures
from efd_pipelines.defs.growth import weekly_growth
from efd_pipelines.defs.maintenance import complete_ledger, forget_old_runs
from efd_pipelines.defs.publishing import CHECKS, publish
from efd_pipelines.defs.reports import report_storage, storage_throughput
from efd_pipelines.defs.restoring import restore
from efd_pipelines.defs.retention import expire, expired_is_covered
from efd_pipelines.defs.sealing import clean_archive, merge_slices, seal_weeks
from efd_pipelines.defs.sources import discover_topics
from efd_pipelines.defs.tier_checks import tier_checks
from efd_pipelines.defs.tiers import summarise_tier, tier_1h, tier_1m, tier_1s

DRAIN_GROUP = "efd/drain_group"
"""Tag of drains: never two of a group at once (dagster.yaml, and the sensor)."""

_LIVE = {"dagster/max_runtime": "10800"}
"""A run that hangs must not keep the next ones waiting for ever."""


@dg.job(tags=_LIVE)
def discover() -> None:
    """Looks what topics there are on the brokers and in the registry, and what changed."""
    discover_topics()


@dg.job(tags=_LIVE)
def drain() -> None:
    """Reads what is due of Kafka's backlog into the archive; the sensor `drain` starts it for one drain group each."""
    drain_backlog()


@dg.job(tags=_LIVE)
def summarise() -> None:
    """Computes what of the tiers (1 s, 1 min, 1 h) the archive has moved on from."""
    summarise_tier()


@dg.job(tags=_LIVE)
def join() -> None:
    """Joins telemetry to the exposures that are new, or whose telemetry or configuration changed."""
    join_new_exposures()


@dg.job
def export() -> None:
    """Writes topics of a time range as a directory of sorted Parquet for Dask, pandas, DuckDB.

    Fill in the form of the launchpad: topics, from and to (or day_obs, or exposures), out; fields, tier and form if you
    like. The run's output says where it is and how to open it. A run that failed on the way goes on when run again.
    """
    export_dataset()


@dg.job
def main() -> None:
    """The whole path once: discovery, backlog, tiers, exposures, the weeks' storage reports, an export.

    Everything is made that can be made of what Kafka has now; it may run beside the live jobs. The export is made where
    topics are given in the launchpad.
    """
    discovered = discover_topics()
    archived = drain_whole_backlog(discovered)
    summarised = summarise_tier(archived)
    joined = join_new_exposures(summarised)
    reported = report_storage(joined)
    export_if_asked(reported)


@dg.job(tags=_LIVE)
def merge() -> None:
    """Merges slices that have too many files, so that a reader opens 16 of a running one and one of a finished one."""
    merge_slices()


@dg.job
def daily_round() -> None:
    """Completes the ledger, deletes old runs of the live jobs, cleans up, and seals the weeks that are due."""
    seal_weeks(clean_archive(forget_old_runs(complete_ledger())))


verify = dg.define_asset_job(
    "verify",
    selection=dg.AssetSelection.checks(archive_checks, tier_checks, expired_is_covered, *CHECKS),
    description="Asks whether last night is archived, and whether anything was lost, doubled or could not be read.",
    tags=_LIVE,
)

backfill_archive = dg.define_asset_job(
    "backfill_archive",
    selection=dg.AssetSelection.assets(raw_archive, tier_1s, tier_1m, tier_1h).without_checks(),
    description="Archives and summarises components and weeks that are chosen as partitions.",
)

heal_archive = dg.define_asset_job(
    "heal_archive",
    selection=dg.AssetSelection.assets(raw_archive).without_checks(),
    description="Fills what Kafka lost of a component's week from InfluxDB's history, or files of it.",
)

weekly_report = dg.define_asset_job(
    "weekly_report",
    selection=dg.AssetSelection.assets(storage_throughput),
    description="The storage report of a week.",
)

JOBS: list[Any] = [
    main,
    discover,
    drain,
    summarise,
    publish,
    publish_consdb,
    publish_aggregated,
    join,
    merge,
    verify,
    weekly_report,
    weekly_growth,
    find_anomalies,
    export,
    requested_exports,
    backfill_archive,
    heal_archive,
    restore,
    daily_round,
    expire,
    replay_dead_letters,
]
