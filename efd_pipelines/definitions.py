"""The code location: what `dagster dev`, webserver, daemon and run workers load.

What is in it: `defs/`. Here it is put together, with the deployment's configuration, because each configured
instrument has an asset of its own. Nothing connects, and no setting needs to be there.
"""

import warnings

import dagster as dg

from efd_pipelines.configuration import Configuration


def build_defs(configuration: Configuration, *, policy: str | None = None, **resources: object) -> dg.Definitions:
    """The definitions of a configuration; `resources` replace those of the deployment, for tests.

    `policy` is that of retention, where another than the configuration's is in force.
    """
    # Dagster's version is pinned: that a feature may change says nothing here, a hundred times a day.
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    from efd_pipelines.defs import (
        aggregated,
        alerts,
        anomalies,
        archive,
        checks,
        consdb,
        exports,
        exposures,
        growth,
        jobs,
        publishing,
        reports,
        retention,
        schedules,
        sealing,
        sensors,
        sources,
        tier_checks,
        tiers,
    )
    from efd_pipelines.resources import Deployment

    fixed: list[dg.AssetSpec | dg.AssetsDefinition] = [
        sources.kafka,
        sources.kafka_topics,
        archive.raw_archive,
        sealing.sealed_archive,
        *tiers.ASSETS.values(),
        *publishing.ASSETS,
        consdb.consdb_1s,
        reports.storage_throughput,
        growth.storage_growth,
    ]
    return dg.Definitions(
        assets=[*fixed, *exposures.exposure_assets(configuration.exposures)],
        asset_checks=[
            checks.archive_checks,
            tier_checks.tier_checks,
            retention.expired_is_covered,
            *publishing.CHECKS,
            growth.stores_have_room,
            anomalies.no_anomalies,
        ],
        jobs=jobs.JOBS,
        schedules=[
            *schedules.SCHEDULES,
            retention.expire_schedule(configuration, policy),
            consdb.consdb_schedule(configuration),
            aggregated.aggregated_schedule(configuration),
            growth.growth_schedule,
            anomalies.anomaly_schedule,
            *exports.export_schedules(configuration),
        ],
        sensors=[*sensors.SENSORS, alerts.alert],
        resources={"deployment": Deployment(), **resources},
        # A run works many topics side by side by itself; a process per step costs 3 s more each.
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster asks for."""
    from efd_pipelines.retention.policy import name_of
    from efd_pipelines.settings import load_settings

    settings = load_settings()
    return build_defs(settings.configuration, policy=name_of(settings))
