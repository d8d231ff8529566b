"""Selections: the right rows once, whatever state the archive is in, with where they are from and what is missing."""

from __future__ import annotations

import asyncio
import pickle
from datetime import timedelta
from pathlib import Path
from time import process_time
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from astropy.time import Time, TimeDelta

from efd_pipelines.archive.slices import DEAD, QUARANTINE, SliceUnit
from efd_pipelines.client import AsyncEfdArchive, EfdArchive, rendezvous_dataframes
from efd_pipelines.client.refusals import EmptyWindow, NoArchive, NotATime, NoTier, TooLarge, UnknownField, UnknownTopic
from efd_pipelines.errors import DataError, UsageError
from efd_pipelines.exposures.consdb import write_exposures
from efd_pipelines.reading.ranges import MissingFile
from efd_pipelines.reading.scan import Tally
from efd_pipelines.settings import load_settings
from efd_pipelines.tiers.build import build_tier
from efd_pipelines.tiers.tier import TIERS
from efd_pipelines_tests.unit.exports.builders import (
    ESS,
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

M1M3 = [*PRIVATE, column("xForce", pa.float32(), "newton"), column("state", pa.string())]
WEEK_S = 7 * 86400


def numbers(frame: pd.DataFrame) -> list[int]:
    return frame["private_seqNum"].tolist()


def test_anything_that_says_a_time_is_understood(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 100)))
    utc = Time("2026-11-16T00:00:10", scale="utc")
    starts: list[Any] = [
        utc,
        utc.tai,
        utc.tt,
        at(10),
        at(10).replace(tzinfo=None),
        np.datetime64("2026-11-16T00:00:10"),
        pd.Timestamp("2026-11-15T21:00:10", tz="America/Santiago"),
        "2026-11-16T00:00:10",
        "2026-11-16 00:00:10Z",
    ]
    ends: list[Any] = [TimeDelta(5, format="sec"), timedelta(seconds=5), np.timedelta64(5, "s"), at(15)]
    for start in starts:
        for end in ends:
            assert numbers(archive.select_time_series(TEMPERATURE, "private_seqNum", start, end)) == list(range(10, 16))


def test_a_window_across_weeks_has_the_rows_of_open_sealed_and_late_ones_once(
    builder: ArchiveBuilder, archive: EfdArchive
) -> None:
    """A schema change, a record twice, one late, some in quarantine and among the dead."""
    builder.add(TEMPERATURE, messages(seconds(WEEK_S - 50, WEEK_S)))
    new = [*ESS[:-1], column("sensorName", pa.string()), column("added", pa.float64(), "hPa")]
    builder.add(TEMPERATURE, messages(seconds(WEEK_S, WEEK_S + 50), columns=new, first_seq=50))
    builder.add(TEMPERATURE, messages(seconds(WEEK_S + 5, WEEK_S + 8), columns=new, first_seq=55, first_offset=900))
    builder.add(TEMPERATURE, messages(seconds(WEEK_S - 25.5, WEEK_S - 24.6), first_seq=777))
    builder.add(TEMPERATURE, messages(seconds(WEEK_S, WEEK_S + 4), first_seq=800, first_offset=800), place=QUARANTINE)
    builder.add(TEMPERATURE, messages(seconds(WEEK_S, WEEK_S + 3), first_seq=900, first_offset=901), place=DEAD)

    found = archive.select_time_series(TEMPERATURE, ["private_seqNum", "added"], at(WEEK_S - 100), at(WEEK_S + 100))
    assert numbers(found) == [*range(25), 777, *range(25, 100)]
    assert found["added"].isna().tolist() == [True] * 51 + [False] * 50
    about = found.attrs["efd"]
    assert (about["repeated"], about["quarantined"], about["dead"], about["complete"]) == (3, 4, 3, False)
    assert about["sources"][0]["name"] == "archive"
    assert found.attrs["units"] == {"added": "hPa"}


def test_a_gap_inside_the_window_is_stated(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 100)))
    gap = {"source": "cluster/topic", "partition": 0, "first": 100, "end": 130, "reason": "gone", "kind": "expired"}
    builder.add(TEMPERATURE, messages(seconds(200, 300), first_seq=130), gaps=[{**gap, "records": 30}])
    inside = archive.select(TEMPERATURE, "private_seqNum", at(50), at(250)).completeness
    assert inside.missing == 30
    assert (inside.gaps[0].after, inside.gaps[0].before) == (at(99), at(200))
    assert not inside.is_complete
    before = archive.select(TEMPERATURE, "private_seqNum", at(0), at(90)).completeness
    assert before.is_complete
    assert before.read_until is not None


def test_tiers_answer_where_they_fit_and_say_what_was_aggregated(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    builder.add(FORCES, messages(seconds(0, 600, 0.02), columns=M1M3), unit=SliceUnit.HOUR)
    for tier in TIERS.values():
        build_tier(builder.archive, tier)
    asked = {
        points: archive.select(FORCES, "xForce", MONDAY, at(600), resolution="auto", points=points)
        for points in (50_000, 700, 20)
    }
    assert [one.portions[0].source.name for one in asked.values()] == ["archive", "tier 1s", "tier 1m"]
    raw, second = asked[50_000].to_pandas(), asked[700].to_pandas()
    assert list(second) == ["min_xForce", "max_xForce", "mean_xForce"]
    windows = raw["xForce"].astype(float).resample("1s")
    np.testing.assert_array_equal(second["min_xForce"], windows.min())
    np.testing.assert_allclose(second["mean_xForce"], windows.mean())
    assert "windows of 1s" in second.attrs["efd"]["aggregation"]
    assert second.attrs["units"]["max_xForce"] == "newton"
    assert list(archive.select_time_series(FORCES, ["count", "state"], MONDAY, at(600), resolution="1m")) == [
        "count",
        "first_state",
    ]
    assert second.attrs["efd"]["complete"]

    builder.add(FORCES, messages(seconds(600, 610, 0.02), columns=M1M3, first_seq=90_000), unit=SliceUnit.HOUR)
    late = archive.select(FORCES, "xForce", MONDAY, at(700), resolution="1s")
    assert [(start, end) for start, end in late.stale] == [(at(600), at(609.980001))]


@pytest.mark.parametrize("resolution", ["1s", "1m", "1h", "auto"])
def test_what_is_not_summarised_passes_a_tier_unchanged(
    builder: ArchiveBuilder, archive: EfdArchive, resolution: str
) -> None:
    """Events, however many they are, and telemetry that is slower than the window."""
    state = "lsst.sal.MTMount.logevent_summaryState"
    builder.add(TEMPERATURE, messages(seconds(0, 100)))
    builder.add(state, messages(seconds(0, 50, 0.5), columns=[*PRIVATE, column("summaryState", pa.int32())]))
    for topic in (state, TEMPERATURE) if resolution == "1s" else (state,):
        found = archive.select(topic, "*", MONDAY, at(100), resolution=resolution, points=10)
        assert (found.aggregation, found.portions[0].source.name) == (None, "archive")
        assert found.to_arrow().equals(archive.select(topic, "*", MONDAY, at(100)).to_arrow())
        assert found.to_arrow().num_rows == 100


def test_lists_are_asked_for_by_element(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    columns = [*PRIVATE, column("z", pa.list_(pa.float32()), "mm")]
    builder.add("lsst.sal.Test.lists", messages(seconds(0, 5), columns=columns))
    found = archive.select_time_series("lsst.sal.Test.lists", ["z1", "z7"], MONDAY, at(10))
    assert found["z1"].tolist() == [0, 1, 2, 3, 4]
    assert found["z7"].isna().all()
    assert found.attrs["units"] == {"z1": "mm", "z7": "mm"}


def test_globs_choose_fields(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 5)))
    found = archive.select(TEMPERATURE, ["temperatureItem*", "kafka_offset"], MONDAY, at(5)).to_arrow()
    assert found.column_names == ["time", "temperatureItem0", "temperatureItem1", "temperatureItem2", "kafka_offset"]


def test_all_forms_have_the_same_rows(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 3 * 86400, 60)))
    found = archive.select(TEMPERATURE, ["temperatureItem0", "sensorName"], MONDAY, at(3 * 86400))
    table = found.to_arrow()
    assert table.schema.field("temperatureItem0").metadata[b"units"] == b"deg_C"
    frame = found.to_pandas()
    assert str(frame.index.dtype) == "datetime64[ns, UTC]"
    assert frame["temperatureItem0"].tolist() == table["temperatureItem0"].to_pylist()
    polars = found.to_polars()
    assert isinstance(polars, pl.DataFrame)
    assert polars["sensorName"].to_list() == table["sensorName"].to_pylist()
    relation = found.to_duckdb()
    assert isinstance(relation, duckdb.DuckDBPyRelation)
    assert relation.aggregate("count(*), min(temperatureItem0)").fetchall() == [
        (4320, table["temperatureItem0"][0].as_py())
    ]
    assert found.estimate().rows == pytest.approx(4320, rel=0.01)


def test_dask_knows_its_divisions_and_reads_nothing_when_called(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    for day in range(4):
        builder.add(TEMPERATURE, messages(seconds(day * 86400, day * 86400 + 500), first_seq=day * 500))
    found = archive.select(TEMPERATURE, ["private_seqNum", "sensorName"], MONDAY, at(3 * 86400 + 250))
    dataset = Path(builder.root) / "raw/ESS/temperature"
    hidden = dataset.with_name("hidden")
    dataset.rename(hidden)
    frame: Any = found.to_dask("8 KiB")  # nothing is there to be read
    hidden.rename(dataset)
    assert frame.known_divisions
    assert frame.npartitions > 4
    whole = found.to_pandas()
    computed = frame.compute(scheduler="synchronous")
    pd.testing.assert_frame_equal(computed, whole, check_freq=False, check_dtype=False)  # Dask has texts of Arrow
    for n in range(frame.npartitions):
        part = frame.partitions[n].compute(scheduler="synchronous")
        if len(part):
            assert frame.divisions[n] <= part.index[0]
            assert part.index[-1] < frame.divisions[n + 1] or n == frame.npartitions - 1
    one_day = frame.loc["2026-11-17":"2026-11-17 23:59"].compute(scheduler="synchronous")
    assert numbers(one_day) == list(range(500, 1000))
    nothing = archive.select(TEMPERATURE, "private_seqNum", at(50 * 86400), at(51 * 86400)).to_dask()
    assert len(nothing) == 0


def test_much_is_refused_before_it_is_read(builder: ArchiveBuilder) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 1000)))
    archive = EfdArchive(settings=builder.archive.settings, limit="1 KiB")
    with pytest.raises(TooLarge, match=r"1,000 rows.*more than the limit of 1.0 KiB"):
        archive.select_time_series(TEMPERATURE, "*", MONDAY, at(2000))
    assert len(archive.select_time_series(TEMPERATURE, "*", MONDAY, at(2000), limit="1 GB")) == 1000


def test_observing_days_events_and_padding(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 3 * 86400, 3600)))
    day = archive.select_time_series(TEMPERATURE, "private_seqNum", day_obs=20261116)
    assert numbers(day) == list(range(12, 36))

    class Slew:
        begin, end = Time(at(36_000).replace(tzinfo=None)), Time(at(39_600).replace(tzinfo=None)).tai

    assert numbers(archive.select_time_series(TEMPERATURE, "private_seqNum", event=Slew())) == [10, 11]
    wide = archive.select_time_series(TEMPERATURE, "private_seqNum", event=Slew(), padding=(3600, timedelta(hours=2)))
    assert numbers(wide) == [9, 10, 11, 12, 13]
    centred = archive.select_time_series(
        TEMPERATURE, "private_seqNum", at(36_000), TimeDelta(7200, format="sec"), is_window=True
    )
    assert numbers(centred) == [9, 10, 11]


def test_exposures_and_visits_are_looked_up_in_consdb(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 100)))
    url = f"sqlite:///{tmp_path}/consdb.sqlite"
    tai = [(at(second) + timedelta(seconds=37)).replace(tzinfo=None) for second in (20, 35)]
    named = {"day_obs": 20261115, "seq_num": 7, "exposure_id": 2026111500007, "exposure_name": "MC_O_20261115_000007"}
    write_exposures(url, "cdb_lsstcam", [{**named, "obs_start": tai[0], "obs_end": tai[1]}])
    archive = EfdArchive(settings=load_settings({}, None, archive=builder.root, consdb_url=url))
    for which in ({"exposure": 2026111500007}, {"visit": 2026111500007}):
        found = archive.select_time_series(TEMPERATURE, "private_seqNum", **which, instrument="lsstcam")  # type: ignore[arg-type]
        assert numbers(found) == list(range(20, 36))
    with pytest.raises(DataError, match="no exposure 1"):
        archive.select(TEMPERATURE, exposure=1, instrument="lsstcam")


def test_the_most_recent_row_before_a_time(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 100)))
    assert numbers(archive.most_recent_before(TEMPERATURE, at(50), "private_seqNum")) == [49]
    with pytest.warns(UserWarning, match="older than"):
        found = archive.most_recent_before(TEMPERATURE, at(40 * 86400), "private_seqNum")
    assert numbers(found) == [99]
    assert archive.most_recent_before(TEMPERATURE, MONDAY).empty


def test_rows_meet_at_their_times(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 10)))
    builder.add(FORCES, messages(seconds(0.5, 10.5, 5), columns=M1M3))
    left = archive.select_time_series(FORCES, "xForce", MONDAY, at(20))
    right = archive.select_time_series(TEMPERATURE, "private_seqNum", MONDAY, at(20))
    assert rendezvous_dataframes(left, right)["private_seqNum"].tolist() == [0, 5]
    assert EfdArchive.rendezvous_dataframes(left, right, direction="forward")["private_seqNum"].tolist() == [1, 6]


def test_the_same_calls_can_be_awaited(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 100)))

    async def ask() -> list[Any]:
        waiting = AsyncEfdArchive(archive)
        answers: list[Any] = await asyncio.gather(
            waiting.get_topics(),
            waiting.select_time_series(TEMPERATURE, "private_seqNum", MONDAY, at(5)),
            waiting.select_top_n(TEMPERATURE, "private_seqNum", 2),
        )
        return answers

    topics, series, top = asyncio.run(ask())
    assert topics == [TEMPERATURE]
    assert (numbers(series), numbers(top)) == ([0, 1, 2, 3, 4, 5], [99, 98])


def test_sql_is_asked_and_limited(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 100)))
    assert archive.sql("SELECT count(*) AS n FROM ESS.temperature").to_pandas()["n"].tolist() == [100]
    with pytest.raises(TooLarge):
        archive.sql("SELECT * FROM ESS.temperature", limit=1000).to_arrow()
    with pytest.raises(UsageError):
        archive.sql("DROP TABLE x")


def test_instances_have_lsst_efd_clients_names(builder: ArchiveBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [variable for variable in __import__("os").environ if variable.startswith("EFD_")]:
        monkeypatch.delenv(name)
    assert EfdArchive.from_name("usdf_efd", archive=builder.root).settings.home_prefixes == ("summit.",)
    profiles = {
        name: EfdArchive.from_name(name, archive=builder.root).settings.profile for name in EfdArchive.list_efd_names()
    }
    assert profiles["tucson_teststand_efd"] == "tts"
    with pytest.raises(UsageError, match=r"retired.*usdf_efd"):
        EfdArchive.from_name("ldf_stable_efd")
    with pytest.raises(UsageError, match="no EFD instance"):
        EfdArchive.from_name("nowhere_efd")
    monkeypatch.setenv("EFD_PROFILE", "usdf")
    with pytest.raises(UsageError, match="archive of usdf here"):
        EfdArchive.from_name("summit_efd")


def test_the_summits_name_of_a_mirrored_topic_is_understood(builder: ArchiveBuilder) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 5)))
    archive = EfdArchive.from_name("usdf_efd", archive=builder.root)
    assert len(archive.select_time_series(f"summit.{TEMPERATURE}", "salIndex", MONDAY, at(5))) == 5


def test_what_cannot_be_meant_is_refused_with_what_to_do(
    builder: ArchiveBuilder, archive: EfdArchive, tmp_path: Path
) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 100)))
    with pytest.raises(UnknownTopic, match=r"did you mean lsst\.sal\.ESS\.temperature"):
        archive.select("lsst.sal.ESS.temprature", "*", MONDAY, at(1))
    with pytest.raises(ValueError, match="did you mean temperatureItem1"):  # as lsst-efd-client
        archive.select(TEMPERATURE, "temperatureItm1", MONDAY, at(1))
    with pytest.raises(UnknownField, match="like humidity"):
        archive.select(TEMPERATURE, "humidity*", MONDAY, at(1))
    with pytest.raises(EmptyWindow, match="ends before it begins"):
        archive.select(TEMPERATURE, "*", at(5), at(1))
    with pytest.raises(EmptyWindow, match="is empty"):
        archive.select(TEMPERATURE, "*", at(5), at(5))
    with pytest.raises(NotATime, match="in which unit and scale"):
        archive.select(TEMPERATURE, "*", 1_700_000_000, at(5))
    with pytest.raises(UsageError, match="No time is given"):
        archive.select(TEMPERATURE)
    with pytest.raises(UsageError, match="start and end and day_obs"):
        archive.select(TEMPERATURE, "*", MONDAY, at(5), day_obs=20261116)
    with pytest.raises(UsageError, match="no tier '2s'"):
        archive.select(TEMPERATURE, "*", MONDAY, at(5), resolution="2s")
    builder.add(FORCES, messages(seconds(0, 2, 0.02), columns=M1M3))
    with pytest.raises(NoTier, match="no 1m tier yet"):
        archive.select(FORCES, "xForce", MONDAY, at(2), resolution="1m")
    with pytest.raises(NoArchive, match="no archive at"):
        EfdArchive(settings=load_settings({}, None, archive=str(tmp_path / "nothing"))).get_topics()
    with pytest.raises(NoArchive):
        EfdArchive(settings=load_settings({}, None, archive=str(tmp_path / "nothing"))).select(
            TEMPERATURE, "*", MONDAY, at(1)
        )
    empty = archive.select_time_series(TEMPERATURE, "private_seqNum", at(5000), at(6000))
    assert (len(empty), list(empty)) == (0, ["private_seqNum"])


def test_a_file_that_is_missing_is_named(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    (file,) = builder.add(TEMPERATURE, messages(seconds(0, 100)))
    (Path(builder.root) / "raw/ESS/temperature" / file.path).unlink()
    with pytest.raises(MissingFile, match=r"parquet is not there"):
        archive.select_time_series(TEMPERATURE, "*", MONDAY, at(10))


def test_plots_show_units_local_time_gaps_and_envelopes(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    import matplotlib

    matplotlib.use("Agg")
    times = np.concatenate([seconds(0, 200, 0.02), seconds(400, 600, 0.02)])
    builder.add(FORCES, messages(times, columns=M1M3), unit=SliceUnit.HOUR)
    build_tier(builder.archive, TIERS["1s"])
    few = archive.select(FORCES, "xForce", at(150), at(420)).plot(points=50_000)
    assert few.get_ylabel() == "xForce [newton]"
    assert np.isnan(few.lines[0].get_ydata()).sum() == 1  # where the line is broken
    assert not few.collections
    assert [one.get_xlabel() for one in few.child_axes] == ["America/Santiago"]
    much = archive.select(FORCES, "xForce", MONDAY, at(600)).plot(points=500)
    assert "1s tier" in much.get_title(loc="left")
    assert len(much.collections) == 1
    with pytest.raises(UsageError, match="is a number"):
        archive.select(FORCES, "state", MONDAY, at(600)).plot(points=50_000)


def test_an_envelope_shows_every_spike(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    """Hours of windows on a picture of some hundred columns."""
    import matplotlib

    matplotlib.use("Agg")
    builder.add(FORCES, messages(seconds(0, 500, 0.02), columns=M1M3), unit=SliceUnit.HOUR)
    random = np.random.default_rng(3)
    mean = random.normal(size=9000).astype(np.float32)
    low, high = mean - 1, mean + 1
    low[1234], high[7654] = -50, 70
    windows = {"time": pa.array(seconds(0, 9000), pa.timestamp("us", tz="UTC")), "count": np.full(9000, 50)}
    named = {"first_xForce": mean, "min_xForce": low, "max_xForce": high, "mean_xForce": mean}
    builder.add(FORCES, pa.table({**windows, **named}), unit=SliceUnit.HOUR, table="1s")
    axes: Any = archive.select(FORCES, "xForce", MONDAY, at(9000)).plot()
    drawn = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (drawn.min(), drawn.max()) == (-50, 70)
    assert len(axes.lines[0].get_ydata()) <= 1001


def test_a_week_of_50_hz_is_drawn_within_a_second(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    """From every window of the 1 s tier; of the processor's time, without what importing matplotlib takes."""
    import matplotlib
    import matplotlib.pyplot as plt

    matplotlib.use("Agg")
    builder.add(FORCES, messages(seconds(0, 10, 0.02), columns=M1M3), unit=SliceUnit.HOUR)
    times = seconds(0, WEEK_S)
    mean = np.random.default_rng(4).normal(size=len(times)).astype(np.float32)
    windows = {"time": pa.array(times, pa.timestamp("us", tz="UTC")), "count": np.full(len(times), 50)}
    named = {"first_xForce": mean, "min_xForce": mean - 1, "max_xForce": mean + 1, "mean_xForce": mean}
    builder.add(FORCES, pa.table({**windows, **named}), unit=SliceUnit.DAY, table="1s")
    taken = []
    for until in (10.0, *[WEEK_S] * 4):  # the first picture imports what is needed
        before = process_time()
        axes: Any = archive.select(FORCES, "xForce", MONDAY, at(until), resolution="1s").plot()
        axes.get_figure().canvas.draw()
        taken.append(process_time() - before)
        plt.close("all")
    assert len(axes.lines[0].get_xdata()) == 1000
    assert min(taken[1:]) < 1


def test_a_part_can_be_read_by_another_process(builder: ArchiveBuilder, archive: EfdArchive) -> None:
    """A worker gets what it needs with the part; a table that has moved on meanwhile changes nothing."""
    builder.add(TEMPERATURE, messages(seconds(0, 100)))
    (portion,) = archive.select(TEMPERATURE, ["private_seqNum", "sensorName"], MONDAY, at(1000)).portions
    sent = pickle.dumps(portion.between(START_US, START_US + 50_000_000))
    builder.add(TEMPERATURE, messages(seconds(0.5, 10.5), first_seq=500))
    rows = pa.concat_tables(pickle.loads(sent).batches(Tally()))
    assert rows["private_seqNum"].to_pylist() == list(range(50))
