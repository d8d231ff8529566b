"""`efd simulate`: SAL records on Kafka, from a recording, a simulated observatory or a list of all topics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efd_pipelines.cli.answers import print_facts, print_json
from efd_pipelines.cli.options import AsJson, example, parse_when
from efd_pipelines.cli.progress import Gauge

if TYPE_CHECKING:
    from efd_pipelines.simulator.producer import Produced
    from efd_pipelines.simulator.sal import SalTopic

app = typer.Typer(rich_markup_mode=None, help="Produce SAL records to Kafka.")

SpeedOption = Annotated[
    str, typer.Option("--speed", metavar="max|N", help="As fast as possible, or N times real time.")
]
Definitions = Annotated[
    Path | None,
    typer.Option("--definitions", metavar="FILE", help="A sal/topics.json.gz: types of topics that are not built in."),
]


@app.command("replay", epilog=example("efd simulate replay ../shared/recorded --speed max"))
def replay(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Of <topic>_<anything>.csv or .csv.gz, as InfluxDB returned them.")
    ],
    speed: SpeedOption = "max",
    shift_to: Annotated[
        str | None, typer.Option("--shift-to", metavar="WHEN", help="Move the first record to this time (UTC).")
    ] = None,
    definitions: Definitions = None,
    as_json: AsJson = False,
) -> None:
    """Produce recorded EFD results to Kafka."""
    from efd_pipelines.settings import load_settings
    from efd_pipelines.simulator.replay import replay as produce

    settings = load_settings()
    first = parse_when(shift_to)
    with Gauge("Replaying", "records") as gauge:
        produced = produce(
            settings, directory, speed, first, definitions=_definitions(definitions), progress=gauge.part
        )
    _answer(produced, as_json)


@app.command(
    "observatory",
    epilog=example(
        "efd simulate observatory --seed 1 --seconds 300 --exposures",
        "efd simulate observatory --seed 1 --seconds 300 --speed 1 --start 2026-11-22T23:58:00",
    ),
)
def observatory(
    seed: Annotated[int, typer.Option("--seed", help="The same seed and start make the same records.")] = 1,
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="How much of the observatory's time.")] = 60.0,
    speed: SpeedOption = "max",
    start: Annotated[
        str | None, typer.Option("--start", metavar="WHEN", help="When it begins (UTC); without: now.")
    ] = None,
    exposures: Annotated[
        bool, typer.Option("--exposures", help="Take exposures, and write them to the exposure table of ConsDB.")
    ] = False,
    rate: Annotated[
        float, typer.Option("--rate", help="The share of fast telemetry's rate that is simulated: 1 is all.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Produce a deterministic observatory's records to Kafka. With --seconds inf, until it is interrupted."""
    from efd_pipelines.settings import load_settings
    from efd_pipelines.simulator.observatory import run_observatory

    settings = load_settings()
    with Gauge("Simulating", "records") as gauge:
        produced = run_observatory(
            settings,
            seed,
            seconds,
            speed,
            start=parse_when(start),
            exposures=exposures,
            consdb_url=settings.require_consdb() if exposures else None,
            rate=rate,
            progress=gauge.part,
        )
    _answer(produced, as_json)


@app.command("topics", epilog=example("efd simulate topics ../shared/sal/topics.json.gz --records 1"))
def topics(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A sal/topics.json.gz.")],
    records: Annotated[int, typer.Option("--records", min=0, help="How many records of each topic.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Make all topics of a list in Kafka, with some records each."""
    from efd_pipelines.settings import load_settings
    from efd_pipelines.simulator.everything import produce_topics

    settings = load_settings()
    with Gauge("Producing", "records") as gauge:
        produced = produce_topics(settings, file, records, progress=gauge.part)
    _answer(produced, as_json)


def _definitions(file: Path | None) -> Mapping[str, SalTopic] | None:
    if file is None:
        return None
    from efd_pipelines.simulator.sal import load_topics

    return load_topics(file)


def _answer(produced: Produced, as_json: bool) -> None:
    document = {
        "topics": produced.topics,
        "records": produced.records,
        "exposures": produced.exposures,
        "seconds": round(produced.seconds, 3),
    }
    if as_json:
        print_json(document)
    else:
        print_facts(document)
