"""Answers: one JSON document that any parser takes, or a table in which nothing is cut off."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efd_pipelines.cli.answers import duration, plain, print_json, print_table, size
from efd_pipelines_tests.unit.cli.conftest import Efd


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    at: datetime


def test_what_json_does_not_know_becomes_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(
        {
            "nan": math.nan,
            "infinite": np.float64(math.inf),
            "count": np.int64(3),
            "path": Path("/data"),
            "day": date(2026, 11, 16),
            "colour": Colour.RED,
            "points": (Point(1.5, datetime(2026, 11, 16, 1, 2, 3, tzinfo=UTC)),),
        }
    )

    assert json.loads(capsys.readouterr().out) == {
        "nan": None,
        "infinite": None,
        "count": 3,
        "path": "/data",
        "day": "2026-11-16",
        "colour": "red",
        "points": [{"x": 1.5, "at": "2026-11-16T01:02:03Z"}],
    }


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values)
def test_whatever_is_plain_is_json(value: object) -> None:
    json.dumps(plain(value), allow_nan=False)


def test_a_table_that_is_no_terminals_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    name = "lsst.sal.MTCamera.logevent_utiltrunk_PeriodicTasks_BodyMaq20_check_status_timersConfiguration"

    print_table("", ("topic", "rows"), [(name, 1234567), (name * 3, 1)])

    lines = capsys.readouterr().out.splitlines()
    assert name * 3 in lines[2]
    assert lines[1].split() == [name, "1,234,567"]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (3e12, "3.0 TB")]
)
def test_sizes_for_people(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(None, ""), (59, "59 s"), (90, "1.5 min"), (7200, "2.0 h")])
def test_durations_for_people(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("arguments", "document"),
    [
        (("archive", "status"), []),
        (("archive", "gaps"), []),
        (("archive", "dead-letters"), []),
    ],
)
def test_an_empty_archive_is_no_error(efd: Efd, arguments: tuple[str, ...], document: object) -> None:
    answer = efd(*arguments, "--json")

    assert (answer.code, answer.err) == (0, "")
    assert answer.document == document


def test_an_empty_archive_verifies(efd: Efd) -> None:
    answer = efd("archive", "verify", "--deep", "--json")

    assert answer.code == 0
    assert answer.document["ok"] is True
    assert answer.document["rows"] == 0


def test_published_sizes_need_no_service(efd: Efd, shared: Path) -> None:
    answer = efd("report", "storage", "--sizes", str(shared / "seed_tables"), "--json")

    assert answer.code == 0
    assert answer.document["telemetry"][0]["csc"] == "MTM1M3"
