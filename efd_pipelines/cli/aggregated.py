"""`efd publish aggregated`: the 1 s tier back into Kafka."""

from __future__ import annotations

import typer

from efd_pipelines.cli.answers import print_facts, print_json
from efd_pipelines.cli.options import AsJson, Components, check_components, example
from efd_pipelines.cli.progress import Gauge

_FACTS = ("records", "slices", "unchanged", "topics", "seconds")


def add_to(app: typer.Typer) -> None:
    """Makes it a command of `efd publish`."""
    app.command("aggregated", epilog=example("efd publish aggregated", "efd publish aggregated MTM1M3 --json"))(
        aggregated
    )


def aggregated(components: Components = None, as_json: AsJson = False) -> None:
    """Carry the 1 s tier of chosen topics back into Kafka.

    To <topic>-aggregated, what has changed; which topics, `publishing.aggregated` of EFD_CONFIG says.
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.publishing.aggregated import publish_aggregated
    from efd_pipelines.settings import load_settings

    settings = load_settings()
    settings.require_kafka()
    settings.require_registry()
    archive = Archive(settings)
    datasets = archive.datasets()
    check_components(components, {dataset.component for dataset in datasets})
    chosen = [one for one in datasets if not components or one.component in components]
    with Gauge("Producing", "slices") as gauge:
        result = publish_aggregated(archive, chosen, progress=gauge.step)
    facts = {name: getattr(result, name) for name in _FACTS} | {"seconds": round(result.seconds, 3)}
    print_json(facts) if as_json else print_facts(facts)
