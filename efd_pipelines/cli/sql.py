"""`efd sql`: questions in SQL over archive, tiers, ledger and ConsDB."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from efd_pipelines.cli.answers import plain, print_json, print_table
from efd_pipelines.cli.options import AsJson, example
from efd_pipelines.errors import EfdError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from efd_pipelines.sql.session import Answer, SqlSession

FORMATS = ("table", "csv", "parquet")
_SHOWN = 1000
_HELP = "End a statement with `;`. FROM datasets; lists what there is, DESCRIBE name; its columns. Ctrl-D ends."


def add_to(app: typer.Typer) -> None:
    app.command(
        "sql",
        epilog=example(
            'efd sql "FROM datasets"',
            "efd sql \"SELECT time, elevation FROM MTMount.elevation WHERE time >= '2026-11-21' LIMIT 10\"",
            'efd sql "SELECT count(*) FROM tier_1s.MTM1M3.forceActuatorData" --json',
            'efd sql "SELECT day_obs, count(*) FROM consdb.cdb_lsstcam.exposure GROUP BY 1" --format csv',
        ),
    )(sql)


def sql(
    statement: Annotated[
        str | None, typer.Argument(metavar="STATEMENT", help="One question; a prompt without.")
    ] = None,
    form: Annotated[str, typer.Option("--format", metavar="table|csv|parquet", help="What the rows are.")] = "table",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A file to write; parquet needs one.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="At most so many rows; of a table 1,000 by default, 0: all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask in SQL about archive, tiers, ledger and ConsDB.

    DuckDB answers; nothing can be changed.

    MTM1M3.forceActuatorData is a dataset, tier_1s.MTM1M3.forceActuatorData its summary, consdb.cdb_lsstcam.exposure a
    table of ConsDB. Times are UTC.
    """
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.settings import load_settings
    from efd_pipelines.sql.session import SqlSession

    if form not in FORMATS:
        raise UsageError(f"--format {form} is not known", remedy=f"There are {', '.join(FORMATS)}.")
    if form == "parquet" and out is None:
        raise UsageError("Parquet is no text for a terminal", remedy="Name a file with --out.")
    most = limit if limit is not None else _SHOWN if form == "table" and not as_json else 0
    with SqlSession(Archive(load_settings())) as session:
        if statement is None:
            _converse(session, most)
            return
        _print(session.ask(statement), form, out, most, as_json)


def _print(answer: Answer, form: str, out: Path | None, most: int, as_json: bool) -> None:
    if form == "parquet" and out is not None:
        rows = _written(out, lambda path: _write_parquet(answer, path, most))
    elif form == "csv" and out is not None:
        rows = _written(out, lambda path: _write_csv(answer, path, most))
    elif as_json:
        names = _distinct(answer.schema.names)
        records = [dict(zip(names, row, strict=True)) for row in _rows(answer, most)]
        columns = [{"name": name, "type": str(kind)} for name, kind in zip(names, answer.schema.types, strict=True)]
        print_json({"columns": columns, "rows": records})
        return
    elif form == "csv":
        _put_csv(answer, sys.stdout, most)
        return
    else:
        _print_table(answer, most)
        return
    print_json({"rows": rows, "file": str(out)}) if as_json else print(f"{rows:,} rows: {out}")


def _print_table(answer: Answer, most: int) -> None:
    found = list(_rows(answer, most + 1 if most else 0))
    shown = found[:most] if most else found
    print_table("", answer.schema.names, [[_shown(value) for value in row] for row in shown], empty="No rows.")
    if len(found) > len(shown):
        print(f"There are more than {most:,} rows: --limit 0 shows all.", file=sys.stderr)


def _shown(value: Any) -> Any:
    """A value in a table: texts of one line, times to the microsecond."""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ").removesuffix("+00:00")
    return str(plain(value)) if isinstance(value, list | dict | bytes) else value


def _rows(answer: Answer, most: int) -> Iterator[list[Any]]:
    """The rows, at most so many; 0: all."""
    count = 0
    for batch in answer.batches():
        columns = [column.to_pylist() for column in batch.columns]
        for row in zip(*columns, strict=True):
            yield list(row)
            count += 1
            if count == most:
                return


def _distinct(names: list[str]) -> list[str]:
    """Names for JSON's objects, which can have each once."""
    found: list[str] = []
    for name in names:
        number, free = 1, name
        while free in found:
            number += 1
            free = f"{name}_{number}"
        found.append(free)
    return found


def _put_csv(answer: Answer, stream: Any, most: int) -> int:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(answer.schema.names)
    rows = 0
    for row in _rows(answer, most):
        writer.writerow(["" if value is None else plain(value) for value in row])
        rows += 1
    return rows


def _write_csv(answer: Answer, path: Path, most: int) -> int:
    with path.open("w", encoding="utf-8", newline="") as stream:
        return _put_csv(answer, stream, most)


def _write_parquet(answer: Answer, path: Path, most: int) -> int:
    import pyarrow.parquet as pq

    rows = 0
    with pq.ParquetWriter(path, answer.schema, compression="zstd") as writer:
        for batch in answer.batches():
            part: pa.RecordBatch = batch.slice(0, most - rows) if most else batch
            writer.write_batch(part)
            rows += part.num_rows
            if most and rows >= most:
                break
    return rows


def _written(out: Path, write: Callable[[Path], int]) -> int:
    """Writes a file under another name first: half of it is never there."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        rows = write(temporary)
        temporary.replace(out)
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror})", remedy="Name another file.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def _converse(session: SqlSession, most: int) -> None:
    """Statements one after the other, from a terminal or a file; what is wrong with one does not end it."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        import readline  # noqa: F401  # gives input() its history

        print(_HELP, file=sys.stderr)
    for statement in _statements(is_terminal):
        try:
            _print_table(session.ask(statement), most)
        except EfdError as error:
            if not is_terminal:
                raise
            print(f"Error: {error.message}\nRemedy: {error.remedy}", file=sys.stderr)


def _statements(is_terminal: bool) -> Iterator[str]:
    if not is_terminal:
        yield from (part for part in sys.stdin.read().split(";\n") if part.strip().strip(";"))
        return
    waiting: list[str] = []
    while True:
        try:
            line = input("efd> " if not waiting else "...> ")
        except EOFError:
            print(file=sys.stderr)
            return
        if not waiting and line.strip() in {"exit", "quit", ".exit", ".quit"}:
            return
        waiting.append(line)
        if line.rstrip().endswith(";"):
            yield "\n".join(waiting)
            waiting.clear()
