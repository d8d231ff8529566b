"""Protocol: lines of InfluxDB's line protocol → values, `measurement[,tag=value…] field=value[,field=value…] time`.

Nearly all lines of an export are alike, a number each, and are taken apart column by column at blanks and equals
signs; texts by one regular expression; what neither is sure of, escapes, several fields, texts over several lines, by a
parser that follows the grammar. A record ends where a line ends outside quotes. What is no record is refused.
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

_TEXT = (
    r'^(?P<measurement>[^\\, "]+)(?P<tags>,[^\\ "]+)? (?P<field>[^\\=, "]+)="(?P<string>[^"\\]*)"'
    r" (?P<time>-?[0-9]{1,18}|-?[0-8][0-9]{18})$"
)
_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_TRUE = frozenset({"t", "T", "true", "True", "TRUE"})
_FALSE = frozenset({"f", "F", "false", "False", "FALSE"})
_BOOLEANS = {**dict.fromkeys(sorted(_TRUE), True), **dict.fromkeys(sorted(_FALSE), False)}
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
    is_plain = ~lines.str.contains_any(['"', "\\"])
    numbers, others = _of_numbers(lines.filter(is_plain))
    texts, others = _of_texts(pl.concat([lines.filter(~is_plain), others]))
    rest = [value for record in others for value in parse_record(record, name)]
    return pl.concat([numbers, texts, pl.DataFrame(rest, schema=SCHEMA, orient="row")])


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


def _of_numbers(lines: pl.Series) -> tuple[pl.DataFrame, pl.Series]:
    """Values of lines without quotes and escapes that have one number or boolean; and the other lines."""
    frame = pl.DataFrame({"line": lines}).with_columns(
        pl.col("line").str.splitn(" ", 3).struct.rename_fields(["key", "pair", "stamp"]).alias("parts")
    )
    frame = frame.unnest("parts").with_columns(
        pl.col("key").str.splitn(",", 2).struct.rename_fields(["measurement", "tags"]).alias("of_key"),
        pl.col("pair").str.splitn("=", 2).struct.rename_fields(["field", "value"]).alias("of_pair"),
        pl.col("stamp").cast(pl.Int64, strict=False).alias("time"),
    )
    frame = frame.unnest("of_key", "of_pair")
    is_integer = pl.col("value").str.ends_with("i")
    frame = frame.with_columns(
        pl.col("value").cast(pl.Float64, strict=False).alias("float_value"),
        pl.when(is_integer)
        .then(pl.col("value").str.strip_suffix("i"))
        .cast(pl.Int64, strict=False)
        .alias("integer_value"),
        pl.col("value").replace_strict(_BOOLEANS, default=None, return_dtype=pl.Boolean).alias("boolean_value"),
    )
    is_good = (
        pl.col("time").is_not_null()
        & (pl.col("field") != "")
        & ~pl.col("field").str.contains(",", literal=True)
        & (pl.col("measurement") != "")
        & (
            pl.col("float_value").is_finite()
            | pl.any_horizontal(pl.col("integer_value", "boolean_value").is_not_null())
        )
    ).fill_null(False)
    good = frame.filter(is_good).select(
        "measurement",
        pl.when(pl.col("tags").is_null()).then(pl.lit("")).otherwise(pl.lit(",") + pl.col("tags")).alias("tags"),
        "field",
        pl.col("time").floordiv(1000),
        "float_value",
        "integer_value",
        pl.lit(None, pl.String).alias("string_value"),
        "boolean_value",
    )
    return good, frame.filter(~is_good)["line"]


def _of_texts(lines: pl.Series) -> tuple[pl.DataFrame, pl.Series]:
    """Values of lines that have one text without escapes; and the other lines."""
    groups = lines.str.extract_groups(_TEXT).struct.unnest()
    is_good = groups["time"].is_not_null()
    good = groups.filter(is_good).select(
        "measurement",
        pl.col("tags").fill_null(""),
        "field",
        pl.col("time").cast(pl.Int64).floordiv(1000),
        pl.lit(None, pl.Float64).alias("float_value"),
        pl.lit(None, pl.Int64).alias("integer_value"),
        pl.col("string").alias("string_value"),
        pl.lit(None, pl.Boolean).alias("boolean_value"),
    )
    return good, lines.filter(~is_good)


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
    if _NUMBER.fullmatch(text):
        return float(text), None, None, None
    if not re.fullmatch(r"-?[0-9]{1,19}i", text) or not -(2**63) <= int(text[:-1]) < 2**63:
        raise _bad(record, name)
    return None, int(text[:-1]), None, None


def _unescaped(text: str) -> str:
    return re.sub(r"\\([,= ])", r"\1", text)


def _bad(record: str, name: str) -> BadLine:
    shown = record if len(record) <= 120 else f"{record[:120]}…"
    return BadLine(f"{name or 'The file'} has a line that is no line protocol: {shown!r}")
