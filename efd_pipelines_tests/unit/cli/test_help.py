"""The command line explains itself: help and examples of every command, at once."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from efd_pipelines.cli import app, main
from efd_pipelines_tests.unit.cli.conftest import Efd

HEAVY = {"numpy", "pyarrow", "pandas", "duckdb", "deltalake", "confluent_kafka", "dagster", "pydantic.main", "rich"}


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))
BY_NAME = [pytest.param(path, id=" ".join(path)) for path in COMMANDS]


def test_all_commands_of_the_interface_are_there() -> None:
    assert {" ".join(path) for path in COMMANDS} == {
        "demo",
        "dev",
        "simulate replay",
        "simulate observatory",
        "simulate topics",
        "topics",
        "archive run",
        "archive status",
        "archive verify",
        "archive files",
        "archive gaps",
        "archive dead-letters",
        "archive backfill",
        "archive quarantine",
        "archive release",
        "archive merge",
        "archive seal",
        "archive clean",
        "archive reindex",
        "archive restore",
        "tiers run",
        "publish run",
        "publish status",
        "publish rejected",
        "publish admin",
        "publish consdb",
        "publish aggregated",
        "exposures run",
        "exposures check",
        "exposures explain",
        "exposures verify",
        "annotate",
        "report storage",
        "report growth",
        "report anomalies",
        "retention show",
        "retention plan",
        "retention apply",
        "retention pin",
        "retention unpin",
        "retention pins",
        "retention late",
        "export",
        "exports run",
        "exports list",
        "exports expire",
        "exports check",
        "sql",
        "config check",
        "config show",
    }


@pytest.mark.parametrize("path", BY_NAME)
def test_help_says_what_a_command_does_and_shows_a_call_that_parses(path: tuple[str, ...], efd: Efd) -> None:
    answer = efd(*path, "--help")

    assert answer.code == 0
    assert "--json" in answer.out
    calls = re.findall(r"^    efd (.+)$", answer.out, re.MULTILINE)
    assert calls, "no example"
    for call in calls:
        arguments = shlex.split(call)
        assert tuple(arguments[: len(path)]) == path
        COMMANDS[path].make_context("efd", arguments[len(path) :])


@pytest.mark.parametrize("path", BY_NAME)
def test_the_first_line_of_help_fits_the_list_of_commands(path: tuple[str, ...]) -> None:
    assert not COMMANDS[path].get_short_help_str(62).endswith("...")


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from efd_pipelines.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "archive" in done.stdout
    assert HEAVY.isdisjoint(done.stderr.split())


def test_efd_alone_shows_what_there_is_and_is_wrong_use(efd: Efd) -> None:
    answer = efd()

    assert answer.code == 2
    assert "Commands:" in answer.err
    assert not answer.out


def test_main_takes_the_arguments_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["efd", "--help"])

    assert main() == 0
