"""`efd config`: what is in force, and whether a configuration is right."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from efd_pipelines.cli.answers import print_facts, print_json, print_table
from efd_pipelines.cli.options import AsJson, example

if TYPE_CHECKING:
    from efd_pipelines.settings import Settings

app = typer.Typer(rich_markup_mode=None, help="Settings and configuration: what is in force, and whether it is right.")

_OF_NAME = {"kafka_properties": "EFD_KAFKA_", "registries": "EFD_REGISTRY_URL_"}


@app.command("show", epilog=example("efd config show", "efd config show --json"))
def show(as_json: AsJson = False) -> None:
    """Print what is in force and where it comes from. Secrets are masked."""
    from efd_pipelines.settings import load_settings

    settings = load_settings()
    configuration = settings.configuration.model_dump(mode="json")
    variables = list(_variables(settings))
    if as_json:
        print_json(
            {
                "settings": {name: value for name, value, _ in variables},
                "from": {name: source for name, _, source in variables},
                "configuration": configuration,
            }
        )
        return
    import yaml

    print_table("Settings", ("variable", "value", "from"), variables)
    print(f"\n# Configuration ({settings.config or 'shipped default'})")
    print(
        yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110), end=""
    )


@app.command("check", epilog=example("efd config check", "efd config check my-config.yaml --json"))
def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Instead of the file that EFD_CONFIG names.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Validate settings and configuration, exit 2 when wrong. Exposure configurations that it names as well."""
    from efd_pipelines.exposures.configuration import load_transformation
    from efd_pipelines.settings import load_settings

    settings = load_settings(config=file) if file else load_settings()
    joins = settings.configuration.exposures
    columns = {join.instrument: len(load_transformation(join.config).columns) for join in joins}
    document: dict[str, Any] = {
        "ok": True,
        "profile": settings.profile,
        "file": str(settings.config) if settings.config else None,
        "exposure_columns": columns,
        "problems": [],
    }
    if as_json:
        print_json(document)
        return
    print_facts(
        {
            "profile": settings.profile,
            "configuration": settings.config or "shipped default",
            **{f"exposure columns of {name}": count for name, count in columns.items()},
        },
        "Right.",
    )


def _variables(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    """Each setting by its variable: its value, masked where it is a secret, and where it comes from."""
    dumped = settings.model_dump(mode="json", exclude={"configuration"})
    for field, value in dumped.items():
        if field in _OF_NAME:
            for key, entry in value.items():
                name = _OF_NAME[field] + key.replace(".", "_").upper()
                yield name, entry, _source(name)
        else:
            name = f"EFD_{field.upper()}"
            yield name, _shown(field, value, settings), _source(name)


def _shown(field: str, value: Any, settings: Settings) -> Any:
    if field == "consdb_url" and value is None and not settings.is_remote:
        return settings.require_consdb()
    return value


def _source(name: str, environ: Mapping[str, str] = os.environ) -> str:
    if environ.get(name):
        return "environment"
    from dotenv import dotenv_values

    return ".env" if Path(".env").is_file() and dotenv_values(".env").get(name) else "default"
