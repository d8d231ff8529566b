"""Checks: whether the archive is as it should be, asked every hour and whenever it is materialised by hand.

Five questions that cost seconds, of the ledger and the brokers: `archive/audit.py` and `archive/backlog.py` answer. The
deep audit, which reads every file, is `efd archive verify --deep`.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from efd_pipelines.archive.findings import counted
from efd_pipelines.defs.archive import raw_archive
from efd_pipelines.defs.failures import explained
from efd_pipelines.defs.metadata import table
from efd_pipelines.resources import Deployment
from efd_pipelines.times import day_obs_interval, day_obs_of, this_week

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.audit import Audit, Finding
    from efd_pipelines.archive.backlog import Backlog

GRACE = timedelta(hours=2)
"""How long after a night its last records may take: the slow class of topics is read every hour."""

RECENT = timedelta(days=7)
HOUR_S = 3600.0
CHECKS = ("last_night", "no_gaps", "no_dead_letters", "no_clock_errors", "every_record_once")

_ROWS_SHOWN = 100
_TOPICS_WITH_REASONS = 20
_EVALUATED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}


def _spec(name: str, description: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(name, asset=raw_archive, description=description)


@dg.multi_asset_check(
    name="archive_checks",
    specs=[
        _spec(
            "last_night",
            "Whether all that Kafka had of the last night (which ends at 12:00 UTC) is archived. "
            "If not: is the sensor `drain` on, and do its runs succeed?",
        ),
        _spec(
            "no_gaps",
            "Whether Kafka had lost anything, noticed in the last 7 days: `expired` or `compacted` before it was read, "
            "then look why the job `drain` was late; or `truncated`, the brokers lost the end of a log: look at them; "
            "what had been read is archived. `efd archive gaps` lists it.",
        ),
        _spec(
            "no_dead_letters",
            "Whether all frames of the last 7 days could be decoded. Those that could not are kept whole; "
            "`efd archive dead-letters` says which and why, most often a schema that the registry did not have; once "
            "that is mended, the job `replay_dead_letters` brings them to their weeks.",
        ),
        _spec(
            "no_clock_errors",
            "Whether all records of the last 7 days have a time that can be. Others are kept in quarantine; "
            "`efd archive quarantine` says whose they are and by how much the clock seems to have been wrong, "
            "`efd archive release` brings them home once that is known.",
        ),
        _spec(
            "every_record_once",
            "Whether the archive holds as many rows as records were read from Kafka, and what Kafka still has, for "
            "every topic; all files of the last weeks are there; ledger, logs and certificates agree. "
            "If not, `efd archive verify --deep` says where: report it, this must not happen.",
        ),
    ],
)
def archive_checks(context: dg.AssetCheckExecutionContext, deployment: Deployment) -> Iterator[dg.AssetCheckResult]:
    from efd_pipelines.archive.audit import gaps, verify
    from efd_pipelines.archive.backlog import backlog

    if "dagster/backfill" in context.run.tags and len(known := answered(context.instance)) == len(CHECKS):
        yield from known
        return
    with explained():
        archive = deployment.archive()
        now = datetime.now(UTC)
        yield loudly(context, last_night(backlog(archive, archive.settings), now))
        yield loudly(context, no_gaps(gaps(archive), now))
        yield loudly(context, no_dead_letters(archive, now))
        yield loudly(context, no_clock_errors(archive, now))
        since = this_week(now).previous().previous().key  # older weeks are sealed, and their files certified
        yield loudly(context, every_record_once(verify(archive, since=since, settings=archive.settings)))


def loudly(context: dg.AssetCheckExecutionContext, result: dg.AssetCheckResult) -> dg.AssetCheckResult:
    """The result, and in the log where it is bad: whatever watches logs is alerted by it."""
    if not result.passed:
        tell = context.log.error if result.severity is dg.AssetCheckSeverity.ERROR else context.log.warning
        tell(f"{result.check_name}: {result.description}")
    return result


def answered(instance: dg.DagsterInstance) -> list[dg.AssetCheckResult]:
    """The answers of the last hour. Dagster asks with every run of a backfill, thousands of times the same."""
    found = []
    for name in CHECKS:
        key = dg.AssetCheckKey(raw_archive.key, name)
        for record in instance.event_log_storage.get_asset_check_execution_history(key, 1, status=_EVALUATED):
            event = record.event.dagster_event if record.event else None
            if event is not None and record.create_timestamp > time.time() - HOUR_S:
                told = event.asset_check_evaluation_data
                found.append(
                    dg.AssetCheckResult(
                        check_name=name,
                        passed=told.passed,
                        severity=told.severity,
                        description=told.description,
                        metadata=told.metadata,
                    )
                )
    return found


def last_night(waiting: list["Backlog"], now: datetime) -> dg.AssetCheckResult:
    """A topic's night is archived when nothing waits, or when it was read after the night had ended."""
    ended = day_obs_interval(day_obs_of(now - GRACE))[0]
    late = [one for one in waiting if one.last_at is None or one.last_at < ended]
    description = f"The night that ended at {ended:%Y-%m-%d %H:%M} UTC is archived."
    if late:
        most = max(late, key=lambda one: one.records)
        description = (
            f"The night that ended at {ended:%Y-%m-%d %H:%M} UTC is not archived of {counted(len(late), 'topic')}. "
            f"Most waits of {most.topic}: {counted(most.records, 'record')}, read last: {_read_last(most)}. "
            "Is the sensor `drain` on, and do its runs succeed?"
        )
    rows = [
        {"topic": one.topic, "records": one.records, "read_last": _read_last(one), "class": one.freshness}
        for one in late[:_ROWS_SHOWN]
    ]
    columns = {"topic": "string", "records": "int", "read_last": "string", "class": "string"}
    return dg.AssetCheckResult(
        check_name="last_night",
        passed=not late,
        description=description,
        metadata={
            "topics_late": len(late),
            "records_waiting": sum(one.records for one in waiting),
            "late": table(rows, columns),
        },
    )


def _read_last(waiting: "Backlog") -> str:
    return "never" if waiting.last_at is None else f"{waiting.last_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def no_gaps(found: list[dict[str, Any]], now: datetime) -> dg.AssetCheckResult:
    from efd_pipelines.archive.losses import missing_records

    recent = [gap for gap in found if datetime.fromisoformat(gap["noticed"]) >= now - RECENT]
    columns = {
        "topic": "string",
        "kind": "string",
        "partition": "int",
        "first": "int",
        "end": "int",
        "reason": "string",
        "noticed": "string",
    }
    rows = [{"kind": "expired", **gap, "noticed": gap["noticed"][:16]} for gap in recent[:_ROWS_SHOWN]]
    return dg.AssetCheckResult(
        check_name="no_gaps",
        passed=not recent,
        description=f"{counted(len(recent), 'gap')} in the last 7 days, {len(found)} ever." + _first_gap(recent),
        metadata={
            "gaps": len(recent),
            "offsets_missing": sum(missing_records(gap) for gap in recent),
            "gaps_ever": len(found),
            "which": table([{name: row[name] for name in columns} for row in rows], columns),
        },
    )


def _first_gap(gaps: list[dict[str, Any]]) -> str:
    if not gaps:
        return ""
    first = gaps[0]
    where = f"{first['topic']}, partition {first['partition']}, offsets {first['first']} to {first['end'] - 1}"
    return f" The first: {where}: {first['reason']}. `efd archive gaps` says who still has what is missing."


def no_dead_letters(archive: "Archive", now: datetime) -> dg.AssetCheckResult:
    from efd_pipelines.archive.dead_letters import dead_letters
    from efd_pipelines.topics.names import Dataset

    found = _set_aside(archive, "dead", now)
    count = sum(row["rows"] for row in found)
    shown = [Dataset.parse(row["topic"]) for row in found[:_TOPICS_WITH_REASONS]]
    reasons = [
        {"topic": one.topic, "reason": one.reason, "count": one.count} for one in dead_letters(archive, shown)
    ] if shown else []  # fmt: skip
    return dg.AssetCheckResult(
        check_name="no_dead_letters",
        passed=not count,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{_of_topics(count, 'frame', found)} could not be decoded."
        + _most_often(reasons)
        + (
            " `efd archive dead-letters` says all; once that is mended, the job `replay_dead_letters`." if count else ""
        ),
        metadata={
            "dead_letters": count,
            "which": table(found[:_ROWS_SHOWN], {"topic": "string", "rows": "int"}),
            "reasons": table(reasons[:_ROWS_SHOWN], {"topic": "string", "reason": "string", "count": "int"}),
        },
    )


def _most_often(reasons: "Sequence[dict[str, Any]]") -> str:
    if not reasons:
        return ""
    most = max(reasons, key=lambda one: int(one["count"]))
    return f" Most often, {most['count']:,} of {most['topic']}: {most['reason']}."


def no_clock_errors(archive: "Archive", now: datetime) -> dg.AssetCheckResult:
    found = _set_aside(archive, "quarantine", now)
    count = sum(row["rows"] for row in found)
    return dg.AssetCheckResult(
        check_name="no_clock_errors",
        passed=not count,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{_of_topics(count, 'record', found)} had a time that cannot be"
        + (
            f", the most of {found[0]['topic']}. `efd archive quarantine` says by how much, `efd archive release` "
            "brings them home."
            if found
            else "."
        ),
        metadata={
            "quarantined": count,
            "which": table(found[:_ROWS_SHOWN], {"topic": "string", "rows": "int"}),
        },
    )


def _of_topics(count: int, noun: str, topics: list[dict[str, Any]]) -> str:
    return f"{counted(count, noun)} of {counted(len(topics), 'topic')} in the last 7 days"


def _set_aside(archive: "Archive", week: str, now: datetime) -> list[dict[str, Any]]:
    """Topics with rows that went there in the last days and have not come home since, the most first."""
    since_us = int((now - RECENT).timestamp() * 1e6)
    found: list[dict[str, Any]] = archive.ledger.sql(
        f"""
        SELECT dataset AS topic, sum(rows)::BIGINT AS rows FROM ledger
        WHERE "table" = 'raw' AND week = '{week}' AND epoch_us("at") >= {since_us}
        GROUP BY dataset HAVING sum(rows) > 0 ORDER BY rows DESC
        """  # noqa: S608 - words and a number of ours
    ).to_pylist()
    return found


def _in_words(problems: "Sequence[Finding]") -> str:
    """How many problems there are of each kind, and the first of them."""
    if not problems:
        return ""
    kinds = Counter(problem.kind for problem in problems)
    all_of = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    first = problems[0]
    where = ", week ".join(part for part in (first.topic, first.week) if part)
    which = f"{first.kind}: {f'{where}: ' if where else ''}{first.detail}. {first.remedy}"
    return f" {counted(len(problems), 'problem')}: {all_of}. The first is {which}"


def every_record_once(audit: "Audit") -> dg.AssetCheckResult:
    wrong = [problem for problem in audit.problems if problem.kind != "gap"]
    return dg.AssetCheckResult(
        check_name="every_record_once",
        passed=not wrong,
        description=f"{counted(audit.records, 'record')} of {counted(audit.topics, 'topic')} were read, "
        f"{counted(audit.rows, 'row')} are kept." + _in_words(wrong),
        metadata={
            "records": audit.records,
            "rows": audit.rows,
            "topics": audit.topics,
            "problems": _findings(wrong),
            "what_to_do": _remedies(wrong),
            "notes": _findings(audit.notes),
        },
    )


def _findings(findings: "Sequence[Finding]") -> dg.MetadataValue:
    """Without what to do: beside it a column is a word wide, and a line as high as the window."""
    columns = {"topic": "string", "week": "string", "kind": "string", "detail": "string"}
    return table([{name: getattr(one, name) for name in columns} for one in findings[:_ROWS_SHOWN]], columns)


def _remedies(findings: "Sequence[Finding]") -> dg.MetadataValue:
    found = dict.fromkeys((one.kind, one.remedy) for one in findings)
    rows = [{"kind": kind, "remedy": remedy} for kind, remedy in found]
    return table(rows[:_ROWS_SHOWN], {"kind": "string", "remedy": "string"})
