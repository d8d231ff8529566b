"""An export as its readers meet it."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.errors import UnknownDataset, UsageError
from efd_pipelines.exports import export
from efd_pipelines.exports.destination import NotAnExport
from efd_pipelines.exports.export import NothingToExport
from efd_pipelines.exports.stream import LostFile
from efd_pipelines_tests.unit.exports.builders import (
    FORCES,
    MONDAY,
    PRIVATE,
    START_US,
    TEMPERATURE,
    ArchiveBuilder,
    at,
    column,
    messages,
    seconds,
)


def files_of(out: Path, dataset: str = TEMPERATURE) -> list[Path]:
    return sorted((out / dataset).glob("*.parquet"))


def manifest_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "manifest.json").read_text()))


def test_rows_of_the_range_are_there_sorted_by_time_with_their_values(builder: ArchiveBuilder, tmp_path: Path) -> None:
    rows = messages(seconds(0, 100), sal_index=[1, 2] * 50)
    builder.add(TEMPERATURE, rows.take(pa.array(np.random.default_rng(1).permutation(100))))
    result = export(builder.archive, TEMPERATURE, at(10), at(90), out=str(tmp_path / "out"))
    found = pd.read_parquet(tmp_path / "out" / TEMPERATURE)
    expected = rows.to_pandas().query("@at(10) <= time < @at(90)").reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected[found.columns])
    assert (result.rows, result.files, result.made) == (80, 1, True)


def test_the_end_is_excluded_to_the_microsecond(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages([START_US - 1, START_US, START_US + 1_000_000 - 1, START_US + 1_000_000]))
    export(builder.archive, TEMPERATURE, at(0), at(1), out=str(tmp_path / "out"))
    found = pq.read_table(files_of(tmp_path / "out")[0])["time"].cast(pa.int64()).to_pylist()
    assert found == [START_US, START_US + 999_999]


def test_a_record_that_was_delivered_twice_is_there_once(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 20)))
    builder.add(TEMPERATURE, messages(seconds(10, 30), first_seq=10, first_offset=500, partition=1))
    result = export(builder.archive, TEMPERATURE, at(0), at(60), out=str(tmp_path / "out"))
    found = pq.read_table(tmp_path / "out" / TEMPERATURE)["private_seqNum"].to_pylist()
    assert found == list(range(30))
    assert (result.rows, manifest_of(tmp_path / "out")["topics"][0]["repeated_records_left_out"]) == (30, 10)


def test_devices_that_send_at_the_same_time_are_no_repetition(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 20), sal_index=1))
    builder.add(TEMPERATURE, messages(seconds(0, 20), sal_index=2, partition=1))
    assert export(builder.archive, TEMPERATURE, at(0), at(60), out=str(tmp_path / "out")).rows == 40


def test_metrics_have_no_identity_and_are_all_kept(builder: ArchiveBuilder, tmp_path: Path) -> None:
    metric = [column("value", pa.float64())]
    builder.add("lsst.dm.latency", messages([START_US] * 3, columns=metric))
    assert export(builder.archive, "lsst.dm.latency", at(0), at(1), out=str(tmp_path / "out")).rows == 3


def test_quarantined_and_dead_rows_are_counted_and_not_exported(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 5)))
    builder.add(TEMPERATURE, messages(seconds(5, 7), first_seq=5), place="quarantine")
    builder.add(TEMPERATURE, messages(seconds(7, 8), first_seq=7), place="dead")
    assert export(builder.archive, TEMPERATURE, at(0), at(60), out=str(tmp_path / "out")).rows == 5
    topic = manifest_of(tmp_path / "out")["topics"][0]
    assert list(topic["rows_of_the_whole_dataset_without_a_time_or_meaning"].values()) == [2, 1]


def test_files_that_were_replaced_do_not_count(builder: ArchiveBuilder, tmp_path: Path) -> None:
    from efd_pipelines.archive.files import write_data_file
    from efd_pipelines.archive.ledger import relative_of
    from efd_pipelines.archive.tables import commit, open_table
    from efd_pipelines.topics.names import Dataset

    halves = [messages(seconds(0, 10)), messages(seconds(10, 20), first_seq=10)]
    old = [file for half in halves for file in builder.add(TEMPERATURE, half)]
    store, relative = builder.archive.store, relative_of("raw", Dataset.parse(TEMPERATURE))
    merged = write_data_file(store, relative, old[0].week, old[0].slice, pa.concat_tables(halves))
    commit(
        store, relative, open_table(store, relative), add=[merged], remove=old,
        transactions={"slice:x": (None, 1)}, schema=halves[0].schema, note={"kind": "merge"},
    )  # fmt: skip
    assert export(builder.archive, TEMPERATURE, at(0), at(60), out=str(tmp_path / "out")).rows == 20


def test_all_files_have_one_schema_with_units_also_across_a_widening(
    builder: ArchiveBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from efd_pipelines.archive.tables import widen

    narrow = [*PRIVATE, column("position", pa.float32(), "deg")]
    wide = [*PRIVATE, column("position", pa.float64(), "deg"), column("added", pa.int64())]
    first = messages(seconds(0, 200), columns=narrow)
    builder.add(FORCES, first, unit=SliceUnit.HOUR)
    widen(builder.archive.snapshot(_dataset(FORCES)), messages([0], columns=wide).schema)
    builder.add(FORCES, messages(seconds(200, 400), columns=wide, first_seq=200), unit=SliceUnit.HOUR)
    small_files(monkeypatch)
    export(builder.archive, FORCES, at(0), at(999), out=str(tmp_path / "out"))
    schemas = [pq.read_schema(file) for file in files_of(tmp_path / "out", FORCES)]
    assert len(schemas) > 3
    assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)
    assert str(schemas[0].field("position").type) == "double"
    assert schemas[0].field("position").metadata[b"units"] == b"deg"
    found = pq.read_table(tmp_path / "out" / FORCES)
    assert found["added"].null_count == 200
    assert found["position"].to_pylist()[:200] == [float(value) for value in first["position"].to_pylist()]


def test_files_and_their_row_groups_are_apart_in_time_and_names_sort(
    builder: ArchiveBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = np.repeat(seconds(0, 300), 3)
    builder.add(TEMPERATURE, messages(times, sal_index=[1, 2, 3] * 300))
    small_files(monkeypatch)
    export(builder.archive, TEMPERATURE, at(0), at(300), out=str(tmp_path / "out"))
    bounds = [
        (group.column(0).statistics.min, group.column(0).statistics.max)
        for file in files_of(tmp_path / "out")
        for group in [pq.read_metadata(file).row_group(n) for n in range(pq.read_metadata(file).num_row_groups)]
    ]
    assert len(bounds) > 10
    assert all(before[1] < after[0] for before, after in itertools.pairwise(bounds))


def test_lists_stay_lists(builder: ArchiveBuilder, tmp_path: Path) -> None:
    columns = [*PRIVATE, column("limits", pa.list_(pa.float32()), "V")]
    rows = messages(seconds(0, 9), columns=columns)
    builder.add(FORCES, rows)
    export(builder.archive, FORCES, at(0), at(99), out=str(tmp_path / "out"))
    assert pq.read_table(tmp_path / "out" / FORCES)["limits"].to_pylist() == rows["limits"].to_pylist()


def test_nan_and_null_stay_what_they_are(builder: ArchiveBuilder, tmp_path: Path) -> None:
    rows = messages(seconds(0, 4))
    values = pa.array([1.5, float("nan"), None, -0.0], pa.float32())
    rows = rows.set_column(
        rows.schema.get_field_index("temperatureItem0"), rows.schema.field("temperatureItem0"), values
    )
    builder.add(TEMPERATURE, rows)
    export(builder.archive, TEMPERATURE, at(0), at(9), out=str(tmp_path / "out"))
    found = pq.read_table(tmp_path / "out" / TEMPERATURE)["temperatureItem0"].combine_chunks()
    assert found.is_null().to_pylist() == [False, False, True, False]
    assert np.array_equal(found.fill_null(7).to_numpy().view("i4"), values.fill_null(7).to_numpy().view("i4"))


def test_the_manifest_tells_files_versions_and_hashes(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 5)))
    builder.add(TEMPERATURE, messages(seconds(5, 9), first_seq=5))
    result = export(
        builder.archive, [TEMPERATURE], at(0), at(60), fields=["temperatureItem"], out=str(tmp_path / "out")
    )
    manifest = manifest_of(tmp_path / "out")
    (topic,) = manifest["topics"]
    assert manifest["request"] == {
        "topics": [TEMPERATURE], "from": MONDAY.isoformat(), "to": at(60).isoformat(),
        "fields": ["temperatureItem"], "tier": "raw", "resample_s": None, "arrays": "archived", "time_scale": "utc",
        "day_obs": None, "exposures": None,
    }  # fmt: skip
    assert topic["table_version"] == builder.archive.snapshot(_dataset(TEMPERATURE)).version
    assert {one["name"]: one["units"] for one in topic["columns"]}["temperatureItem0"] == "deg_C"
    for file in topic["files"]:
        data = (tmp_path / "out" / file["path"]).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (file["sha256"], file["bytes"])
    assert (result.manifest, result.bytes) == (str(tmp_path / "out" / "manifest.json"), manifest["bytes"])


def test_known_gaps_are_told(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 5)), gaps=[{"partition": 0, "first": 5, "end": 9}])
    result = export(builder.archive, TEMPERATURE, at(0), at(60), out=str(tmp_path / "out"))
    (gap,) = manifest_of(tmp_path / "out")["topics"][0]["gaps"]
    assert (gap["first"], gap["end"]) == (5, 9)
    assert TEMPERATURE in result.notes[0]


@pytest.mark.parametrize("time_scale", ["utc", "tai"])
@pytest.mark.parametrize("language", ["Dask", "pandas", "DuckDB", "Polars"])
def test_the_snippets_in_the_readme_run(
    builder: ArchiveBuilder, tmp_path: Path, language: str, time_scale: str
) -> None:
    if language == "Dask":
        pytest.importorskip("dask.dataframe")
    builder.add(TEMPERATURE, messages(seconds(0, 50)))
    result = export(builder.archive, TEMPERATURE, at(0), at(60), out=str(tmp_path / "out"), time_scale=time_scale)
    text = (tmp_path / "out" / "README.md").read_text()
    snippet = text.split(f"## {language}\n")[1].split("```")[1]
    kind, _, code = snippet.partition("\n")
    assert code == result.open_it[language.lower()] == manifest_of(tmp_path / "out")["open_it"][language.lower()]
    if kind == "sql":
        row = duckdb.connect().execute(code).fetchone()
        assert row is not None
        assert row[0] == 50
    else:
        subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_an_export_that_stands_is_left_as_it_is(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 5)))
    first = export(builder.archive, TEMPERATURE, at(0), at(60), out=str(tmp_path / "out"))
    before = snapshot_of(tmp_path / "out")
    builder.add(TEMPERATURE, messages(seconds(90_000, 90_005), first_seq=900))
    again = export(builder.archive, TEMPERATURE, at(0), at(60), out=str(tmp_path / "out"))
    assert snapshot_of(tmp_path / "out") == before
    assert (again.made, again.rows, again.manifest) == (False, first.rows, first.manifest)


def test_rows_that_came_since_renew_it(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 5)))
    export(builder.archive, TEMPERATURE, at(0), at(60), out=str(tmp_path / "out"))
    builder.add(TEMPERATURE, messages(seconds(5, 9), first_seq=5))
    again = export(builder.archive, TEMPERATURE, at(0), at(60), out=str(tmp_path / "out"))
    assert (again.made, again.rows) == (True, 9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "out"]


def test_a_damaged_export_is_made_again(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 5)))
    export(builder.archive, TEMPERATURE, at(0), at(60), out=str(tmp_path / "out"))
    files_of(tmp_path / "out")[0].unlink()
    assert export(builder.archive, TEMPERATURE, at(0), at(60), out=str(tmp_path / "out")).made
    assert len(files_of(tmp_path / "out")) == 1


def test_the_same_rows_give_the_same_bytes(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 5)))
    for name in ("one", "two"):
        export(builder.archive, TEMPERATURE, at(0), at(60), out=str(tmp_path / name))
    hashes = [
        [file["sha256"] for file in manifest_of(tmp_path / name)["topics"][0]["files"]] for name in ("one", "two")
    ]
    assert hashes[0] == hashes[1]


def test_another_request_for_the_same_place_is_refused(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 5)))
    export(builder.archive, TEMPERATURE, at(0), at(60), out=str(tmp_path / "out"))
    before = snapshot_of(tmp_path / "out")
    with pytest.raises(NotAnExport, match="another request"):
        export(builder.archive, TEMPERATURE, at(0), at(61), out=str(tmp_path / "out"))
    assert snapshot_of(tmp_path / "out") == before


def test_a_directory_with_other_things_is_refused(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 5)))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(NotAnExport, match="not empty"):
        export(builder.archive, TEMPERATURE, at(0), at(60), out=str(tmp_path / "out"))
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_a_range_without_rows_is_an_error_and_leaves_nothing(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 5)))
    with pytest.raises(NothingToExport, match=TEMPERATURE):
        export(builder.archive, TEMPERATURE, at(500), at(600), out=str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_a_topic_without_rows_beside_one_with_is_listed(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 5)))
    builder.add(FORCES, messages(seconds(500, 505), columns=PRIVATE))
    export(builder.archive, ["lsst.sal.*"], at(0), at(60), out=str(tmp_path / "out"))
    assert {topic["dataset"]: topic["rows"] for topic in manifest_of(tmp_path / "out")["topics"]} == {
        TEMPERATURE: 5, FORCES: 0,
    }  # fmt: skip
    assert f"Without rows in this range: {FORCES}" in (tmp_path / "out" / "README.md").read_text()


def test_an_unknown_topic_is_answered_with_the_nearest(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 5)))
    for asked in ("lsst.sal.ESS.temperatures", "lsst.sal.ESS.temperatur?x"):
        with pytest.raises(UnknownDataset, match=f"did you mean {TEMPERATURE}"):
            export(builder.archive, asked, at(0), at(60), out=str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_an_unknown_field_is_answered_with_the_nearest(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 5)))
    with pytest.raises(UsageError, match="did you mean sensorName"):
        export(builder.archive, TEMPERATURE, at(0), at(60), fields=["sensorname"], out=str(tmp_path / "out"))


def test_a_file_that_the_store_has_lost_is_named_and_nothing_appears(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 5)))
    (lost,) = builder.add(TEMPERATURE, messages(seconds(5, 9), first_seq=5))
    Path(lost.uri).unlink()
    with pytest.raises(LostFile, match=lost.path):
        export(builder.archive, TEMPERATURE, at(0), at(60), out=str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_progress_counts_up_to_all_rows(
    builder: ArchiveBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 18_000, 36)), unit=SliceUnit.HOUR)
    small_files(monkeypatch)
    seen: list[int] = []
    export(
        builder.archive, TEMPERATURE, at(0), at(20_000), out=str(tmp_path / "out"),
        progress=lambda dataset, rows, expected: seen.append(rows),
    )  # fmt: skip
    assert len(seen) > 3
    assert (seen == sorted(seen), seen[-1]) == (True, 500)


def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows, row groups and files of some tens of rows."""
    from efd_pipelines.exports import parts, pieces, stream

    monkeypatch.setattr(pieces, "PIECE_BYTES", 3000)
    monkeypatch.setattr(stream, "WINDOW_BYTES", 3000)
    monkeypatch.setattr(parts, "ROW_GROUP_BYTES", 800)
    monkeypatch.setattr(parts, "FILE_BYTES", 2000)
    monkeypatch.setattr(parts, "LEAST_BYTES", 200)


def snapshot_of(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file()
    }


def _dataset(text: str) -> Any:
    from efd_pipelines.topics.names import Dataset

    return Dataset.parse(text)
