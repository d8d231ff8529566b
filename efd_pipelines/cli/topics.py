"""`efd topics`: the catalogue of what there is on the brokers."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from efd_pipelines.cli.answers import print_json, print_table
from efd_pipelines.cli.options import AsJson, example


class KindName(StrEnum):
    """The kinds, spelt here so that --help need not import the domain."""

    telemetry = "telemetry"
    event = "event"
    command = "command"
    ack = "ack"
    metric = "metric"


_SHOWN = ("topic", "kind", "columns", "partitions", "records", "schema_ids", "covered")


def add_to(app: typer.Typer) -> None:
    app.command("topics", epilog=example("efd topics", "efd topics --component MTM1M3 --kind event --json"))(topics)


def topics(
    component: Annotated[
        str | None, typer.Option("--component", metavar="C", help="Only of this component, e.g. MTM1M3.")
    ] = None,
    kind: Annotated[KindName | None, typer.Option("--kind", help="Only of this kind.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the topics on the brokers. With columns, records, schemas, and whether they are archived."""
    from efd_pipelines.kafka.catalogue import read_catalogue
    from efd_pipelines.settings import load_settings

    rows = [
        {
            "topic": one.dataset.text,
            "component": one.component,
            "kind": one.kind.value,
            "columns": one.columns,
            "partitions": len(one.partitions),
            "records": one.records,
            "schema_ids": list(one.schema_ids),
            "covered": one.covered,
        }
        for one in read_catalogue(load_settings()).topics
        if component in (None, one.component) and kind in (None, one.kind.value)
    ]
    if as_json:
        print_json(rows)
        return
    shown = [[_text(row[name]) for name in _SHOWN] for row in rows]
    print_table("", _SHOWN, shown, empty="No topics.")


def _text(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
