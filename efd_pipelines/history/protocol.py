"""Protocol: lines of InfluxDB's line protocol → values, `measurement[,tag=value…] field=value[,field=value…] time`.

Nearly all lines of an export are alike, one field each, and are read by one regular expression over a column of lines;
what that does not match, escapes, several fields, texts over several lines, is read by a parser that follows the
grammar character by character. A record ends where a line ends outside quotes. What is no record is refused.
Source of the grammar: InfluxDB 1.8's documentation of the line protocol.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from efd_pipelines.errors import DataError

KINDS = ("float", "integer", "string", "boolean")
"""InfluxDB's types, the one that holds more of another first."""

VALUES: Mapping[str, str] = {kind: f"{kind}_value" for kind in KINDS}
"""The column that has the values of a kind."""

SCHEMA = {
    "measurement": pl.String,
    "tags": pl.String,
    "field": pl.String,
    "time": pl.Int64,
    "float_value": pl.Float64,
    "integer_value": pl.Int64,
    "string_value": pl.String,
    "boolean_value": pl.Boolean,
}

_PLAIN = (
    r'^(?P<measurement>[^\\, "#]+)(?P<tags>,[^\\ "]+)? (?P<field>[^\\=, "]+)='
    r'(?:(?P<float>-?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)|(?P<integer>-?[0-9]{1,18})i|"(?P<string>[^"\\]*)"|'
    r"(?P<boolean>[tT]|[fF]|true|True|TRUE|false|False|FALSE))"
    r" (?P<time>-?[0-9]{1,18}|-?[0-8][0-9]{18})$"
)
_TRUE = frozenset({"t", "T", "true", "True", "TRUE"})
_FALSE = frozenset({"f", "F", "false", "False", "FALSE"})
_QUOTE = re.compile(r'\\.|"', re.DOTALL)
_KEY = re.compile(r"(?:[^\\, ]|\\.)+", re.DOTALL)
_TAGS = re.compile(r"(?:,(?:[^\\, =]|\\.)+=(?:[^\\, =]|\\.)+)*", re.DOTALL)
_FIELD = re.compile(r"((?:[^\\,= ]|\\.)+)=(\"(?:[^\"\\]|\\.)*\"|[^\", ]+)", re.DOTALL)
_NOT_DATA = ("#", "CREATE DATABASE ")


class BadLine(DataError):
    """A line that is no record of line protocol."""

    remedy = "Look at the line: the file may be cut off, or edited. Export it again; nothing of it has been filled in."


def read_block(text: str, name: str) -> pl.DataFrame:
    """The values of a block of whole records, times in microseconds.

    Raises:
        BadLine: one is no record; with `name` and the line.
    """
    records = [record for record in _records(text) if record.strip() and not record.startswith(_NOT_DATA)]
    lines = pl.Series("line", records, pl.String)
    plain = lines.str.extract_groups(_PLAIN).struct.unnest()
    is_plain = plain["time"].is_not_null()
    found = [_of_plain(plain.filter(is_plain))]
    rest = [value for record in lines.filter(~is_plain) for value in parse_record(record, name)]
    if rest:
        found.append(pl.DataFrame(rest, schema=SCHEMA, orient="row"))
    return pl.concat(found)


def end_of_records(text: str) -> int:
    """Where the last whole record of a text ends: after a line's end outside quotes; 0 where there is none."""
    end = text.rfind("\n") + 1
    while end and _is_open(text, end):
        end = text.rfind("\n", 0, end - 1) + 1
    return end


def _is_open(text: str, end: int) -> bool:
    """Whether a quote is open at `end`."""
    if "\\" not in text:
        return bool(text.count('"', 0, end) % 2)
    return bool(sum(1 for quote in _QUOTE.finditer(text, 0, end) if quote[0] == '"') % 2)


def _records(text: str) -> Iterator[str]:
    """Lines, those within quotes joined."""
    if '"' not in text:
        yield from text.split("\n")
        return
    waiting: list[str] = []
    for line in text.split("\n"):
        if not waiting and '"' not in line:
            yield line
            continue
        waiting.append(line)
        record = "\n".join(waiting)
        if not _is_open(record, len(record)):
            yield record
            waiting = []
    if waiting:
        yield "\n".join(waiting)


def _of_plain(groups: pl.DataFrame) -> pl.DataFrame:
    return groups.select(
        pl.col("measurement"),
        pl.col("tags").fill_null(""),
        pl.col("field"),
        pl.col("time").cast(pl.Int64).floordiv(1000),
        pl.col("float").cast(pl.Float64).alias("float_value"),
        pl.col("integer").cast(pl.Int64).alias("integer_value"),
        pl.col("string").alias("string_value"),
        pl.col("boolean").str.to_lowercase().str.starts_with("t").alias("boolean_value"),
    )


def parse_record(record: str, name: str = "") -> list[tuple[object, ...]]:
    """The values of one record, rows of `SCHEMA`.

    Raises:
        BadLine: it is none.
    """
    key = _KEY.match(record)
    tags = _TAGS.match(record, key.end()) if key else None
    if key is None or tags is None or record[tags.end() : tags.end() + 1] != " ":
        raise _bad(record, name)
    place = tags.end() + 1
    fields = []
    while True:
        field = _FIELD.match(record, place)
        if field is None:
            raise _bad(record, name)
        fields.append((_unescaped(field[1]), field[2]))
        place = field.end() + 1
        if record[field.end() : place] != ",":
            break
    stamp = record[place:]
    if not re.fullmatch(r"-?[0-9]+\r?", stamp):
        raise _bad(record, name)
    head = (_unescaped(key[0]), tags[0])
    time_us = int(stamp) // 1000
    return [(*head, field, time_us, *_value(value, record, name)) for field, value in fields]


def _value(text: str, record: str, name: str) -> Sequence[object]:
    """The value in the column of its kind."""
    if text.startswith('"'):
        return None, None, re.sub(r'\\(["\\])', r"\1", text[1:-1]), None
    if text in _TRUE or text in _FALSE:
        return None, None, None, text in _TRUE
    try:
        if not text.endswith("i"):
            return float(text), None, None, None
        integer = int(text[:-1])
    except ValueError:
        raise _bad(record, name) from None
    if not -(2**63) <= integer < 2**63:
        raise _bad(record, name)
    return None, integer, None, None


def _unescaped(text: str) -> str:
    return re.sub(r"\\([,= ])", r"\1", text)


def _bad(record: str, name: str) -> BadLine:
    shown = record if len(record) <= 120 else f"{record[:120]}…"
    return BadLine(f"{name or 'The file'} has a line that is no line protocol: {shown!r}")
