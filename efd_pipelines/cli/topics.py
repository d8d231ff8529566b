"""`efd topics`: the catalogue of what there is on the brokers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from efd_pipelines.cli.answers import print_json, print_table
from efd_pipelines.cli.options import AsJson, example
from efd_pipelines.errors import StoreUnavailable, UsageError

if TYPE_CHECKING:
    from efd_pipelines.kafka.catalogue import CatalogueTopic


_SHOWN = ("topic", "kind", "columns", "partitions", "records", "schema_ids", "covered")


def add_to(app: typer.Typer) -> None:
    app.command("topics", epilog=example("efd topics", "efd topics --component MTM1M3 --kind event --json"))(topics)


def topics(
    component: Annotated[
        str | None, typer.Option("--component", metavar="C", help="Only of this component, e.g. MTM1M3.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", metavar="K", help="Only of this kind: telemetry, event, command, ack or metric."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the topics on the brokers. With columns, records, schemas, and whether they are archived."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.discovered import kept
    from efd_pipelines.kafka.catalogue import read_catalogue
    from efd_pipelines.settings import load_settings
    from efd_pipelines.topics.names import Kind

    settings = load_settings()
    if kind is not None and kind not in set(Kind):
        raise UsageError(f"{kind!r} is no kind of topics", remedy=f"There are {', '.join(Kind)}.")
    try:
        previous = kept(Archive(settings).store)
    except StoreUnavailable:
        # It only spares questions to the registry.
        previous = None
    found = [
        one
        for one in read_catalogue(settings, previous).topics
        if component in (None, one.component) and kind in (None, one.kind.value)
    ]
    if as_json:
        print_json([{**_described(one), "fields": _fields(one)} for one in found])
        return
    rows = [_described(one) for one in found]
    print_table("", _SHOWN, [[_text(row[name]) for name in _SHOWN] for row in rows], empty="No topics.")


def _described(one: CatalogueTopic) -> dict[str, Any]:
    return {
        "topic": one.dataset.text,
        "component": one.component,
        "kind": one.kind.value,
        "columns": one.columns,
        "partitions": len(one.partitions),
        "records": one.records,
        "schema_ids": list(one.schema_ids),
        "covered": one.covered,
    }


def _fields(one: CatalogueTopic) -> list[dict[str, Any]]:
    """The message's own fields: every SAL topic has the private ones."""
    return [
        {
            "name": field.name,
            "type": f"{field.type}[{field.length or ''}]" if field.array else field.type,
            "units": field.units,
            "description": field.description,
        }
        for field in (one.schema.fields if one.schema else ())
        if not field.name.startswith("private_")
    ]


def _text(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
