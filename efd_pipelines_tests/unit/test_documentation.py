"""The documentation is true, as far as a machine can tell: links, commands, settings, names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from efd_pipelines.cli import app
from efd_pipelines.settings import load_settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BY_NAME = [pytest.param(path, id=str(path.relative_to(ROOT))) for path in DOCUMENTS]
LATER = re.compile(r"efd report growth\b")


def commands(text: str) -> list[str]:
    """Calls of `efd` that stand in code: lines of shell blocks, and between backticks."""
    joined = text.replace("\\\n", " ")
    blocks = re.findall(r"^(?: {4}|\t)(efd .+)$", joined, re.MULTILINE)
    inline = re.findall(r"`(efd [^`\n]+(?:\n[^`\n]+)?)`", joined)
    return [call.replace("\n", " ").partition(" #")[0].strip() for call in [*blocks, *inline]]


@pytest.mark.parametrize("path", BY_NAME)
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", BY_NAME)
def test_commands_are_understood(path: Path) -> None:
    for call in commands(path.read_text(encoding="utf-8")):
        if LATER.match(call):
            continue
        words = shlex.split(call.replace("…", "").replace("[", "").replace("]", "").replace("A..B", ""))[1:]
        if words[0].startswith("-"):
            continue
        command = typer.main.get_command(app)
        while hasattr(command, "commands") and words:
            assert words[0] in command.commands, call
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options | {"--help"}, call


@pytest.mark.parametrize("path", BY_NAME)
def test_make_targets_are_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

    for target in re.findall(r"(?:`|^ {4})make ([a-z-]+)", path.read_text(encoding="utf-8"), re.MULTILINE):
        assert target in targets


def test_the_settings_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("## Settings") : text.index("## Tests")]
    names = set(re.findall(r"`(EFD_[A-Z0-9_]+)`", table)) - {"EFD_SERVICES_PORT_BASE"}
    values = {
        "EFD_PROFILE": "usdf",
        "EFD_REGISTRY_URL": "http://registry:8081",
        "EFD_S3_ENDPOINT": "http://s3:9000",
        "EFD_INFLUX_URL": "http://influx:8086",
        "EFD_CONFIG": "",
    }

    settings = load_settings({name: values.get(name, "x") for name in names}, env_file=None)

    assert len(names) > 10
    assert settings.profile == "usdf"


def test_the_readme_begins_with_the_two_commands() -> None:
    first_screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:24]

    assert any(line.startswith("    make demo") for line in first_screen)
    assert any(line.startswith("    make test") for line in first_screen)


def test_the_layout_in_contributing_names_every_package() -> None:
    text = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    packages = [path.name for path in (ROOT / "efd_pipelines").iterdir() if (path / "__init__.py").exists()]

    assert not [name for name in packages if f"{name}/" not in text]
