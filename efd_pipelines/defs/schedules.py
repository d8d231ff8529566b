"""Schedules: what happens at a time of day. What happens when something arrives: `sensors.py`. All times are UTC."""

from datetime import UTC, timedelta

import dagster as dg

from efd_pipelines.defs import jobs
from efd_pipelines.defs.failures import explained
from efd_pipelines.defs.history import next_runs
from efd_pipelines.defs.sealing import no_merge
from efd_pipelines.resources import Deployment
from efd_pipelines.times import Week

_ON = dg.DefaultScheduleStatus.RUNNING


@dg.schedule(
    job=jobs.weekly_report,
    cron_schedule="30 2 * * *",
    execution_timezone="UTC",
    default_status=_ON,
    description="Each night the report of the week that the day before was in: Monday's is the finished week's.",
)
def weekly_report(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    week = Week.containing(context.scheduled_execution_time - timedelta(days=1))
    return dg.RunRequest(run_key=f"{context.scheduled_execution_time:%Y-%m-%d}", partition_key=week.key)


daily_round = dg.ScheduleDefinition(
    name="daily_round",
    job=jobs.daily_round,
    cron_schedule="30 14 * * *",
    execution_timezone="UTC",
    default_status=_ON,
    description="Order is kept when it is day in Chile and the night is archived.",
)

verify = dg.ScheduleDefinition(
    name="verify",
    job=jobs.verify,
    cron_schedule="10 * * * *",
    execution_timezone="UTC",
    default_status=_ON,
    description="Every hour: is last night archived, was anything lost?",
)


@dg.schedule(
    job=jobs.merge,
    cron_schedule="*/10 * * * *",
    execution_timezone="UTC",
    default_status=_ON,
    description="Whether slices have too many files: more than 8 while they grow, more than one when they are over.",
)
def merge(context: dg.ScheduleEvaluationContext, deployment: Deployment) -> dg.RunRequest | dg.SkipReason:
    with explained():
        reason = no_merge(context.instance, deployment.archive(), context.scheduled_execution_time)
    return dg.RunRequest() if reason is None else dg.SkipReason(reason)


@dg.schedule(
    job=jobs.heal_archive,
    cron_schedule="*/15 * * * *",
    execution_timezone="UTC",
    default_status=_ON,
    description="The next missing weeks, newest first, while the history may be asked: EFD_HISTORY_FIRST_WEEK, "
    "EFD_HISTORY_WINDOW (UTC), EFD_HISTORY_BUDGET_H.",
)
def heal_history(context: dg.ScheduleEvaluationContext, deployment: Deployment) -> list[dg.RunRequest] | dg.SkipReason:
    with explained():
        found = next_runs(context.instance, deployment.archive(), context.scheduled_execution_time.astimezone(UTC))
    return dg.SkipReason(found) if isinstance(found, str) else found


SCHEDULES = [weekly_report, daily_round, verify, merge, heal_history]
