"""Sequences: the numbers that writers gave and no row has, compared with what was taken away."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efd_pipelines.archive.sequences import LAST_NUMBER, MAX_HOLES, Sequences, has_sequence, sequence_holes
from efd_pipelines.topics.layout import TIME
from efd_pipelines.topics.names import Dataset

START_US = 1_795_132_800_000_000
SECOND_US = 1_000_000


def rows(numbers: list[int], step_us: int = SECOND_US, start_us: int = START_US, **of: Any) -> pa.Table:
    """Rows of one writer, a second apart."""
    writer = {"salIndex": 1, "private_origin": 77, "private_identity": "Test:1"} | of
    columns = {name: pa.array([value] * len(numbers)) for name, value in writer.items()}
    times = pa.array([start_us + n * step_us for n in range(len(numbers))], TIME)
    return pa.table({"time": times, "private_seqNum": pa.array(numbers, pa.int32()), **columns})


def missing(table: pa.Table) -> list[tuple[int, int]]:
    return [(hole.first, hole.end) for hole in sequence_holes(table)]


def test_numbers_without_a_jump_have_no_hole() -> None:
    assert missing(rows(list(range(5, 500)))) == []


def test_a_hole_says_whose_it_is_and_between_which_times() -> None:
    hole = sequence_holes(rows([1, 2, 5]))[0]
    assert (hole.sal_index, hole.origin, hole.identity, hole.first, hole.end, hole.count) == (1, 77, "Test:1", 3, 5, 2)
    assert (hole.after_us, hole.before_us) == (START_US + SECOND_US, START_US + 2 * SECOND_US)


def test_records_delivered_twice_are_one_number() -> None:
    table = rows(list(range(1, 100)))
    assert missing(pa.concat_tables([table, table, table.slice(10, 5)])) == []


def test_a_process_that_starts_again_starts_at_one() -> None:
    assert missing(rows([*range(500, 600), *range(1, 50)])) == []
    assert missing(rows([*range(500, 600), *range(4, 50)])) == [(1, 4)]


def test_the_number_after_the_last_is_one() -> None:
    assert missing(rows([LAST_NUMBER - 1, LAST_NUMBER, 1, 2])) == []
    assert missing(rows([LAST_NUMBER - 1, 3])) == [(1, 3), (LAST_NUMBER, LAST_NUMBER + 1)]


@pytest.mark.parametrize("name", ["salIndex", "private_origin", "private_identity"])
def test_writers_are_counted_apart(name: str) -> None:
    other: Any = {"salIndex": 2, "private_origin": 78, "private_identity": "Test:2"}[name]
    both = pa.concat_tables([rows(list(range(1, 50))), rows(list(range(900, 950)), **{name: other})])
    assert missing(both) == []


def test_a_clock_that_steps_back_makes_no_hole() -> None:
    """Numbers 1 to 40 a second apart; before number 21 the clock goes back by 7.5 s."""
    times = [START_US + n * SECOND_US - (7_500_000 if n >= 20 else 0) for n in range(40)]
    table = rows(list(range(1, 41))).set_column(0, "time", pa.array(times, TIME))
    assert missing(table) == []
    assert missing(table.filter(pa.array([n != 9 for n in range(40)]))) == [(10, 11)]


def test_two_processes_of_one_name_at_once_make_no_hole() -> None:
    one, other = rows(list(range(1000, 1300))), rows(list(range(1, 301)), start_us=START_US + SECOND_US // 2)
    assert missing(pa.concat_tables([one, other])) == []


def test_writers_that_do_not_count_have_no_holes() -> None:
    assert missing(rows([0] * 50)) == []
    assert missing(rows([7] * 50)) == []


def test_a_writer_of_random_numbers_is_let_go() -> None:
    rolled = random.Random(1)
    numbers = [rolled.randrange(1, 2**31) for _ in range(3 * MAX_HOLES)]
    assert len(missing(rows(numbers))) <= 2 * MAX_HOLES


def test_components_without_an_index_and_rows_without_numbers_are_followed_as_far_as_they_go() -> None:
    table = rows([1, 2, 4]).drop_columns(["salIndex"])
    assert [(hole.sal_index, hole.first) for hole in sequence_holes(table)] == [(None, 3)]
    assert sequence_holes(table.drop_columns(["private_seqNum"])) == []
    assert sequence_holes(table.slice(0, 0)) == []


@settings(max_examples=25)
@given(
    st.integers(1, 4),
    st.sets(st.integers(2, 300)),
    st.lists(st.integers(1, 299), max_size=4, unique=True),
    st.randoms(),
)
def test_exactly_what_was_taken_away_is_missing_however_it_is_cut(
    lives: int, lost: set[int], cuts: list[int], shuffled: random.Random
) -> None:
    """Lives of 300 numbers each, some lost from all; a life's last numbers cannot be known to be lost."""
    numbers = [n for _ in range(lives) for n in range(1, 301) if n not in lost]
    table = rows(numbers, step_us=90 * SECOND_US)
    known = {n for n in lost if n < max(set(range(1, 301)) - lost, default=0)}
    found = Sequences()
    edges = sorted({0, len(numbers), *(cut for cut in cuts if cut < len(numbers))})
    for begins, end in itertools.pairwise(edges):
        part = list(range(begins, end))
        shuffled.shuffle(part)
        found.add(table.take(part))
    counted = [n for hole in found.holes() for n in range(hole.first, hole.end)]
    assert sorted(counted) == sorted(n for n in known for _ in range(lives))


def test_acknowledgements_and_metrics_have_no_sequence() -> None:
    assert has_sequence(Dataset("lsst.sal.Test.scalars"))
    assert not has_sequence(Dataset("lsst.sal.Test.ackcmd"))
    assert not has_sequence(Dataset("lsst.obsenv.action"))
