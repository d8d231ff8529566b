"""`efd demo` and `efd dev`: the whole path on embedded defaults, and its UI."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efd_pipelines.cli.answers import print_facts, print_json
from efd_pipelines.cli.options import AsJson, example

if TYPE_CHECKING:
    from efd_pipelines.demo.dev import Dev
    from efd_pipelines.demo.run import Demo

Data = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="Where everything is kept: archive, broker, database, Dagster.")
]


def add_to(app: typer.Typer) -> None:
    app.command("demo", epilog=example("efd demo", "efd demo --data /tmp/demo --json"))(demo)
    app.command("dev", epilog=example("efd dev --data demo-data --port 3000"))(dev)


def demo(
    data: Data = Path("demo-data"),
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="How much of the observatory's time is simulated.")
    ] = 180.0,
    as_json: AsJson = False,
) -> None:
    """Run the whole path once, on a simulated observatory.

    Starts Apache Kafka and a schema registry in the data directory, produces some minutes of telemetry, events and
    exposures, archives and summarises them, joins them to the exposures, reports and exports, and stops. Can be
    repeated: each run goes on where the one before ended.
    """
    from efd_pipelines.demo.run import run_demo

    made = run_demo(data, seconds, tell=_teller())
    if as_json:
        print_json(
            {
                "topics": made.topics,
                "records": made.records,
                "exposures": made.exposures,
                "rows": made.rows,
                "archived_rows": made.archived,
                "dead_letters": made.dead_letters,
                "from": made.window.start,
                "to": made.window.end,
                "archive": made.archive,
                "report": made.reports[-1] if made.reports else None,
                "reports": made.reports,
                "export": made.export,
                "seconds": round(made.seconds, 3),
            }
        )
    else:
        _print_made(made, data)


def _print_made(made: Demo, data: Path) -> None:
    print("\nWhat the demo made")
    print_facts(
        {
            "simulated": made.window,
            "records produced": f"{made.records:,} of {made.topics} topics, {made.exposures} exposures",
            "rows archived": f"{made.rows:,} ({made.archived:,} with earlier runs), {made.dead_letters} dead letters",
            "took": f"{made.seconds:.0f} s",
        }
    )
    print("\nWhere to look")
    places: list[tuple[str, Path | str]] = [
        ("archive", made.archive),
        *(("storage report", report) for report in made.reports),
        *(("its chart", chart) for chart in made.charts),
        ("export for Dask", made.export),
        ("the job's log", made.log),
        ("settings", f"set -a; . {made.env}; set +a"),
        ("what is archived", f"{_efd()} archive status"),
        ("Dagster's UI, live", f"make dev DATA={data}"),
        ("the next minutes", f"make demo DATA={data}"),
    ]
    for what, where in places:
        print(f"{what:<18}  {where}")


def _efd() -> str:
    """How a shell calls this program: it need not be on PATH."""
    return "efd" if shutil.which("efd") else sys.argv[0]


def dev(
    data: Data = Path("demo-data"),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of the UI; another where it is taken.")] = 3000,
    as_json: AsJson = False,
) -> None:
    """Open Dagster's UI on the demo's data, growing. Ctrl-C stops everything.

    Broker, registry, the simulated observatory at real time, Dagster's daemon with its sensors, and the UI.
    """
    from efd_pipelines.demo.dev import run_dev

    def started(running: Dev) -> None:
        _print_started(running, as_json)

    # Ctrl-C is how this command ends, not how it fails.
    with contextlib.suppress(KeyboardInterrupt):
        run_dev(data, port, tell=_teller(), started=started)


def _print_started(running: Dev, as_json: bool) -> None:
    facts = {"url": running.url, "data": running.directory, "settings": running.env}
    if as_json:
        print_json(facts)
        return
    print(f"\nDagster's UI: {running.url}   (Ctrl-C stops everything)")
    print(f"Its settings for `efd` in another shell: set -a; . {running.env}; set +a")
    sys.stdout.flush()


def _teller() -> Callable[[str], None]:
    """Lines on stderr, each with the time since the beginning; what is being installed is told too."""
    logging.getLogger("efd_pipelines.servers").setLevel(logging.INFO)
    began = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", file=sys.stderr, flush=True)

    return tell
