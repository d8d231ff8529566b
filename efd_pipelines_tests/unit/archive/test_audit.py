"""The audit: every defect is found, and nothing else is.

A healthy archive is made once; each case hurts a copy of it. All of `make scale`'s 1,000 defects by EFD_TEST_SCALE=1.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efd_pipelines.archive import audit
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import Audit, verify
from efd_pipelines.archive.files import write_data_file
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.reindex import reindex
from efd_pipelines.archive.sealing import seal
from efd_pipelines.archive.stored_audit import audit_store
from efd_pipelines.errors import ArchiveError
from efd_pipelines.settings import load_settings
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset
from efd_pipelines.topics.schemas import TopicSchema
from efd_pipelines_tests.unit.archive import defects
from efd_pipelines_tests.unit.archive.builders import Topic, schema_of
from efd_pipelines_tests.unit.archive.defects import metadata
from efd_pipelines_tests.unit.archive.defects.scene import Scene

SEEDS = range(21 if os.environ.get("EFD_TEST_SCALE") else 1)
START_US = 1_795_132_800_000_000
HOUR_US = 3_600_000_000
OF_A_FILE = {"content", "order", "rows", "schema", "size", "statistics", "unreadable", "value"}
OLD = schema_of("x", ("value", "double"), ("number", "int"))
NEW = schema_of("x", ("value", "double"), ("number", "int"), ("extra", "int"))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two weeks of a topic: two schemas, late records, quarantine, dead letters, and a record sent twice."""
    root = tmp_path_factory.mktemp("healthy") / "archive"
    topic = Topic(opened(root))
    rng = np.random.default_rng(5)

    def send(schema: TopicSchema, at_us: int, count: int = 12, **columns: Any) -> None:
        columns |= {"value": rng.standard_normal(count), "number": rng.integers(0, 99, count)}
        if schema is NEW:
            columns["extra"] = rng.integers(0, 99, count)
        topic.send(schema, [at_us + n * 1_000_000 for n in range(count)], **columns)

    for n in range(8):
        send(OLD if n < 4 else NEW, START_US - 60 * HOUR_US + n * 17 * HOUR_US)
        topic.drain()
    send(NEW, START_US - 50 * HOUR_US, private_origin=8)  # late
    send(NEW, 1_000_000_000)  # in 1970
    topic.values += [b"", b"\x00\x00\x00\x00\x01poison"]
    topic.stamps_ms += [START_US // 1000] * 2
    topic.drain()
    topic.values += topic.values[5:9]  # a producer's retries
    topic.stamps_ms += topic.stamps_ms[5:9]
    topic.drain()
    return root


def opened(root: Path) -> Archive:
    return Archive(load_settings({}, None, archive=str(root)))


def audited(healthy: Path, tmp_path: Path, defect: Callable[[Scene], None], seed: int, deep: bool) -> Audit:
    root = tmp_path / "archive"
    shutil.copytree(healthy, root)
    scene = Scene(opened(root), Dataset("lsst.sal.Test.x"), random.Random(f"{defect.__name__} {seed}"))
    defect(scene)
    return verify(opened(root), deep=deep)


def test_a_healthy_archive_has_no_problem(healthy: Path) -> None:
    for deep in (False, True):
        audit = verify(opened(healthy), deep=deep)
        assert audit.problems == []
        assert (audit.records, audit.rows, audit.quarantined, audit.dead_letters) == (126, 126, 12, 2)
    assert [(note.kind, note.detail.split()[0]) for note in audit.notes] == [("repeated", "4")]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("defect", defects.PLAIN, ids=lambda defect: defect.__name__)
def test_metadata_show(healthy: Path, tmp_path: Path, defect: Callable[[Scene], None], seed: int) -> None:
    assert_told(audited(healthy, tmp_path, defect, seed, deep=False), defects.PLAIN[defect])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("defect", [*defects.PLAIN, *defects.DEEP], ids=lambda defect: defect.__name__)
def test_reading_shows(healthy: Path, tmp_path: Path, defect: Callable[[Scene], None], seed: int) -> None:
    assert_told(audited(healthy, tmp_path, defect, seed, deep=True), {**defects.PLAIN, **defects.DEEP}[defect])


def assert_told(audit: Audit, kind: str) -> None:
    """What is wrong, of which topic, in which week where it is of a file, and what to do."""
    assert kind in set(audit.kinds())
    for found in audit.problems:
        assert found.detail
        assert found.remedy
        assert found.topic in ("lsst.sal.Test.x", "")
        assert found.week or found.kind not in OF_A_FILE or not found.topic


@pytest.mark.parametrize("deep", [False, True])
def test_a_file_that_is_gone_is_told_and_counted_once(healthy: Path, tmp_path: Path, deep: bool) -> None:
    files = opened(healthy).files(Dataset("lsst.sal.Test.x"))
    alone = next(file for file in files if sum(other.slice == file.slice for other in files) == 1)
    root = tmp_path / "archive"
    shutil.copytree(healthy, root)
    Path(opened(root).store.path(f"raw/Test/x/{alone.path}")).unlink()
    audit = verify(opened(root), deep=deep)
    assert (audit.missing, list(audit.kinds())) == (alone.rows, ["unreadable"])


def test_a_table_of_which_the_ledger_has_no_row_is_told(healthy: Path, tmp_path: Path) -> None:
    root = tmp_path / "archive"
    shutil.copytree(healthy, root)
    forgotten = Topic(opened(root), Dataset("lsst.sal.Test.y"))
    forgotten.send(OLD, [START_US], value=[1.0], number=[1])
    forgotten.drain(into_ledger=False)
    (found,) = verify(opened(root)).problems
    assert (found.kind, found.detail) == ("ledger", "the ledger has no row of 1 table: raw/Test/y")
    assert verify(opened(root), datasets=[Dataset("lsst.sal.Test.x")]).ok
    with pytest.raises(ArchiveError, match="has a table, and the ledger has no row of it"):
        verify(opened(root), datasets=[forgotten.dataset])
    reindex(opened(root))
    assert verify(opened(root)).ok


def test_reindexing_does_not_forget_a_table_whose_log_is_gone(healthy: Path, tmp_path: Path) -> None:
    root = tmp_path / "archive"
    shutil.copytree(healthy, root)
    before = opened(root).ledger.table()
    log = Path(opened(root).store.path("raw/Test/x/_delta_log"))
    log.rename(tmp_path / "log")
    result = reindex(opened(root))
    assert ([problem.table for problem in result.problems], result.dropped) == (["raw/Test/x"], 0)
    assert list(verify(opened(root)).kinds()) == ["log"]
    (tmp_path / "log").rename(log)
    assert reindex(opened(root)).problems == []
    assert opened(root).ledger.table().equals(before)


def test_a_table_that_a_run_is_making_is_no_problem(
    healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "archive"
    shutil.copytree(healthy, root)
    made = Topic(opened(root), Dataset("lsst.sal.Test.y"))
    made.send(OLD, [START_US], value=[1.0], number=[1])
    with made.archive.ledger.announced("drain", [(RAW, made.dataset)]):

        def drain_and_look(*given: Any) -> None:
            """The table is made when the audit has asked the ledger already."""
            made.drain(into_ledger=False)
            audit_store(*given)

        monkeypatch.setattr(audit, "audit_store", drain_and_look)
        assert verify(opened(root)).ok


def test_files_of_older_weeks_are_left_to_whoever_asks_for_them(healthy: Path, tmp_path: Path) -> None:
    root = tmp_path / "archive"
    shutil.copytree(healthy, root)
    metadata.a_week_is_gone(Scene(opened(root), Dataset("lsst.sal.Test.x"), random.Random(1)))
    assert verify(opened(root), since="2026-11-23").ok
    assert not verify(opened(root), since="2026-11-16").ok
    assert not verify(opened(root), week="2026-11-16").ok


@pytest.fixture(scope="module")
def sealed(healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, its weeks sealed."""
    root = tmp_path_factory.mktemp("sealed") / "archive"
    shutil.copytree(healthy, root)
    archive = opened(root)
    for week in {Week.parse(row) for row in archive.ledger.table()["week"].to_pylist() if row.startswith("2")}:
        assert seal(archive, archive.settings, week=week, now=week.next().start + timedelta(days=2)).sealed == 1
    return root


def test_a_sealed_archive_has_no_problem(sealed: Path) -> None:
    for deep in (False, True):
        audit = verify(opened(sealed), deep=deep)
        assert (audit.problems, audit.records, audit.rows) == ([], 126, 126)
        assert [note.kind for note in audit.notes if "certificate" in note.detail] == ["repeated"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("defect", defects.CERTIFIED_PLAIN, ids=lambda defect: defect.__name__)
def test_the_ledger_shows(sealed: Path, tmp_path: Path, defect: Callable[[Scene], None], seed: int) -> None:
    assert set(audited(sealed, tmp_path, defect, seed, deep=False).kinds()) == {"certificate"}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("defect", [*defects.CERTIFIED_PLAIN, *defects.CERTIFIED_DEEP], ids=lambda of: of.__name__)
def test_the_table_shows(sealed: Path, tmp_path: Path, defect: Callable[[Scene], None], seed: int) -> None:
    assert set(audited(sealed, tmp_path, defect, seed, deep=True).kinds()) == {"certificate"}


def test_a_late_record_reopens_its_week_and_is_no_problem(sealed: Path, tmp_path: Path) -> None:
    def late(scene: Scene) -> None:
        file = scene.any_file(4)
        made = write_data_file(scene.archive.store, scene.relative, file.week, file.slice, scene.read(file).slice(0, 0))
        scene.committed([made], [], kind="drain", records=0)

    for deep in (False, True):
        audit = audited(sealed, tmp_path / str(deep), late, 1, deep=deep)
        assert [note.kind for note in audit.notes].count("reopened") == 1
        assert "certificate" not in set(audit.kinds())
