"""Tier checks: whether the tiers say what the archive says, asked of a recent hour by the job `verify`.

`tiers/examination.py` answers. That every value is right is proved before anything expires (`retention.py`).
"""

import time
from collections.abc import Iterator

import dagster as dg

from efd_pipelines.defs.checks import loudly
from efd_pipelines.defs.failures import explained
from efd_pipelines.defs.metadata import table
from efd_pipelines.defs.tiers import tier_1s
from efd_pipelines.resources import Deployment

HOUR_US = 3_600_000_000
_ROWS_SHOWN = 100
_ABOUT = {
    "coverage": "Whether every window of the records has its summary in each tier, and no summary is without records.",
    "counts": "Whether the counts of each tier are those of the records, each counted once.",
    "order": "Whether every mean lies between minimum and maximum.",
    "consistency": "Whether the minutes agree with their seconds, in count and extremes.",
}
_REMEDY = " Of the hour before the last. If not: report it; `efd tiers run` mends only what is stale."


@dg.multi_asset_check(
    name="tier_checks",
    specs=[
        dg.AssetCheckSpec(f"tier_{kind}", asset=tier_1s, description=about + _REMEDY) for kind, about in _ABOUT.items()
    ],
)
def tier_checks(context: dg.AssetCheckExecutionContext, deployment: Deployment) -> Iterator[dg.AssetCheckResult]:
    from efd_pipelines.tiers.examination import examine

    with explained():
        end = int(time.time() * 1e6) // HOUR_US * HOUR_US - HOUR_US
        found = examine(deployment.archive(), end - HOUR_US, end)
        for kind in _ABOUT:
            doubts = [one for one in found.doubts if one.kind == kind]
            rows = [
                {"topic": one.dataset.text, "tier": one.tier, "windows": one.windows, "detail": one.detail}
                for one in doubts[:_ROWS_SHOWN]
            ]
            columns = {"topic": "string", "tier": "string", "windows": "int", "detail": "string"}
            result = dg.AssetCheckResult(
                check_name=f"tier_{kind}",
                passed=not doubts,
                description=f"{found.windows:,} summaries in {found.tables:,} tables, {len(doubts):,} doubts.",
                metadata={"windows": found.windows, "tables": found.tables, "doubts": table(rows, columns)},
            )
            yield loudly(context, result)
