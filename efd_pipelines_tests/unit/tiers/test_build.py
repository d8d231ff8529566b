"""Building a tier: what is stale is found and rewritten, and nothing else.

Builders that are killed, or in each other's way: `test_builders_at_once.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from efd_pipelines.archive import tables
from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.files import DataFile, write_data_file
from efd_pipelines.archive.ledger import RAW, rows_of
from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.configuration import Tiers
from efd_pipelines.tiers import columns, work
from efd_pipelines.tiers.build import build_tier
from efd_pipelines.tiers.tier import TIERS, aggregated, tier_named
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.tiers.builders import (
    EVENT,
    FAST,
    HOUR_US,
    MONDAY_US,
    SECOND_US,
    SLOW,
    an_archive,
    archive_rows,
    message,
    rows,
)
from efd_pipelines_tests.unit.tiers.built import ONE_SECOND, OTHER, built, computed_from, files, ramp

COMMAND = Dataset("lsst.sal.MTM1M3.command_start")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return an_archive(str(tmp_path / "archive"))


def with_quartiles(archive: Archive, *topics: str) -> Archive:
    """The same archive where these topics' tiers have quartiles."""
    settings = archive.settings
    configuration = settings.configuration.model_copy(update={"tiers": Tiers(quartiles=topics)})
    return Archive(settings.model_copy(update={"configuration": configuration}))


def test_only_telemetry_faster_than_the_window_is_aggregated(archive: Archive) -> None:
    configuration = archive.settings.configuration
    told = {dataset: aggregated(dataset, configuration, ONE_SECOND) for dataset in (FAST, OTHER, SLOW, EVENT, COMMAND)}
    assert told == {FAST: True, OTHER: True, SLOW: False, EVENT: False, COMMAND: False}
    assert aggregated(SLOW, configuration, tier_named("1m"))
    for dataset in told:
        archive_rows(archive, dataset, ramp(MONDAY_US, 100))
    built(archive)
    assert set(archive.datasets(table="1s")) == {FAST, OTHER}


def test_a_week_ends_in_its_own_file(archive: Archive) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US - 2 * SECOND_US, 200))
    result = built(archive)
    assert {(file.week, file.slice, file.rows) for file in files(archive).values()} == {
        ("2023-11-13", "2023-11-19T23", 2),
        ("2023-11-20", "2023-11-20T00", 2),
    }
    assert (result.windows, result.rows, result.slices) == (4, 200, 2)
    counts = {"rows": 100, "windows": 2, "slices": 1}
    for week in ("2023-11-13", "2023-11-20"):
        assert counts.items() <= result.by_component_week["MTM1M3", week].items()
    assert archive.read(FAST, tier="1s")["first_force"].to_pylist() == [0.0, 50.0, 100.0, 150.0]


def test_a_second_run_changes_nothing_and_writes_nothing(archive: Archive) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US, 200))
    built(archive)
    before = {path: path.stat().st_mtime_ns for path in Path(archive.store.root).rglob("*") if path.is_file()}
    result = built(archive)
    after = {path: path.stat().st_mtime_ns for path in Path(archive.store.root).rglob("*") if path.is_file()}
    assert (result.windows, result.rows, result.commits) == (0, 0, 0)
    assert after == before


def test_a_late_record_rewrites_exactly_its_slice(archive: Archive) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US, 3 * 3600 * 2, step_us=500_000))
    built(archive)
    before, windows = files(archive), archive.read(FAST, tier="1s")
    late = MONDAY_US + HOUR_US + 1800 * SECOND_US + 7
    archive_rows(archive, FAST, rows([late], {"force": np.array([-1.0], np.float32)}, first_offset=90_000))
    result = built(archive)
    after, changed = files(archive), archive.read(FAST, tier="1s")
    assert {key for key in before if before[key] != after[key]} == {"2023-11-20T01"}
    differing = [n for n in range(len(windows)) if not windows.slice(n, 1).equals(changed.slice(n, 1))]
    assert differing == [5400]
    assert (result.slices, result.rows) == (1, 3)
    assert changed.slice(5400, 1)["min_force"].to_pylist() == [-1.0]


DAY_US = 24 * HOUR_US


def everything(archive: Archive, tier: str) -> dict[str, DataFile]:
    return {file.slice: file for file in archive.snapshot(FAST, tier).files()}


def test_a_record_three_weeks_late_rewrites_one_slice_of_each_tier_and_only_its_window(archive: Archive) -> None:
    starts = [MONDAY_US + week * 7 * DAY_US + 5 * HOUR_US for week in range(4)]
    for n, start in enumerate(starts):
        table = ramp(start, 2 * 3600, first_offset=n * 10_000, step_us=SECOND_US // 2)
        archive_rows(archive, FAST, table)
    for tier in TIERS.values():
        build_tier(archive, tier)
    before = {name: (everything(archive, name), archive.read(FAST, tier=name)) for name in TIERS}
    late = starts[0] + 1800 * SECOND_US + 7
    archive_rows(archive, FAST, rows([late], {"force": np.array([-1.0], np.float32)}, first_offset=90_000))
    results = {name: build_tier(archive, tier) for name, tier in TIERS.items()}
    slices = {"1s": "2023-11-20T05", "1m": "2023-11-20", "1h": "2023-11-20W"}
    for name, (held, windows) in before.items():
        now, changed = everything(archive, name), archive.read(FAST, tier=name)
        assert {key for key in held if held[key] != now[key]} == {slices[name]}
        (row,) = [n for n in range(len(windows)) if not windows.slice(n, 1).equals(changed.slice(n, 1))]
        assert changed["min_force"][row].as_py() == -1.0
        assert changed["count"][row].as_py() == windows["count"][row].as_py() + 1
    assert {name: result.rows for name, result in results.items()} == {"1s": 3, "1m": 121, "1h": 7201}
    assert [build_tier(archive, tier).commits for tier in TIERS.values()] == [0, 0, 0]


def test_windows_that_are_taken_over_are_those_that_would_be_computed(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    archives = [an_archive(str(tmp_path / name)) for name in ("bit by bit", "at once")]
    for n in range(6):
        first = MONDAY_US + n * 40 * 60 * SECOND_US
        times = first + np.sort(random.integers(0, 50 * 60 * SECOND_US, 3000))
        force = random.normal(size=3000).astype(np.float32)
        table = rows(
            times, {"force": pa.array(force)}, first_offset=n * 3000, sal_index=(n % 2 + 1 + times % 2).tolist()
        )
        for archive in archives:
            archive_rows(archive, FAST, table)
        for tier in TIERS.values():
            build_tier(archives[0], tier)
    for name, tier in TIERS.items():
        build_tier(archives[1], tier)
        paths = [[file.path for file in archive.snapshot(FAST, name).files()] for archive in archives]
        assert paths[0] == paths[1]


def test_minutes_and_hours_are_those_of_the_raw_samples(archive: Archive) -> None:
    random = np.random.default_rng(5)
    count = 3 * 3600 * 4
    force = random.lognormal(size=count).astype(np.float32)
    force[random.random(count) < 0.1] = np.nan
    archive_rows(archive, FAST, rows(MONDAY_US - HOUR_US + np.arange(count) * (SECOND_US // 4), {"force": force}))
    for tier, samples in (("1m", 240), ("1h", 14_400)):
        build_tier(archive, TIERS[tier])
        found, windows = archive.read(FAST, tier=tier), force.reshape(-1, samples).astype(np.float64)
        assert found["count"].to_pylist() == [samples] * len(windows)
        assert found["median_force"].to_pylist() == np.nanmedian(windows, axis=1).astype(np.float32).tolist()
        np.testing.assert_allclose(found["stdev_force"].to_numpy(), np.nanstd(windows, axis=1, ddof=1), rtol=1e-7)


def test_a_slice_that_comes_out_as_it_was_keeps_its_file_and_is_done(archive: Archive) -> None:
    table = ramp(MONDAY_US, 100)
    archive_rows(archive, FAST, table)
    built(archive)
    before = files(archive)
    offset = table.schema.get_field_index("kafka_offset")
    again = table.set_column(offset, table.schema.field(offset), pa.array(np.arange(100, 200)))
    made = archive_rows(archive, FAST, again)
    result = built(archive)
    assert files(archive) == before
    assert computed_from(archive, "2023-11-20T00") == made.version
    assert (result.windows, result.slices, result.unchanged) == (0, 0, 1)
    assert built(archive).commits == 0


def test_a_dataset_has_quartiles_where_the_configuration_says_so_when_it_is_first_built(tmp_path: Path) -> None:
    root = str(tmp_path / "archive")
    plain = an_archive(root)
    asked = with_quartiles(plain, FAST.text)
    for dataset in (FAST, OTHER):
        archive_rows(plain, dataset, ramp(MONDAY_US, 100))
    built(asked)
    for archive in (asked, plain):
        archive_rows(archive, FAST, ramp(MONDAY_US + 2 * SECOND_US, 50, first_offset=100))
        built(archive)
    found = plain.read(FAST, tier="1s")
    assert found["q1_force"].to_pylist() == [12.25, 62.25, 112.25]
    assert found["q3_force"].to_pylist() == [36.75, 86.75, 136.75]
    assert "q1_force" not in plain.read(OTHER, tier="1s").column_names
    archive_rows(asked, OTHER, ramp(MONDAY_US + HOUR_US, 50, first_offset=200))
    built(asked)
    assert "q1_force" not in plain.read(OTHER, tier="1s").column_names


def test_quarantine_and_the_dead_are_never_read(archive: Archive) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US, 100))
    built(archive)
    for week in ("quarantine", "dead"):
        archive_rows(archive, FAST, ramp(MONDAY_US, 100, first_offset=1000), week=week)
    assert built(archive).commits == 0
    archive_rows(archive, FAST, ramp(MONDAY_US + 4 * SECOND_US, 50, first_offset=2000))
    built(archive)
    assert archive.read(FAST, tier="1s")["count"].to_pylist() == [50, 50, 50]


@pytest.mark.parametrize("unit", list(SliceUnit))
def test_of_a_longer_slice_only_the_hours_that_changed_are_computed(archive: Archive, unit: SliceUnit) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US, 4 * 3600, step_us=SECOND_US), unit=unit)
    first = built(archive)
    archive_rows(archive, FAST, ramp(MONDAY_US + 2 * HOUR_US + 1, 10, first_offset=50_000), unit=unit)
    second = built(archive)
    assert (first.slices, first.rows) == (4, 4 * 3600)
    assert (second.slices, second.rows) == (1, 11)
    assert sum(archive.read(FAST, tier="1s")["count"].to_pylist()) == 4 * 3600 + 10


def test_weeks_that_were_left_out_are_built_later(archive: Archive) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US - 2 * SECOND_US, 200))
    built(archive, weeks=[Week.parse("2023-11-20")])
    assert set(files(archive)) == {"2023-11-20T00"}
    archive_rows(archive, FAST, ramp(MONDAY_US + 2 * SECOND_US, 50, first_offset=500))
    built(archive, weeks=["2023-11-20"])
    assert built(archive).slices == 1
    assert set(files(archive)) == {"2023-11-19T23", "2023-11-20T00"}
    assert built(archive).commits == 0


def test_only_the_datasets_asked_for_are_built(archive: Archive) -> None:
    for dataset in (FAST, OTHER, EVENT):
        archive_rows(archive, dataset, ramp(MONDAY_US, 100))
    built(archive, datasets=[OTHER, EVENT])
    assert archive.datasets(table="1s") == [OTHER]


def replace_files(archive: Archive, kind: str, keep: bool) -> None:
    """A commit that replaces all files by one with the same rows, or by none."""
    snapshot = archive.snapshot(FAST)
    table = archive.read(FAST)
    held = snapshot.files()
    add = [tables_file(archive, table, held[0])] if keep else []
    made = tables.commit(
        archive.store,
        snapshot.relative,
        snapshot,
        add=add,
        remove=held,
        transactions={"slice:x": (None, 1)},
        schema=table.schema,
        note={"kind": kind},
    )
    archive.ledger.append(rows_of(RAW, FAST, made))


def tables_file(archive: Archive, table: pa.Table, like: DataFile) -> DataFile:
    return write_data_file(archive.store, archive.relative(FAST), like.week, like.slice, table)


@pytest.mark.parametrize(("kind", "keep"), [("merge", True), ("expire", False)])
def test_rearranging_and_expiring_the_archive_makes_nothing_stale(archive: Archive, kind: str, keep: bool) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US, 50))
    archive_rows(archive, FAST, ramp(MONDAY_US + SECOND_US, 50, first_offset=50))
    built(archive)
    before = files(archive)
    replace_files(archive, kind, keep)
    assert built(archive).commits == 0
    assert files(archive) == before


def test_a_slice_whose_rows_are_gone_loses_its_windows(archive: Archive) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US, 50))
    archive_rows(archive, FAST, ramp(MONDAY_US + HOUR_US, 50, first_offset=50))
    built(archive)
    replace_files(archive, "repair", keep=False)
    built(archive)
    assert files(archive) == {}
    assert built(archive).commits == 0


def test_a_field_that_comes_later_changes_no_older_file(archive: Archive) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US, 50))
    built(archive)
    before = files(archive)["2023-11-20T00"]
    wider = ramp(MONDAY_US + HOUR_US, 50, first_offset=50)
    wider = wider.append_column(message("torque", pa.float64()), pa.array(np.ones(50)))
    archive_rows(archive, FAST, wider)
    built(archive)
    assert files(archive)["2023-11-20T00"] == before
    assert archive.read(FAST, tier="1s")["mean_torque"].to_pylist() == [None, 1.0]
    archive_rows(archive, FAST, ramp(MONDAY_US, 50, first_offset=0))
    assert built(archive).unchanged == 1


def test_a_field_that_becomes_wider_is_wider_in_the_tier_too(archive: Archive) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US, 50))
    built(archive)
    double = message("force", pa.float64())
    later = ramp(MONDAY_US + HOUR_US, 50, first_offset=50)
    later = later.set_column(later.schema.get_field_index("force"), double, later["force"].cast(pa.float64()))
    snapshot = archive.snapshot(FAST)
    tables.widen(snapshot, later.schema)
    archive_rows(archive, FAST, later)
    built(archive)
    table = archive.read(FAST, tier="1s")
    assert {str(table.schema.field(f"{s}_force").type) for s in ("first", "min", "mean")} == {"double"}
    assert table["max_force"].to_pylist() == [49.0, 99.0]
    assert table["mean_force"].to_pylist() == [24.5, 74.5]


def test_how_much_is_computed_at_a_time_does_not_matter(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    table = ramp(MONDAY_US - HOUR_US, 4 * 360, step_us=10 * SECOND_US)
    lists = pa.array([[float(n), 1.0] for n in range(table.num_rows)], pa.list_(pa.float64()))
    table = table.append_column(message("samples", lists.type), lists)
    for dataset in (FAST, OTHER):
        archive_rows(archive, dataset, table, unit=SliceUnit.DAY)
    commits = built(archive, datasets=[FAST]).commits
    monkeypatch.setattr(work, "_PASS_ROWS", 100)
    monkeypatch.setattr(work, "_LIST_BYTES", 3000)
    assert built(archive, datasets=[OTHER]).commits == 4 > commits
    assert archive.read(FAST, tier="1s").equals(archive.read(OTHER, tier="1s"))
    assert [file.path for file in archive.files(FAST, tier="1s")] == [f.path for f in archive.files(OTHER, tier="1s")]


def test_a_wide_dataset_keeps_lists_for_ever(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    columns_of = {f"x{n}": pa.array(np.arange(50.0) + n) for n in range(4)}
    table = rows(MONDAY_US + np.arange(50) * 20_000, columns_of)
    for n in range(4):
        position = table.schema.get_field_index(f"x{n}")
        table = table.set_column(position, message(f"x{n}", pa.float64(), field="x", element=n), table[f"x{n}"])
    archive_rows(archive, FAST, table)
    with monkeypatch.context() as patch:
        patch.setattr(columns, "MAX_FLAT_COLUMNS", 20)
        built(archive)
    archive_rows(archive, FAST, rows([MONDAY_US + HOUR_US], {"y": [1.0]}, first_offset=50))
    built(archive)
    assert archive.snapshot(FAST, "1s").description["arrays"] == "list"
    assert archive.read(FAST, tier="1s")["mean_x"].to_pylist() == [[24.5, 25.5, 26.5, 27.5], None]


def test_progress_counts_slices(archive: Archive) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US, 2 * 3600, step_us=SECOND_US))
    seen: list[tuple[str, float, float]] = []
    built(archive, progress=lambda what, done, total: seen.append((what, done, total)))
    assert seen[0][1:] == (0, 2)
    assert seen[-1][1:] == (2, 2)
    assert all(FAST.text in what for what, _, _ in seen)


def test_the_tiers_table_is_like_the_archives(archive: Archive) -> None:
    archive_rows(archive, FAST, ramp(MONDAY_US, 100))
    built(archive, run="a-run")
    snapshot = archive.snapshot(FAST, "1s")
    assert snapshot.relative == "tiers/1s/MTM1M3/hardpointActuatorData"
    assert snapshot.schema.field("mean_force").metadata[b"units"] == b"newton"
    assert snapshot.description == {
        "dataset": FAST.text,
        "tier": "1s",
        "window_s": 1.0,
        "slice": "hour",
        "arrays": "flat",
        "quartiles": False,
    }
    ledger = archive.ledger.table()
    (row,) = ledger.filter(pc.equal(ledger["table"], "1s")).to_pylist()
    assert (row["commit_kind"], row["rows"], row["week"], row["run"]) == ("tier", 2, "2023-11-20", "a-run")
