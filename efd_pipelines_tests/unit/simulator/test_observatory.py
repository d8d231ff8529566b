"""The same seed is the same observatory, and what it sends is what such an observatory would send."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from efd_pipelines.errors import UsageError
from efd_pipelines.simulator.observatory import ALL_SIGNALS, Observatory, exposures
from efd_pipelines.simulator.series import Series
from efd_pipelines.times import event_time_us, microseconds
from efd_pipelines.topics.names import Kind
from efd_pipelines_tests.unit.simulator.reading import records_of

START = datetime(2026, 11, 15, 23, 59, 33, 250_000, tzinfo=UTC)
QUIET = frozenset(signal.topic for signal in ALL_SIGNALS if signal.rate_hz <= 1)


def produced(observatory: Observatory, seconds: float, start: datetime = START) -> dict[tuple[str, int], list[Series]]:
    """Everything by topic and salIndex."""
    found: dict[tuple[str, int], list[Series]] = {}
    for block in observatory.blocks(start, seconds):
        for one in block:
            index = one.columns.get("salIndex", 0)
            found.setdefault((one.topic.name.removeprefix("lsst.sal."), index), []).append(one)
    return found


def joined(pieces: list[Series], name: str) -> NDArray[Any]:
    return np.concatenate([np.asarray(piece.columns[name]) for piece in pieces])


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second, other = (
        [one.bodies() for block in Observatory(seed).blocks(START, 3) for one in block] for seed in (7, 7, 8)
    )

    assert first == second
    assert first != other


def test_values_do_not_depend_on_where_the_run_was_cut() -> None:
    whole = produced(Observatory(7, topics=QUIET), 60)
    later = produced(Observatory(7, topics=QUIET), 25, START + timedelta(seconds=35))

    for key, pieces in later.items():
        for name in pieces[0].columns:
            if name.startswith("private_") and name != "private_efdStamp":
                continue
            if isinstance(pieces[0].columns[name], np.ndarray):
                part = joined(pieces, name)
                np.testing.assert_array_equal(part, joined(whole[key], name)[-len(part) :], err_msg=str(key))


def test_each_writer_counts_from_one_without_holes() -> None:
    for pieces in produced(Observatory(1), 25).values():
        numbers = joined(pieces, "private_seqNum")
        assert numbers.tolist() == list(range(1, len(numbers) + 1))


def test_every_record_is_valid_and_its_stamps_give_its_time() -> None:
    seen = set()
    for block in Observatory(1).blocks(START, 4):
        for one in block:
            records = records_of(one)
            stamps = np.array([record["private_efdStamp"] for record in records])
            assert event_time_us(stamps).tolist() == one.times_us.tolist()
            assert {record["private_sndStamp"] - record["private_efdStamp"] for record in records} == {37.0}
            assert {record["private_revCode"] for record in records} == {one.topic.rev_code}
            seen.add(one.topic.name)
    assert len(seen) > 40


def test_times_are_unique_and_in_order_at_the_declared_rate() -> None:
    found = produced(Observatory(1), 60)

    for signal in ALL_SIGNALS:
        for index in signal.sal_indices:
            times_us = np.concatenate([piece.times_us for piece in found[signal.topic, index]])
            assert (np.diff(times_us) > 0).all()
            assert abs(len(times_us) - 60 * signal.rate_hz) <= 1
            assert microseconds(START) <= times_us[0]
            assert times_us[-1] < microseconds(START) + 60_000_000


def test_a_lower_rate_thins_only_what_is_faster_than_once_a_second() -> None:
    found = produced(Observatory(1, rate=0.1), 20)

    def count(topic: str) -> int:
        return sum(len(piece) for piece in found[topic, 0])

    assert 98 <= count("MTM1M3.forceActuatorData") <= 102
    assert 38 <= count("MTMount.azimuth") <= 42
    assert count("MTM2.temperature") == 20


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.5, math.nan])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(UsageError):
        Observatory(1, rate=rate)


def test_the_forces_follow_the_slews() -> None:
    """Over ten minutes of slews the elevation force is the cosine's and sine's, the dynamic ones the mount's."""
    topics = frozenset({"MTMount.elevation", "MTM1M3.appliedElevationForces", "MTM1M3.appliedAccelerationForces"})
    found = produced(Observatory(3, rate=0.2, topics=topics), 600)
    mount = found["MTMount.elevation", 0]
    forces = found["MTM1M3.appliedElevationForces", 0]
    mount_us = np.concatenate([piece.times_us for piece in mount])
    force_us = np.concatenate([piece.times_us for piece in forces])
    elevation = np.interp(force_us, mount_us, joined(mount, "actualPosition"))

    fz = joined(forces, "fz")

    assert elevation.std() > 0.5
    assert np.corrcoef(np.sin(np.radians(elevation)), fz)[0, 1] > 0.999
    dynamic = found["MTM1M3.appliedAccelerationForces", 0]
    dynamic_us = np.concatenate([piece.times_us for piece in dynamic])
    acceleration = np.interp(dynamic_us, mount_us, joined(mount, "actualAcceleration"))
    assert np.corrcoef(acceleration, joined(dynamic, "fz"))[0, 1] > 0.98


def test_applied_forces_are_the_sum_of_their_shares() -> None:
    shares = ("Elevation", "Azimuth", "Thermal", "Balance", "Velocity", "Acceleration")
    found = produced(Observatory(3), 2)
    total = joined(found["MTM1M3.appliedForces", 0], "zForces")

    summed = sum(joined(found[f"MTM1M3.applied{share}Forces", 0], "zForces")[:90] for share in shares)

    # The topics are sampled milliseconds apart.
    np.testing.assert_allclose(total[:90], summed, rtol=0.05, atol=30.0)


def test_events_of_exposures_are_those_of_the_plan() -> None:
    found = produced(Observatory(1, topics=frozenset({"MTCamera.logevent_endReadout"})), 600)
    expected = exposures(1, START, 600)

    pieces = found["MTCamera.logevent_endReadout", 0]

    assert [name for piece in pieces for name in piece.columns["imageName"]] == [one.name for one in expected]
    assert np.concatenate([piece.times_us for piece in pieces]).tolist() == [one.readout_us for one in expected]
    began = joined(pieces, "timestampAcquisitionStart")
    np.testing.assert_allclose(began, [one.begin_us / 1e6 + 37 for one in expected], atol=1e-5)


def test_a_header_follows_each_readout() -> None:
    topics = frozenset({"MTCamera.logevent_endReadout", "MTHeaderService.logevent_largeFileObjectAvailable"})
    found = produced(Observatory(1, topics=topics), 900)
    read = [name for piece in found["MTCamera.logevent_endReadout", 0] for name in piece.columns["imageName"]]

    headers = found["MTHeaderService.logevent_largeFileObjectAvailable", 0]

    ids = [name for piece in headers for name in piece.columns["id"]]
    assert set(ids) >= set(read[:-1])
    assert all(url.startswith("s3://") for piece in headers for url in piece.columns["url"])


def test_a_command_is_acknowledged_and_completed() -> None:
    topics = frozenset({"ScriptQueue.command_add", "ScriptQueue.ackcmd", "Script.logevent_state"})
    found = produced(Observatory(1, topics=topics), 2400)

    commands = sum(len(piece) for piece in found["ScriptQueue.command_add", 1])
    acks = joined(found["ScriptQueue.ackcmd", 1], "ack").tolist()

    assert commands >= 3
    assert acks[: 2 * commands - 2] == [301, 303] * (commands - 1)
    scripts = {index for name, index in found if name == "Script.logevent_state"}
    assert len(scripts) >= 3
    assert min(scripts) >= 100_000


def test_camera_housekeeping_has_nulls_tags_and_utc_milliseconds() -> None:
    found = produced(Observatory(1, topics=QUIET), 120)
    records = [record for piece in found["MTCamera.focal_plane_reb_data", 0] for record in records_of(piece)]

    assert {(record["Raft"], record["Reb"]) for record in records} >= {("R22", "Reb1"), ("R21", "Reb0")}
    assert any(record["ODV"] is None for record in records)
    assert any(record["ODV"] is not None for record in records)
    late_ms = [record["private_efdStamp"] * 1e3 - record["timestamp"] for record in records]
    assert 0 <= min(late_ms) <= max(late_ms) < 1.01
    sources = {record["Source"] for piece in found["MTCamera.thermal_trim", 0] for record in records_of(piece)}
    assert len(sources) == 7


def test_packed_series_continue_from_record_to_record() -> None:
    pieces = produced(Observatory(2, topics=QUIET), 30)["ATMCS.mount_AzEl_Encoders", 0]

    starts = joined(pieces, "cRIO_timestamp")
    angles = joined(pieces, "azimuthCalculatedAngle")

    assert angles.shape == (30, 100)
    np.testing.assert_allclose(np.diff(starts), 1.0, atol=0.001)
    assert np.abs(np.diff(angles.ravel())).max() < 0.12


def test_sensors_pad_the_channels_they_have_not() -> None:
    found = produced(Observatory(1, topics=QUIET), 10)

    for index in (1, 112, 301):
        pieces = found["ESS.temperature", index]
        channels = int(np.unique([piece.columns["numChannels"] for piece in pieces])[0])
        values = joined(pieces, "temperatureItem")
        assert np.isfinite(values[:, :channels]).all()
        assert np.isnan(values[:, channels:]).all()


def test_components_say_that_they_are_enabled_when_they_start_and_only_then() -> None:
    for name, pieces in produced(Observatory(1), 12).items():
        if name[0].endswith("summaryState"):
            assert [len(piece) for piece in pieces] == [1]
            assert pieces[0].times_us[0] - microseconds(START) < 10_000


def test_the_topics_announced_are_those_that_are_produced() -> None:
    announced = {topic.name.removeprefix("lsst.sal.") for topic in Observatory(1).topics()}
    steady = {signal.topic for signal in ALL_SIGNALS}

    telemetry = {name for name, _ in produced(Observatory(1, rate=0.02), 11)}
    events = {name for name, _ in produced(Observatory(1, topics=frozenset(announced - steady)), 1200)}

    assert telemetry | events == announced


def test_kinds_of_all_sorts_are_there() -> None:
    kinds = {topic.kind for topic in Observatory(1).topics()}

    assert kinds == {Kind.TELEMETRY, Kind.EVENT, Kind.COMMAND, Kind.ACK}
