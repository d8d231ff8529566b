"""Simulated time passes at the speed asked for."""

from __future__ import annotations

import math
import time

import pytest

from efd_pipelines.errors import UsageError
from efd_pipelines.simulator.pace import Pace, parse_speed


def test_a_speed_is_max_or_a_number() -> None:
    assert math.isinf(parse_speed("max"))
    assert parse_speed("2.5") == 2.5
    assert parse_speed(10) == 10.0


@pytest.mark.parametrize("speed", ["fast", "0", -1, "nan", ""])
def test_anything_else_is_refused(speed: str | float) -> None:
    with pytest.raises(UsageError):
        parse_speed(speed)


def test_waiting_takes_the_time_divided_by_the_speed() -> None:
    pace, idled = Pace(10), []
    pace.wait(5_000_000, lambda: None)
    began = time.monotonic()

    pace.wait(8_000_000, lambda: idled.append(1))

    assert 0.29 <= time.monotonic() - began < 3.0
    assert idled


def test_at_max_nothing_waits() -> None:
    pace = Pace("max")
    began = time.monotonic()

    pace.wait(0, lambda: None)
    pace.wait(10**12, lambda: None)

    assert time.monotonic() - began < 0.2
