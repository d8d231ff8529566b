"""Aggregated topics: the 1 s tier back into Kafka, for those who subscribe; of no topic by default."""

import dagster as dg

from efd_pipelines.configuration import Configuration
from efd_pipelines.defs.archive import logged
from efd_pipelines.defs.events import counted
from efd_pipelines.defs.failures import explained
from efd_pipelines.resources import Deployment


@dg.op(pool="publishing", out=dg.Out(dg.Nothing))
def produce_aggregated(context: dg.OpExecutionContext, deployment: Deployment) -> None:
    """Produces the windows that have changed of the topics that `publishing.aggregated` chooses."""
    from efd_pipelines.publishing.aggregated import publish_aggregated

    with explained():
        result = publish_aggregated(deployment.archive(), progress=logged(context, "slices"))
        figures = {name: getattr(result, name) for name in ("records", "slices", "topics")}
        context.add_output_metadata({**figures, "seconds": round(result.seconds, 3)})
        context.log.info(f"Into Kafka: {counted(figures)}")


@dg.job(tags={"dagster/max_runtime": "10800"})
def publish_aggregated() -> None:
    """Carries what has changed of the 1 s tier back into Kafka, as `<topic>-aggregated`; every 5 minutes."""
    produce_aggregated()


def aggregated_schedule(configuration: Configuration) -> dg.ScheduleDefinition:
    """Every 5 minutes; on where the policy chooses topics."""
    chooses = bool(configuration.publishing.aggregated.topics)
    return dg.ScheduleDefinition(
        name="publish_aggregated",
        job=publish_aggregated,
        cron_schedule="*/5 * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING if chooses else dg.DefaultScheduleStatus.STOPPED,
        description="Carries the 1 s tier of the topics that `publishing.aggregated` of EFD_CONFIG chooses into Kafka.",
    )
