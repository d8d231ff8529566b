"""Tiers: the archive summarised at fixed windows.

`summarise_tier`, the op of the job `summarise`, computes whatever the archive has moved on from, tier by tier; an
asset's own run does the same for one component and week. What is stale is found by `tiers/stale.py`, not by Dagster's
events.
"""

import time
from typing import TYPE_CHECKING, Any

import dagster as dg

from efd_pipelines.defs.archive import WEEKS_AT_ONCE, logged, partitions_of, raw_archive
from efd_pipelines.defs.events import DAY_S, RAW, changes, counted, figures_of, log_untold
from efd_pipelines.defs.failures import explained
from efd_pipelines.defs.metadata import OWNERS, Metadata, column, column_schema, megabytes
from efd_pipelines.partitions import COMPONENT_WEEKS
from efd_pipelines.resources import Deployment

if TYPE_CHECKING:
    from efd_pipelines.tiers.build import TierResult

ONE_SECOND = "1s"


_COLUMNS = column_schema(
    [
        column("time", "timestamp[us, UTC]", "Beginning of the window, UTC"),
        column("salIndex", "as declared", "Which device, where a component has several"),
        column("window_size", "double", "Length of the window", "second"),
        column("count", "int64", "Samples in the window; a record that was delivered twice counts once"),
        column("first_FIELD", "the field's", "The first sample of the window"),
        column("min_FIELD", "the field's", "The smallest"),
        column("max_FIELD", "the field's", "The largest"),
        column("mean_FIELD", "float or double", "The mean, computed in double"),
        column("median_FIELD", "float or double", "The median of the samples themselves"),
        column("stdev_FIELD", "float or double", "The standard deviation (n−1); null below two samples"),
        column("q1_FIELD, q3_FIELD", "float or double", "The quartiles, where `tiers.quartiles` of EFD_CONFIG asks"),
    ]
)


def _tier_asset(name: str, window: str, about: str) -> dg.AssetsDefinition:
    """The asset of one tier; each is computed from the archive, none from another."""

    @dg.asset(
        name=f"tier_{name}",
        partitions_def=COMPONENT_WEEKS,
        deps=[raw_archive],
        group_name="tiers",
        kinds={"deltalake", "parquet", "numba"},
        owners=OWNERS,
        pool="compute",
        backfill_policy=dg.BackfillPolicy.multi_run(WEEKS_AT_ONCE),
        metadata=_COLUMNS,
        description=f"""{about}

Telemetry that is declared to be faster than one sample in {window} (`rates_hz` of EFD_CONFIG) is summarised; everything
slower, events and commands stay as they are in `raw_archive` and are not repeated here. Kept up minutes behind the
archive by the job `summarise`; a late record has its window computed again.

**Where are the files?** In `path` of each partition: a Delta table for each topic,
`<archive>/tiers/{name}/<component>/<topic>/`, to be read like the archive's; or take the job `export` with tier
`{name}`.

**When a run fails**, its last error says what to do. Nothing is lost: what is missing is computed at the next run.""",
    )
    def tier(context: dg.AssetExecutionContext, deployment: Deployment) -> dg.MaterializeResult[Any]:
        from efd_pipelines.tiers.build import build_tier
        from efd_pipelines.tiers.tier import TIERS

        with explained():
            partitions = partitions_of(context)
            archive = deployment.archive()
            for component in sorted({partition.component for partition in partitions}):
                weeks = [partition.week for partition in partitions if partition.component == component]
                datasets = archive.datasets(component)
                progress = logged(context, "slices")
                result = build_tier(archive, TIERS[name], datasets, weeks, run=context.run.run_id, progress=progress)
                context.log.info(f"{component}: {counted(_summary(result))}")
            for one in figures_of(archive, name, partitions):
                context.add_asset_metadata(one.metadata(name), partition_key=one.partition.key)
        return dg.MaterializeResult()

    return tier


tier_1s = _tier_asset(
    ONE_SECOND,
    "a second",
    "Fast telemetry at one second: first, min, max, mean, median and standard deviation of each field and window.",
)
tier_1m = _tier_asset(
    "1m", "a minute", "Telemetry at one minute, of the raw samples: first, min, max, mean, median, standard deviation."
)
tier_1h = _tier_asset(
    "1h", "an hour", "Telemetry at one hour, of the raw samples: first, min, max, mean, median, standard deviation."
)
ASSETS = {ONE_SECOND: tier_1s, "1m": tier_1m, "1h": tier_1h}


@dg.op(pool="compute", ins={"after": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
def summarise_tier(context: dg.OpExecutionContext, deployment: Deployment) -> None:
    """Computes what of the tiers the archive has moved on from, and tells Dagster which weeks changed."""
    from efd_pipelines.tiers.build import build_tier
    from efd_pipelines.tiers.tier import TIERS

    with explained():
        archive = deployment.archive()
        found: dict[str, Any] = {}
        for name, asset in ASSETS.items():
            began = time.time()
            result = build_tier(archive, TIERS[name], run=context.run_id, progress=logged(context, "slices"))
            context.log.info(f"Summarised at {name}: {counted(_summary(result))}")
            found |= _summary(result) if name == ONE_SECOND else {f"{name}_windows": result.windows}
            recent = began - DAY_S
            archived = [one for one, changed_us in changes(archive, RAW, recent).items() if changed_us < began * 1e6]
            log_untold(context, archive, asset.key, name, nothing_of=archived, since_s=recent)
        context.add_output_metadata(found)


def _summary(result: "TierResult") -> Metadata:
    return {
        "windows": result.windows,
        "rows": result.rows,
        "mb": megabytes(result.bytes),
        "slices": result.slices,
        "commits": result.commits,
        "seconds": round(result.seconds, 3),
    }
