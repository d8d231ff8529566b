"""The ledger collapses when a week is sealed: one row says what hundreds said, to everybody who asks."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from efd_pipelines.archive import sealing
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import _entries, gaps, verify
from efd_pipelines.archive.certificates import path_of, read_certificate
from efd_pipelines.archive.collapse import Collapsed, collapse
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.ledger_rows import REARRANGING, Change, changes_of, changes_text, painted
from efd_pipelines.archive.ledger_table import LedgerTable
from efd_pipelines.archive.merging import crowded
from efd_pipelines.archive.positions import Source
from efd_pipelines.archive.recount import Feed, Span, _span
from efd_pipelines.archive.reindex import reindex
from efd_pipelines.archive.sealing import seal, unsealed_weeks
from efd_pipelines.archive.slices import DEAD, QUARANTINE, SliceUnit
from efd_pipelines.archive.status import status
from efd_pipelines.errors import StaleWriter
from efd_pipelines.kafka.brokers import Watermarks
from efd_pipelines.settings import load_settings
from efd_pipelines.storage.weekly import weekly_sizes
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.archive.builders import Topic, schema_of
from efd_pipelines_tests.unit.archive.test_clean_weeks import lived

WEEK = Week.parse("2026-11-16")
OVER = WEEK.next().start + timedelta(hours=30)
HOUR_US = 3_600_000_000
DATASET = Dataset("lsst.sal.Test.x")
SCHEMA = schema_of("x", ("value", "double"))


def opened(root: Path) -> Archive:
    return Archive(load_settings({}, None, archive=str(root)))


@pytest.fixture
def topic(archive: Archive) -> Topic:
    """Two weeks of a topic in some twenty drains; commits that lie in both, a late record, one in 1970, a poison."""
    topic = Topic(archive)

    def send(at_us: int, count: int = 6) -> None:
        topic.send(SCHEMA, [at_us + n * 1_000_000 for n in range(count)], value=np.arange(count))

    for n in range(20):
        send(WEEK.start_us + n * 13 * HOUR_US)
        if n in (13, 17):
            send(WEEK.start_us + 5 * HOUR_US + n, 1)  # late
        if n == 3:
            send(1_000_000_000, 2)
            topic.values.append(b"")
            topic.stamps_ms.append(WEEK.start_us // 1000)
        topic.drain()
    return topic


def sealed_without_collapse(archive: Archive, patch: pytest.MonkeyPatch, week: Week = WEEK) -> None:
    with patch.context() as patched:
        patched.setattr(sealing, "collapse", lambda archive: Collapsed())
        assert seal(archive, archive.settings, week=week, now=OVER + timedelta(days=7)).problems == []


def answers(archive: Archive) -> dict[str, Any]:
    """What those who read the ledger learn."""
    latest = [
        {**row, "positions": json.loads(row["positions"]), "epochs": json.loads(row["epochs"])}
        for row in archive.ledger.latest().to_pylist()
    ]
    audit = verify(archive)
    return {
        "status": status(archive),
        "gaps": gaps(archive),
        "latest": latest,
        "crowded": crowded(archive, now=OVER),
        "unsealed": unsealed_weeks(archive, archive.settings, OVER + timedelta(days=30)),
        "sizes": weekly_sizes(archive, WEEK, WEEK.next()).to_pylist(),
        "quarantined": archive.ledger.datasets_with_rows(QUARANTINE),
        "dead": archive.ledger.datasets_with_rows(DEAD),
        "known": archive.ledger.known_versions([(RAW, DATASET)]),
        "audit": (audit.problems, audit.records, audit.rows, audit.missing, audit.duplicates, audit.topics),
    }


def changes_after(archive: Archive, version: int) -> list[Change]:
    rows = archive.ledger.changes(RAW, {DATASET: version}).to_pylist()
    return painted(Change(row["first_us"], row["last_us"], row["version"]) for row in rows)


def of_week(archive: Archive, week: Week = WEEK) -> list[dict[str, Any]]:
    table = archive.ledger.table()
    rows: list[dict[str, Any]] = table.filter(pc.equal(table["week"], week.key)).to_pylist()
    return rows


def test_a_sealed_week_is_one_row_with_the_certificates_figures(topic: Topic) -> None:
    archive = topic.archive
    before = len(of_week(archive))
    seal(archive, archive.settings, week=WEEK, now=OVER)
    certificate = read_certificate(archive, DATASET, WEEK)
    (row,) = of_week(archive)
    assert before > 10
    assert certificate is not None
    assert (row["rows"], row["bytes"], row["files"]) == (
        certificate.rows,
        certificate.size_bytes,
        len(certificate.files),
    )
    assert [f"week={WEEK}/{name[1:]}.parquet" for name in json.loads(row["names"])] == sorted(
        file.path for file in certificate.files
    )


def test_whoever_reads_the_ledger_learns_the_same_as_before(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = topic.archive
    for week in (WEEK, WEEK.next()):
        sealed_without_collapse(archive, monkeypatch, week)
        before = answers(archive)
        newest = archive.snapshot(DATASET).version
        changed = {version: changes_after(archive, version) for version in range(-1, newest + 1)}
        assert collapse(archive).weeks == 1
        assert answers(archive) == before
        assert {version: changes_after(archive, version) for version in changed} == changed
        assert verify(archive, deep=True).problems == []


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happened_in_the_week(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = lived(tmp_path / "archive", 1000 + seed)
    sealed_without_collapse(archive, monkeypatch)
    before = answers(archive)
    changed = {version: changes_after(archive, version) for version in range(-1, 12)}
    collapse(archive)
    assert answers(archive) == before
    assert {version: changes_after(archive, version) for version in changed} == changed


def test_a_consumer_that_has_seen_all_finds_nothing_to_do(topic: Topic) -> None:
    archive = topic.archive
    version = archive.snapshot(DATASET).version
    seal(archive, archive.settings, week=WEEK, now=OVER)
    assert archive.ledger.changes(RAW, {DATASET: version}).num_rows == 0
    assert set(archive.ledger.changes(RAW, {DATASET: -1})["week"].to_pylist()) == {WEEK.key, WEEK.next().key}
    assert set(archive.ledger.changes(RAW, {DATASET: -1}, WEEK.next().key)["week"].to_pylist()) == {WEEK.next().key}
    assert set(archive.ledger.changes(RAW, {DATASET: -1}, "2030-01-07")["week"].to_pylist()) == {WEEK.next().key}


def test_gaps_stay_with_the_times_around_them(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = Topic(archive, unit=SliceUnit.HOUR)
    noted = {"source": "cluster/topic", "partition": 0, "first": 6, "end": 9, "reason": "expired", "noticed": "2026"}
    for n in range(6):
        topic.send(SCHEMA, [WEEK.start_us + n * HOUR_US + s * 1_000_000 for s in range(3)], value=np.zeros(3))
        made = topic.drain(into_ledger=False)
        archive.ledger.append(rows_with(made, [noted] if n in (2, 4) else []))
    sealed_without_collapse(archive, monkeypatch)
    before = gaps(archive)
    assert [gap["from"] for gap in before] == [gap["from"] for gap in before if gap["from"] is not None]
    assert len({gap["from"] for gap in before}) == 2
    collapse(archive)
    assert gaps(archive) == before
    assert sorted(row["commit_kind"] for row in of_week(archive)) == ["gap", "gap", "sealed"]
    assert [row["at"] for row in of_week(archive) if row["gaps"] != "[]"]


def rows_with(made: Any, noted: list[Any]) -> list[Any]:
    from dataclasses import replace

    from efd_pipelines.archive.ledger import rows_of

    rows = rows_of(RAW, DATASET, made)
    return [replace(rows[0], gaps=noted), *rows[1:]]


def test_a_late_record_stands_beside_the_row_until_the_week_is_sealed_again(topic: Topic) -> None:
    archive = topic.archive
    seal(archive, archive.settings, week=WEEK, now=OVER)
    rows = of_week(archive)[0]["rows"]
    topic.send(SCHEMA, [WEEK.start_us + 7 * HOUR_US], value=np.zeros(1))
    topic.drain()
    assert len(of_week(archive)) == 2
    assert [found.kind for found in verify(archive, deep=True).problems] == []
    assert crowded(archive, now=OVER, weeks=[WEEK]) == {DATASET: ["2026-11-16"]}
    assert unsealed_weeks(archive, archive.settings, OVER) == [WEEK]
    again = seal(archive, archive.settings, week=WEEK, now=OVER)
    assert again.sealed == 1
    (row,) = of_week(archive)
    assert row["rows"] == rows + 1
    assert verify(archive, deep=True).problems == []
    assert crowded(archive, now=OVER, weeks=[WEEK]) == {}
    assert unsealed_weeks(archive, archive.settings, OVER) == []


@pytest.mark.parametrize("cut", [0, 5, 12])
def test_a_reindexing_gives_the_same_rows(topic: Topic, cut: int) -> None:
    archive = topic.archive
    for week in (WEEK, WEEK.next()):
        seal(archive, archive.settings, week=week, now=OVER + timedelta(days=7))
    topic.send(SCHEMA, [WEEK.start_us + 7 * HOUR_US], value=np.zeros(1))
    topic.drain()
    seal(archive, archive.settings, week=WEEK, now=OVER)
    before = archive.ledger.table()
    log = Path(archive.store.path(f"{topic.relative}/_delta_log"))
    archive.snapshot(DATASET).delta.create_checkpoint()
    for version in range(cut):
        (log / f"{version:020d}.json").unlink()
    found = reindex(archive)
    assert (found.changed, found.dropped, found.problems) == (0, 0, [])
    assert Archive(archive.settings).ledger.table().equals(before)


def test_without_an_old_ledger_a_reindexing_collapses_too(topic: Topic) -> None:
    archive = topic.archive
    for week in (WEEK, WEEK.next()):
        seal(archive, archive.settings, week=week, now=OVER + timedelta(days=7))
    before = archive.ledger.table()
    for path in Path(archive.store.path("ledger/commits")).rglob("*"):
        if path.is_file():
            path.unlink()
    again = Archive(archive.settings)
    assert reindex(again).problems == []
    assert again.ledger.table().equals(before)


def test_rows_that_are_appended_again_do_not_count(topic: Topic) -> None:
    archive = topic.archive
    stray = [row for row in archive.ledger.table().to_pylist() if row["week"] == WEEK.key]
    seal(archive, archive.settings, week=WEEK, now=OVER)
    before = answers(archive)
    import pyarrow as pa

    from efd_pipelines.archive.ledger import SCHEMA as LEDGER

    month = stray[0]["month"]
    archive.ledger._append_month(month, pa.Table.from_pylist(stray, schema=LEDGER).drop_columns(["month"]))
    assert answers(archive) == before
    archive.ledger.compact()
    assert answers(archive) == before


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_that_is_killed_in_between_loses_nothing(
    topic: Topic, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    archive = topic.archive
    sealed_without_collapse(archive, monkeypatch)
    before = answers(archive)
    done: Callable[..., None] = LedgerTable._replace

    def killed(*args: Any) -> None:
        if when == "after":
            done(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LedgerTable, "_replace", killed)
        with pytest.raises(KeyboardInterrupt):
            collapse(archive)
    fresh = Archive(archive.settings)
    assert answers(fresh) == before
    assert collapse(fresh).weeks == (1 if when == "before" else 0)
    assert answers(fresh) == before


def test_of_two_sealers_one_collapses(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = topic.archive
    sealed_without_collapse(archive, monkeypatch)
    before = answers(archive)
    both = threading.Barrier(2)
    done: Callable[..., None] = LedgerTable._replace

    def together(*args: Any) -> None:
        both.wait(60)
        done(*args)

    outcomes: list[Any] = []

    def run() -> None:
        try:
            outcomes.append(collapse(Archive(archive.settings)).weeks)
        except StaleWriter:
            outcomes.append("refused")

    monkeypatch.setattr(LedgerTable, "_replace", together)
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes)) == ["1", "refused"]
    assert answers(Archive(archive.settings)) == before


def test_what_is_appended_meanwhile_stays(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = topic.archive
    sealed_without_collapse(archive, monkeypatch)
    done: Callable[..., None] = LedgerTable._replace

    def late(*args: Any) -> None:
        topic.send(SCHEMA, [WEEK.start_us + 7 * HOUR_US], value=np.zeros(1))
        topic.drain()
        done(*args)

    with monkeypatch.context() as patch:
        patch.setattr(LedgerTable, "_replace", late)
        collapse(archive)
    assert sum(row["rows"] for row in of_week(archive)) == sum(
        file.rows for file in archive.snapshot(DATASET).files({WEEK.key})
    )
    assert verify(archive, deep=True).problems == []


def test_a_week_that_is_not_what_its_certificate_says_is_left(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = topic.archive
    sealed_without_collapse(archive, monkeypatch)
    before = archive.ledger.table()
    name = path_of(topic.relative, WEEK)
    document = json.loads(archive.store.read_bytes(name))
    archive.store.write_bytes(name, json.dumps({**document, "rows": document["rows"] + 1}).encode())
    assert collapse(archive) == Collapsed(weeks=0, rows=0, left=1)
    assert archive.ledger.table().equals(before)
    assert verify(archive).problems


def test_changes_survive_being_written_and_show_the_newest() -> None:
    dice = random.Random(3)
    line = np.full(400, -1)
    changes = []
    for version in range(60):
        first = dice.randrange(400)
        last = min(399, first + dice.randrange(60))
        changes.append(Change(first, last, version))
        line[first : last + 1] = version
    dice.shuffle(changes)
    found = painted(changes)
    assert changes_of(changes_text(found)) == found
    shown = np.full(400, -1)
    for change in found:
        assert (shown[change.first_us : change.last_us + 1] == -1).all()
        shown[change.first_us : change.last_us + 1] = change.version
    assert (shown == line).all()


def test_kinds_that_rearrange_change_nothing(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = topic.archive
    sealed_without_collapse(archive, monkeypatch)
    kinds = {row["version"]: row["commit_kind"] for row in archive.ledger.table().to_pylist()}
    assert set(kinds.values()) > {"merge", "drain"}
    assert {kinds[one.version] for one in changes_after(archive, -1)}.isdisjoint(REARRANGING)


def test_records_are_counted_against_kafka_whatever_kafka_still_has(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = topic.archive
    spans = {"plain": spans_of(archive)}
    for week in (WEEK, WEEK.next()):
        sealed_without_collapse(archive, monkeypatch, week)
        collapse(archive)
        spans[week.key] = spans_of(archive)
    for when, found in spans.items():
        assert [span.records for span in found] == [span.offsets for span in found], when
    assert spans["plain"][0].records == spans[WEEK.next().key][0].records == topic.position
    assert sum(1 for span in spans[WEEK.key] if span.records) > 20, "the running week is counted commit by commit"


def spans_of(archive: Archive) -> list[Span]:
    """What is counted where Kafka has the topic from each of its offsets on."""
    moves = _entries(archive, None).positions
    sources = {0: Source("cluster", "topic")}
    last = int(moves["position"].max())  # type: ignore[arg-type]
    return [
        _span(Feed("x", "topic", DATASET, sources, {0: Watermarks(low, last)}, {0: last}), moves) for low in range(last)
    ]
