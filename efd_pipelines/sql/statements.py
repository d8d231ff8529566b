"""Statements: one question at a time, and nothing but questions.

What a statement could do besides is prevented anyway: the session has no access to files, and everything in it is in
memory. Refusing here says so in words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb

from efd_pipelines.errors import UsageError

_EXPLAIN = re.compile(r"\s*explain\s*(analyze\b|analyse\b|\([^)]*\))?", re.IGNORECASE)
_PIVOT = re.compile(r"\s*(pivot|unpivot|pivot_wider|pivot_longer|with|from)\b", re.IGNORECASE)
_NAME = re.compile(r'(?:"(?:[^"]|"")*"|\w+)(?:\.(?:"(?:[^"]|"")*"|\w+))*')
_PART = re.compile(r'(?:"((?:[^"]|"")*)"|([^."\s]+))\.?')


class NotAQuestion(UsageError):
    """A statement that is none."""

    remedy = "Ask with SELECT, WITH, FROM, DESCRIBE, SUMMARIZE, PIVOT or EXPLAIN: nothing is changed here."


def parsed(text: str) -> list[str]:
    """The statements of a text, one by one.

    Raises:
        UsageError: it is no SQL, or one of them would change something.
    """
    found = _statements(text)
    for statement in found:
        _check(statement)
    return [str(statement.query).strip().rstrip(";") for statement in found]


def _statements(text: str) -> list[Any]:
    try:
        return list(duckdb.extract_statements(text))
    except duckdb.Error as error:
        raise UsageError(
            f"DuckDB does not understand it: {first_lines(error)}", remedy="Mend the statement."
        ) from error


def _check(statement: Any) -> None:
    kind, text = statement.type, str(statement.query)
    if kind == duckdb.StatementType.SELECT or (kind == duckdb.StatementType.MULTI and _PIVOT.match(text)):
        return
    if kind == duckdb.StatementType.EXPLAIN:
        for explained in _statements(_EXPLAIN.sub("", text, count=1)):
            _check(explained)
        return
    raise NotAQuestion(f"{str(kind).rpartition('.')[2]} is not allowed")


def tables_in(connection: duckdb.DuckDBPyConnection, statement: str) -> list[tuple[str, ...]]:
    """The names of tables in a statement, each in its parts; what it names itself, with WITH, is among them.

    By DuckDB's parser, on any connection. Of a PIVOT, several statements to DuckDB, all names of whatever kind.
    """
    text = _EXPLAIN.sub("", statement, count=1)
    try:
        found = connection.execute("SELECT json_serialize_sql(?)", [text]).fetchone()
        tree = json.loads(found[0]) if found else {}
        return sorted(set(_written_in(text) if tree.get("error") else _named_in(tree)))
    except duckdb.Error:
        return []  # what is wrong with it, its execution says


def _written_in(text: str) -> Iterator[tuple[str, ...]]:
    """Whatever is written as a name is: outside of strings and comments."""
    tokens = duckdb.tokenize(text)
    ends = [start for start, _ in tokens[1:]] + [None]
    names = (duckdb.token_type.identifier, duckdb.token_type.keyword)
    parts = ((text[start:end], kind) for (start, kind), end in zip(tokens, ends, strict=True))
    kept = "".join(part if kind in names or part == "." else " " for part, kind in parts)
    for written in _NAME.finditer(kept):
        yield parts_of(written[0])


def _named_in(tree: Any) -> Iterator[tuple[str, ...]]:
    """The tables of a statement as DuckDB's parser gives it."""
    if isinstance(tree, list):
        for one in tree:
            yield from _named_in(one)
    elif isinstance(tree, dict):
        if tree.get("type") == "BASE_TABLE":
            yield tuple(tree[part] for part in ("catalog_name", "schema_name", "table_name") if tree[part])
        for one in tree.values():
            yield from _named_in(one)


def parts_of(name: str) -> tuple[str, ...]:
    """`a."b.c".d` in its parts, without the name that the statement gives it.

    >>> parts_of('raw."lsst.dm".x AS y')
    ('raw', 'lsst.dm', 'x')
    """
    found: list[str] = []
    place = 0
    while part := _PART.match(name, place):
        found.append(part[1].replace('""', '"') if part[1] is not None else part[2])
        place = part.end()
        if not part[0].endswith("."):
            break
    return tuple(found)


def quoted(*parts: str) -> str:
    """A name in SQL, whatever is in its parts."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def first_lines(error: Exception, count: int = 3) -> str:
    """The beginning of what DuckDB says, in one line."""
    lines: Sequence[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:count])
