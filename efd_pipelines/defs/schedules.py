"""Schedules: what happens at a time of day. What happens when something arrives: `sensors.py`. All times are UTC."""

from datetime import timedelta

import dagster as dg

from efd_pipelines.defs import jobs
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

SCHEDULES = [weekly_report, daily_round, verify]
