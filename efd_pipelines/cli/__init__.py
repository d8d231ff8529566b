"""The command line: `efd` (interfaces.md). Everything that an asset does can be done from here, without Dagster.

One module per group of commands; a command reads its options, calls one function of the domain and prints what that
gave (`answers.py`). What commands share: `options.py`, `progress.py`. Nothing of the domain is imported before a
command needs it: `efd --help` must not wait for pyarrow.
`main` maps every error that is meant for the user onto a message, its remedy and an exit code: 0 done; 1 the data is
not as it should be; 2 wrong use or settings; 3 a service could not be reached.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from efd_pipelines.cli import (
    aggregated,
    annotate,
    anomalies,
    archive,
    backfill,
    config,
    consdb,
    demo,
    exports,
    exposures,
    growth,
    publish,
    quarantine,
    reindex,
    reports,
    restore,
    retention,
    seal,
    simulate,
    sql,
    tiers,
    topics,
)
from efd_pipelines.cli.answers import print_json
from efd_pipelines.errors import EfdError

INTERRUPTED = 130
"""What shells expect of a command that Ctrl-C ended."""

app = typer.Typer(
    rich_markup_mode=None,
    name="efd",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
demo.add_to(app)
app.add_typer(simulate.app, name="simulate")
topics.add_to(app)
app.add_typer(archive.app, name="archive")
quarantine.add_to(archive.app)
backfill.add_to(archive.app)
restore.add_to(archive.app)
seal.add_to(archive.app)
reindex.add_to(archive.app)
app.add_typer(tiers.app, name="tiers")
app.add_typer(publish.app, name="publish")
consdb.add_to(publish.app)
aggregated.add_to(publish.app)
app.add_typer(exposures.app, name="exposures")
growth.add_to(reports.app)
anomalies.add_to(reports.app)
app.add_typer(reports.app, name="report")
annotate.add_to(app)
app.add_typer(retention.app, name="retention")
exports.add_to(app)
sql.add_to(app)
app.add_typer(config.app, name="config")


@app.callback(invoke_without_command=True)
def efd(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say on stderr what is being done.")] = False,
) -> None:
    """The Rubin Observatory's engineering data: from Kafka to a Parquet archive, summaries, joins and reports.

    Settings are EFD_* environment variables, or a .env file; `efd config show` prints what is in force.
    Exit codes: 0 done, 1 the data is not as it should be, 2 wrong use or settings, 3 a service could not be reached.
    """
    logging.getLogger("efd_pipelines").setLevel(logging.INFO if verbose else logging.WARNING)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    as_json = "--json" in given
    if not sys.warnoptions:
        # Of libraries, for their developers; `python -W default -m efd_pipelines.cli` shows them.
        warnings.simplefilter("ignore")
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return _run(given)
    except EfdError as error:
        return _fail(error.message, error.remedy, error.exit_code, as_json)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "efd"
        return _fail(error.format_message(), f"See {command} --help.", error.exit_code, as_json)
    except (KeyboardInterrupt, typer.Abort):
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python's own flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(given: Sequence[str]) -> int:
    with _interrupted_by_terminate():
        code = typer.main.get_command(app).main(list(given), prog_name="efd", standalone_mode=False)
    return code if isinstance(code, int) else 0


@contextlib.contextmanager
def _interrupted_by_terminate() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, so that what it started is stopped."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str, remedy: str, code: int, as_json: bool) -> int:
    print(f"Error: {message}{'' if message.endswith(('.', '?', '!')) else '.'}", file=sys.stderr)
    if remedy:
        print(f"Remedy: {remedy}", file=sys.stderr)
    if as_json:
        print_json({"error": {"message": message, "remedy": remedy, "exit_code": code}})
    return code
