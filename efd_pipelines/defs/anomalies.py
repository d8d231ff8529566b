"""Anomalies: topics that leave their own past, their schedule, or the behaviour of their kind, asked each day.

`forecasting/anomalies.py` answers; here it is shown, and warned of.
"""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from efd_pipelines.defs.archive import raw_archive
from efd_pipelines.defs.checks import loudly
from efd_pipelines.defs.failures import explained
from efd_pipelines.defs.metadata import table
from efd_pipelines.resources import Deployment

if TYPE_CHECKING:
    from efd_pipelines.forecasting.anomalies import AnomalyReport

_ROWS_SHOWN = 100
_ANOMALY = {"text": "string", "fault": "string", "day": "string", "component": "string", "surprise": "float"}
_MOVE = {"text": "string", "part": "string", "topics": "int"}


@dg.asset_check(
    asset=raw_archive,
    description="Whether every topic sent yesterday (UTC) what its own past, its schedule and its kind let expect: not "
    "stuck, silent, doubled, larger, or growing for weeks. If not: ask who writes the component, with these figures "
    "(`efd report anomalies` has them, too). A new rate is the usual one after two weeks. Components that are down or "
    "exercised as a whole are listed apart and are no anomaly; an outage of the archive is one line.",
)
def no_anomalies(context: dg.AssetCheckExecutionContext, deployment: Deployment) -> dg.AssetCheckResult:
    from efd_pipelines.forecasting.anomalies import anomaly_report

    with explained():
        report = anomaly_report(deployment.archive(), (datetime.now(UTC) - timedelta(days=1)).date())
    return loudly(context, judged(report))


def judged(report: "AnomalyReport") -> dg.AssetCheckResult:
    """What was flagged, as a check says it."""
    first = "; ".join(one.text for one in report.anomalies[:3])
    count, both = len(report.anomalies), (*report.anomalies, *report.recent)
    text = f"{report.day}: {count} of {report.topics:,} topics are not as usual: {first}" if count else ""
    missing = [one.text for one in report.outages]
    usual = "" if count or missing else f"{report.day}: {report.topics:,} topics are as usual."
    return dg.AssetCheckResult(
        check_name="no_anomalies",
        passed=not count and not missing,
        severity=dg.AssetCheckSeverity.WARN,
        description=" ".join(filter(None, [text, *missing, usual, *report.notes])),
        metadata={
            "anomalies": count,
            "topics": report.topics,
            "days_known": report.days_known,
            "which": table(({n: getattr(one, n) for n in _ANOMALY} for one in both[:_ROWS_SHOWN]), _ANOMALY),
            "components": table(
                ({n: getattr(one, n) for n in _MOVE} for one in report.components[:_ROWS_SHOWN]), _MOVE
            ),
        },
    )


find_anomalies = dg.define_asset_job(
    "find_anomalies",
    selection=dg.AssetSelection.checks(no_anomalies),
    description="Asks whether every topic sent what was expected of it yesterday.",
)

anomaly_schedule = dg.ScheduleDefinition(
    name="find_anomalies",
    job=find_anomalies,
    cron_schedule="15 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Each night, when the day before (UTC) is archived.",
)
