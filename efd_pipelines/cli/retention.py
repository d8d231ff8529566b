"""`efd retention`: how long what is kept, what is due, letting go of it, and pins that keep it."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from efd_pipelines.cli.answers import print_facts, print_json, print_table, size
from efd_pipelines.cli.options import (
    AsJson,
    Components,
    Strict,
    WeekKey,
    check_components,
    example,
    parse_week,
    parse_when,
    run_name,
)
from efd_pipelines.cli.progress import Gauge

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.retention.due import Due
    from efd_pipelines.retention.plan import Plan, Refusal
    from efd_pipelines.retention.records import Gone
    from efd_pipelines.topics.names import Dataset

app = typer.Typer(rich_markup_mode=None, help="How long what is kept; plan, enforce, and pin what must never go.")

PolicyName = Annotated[
    str | None,
    typer.Option("--policy", metavar="NAME|FILE", help="This policy instead of the one that is configured."),
]


@app.command("show", epilog=example("efd retention show", "efd retention show --expired --json"))
def show(
    policy: PolicyName = None,
    expired: Annotated[bool, typer.Option("--expired", help="Also list all that was let go, and why.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say which policy is in force, and what has been let go so far."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.retention.pins import pins as pinned
    from efd_pipelines.retention.policy import described, policy_of, read_policy
    from efd_pipelines.retention.records import by_level, gone
    from efd_pipelines.settings import load_settings

    settings = load_settings()
    archive = Archive(settings)
    found = gone(archive)
    document = described(policy_of(settings) if policy is None else read_policy(policy))
    document |= {"pins": len(pinned(archive.store)), "gone": by_level(found)}
    listed = _listed(archive, found) if expired else []
    if as_json:
        print_json({**document, "expired": listed} if expired else document)
        return
    print_facts({name: document[name] for name in ("policy", "description", "source", "pins")})
    for glob, keep in {"": document["keep"], **document["topics"]}.items():
        print_facts(
            {f"  {level}": span for level, span in keep.items()}, title=f"\nKept{' of ' + glob if glob else ''}"
        )
    rows = [[level, of["weeks"], of["rows"], size(of["bytes"])] for level, of in document["gone"].items()]
    print_table("\nLet go", ["level", "weeks of topics", "rows", "bytes"], rows, empty="\nNothing was let go so far.")
    if listed:
        names = ["level", "topic", "week", "rows", "late", "at", "policy", "reason"]
        print_table("\nExpired", names, [[row[name] for name in names] for row in listed])


def _listed(archive: Archive, found: Sequence[Gone]) -> list[dict[str, Any]]:
    from efd_pipelines.retention.records import reasons

    return [
        {
            **{name: getattr(one, name) for name in type(one).__slots__},
            "policy": "" if mark is None else mark.policy,
            "reason": "" if mark is None else mark.reason,
            "covered_by": {} if mark is None else mark.covered_by,
        }
        for one, mark in zip(found, reasons(archive, found), strict=True)
    ]


@app.command("plan", epilog=example("efd retention plan", "efd retention plan MTM1M3 --policy summit --json"))
def plan(
    components: Components = None,
    week: WeekKey = None,
    policy: PolicyName = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="WHEN", help="As if it were this time (UTC), e.g. 2027-01-01.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not read rows: whether tiers cover what is due is then not known.")
    ] = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Say what would be let go now, and what stays and why.

    Nothing is changed. Whether tiers cover what is due is found by reading it, statistics apart.
    """
    found = _planned(components, week, policy, at, quick=quick)
    _print_plan(found, as_json)
    if strict and found.refused:
        raise typer.Exit(1)


def _planned(
    components: Sequence[str] | None, week: str | None, policy: str | None, at: str | None, *, quick: bool
) -> Plan:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.retention.plan import plan as planned
    from efd_pipelines.retention.policy import read_policy
    from efd_pipelines.settings import load_settings

    archive, only = Archive(load_settings()), parse_week(week)
    with Gauge("Looking", "weeks") as gauge:
        return planned(
            archive,
            policy=None if policy is None else read_policy(policy),
            now=parse_when(at),
            datasets=_datasets(archive, components),
            weeks=None if only is None else [only],
            depth="metadata" if quick else "counts",
            progress=gauge.step,
        )


@app.command("apply", epilog=example("efd retention apply --dry-run", "efd retention apply MTM1M3 --week 2026-09-07"))
def apply(
    components: Components = None,
    week: WeekKey = None,
    policy: PolicyName = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be let go.")] = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Let go of what is due. Every value of it is compared with what covers it first; what is doubtful stays.

    The files leave the store when `efd archive clean`, or the daily round, finds them a week later.
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.retention.enforce import enforce
    from efd_pipelines.retention.policy import read_policy
    from efd_pipelines.settings import load_settings

    if dry_run:
        _print_plan(_planned(components, week, policy, None, quick=False), as_json)
        return
    archive, only = Archive(load_settings()), parse_week(week)
    with Gauge("Letting go", "weeks") as gauge:
        result = enforce(
            archive,
            policy=None if policy is None else read_policy(policy),
            datasets=_datasets(archive, components),
            weeks=None if only is None else [only],
            run=run_name(),
            progress=gauge.step,
        )
    document: dict[str, Any] = {
        "policy": result.policy,
        "rows": result.rows,
        "bytes": result.bytes,
        "elsewhere": result.elsewhere,
        "seconds": round(result.seconds, 3),
        "gone": [_due(one) for one in result.gone],
        "refused": [_refused(one) for one in result.refused],
    }
    _print(document, as_json, "gone", "Let go")
    if strict and result.refused:
        raise typer.Exit(1)


@app.command(
    "pin",
    epilog=example(
        'efd retention pin --night 20261121 --why "earthquake of magnitude 6"',
        'efd retention pin --week 2026-11-16 --topic "lsst.sal.MTM1M3.*" --why "bump tests" --json',
    ),
)
def pin(
    why: Annotated[str, typer.Option("--why", help="Why it is kept, for whoever reads it later.")],
    week: WeekKey = None,
    night: Annotated[
        int | None, typer.Option("--night", metavar="DAY_OBS", help="The night of this day_obs, e.g. 20261121.")
    ] = None,
    topic: Annotated[
        str | None, typer.Option("--topic", metavar="GLOB", help="Datasets that fit, e.g. 'lsst.sal.MTM1M3.*'.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Keep a week, a night or a topic from ever expiring.

    Or a topic in a week or night. A night that lies in two weeks keeps both.
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.retention.pins import pin as pinned
    from efd_pipelines.settings import load_settings

    made = pinned(Archive(load_settings()).store, why=why, week=week, night=night, topic=topic, by=_user())
    _print_pins([made], as_json, single=True)


@app.command("unpin", epilog=example("efd retention unpin 3f2a9c01"))
def unpin(name: Annotated[str, typer.Argument(metavar="PIN", help="Its name.")], as_json: AsJson = False) -> None:
    """Take a pin away. What it kept may expire again."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.retention.pins import unpin as unpinned
    from efd_pipelines.settings import load_settings

    _print_pins([unpinned(Archive(load_settings()).store, name)], as_json, single=True)


@app.command("pins", epilog=example("efd retention pins", "efd retention pins --json"))
def pins(as_json: AsJson = False) -> None:
    """List what is pinned, by whom and why."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.retention.pins import pins as pinned
    from efd_pipelines.settings import load_settings

    _print_pins(pinned(Archive(load_settings()).store), as_json)


@app.command("late", epilog=example("efd retention late lsst.sal.MTMount.azimuth --tier 1s --json"))
def late(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="[cluster@]namespace.name")],
    week: WeekKey = None,
    tier: Annotated[str, typer.Option("--tier", metavar="1s|1m|1h", help="Which windows.")] = "1s",
    as_json: AsJson = False,
) -> None:
    """List windows of expired weeks that late records belong to. Their summaries do not have them."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.retention.records import gone, late_windows
    from efd_pipelines.settings import load_settings
    from efd_pipelines.tiers.tier import tier_named
    from efd_pipelines.times import Week
    from efd_pipelines.topics.names import Dataset

    archive, dataset, only = Archive(load_settings()), Dataset.parse(topic), parse_week(week)
    weeks = [one.week for one in gone(archive, [dataset]) if one.level == "raw" and one.late]
    wanted = [Week.parse(key) for key in weeks if only is None or key == only.key]
    found = [window for one in wanted for window in late_windows(archive, dataset, one, tier_named(tier))]
    if as_json:
        print_json(found)
        return
    rows = [[one.week, one.time, one.sal_index, one.records] for one in found]
    print_table("", ["week", "window", "salIndex", "records"], rows, empty="No late records in expired weeks.")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return ""


def _datasets(archive: Archive, components: Sequence[str] | None) -> list[Dataset] | None:
    if not components:
        return None
    datasets = archive.datasets()
    check_components(components, {one.component for one in datasets})
    return [one for one in datasets if one.component in components]


def _due(one: Due) -> dict[str, Any]:
    return {
        "level": one.level,
        "topic": one.dataset.text,
        "week": one.week.key,
        "rows": one.rows,
        "bytes": one.bytes,
        "files": one.files,
        "reason": one.reason,
    }


def _refused(refusal: Refusal) -> dict[str, Any]:
    return {**_due(refusal.one), "kind": refusal.kind, "detail": refusal.detail, "remedy": refusal.remedy}


def _print_plan(found: Plan, as_json: bool) -> None:
    document: dict[str, Any] = {
        "policy": found.policy.name,
        "at": found.at,
        "verified": found.depth != "metadata",
        "rows": found.rows,
        "bytes": found.bytes,
        "going": [_due(one) for one in found.going],
        "refused": [_refused(one) for one in found.refused],
    }
    _print(document, as_json, "going", "Would be let go")


def _print(document: dict[str, Any], as_json: bool, list_name: str, title: str) -> None:
    if as_json:
        print_json(document)
        return
    lists = (list_name, "refused")
    facts = {name: value for name, value in document.items() if name not in lists}
    print_facts({**facts, "bytes": size(document["bytes"])})
    names = ["level", "topic", "week", "rows", "bytes", "reason"]
    print_table(f"\n{title}", names, [[row[name] for name in names] for row in document[list_name]], empty="\nNothing.")
    if document["refused"]:
        names = ["level", "topic", "week", "kind", "detail", "remedy"]
        print_table("\nDue, and kept", names, [[row[name] for name in names] for row in document["refused"]])


def _print_pins(found: Sequence[Any], as_json: bool, *, single: bool = False) -> None:
    rows = [
        {**{name: getattr(one, name) for name in type(one).__slots__}, "weeks": [week.key for week in one.weeks()]}
        for one in found
    ]
    if as_json:
        print_json(rows[0] if single else rows)
        return
    names = ["name", "week", "night", "topic", "why", "by", "at"]
    print_table("", names, [[str(row[name] or "") for name in names] for row in rows], empty="Nothing is pinned.")
