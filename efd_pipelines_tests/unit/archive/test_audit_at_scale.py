"""The plain audit of all topics: as many commits as a week makes, asked in seconds.

A week of hourly drains of a topic is 168 commits, merged as it grows. Here, some of the topics; with EFD_TEST_SCALE=1
all 3,348. The ledger is that of such a week, the files are there with their sizes, and the newest version of each log.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.files import write_data_file
from efd_pipelines.archive.ledger import RAW, RELATIVE, SCHEMA, LedgerRow
from efd_pipelines.archive.tables import commit
from efd_pipelines.settings import load_settings
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset

TOPICS = 3348 if os.environ.get("EFD_TEST_SCALE") else 100
LIMIT_S = 5.0 * TOPICS / 3348 + 0.5
WEEK = Week.parse("2026-11-16")
SLICE = f"{WEEK}W"
HOURS = 168
HOUR_US = 3_600_000_000
ROWS, BYTES = 100, 200


@dataclass(frozen=True)
class Made:
    """A commit of the week: a drain's, or a merge's of the files with these numbers into one."""

    version: int
    file: int
    size: int
    merged: tuple[int, ...] = ()


def commits_of_a_week() -> tuple[list[Made], dict[int, int]]:
    """The commits, and the files that are left with their sizes."""
    made: list[Made] = []
    live: dict[int, int] = {}
    for _ in range(HOURS):
        made.append(Made(len(made), len(made), BYTES))
        live[made[-1].file] = BYTES
        if len(live) > 16:
            made.append(Made(len(made), len(made), sum(live.values()), tuple(live)))
            live = {made[-1].file: made[-1].size}
    return made, live


def ledger_row(dataset: Dataset, made: Made, position: int, hashes: list[str]) -> LedgerRow:
    drained = not made.merged
    return LedgerRow(
        table=RAW,
        dataset=dataset,
        version=made.version,
        week=WEEK.key,
        slice=SLICE,
        commit_kind="drain" if drained else "merge",
        rows=ROWS if drained else 0,
        bytes=made.size if drained else 0,
        files=1 - len(made.merged),
        avro_bytes=ROWS * 300 if drained else 0,
        time_min_us=WEEK.start_us,
        time_max_us=WEEK.start_us + 167 * HOUR_US,
        records=ROWS if drained else 0,
        positions={f"uYbF2mQ8Tg2bZQ1Xr4nQWw/{dataset.name:x>22}:0": position} if drained else {},
        epochs={},
        gaps=[],
        schemas=[1234567890123456789] if drained else [],
        at_us=WEEK.start_us + made.version * HOUR_US,
        run="drain-20261116T000000",
        names=[f"+{hashes[made.file]}", *(f"-{hashes[n]}" for n in made.merged)],
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    root = tmp_path_factory.mktemp("scale") / "archive"
    archive = Archive(load_settings({}, None, archive=str(root)))
    made, live = commits_of_a_week()
    dice = np.random.default_rng(1)
    parts = []
    for n in range(TOPICS):
        dataset = Dataset(f"lsst.sal.Component{n % 63}.topic{n}")
        hashes = [f"{high:016x}{n:016x}" for high in dice.integers(0, 2**62, len(made)).tolist()]
        lay(root / archive.relative(dataset), made[-1].version, {hashes[file]: size for file, size in live.items()})
        position = 0
        rows = []
        for one in made:
            position += 0 if one.merged else ROWS
            rows.append(ledger_row(dataset, one, position, hashes).as_dict())
        parts.append(pa.Table.from_pylist(rows, schema=SCHEMA))
    enter(archive, pa.concat_tables(parts).combine_chunks())
    return archive


def lay(directory: Path, version: int, files: dict[str, int]) -> None:
    """A table's directory, as far as the plain audit looks at it."""
    (directory / "_delta_log").mkdir(parents=True)
    (directory / "_delta_log" / f"{version:020d}.json").write_text("{}")
    (directory / f"week={WEEK}").mkdir()
    for digest, size in files.items():
        (directory / f"week={WEEK}" / f"{SLICE}-{digest}.parquet").write_bytes(b"\0" * size)


def enter(archive: Archive, rows: pa.Table) -> None:
    """The ledger, in some thirty files, as compaction leaves them."""
    rows = rows.take(pa.array(np.argsort(rows["version"].to_numpy(), kind="stable"))).drop_columns(["month"])
    each = -(-rows.num_rows // 30)
    files = [
        write_data_file(archive.store, RELATIVE, "2026-11", "c", rows.slice(start, each), partition="month")
        for start in range(0, rows.num_rows, each)
    ]
    commit(
        archive.store,
        RELATIVE,
        None,
        add=files,
        transactions={},
        schema=rows.schema,
        note={"kind": "append"},
        partition="month",
    )


def test_a_week_of_all_topics_is_audited_in_seconds(archive: Archive) -> None:
    elapsed_s = []
    for _ in range(3):
        fresh = Archive(archive.settings)
        started = time.monotonic()
        audit = verify(fresh)
        elapsed_s.append(time.monotonic() - started)
        assert (audit.problems, audit.topics, audit.rows) == ([], TOPICS, TOPICS * HOURS * ROWS)
    print(f"{TOPICS} topics: {min(elapsed_s):.2f} s")
    if "EFD_TEST_SCALE" in os.environ:  # elsewhere other processes decide
        assert min(elapsed_s) < LIMIT_S


def test_one_file_among_all_is_missed(archive: Archive) -> None:
    dataset = Dataset(f"lsst.sal.Component1.topic{63 + 1}")
    directory = Path(archive.store.path(archive.relative(dataset))) / f"week={WEEK}"
    file = next(directory.iterdir())
    data = file.read_bytes()
    file.unlink()
    problems = verify(Archive(archive.settings), week=WEEK.key).problems
    file.write_bytes(data)
    assert [replace(found, detail="", remedy="") for found in problems] == [
        replace(problems[0], topic=dataset.text, week=WEEK.key, kind="unreadable", detail="", remedy="")
    ]
