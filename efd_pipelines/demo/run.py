"""One run of the demo: services up, some minutes of the observatory onto Kafka, the job `main`, services down.

What it made is counted in the archive itself, not in what the steps say of themselves.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.status import status
from efd_pipelines.demo.children import compiling_ahead, run_job
from efd_pipelines.demo.observatory import SEED, Window, next_window
from efd_pipelines.demo.site import Site
from efd_pipelines.errors import DataError
from efd_pipelines.simulator.observatory import run_observatory
from efd_pipelines.simulator.producer import Produced

SECONDS = 180.0
EXPORTED = ("lsst.sal.MTMount.azimuth", "lsst.sal.MTMount.elevation", "lsst.sal.ESS.temperature")

_TELL_EVERY_S = 5.0

Tell = Callable[[str], None]
"""Is told in a line what is being done or was done."""

_EVENT = re.compile(r"\d{4}-\d\d-\d\d \S+ \S+ - dagster - (?P<rest>.*)")
_BEGUN = re.compile(r" - (?P<step>\w+) - STEP_START - ")
_FAILED = re.compile(r" - STEP_FAILURE - ")
_COUNT = re.compile(r"^INFO - .* - (?P<count>[\d,]+ of [\d,]+ .+)$")
_STEPS = {
    "discover_topics": "Looking what topics there are",
    "drain_whole_backlog": "Archiving the backlog, exactly once",
    "summarise_tier": "Summarising by second, minute and hour",
    "join_new_exposures": "Joining telemetry to exposures",
    "report_storage": "Reporting storage",
    "export_if_asked": "Exporting for Dask",
}


class DemoFailed(DataError):
    """The job `main` did not succeed."""


@dataclass(frozen=True, slots=True)
class Demo:
    """What one run of the demo made. `records` were produced and `rows` archived by it; `archived` is all there is."""

    topics: int
    records: int
    exposures: int
    rows: int
    archived: int
    dead_letters: int
    window: Window
    archive: Path
    reports: tuple[Path, ...]
    charts: tuple[Path, ...]
    export: Path
    log: Path
    env: Path
    seconds: float


def run_demo(directory: Path, seconds: float = SECONDS, *, tell: Tell) -> Demo:
    """Runs the whole path on the next `seconds` of the simulated observatory; can be repeated, and goes on then.

    Raises:
        SiteInUse: another demo runs in the directory.
        DemoFailed: the job failed; what it had done stands, and the next run goes on from there.
        ServiceUnavailable: a server could not be installed or started.
    """
    began = time.monotonic()
    site = Site.at(directory)
    with site.claimed(), compiling_ahead(site.environment({})):
        before = _archived(site)
        tell("Starting Apache Kafka and the schema registry (installed once per machine)")
        with site.served() as (_, reached):
            window = next_window(site.directory, seconds)
            tell(f"Simulating the observatory, {window}")
            produced = _simulate(site, reached, window, tell)
            tell(f"  {produced.records:,} records of {produced.topics} topics, {produced.exposures} exposures")
            export = site.exports / f"{window.start:%Y%m%dT%H%M%S}"
            _run_main(site, reached, window, export, tell)
            tell("Stopping the services")
        return _result(site, window, produced, before, export, time.monotonic() - began)


def _simulate(site: Site, reached: dict[str, str], window: Window, tell: Tell) -> Produced:
    told_s = time.monotonic()

    def progress(records: int, expected: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s > _TELL_EVERY_S:
            told_s = time.monotonic()
            tell(f"    {records:,} of {expected:,} records" if expected else f"    {records:,} records")

    return run_observatory(
        site.settings(reached),
        SEED,
        window.seconds,
        "max",
        start=window.start,
        exposures=True,
        consdb_url=site.consdb_url,
        progress=progress,
    )


def _run_main(site: Site, reached: dict[str, str], window: Window, export: Path, tell: Tell) -> None:
    config = site.dagster / "main.json"
    asked = {
        "topics": list(EXPORTED),
        "from": window.start.isoformat(),
        "to": window.end.isoformat(),
        "out": str(export),
    }
    config.write_text(json.dumps({"ops": {"export_if_asked": {"config": asked}}}, indent=2))
    tell("Running the Dagster job `main`")
    steps = _Steps(tell)
    if run_job("main", config, site.dagster, site.environment(reached), steps.hear):
        raise DemoFailed(
            f"The job `main` failed: {steps.reason}",
            remedy=f"Its log is {site.dagster / 'main.log'}; run again: what was done stands.",
        )


class _Steps:
    """What a job's output says of its steps: which one begins, how far it is, and why one failed."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._is_reason = False
        self._reason: list[str] = []
        self._last = ""

    def hear(self, line: str) -> None:
        """Takes one line."""
        self._last = line.strip() or self._last
        event = _EVENT.match(line)
        if event is not None:
            self._hear_event(event["rest"])
        elif line.startswith("Stack Trace:"):
            self._is_reason = False
        elif self._is_reason and line.strip():
            self._reason.append(line.strip())

    def _hear_event(self, rest: str) -> None:
        begun, count, failed = (pattern.search(rest) for pattern in (_BEGUN, _COUNT, _FAILED))
        if begun is not None:
            self._tell(f"  {_STEPS.get(begun['step'], begun['step'])}")
        if count is not None:
            self._tell(f"    {count['count']}")
        # The reason of the first failure stands below its line, without the mark of a line of its own.
        self._is_reason = failed is not None and not self._reason

    @property
    def reason(self) -> str:
        """Why the step that failed first did; Dagster's own words for it, which come before, say nothing."""
        reason = [line for line in self._reason if not line.startswith("dagster.")]
        return " ".join(reason or self._reason) or self._last or "it said nothing"


def _archived(site: Site) -> tuple[int, int]:
    """Rows and dead letters that the archive has, by its ledger."""
    if not site.archive.exists():
        return 0, 0
    weeks = status(Archive(site.settings({})))
    return sum(one.rows for one in weeks), sum(one.rows for one in weeks if one.week == "dead")


def _result(
    site: Site, window: Window, produced: Produced, before: tuple[int, int], export: Path, seconds: float
) -> Demo:
    rows, dead = _archived(site)
    return Demo(
        topics=produced.topics,
        records=produced.records,
        exposures=produced.exposures,
        rows=rows - before[0],
        archived=rows,
        dead_letters=dead - before[1],
        window=window,
        archive=site.archive,
        reports=tuple(sorted(site.archive.glob("reports/storage/*/throughput.md"))),
        charts=tuple(sorted(site.archive.glob("reports/storage/*/throughput.png"))),
        export=export,
        log=site.dagster / "main.log",
        env=site.env,
        seconds=seconds,
    )
