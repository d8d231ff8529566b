"""Maintenance: the daily round that keeps the index whole and Dagster's own record small.

The ledger may lag behind the tables when a process was killed; its readers mend what they see, this mends all of it.
Dagster never forgets a run: the live jobs leave thousands a day, and what they told of partitions is superseded within
the hour (measured: 25 events of 1.6 kB per run). Old runs that say nothing that is still the last word are deleted.
"""

import contextlib
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from efd_pipelines.defs.archive import raw_archive
from efd_pipelines.defs.events import RAW, log_untold
from efd_pipelines.defs.failures import explained
from efd_pipelines.defs.tiers import ASSETS
from efd_pipelines.errors import StaleWriter
from efd_pipelines.resources import Deployment

LIVE_JOBS = ("drain", "summarise", "join", "discover", "merge", "verify")
"""Jobs that sensors and schedules start all the time."""

KEPT = timedelta(days=7)
"""How long live runs are kept; failed ones stay, they are few and somebody may want to know."""

BUDGET_S = 1200.0
_RECORDS_AT_ONCE = 500


@dg.op(out=dg.Out(dg.Nothing))
def complete_ledger(context: dg.OpExecutionContext, deployment: Deployment) -> None:
    """Enters what killed runs did not enter into the ledger, makes it small, and tells Dagster of all that changed."""
    from efd_pipelines.archive.collapse import collapse

    with explained():
        archive = deployment.archive()
        archive.ledger.catch_up_pending()
        tables = [(table, one) for table in (RAW, *ASSETS) for one in archive.datasets(table=table)]
        found = archive.ledger.catch_up(tables)
        replaced = archive.ledger.compact()
        with contextlib.suppress(StaleWriter):  # another round is at it
            collapse(archive)
        told = log_untold(context, archive, raw_archive.key, RAW)
        told += sum(log_untold(context, archive, asset.key, tier) for tier, asset in ASSETS.items())
        context.add_output_metadata({"commits_entered": found, "files_replaced": replaced, "partitions_told": told})


@dg.op(ins={"after": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
def forget_old_runs(context: dg.OpExecutionContext) -> None:
    """Deletes runs of the live jobs that are a week old, save those that hold the last word on a partition."""
    before = datetime.now(UTC) - KEPT
    count = prune(context.instance, LIVE_JOBS, before, budget_s=BUDGET_S)
    context.add_output_metadata({"runs_deleted": count})
    context.log.info(f"Deleted {count:,} runs from before {before:%Y-%m-%d %H:%M} UTC.")


def prune(instance: dg.DagsterInstance, jobs: Iterable[str], before: datetime, budget_s: float) -> int:
    """Deletes succeeded runs of the jobs from before a time, with their events and output; how many.

    A run stays where the newest materialisation of some partition is in it: deleting it would make the partition look
    as if it had never been.
    """
    deadline = time.monotonic() + budget_s
    kept = runs_with_the_last_word(instance)
    deleted = 0
    for job in jobs:
        wanted = dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS], created_before=before)
        for run_id in instance.get_run_ids(wanted):
            if time.monotonic() > deadline:
                return deleted
            if run_id not in kept:
                instance.delete_run(run_id)
                instance.compute_log_manager.delete_logs(prefix=[run_id])
                deleted += 1
    return deleted


def runs_with_the_last_word(instance: dg.DagsterInstance) -> set[str]:
    """The runs that hold the newest materialisation of some partition of some asset."""
    runs: set[str] = set()
    for asset in instance.get_asset_keys():
        ids = instance.get_latest_storage_id_by_partition(asset, dg.DagsterEventType.ASSET_MATERIALIZATION)
        runs |= _runs_of(instance, asset, sorted(ids.values()))
        newest = instance.get_latest_materialization_event(asset)
        if newest is not None:
            runs.add(newest.run_id)
    return runs


def _runs_of(instance: dg.DagsterInstance, asset: dg.AssetKey, ids: Sequence[int]) -> set[str]:
    runs: set[str] = set()
    for start in range(0, len(ids), _RECORDS_AT_ONCE):
        part = ids[start : start + _RECORDS_AT_ONCE]
        wanted = dg.AssetRecordsFilter(asset_key=asset, storage_ids=part)
        runs |= {record.run_id for record in instance.fetch_materializations(wanted, limit=len(part)).records}
    return runs
