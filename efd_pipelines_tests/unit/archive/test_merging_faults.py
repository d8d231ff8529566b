"""Merging beside others, and of files that are damaged: nothing is lost, doubled, or made of what cannot be read.

What merging makes: `test_merging.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efd_pipelines.archive import form, merging
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.form import form_of, survey
from efd_pipelines.archive.merging import Merger, MergeResult, merge
from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.errors import StaleWriter
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.archive.builders import Topic
from efd_pipelines_tests.unit.archive.small_files import LATER, PLAIN, files_of, opened, seconds, topic_with


def test_of_two_merges_one_is_refused_and_nothing_is_doubled(archive: Archive) -> None:
    topic = topic_with(archive, 3)
    snapshot = opened(topic)
    surveys = [survey(snapshot, file) for file in snapshot.files()]
    whole = form_of(snapshot, surveys, WriterSchemas(archive.store))
    merge(archive, now=LATER)
    with pytest.raises(StaleWriter):
        Merger(archive, "", MergeResult()).replace(topic.dataset, snapshot, surveys, whole, [])
    assert archive.read(topic.dataset).num_rows == 30


def test_records_that_are_drained_during_a_merge_are_kept(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = topic_with(archive, 3)
    write = form.write_merged

    def drain_and_write(*given: Any) -> DataFile | None:
        written = write(*given)
        topic.send(PLAIN, seconds(100, 10), value=np.ones(10))
        topic.drain()
        return written

    monkeypatch.setattr(merging, "write_merged", drain_and_write)
    merge(archive, now=LATER)
    assert archive.read(topic.dataset).num_rows == 40
    assert len(files_of(topic)) == 2


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def spoil_footer(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-200:-8] = bytes(192)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, cut, spoil_footer, Path.unlink])
def test_nothing_is_made_of_a_damaged_file_and_others_are_merged(
    archive: Archive, damage: Callable[[Path], None]
) -> None:
    topic, other = topic_with(archive, 3), Topic(archive, Dataset("lsst.sal.Test.zzz"))
    for n in range(2):
        other.send(PLAIN, seconds(n, 1), value=[n])
        other.drain()
    files = files_of(topic)
    damage(Path(files[1].uri))
    result = merge(archive, now=LATER)
    (problem,) = result.problems
    assert (problem.topic, problem.slice) == (topic.dataset.text, "2026-11-16")
    assert "is not" in problem.detail
    assert files_of(topic) == files
    assert len(files_of(other)) == 1


def test_a_merge_that_would_lose_a_row_is_not_committed(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = topic_with(archive, 2)

    def one_row_less(*given: Any) -> DataFile | None:
        written = form.write_merged(*given)
        return None if written is None else replace(written, rows=written.rows - 1)

    monkeypatch.setattr(merging, "write_merged", one_row_less)
    result = merge(archive, now=LATER)
    assert "20 rows were to be merged, 19 were read" in result.problems[0].detail
    assert len(files_of(topic)) == 2
