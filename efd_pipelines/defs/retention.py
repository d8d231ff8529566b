"""Retention: letting go of what the deployment's policy no longer asks to keep.

`expire_weeks`, the op of the job `expire`, says what is due and, when it is not a dry run, lets it go, by the functions
that `efd retention` calls. The launchpad's form is a dry run unless it is told otherwise; the schedule is on where the
policy lets anything go. What has gone is told to Dagster as the new state of its partition.
"""

import time
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from efd_pipelines.configuration import Configuration
from efd_pipelines.defs.archive import logged, raw_archive
from efd_pipelines.defs.events import counted, log_untold
from efd_pipelines.defs.failures import explained
from efd_pipelines.defs.metadata import Metadata, megabytes, table
from efd_pipelines.partitions import check_components
from efd_pipelines.resources import Deployment
from efd_pipelines.times import Week

if TYPE_CHECKING:
    from collections.abc import Sequence

    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.retention.due import Due
    from efd_pipelines.retention.plan import Refusal
    from efd_pipelines.retention.records import Gone
    from efd_pipelines.topics.names import Dataset

_ROWS_SHOWN = 200
_DUE = {"level": "string", "topic": "string", "week": "string", "rows": "int", "mb": "float", "reason": "string"}
_REFUSED = {
    "level": "string",
    "topic": "string",
    "week": "string",
    "kind": "string",
    "detail": "string",
    "remedy": "string",
}


class ExpireConfig(dg.Config):
    """What is let go, and whether."""

    dry_run: bool = Field(default=True, description="Only say what would be let go. Nothing is changed.")
    policy: str = Field(
        default="", description="A shipped policy (usdf, summit, week-month-year) or a file, instead of the configured."
    )
    components: list[str] = Field(default=[], description="Only these components, e.g. MTM1M3. Empty: all.")
    weeks: list[str] = Field(default=[], description="Only these weeks, by their Mondays. Empty: all that are due.")


@dg.op(pool="compute", out=dg.Out(dg.Nothing))
def expire_weeks(context: dg.OpExecutionContext, config: ExpireConfig, deployment: Deployment) -> None:
    """Lets go of weeks that the policy no longer keeps and that a coarser tier verifiably has; or only says which."""
    from efd_pipelines.retention.enforce import enforce
    from efd_pipelines.retention.plan import plan
    from efd_pipelines.retention.policy import policy_of, read_policy

    with explained():
        archive = deployment.archive()
        chosen: dict[str, Any] = {
            "policy": read_policy(config.policy) if config.policy else policy_of(archive.settings),
            "datasets": _datasets(context, archive, config.components),
            "weeks": [Week.parse(key) for key in config.weeks] or None,
            "progress": logged(context, "weeks"),
        }
        if config.dry_run:
            planned = plan(archive, **chosen)
            _show(context, "would be let go", planned.policy.name, planned.going, planned.refused)
            return
        began = time.time()
        done = enforce(archive, run=context.run_id, **chosen)
        _show(context, "were let go", done.policy, done.gone, done.refused)
        for level in sorted({one.level for one in done.gone}):
            key = raw_archive.key if level == "raw" else dg.AssetKey(f"tier_{level}")
            log_untold(context, archive, key, level, since_s=began, at_once=True)


def _datasets(
    context: dg.OpExecutionContext, archive: "Archive", components: "Sequence[str]"
) -> "Sequence[Dataset] | None":
    if not components:
        return None
    check_components(context.instance, set(components))
    return [dataset for dataset in archive.datasets() if dataset.component in components]


def _show(
    context: dg.OpExecutionContext, what: str, policy: str, going: "Sequence[Due]", refused: "Sequence[Refusal]"
) -> None:
    figures: Metadata = {
        "weeks": len(going),
        "rows": sum(one.rows for one in going),
        "mb": megabytes(sum(one.bytes for one in going)),
        "refused": len(refused),
    }
    context.log.info(f"By the policy {policy}, {what}: {counted(figures)}")
    for refusal in refused[:_ROWS_SHOWN]:
        context.log.info(f"{refusal.one} is due and stays: {refusal.kind}: {refusal.detail}. {refusal.remedy}")
    listed = [{**_place(one), "rows": one.rows, "mb": megabytes(one.bytes), "reason": one.reason} for one in going]
    kept = [
        {**_place(of.one), "kind": of.kind, "detail": of.detail, "remedy": of.remedy} for of in refused[:_ROWS_SHOWN]
    ]
    shown = {what.replace(" ", "_"): table(listed[:_ROWS_SHOWN], _DUE), "due_and_kept": table(kept, _REFUSED)}
    context.add_output_metadata({**figures, "policy": policy, **shown})


def _place(one: "Due") -> dict[str, str]:
    return {"level": one.level, "topic": one.dataset.text, "week": one.week.key}


@dg.job(tags={"dagster/max_runtime": "43200"})
def expire() -> None:
    """Lets go of what the retention policy no longer keeps; a dry run unless the launchpad's form says otherwise.

    Only weeks that are sealed, and of which every value was compared with the tiers that cover them; events, commands
    and slow telemetry never. The output of the run says what went, and what was due and stays, with the reasons. The
    files leave the store a week later. Pins (`efd retention pin`) keep what must never go.
    """
    expire_weeks()


def expire_schedule(configuration: Configuration, policy: str | None = None) -> dg.ScheduleDefinition:
    """The daily schedule, on where the deployment's policy lets anything go; `policy` takes the configured one's place.

    A policy that is wrong must not keep the archive from being fed: then it is off, and says why.
    """
    from efd_pipelines.errors import SettingsError
    from efd_pipelines.retention.policy import read_policy

    name = configuration.retention.policy if policy is None else policy
    try:
        found = read_policy(name)
        text, is_on = found.description, not found.keeps_everything
    except SettingsError as error:
        text, is_on = f"{error.message} {error.remedy}", False
    return dg.ScheduleDefinition(
        name="expire",
        job=expire,
        cron_schedule="30 15 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING if is_on else dg.DefaultScheduleStatus.STOPPED,
        run_config={"ops": {"expire_weeks": {"config": {"dry_run": False}}}},
        description=f"An hour after the daily round has sealed, by the policy {name}: {text}",
    )


@dg.asset_check(
    asset=raw_archive,
    description="Whether all that was let go can be had at a coarser window: of each expired week some coarser tier "
    "has rows. If not, look who removed them; `efd retention show --expired` says what was let go, when and why.",
)
def expired_is_covered(context: dg.AssetCheckExecutionContext, deployment: Deployment) -> dg.AssetCheckResult:
    from efd_pipelines.retention.records import by_level, gone, without_tiers

    with explained():
        archive = deployment.archive()
        found = gone(archive)
        bare = without_tiers(archive, found)
        sums = by_level(found)
        metadata: Metadata = {f"{level}_weeks": of["weeks"] for level, of in sums.items()}
        metadata |= {f"{level}_mb": megabytes(of["bytes"]) for level, of in sums.items()}
        return dg.AssetCheckResult(
            passed=not bare,
            description=f"{len(found):,} weeks of topics were let go, {len(bare):,} of them are nowhere.",
            metadata={**metadata, "newest": _newest(found), "nowhere": _newest(bare)},
        )


def _newest(found: "Sequence[Gone]") -> dg.MetadataValue:
    columns = {"level": "string", "topic": "string", "week": "string", "rows": "int", "at": "string", "run": "string"}
    rows = [{name: getattr(one, name) for name in columns} for one in reversed(found[-_ROWS_SHOWN:])]
    return table(rows, columns)
