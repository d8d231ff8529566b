"""Exports that are asked for again and again, checked, and let go of."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from efd_pipelines.configuration import ExportRequest
from efd_pipelines.errors import UsageError
from efd_pipelines.exports import export
from efd_pipelines.exports.checking import NoExport, check
from efd_pipelines.exports.expiry import expire, exports_in
from efd_pipelines.exports.requested import named, period_before, run
from efd_pipelines.settings import load_settings
from efd_pipelines_tests.unit.exports.builders import TEMPERATURE, ArchiveBuilder, at, messages, seconds
from efd_pipelines_tests.unit.exports.test_destination import hold
from efd_pipelines_tests.unit.exports.test_export import files_of, manifest_of

NOW = datetime(2026, 11, 18, 15, tzinfo=UTC)


def asked(place: Path, **more: object) -> ExportRequest:
    given = {"name": "ess", "topics": [TEMPERATURE], "out": f"{place}/{{name}}-{{period}}", **more}
    return ExportRequest.model_validate(given)


@pytest.mark.parametrize(
    ("period", "label", "start", "end"),
    [
        ("day_obs", "20261117", "2026-11-17T12:00", "2026-11-18T12:00"),
        ("day", "2026-11-17", "2026-11-17T00:00", "2026-11-18T00:00"),
        ("week", "2026-11-09", "2026-11-09T00:00", "2026-11-16T00:00"),
        ("month", "2026-10", "2026-10-01T00:00", "2026-11-01T00:00"),
    ],
)
def test_a_request_is_of_the_last_whole_period(tmp_path: Path, period: str, label: str, start: str, end: str) -> None:
    found = period_before(asked(tmp_path, period=period), NOW)
    assert found.label == label
    assert (f"{found.start:%Y-%m-%dT%H:%M}", f"{found.end:%Y-%m-%dT%H:%M}") == (start, end)


def test_each_period_has_a_place_of_its_own_and_old_ones_go(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 3 * 86_400, 3600)))
    request = asked(tmp_path / "exports", period="day", keep_days=1)
    first = run(builder.archive, request, NOW - timedelta(days=1))
    assert (first.period, first.result.rows, first.result.made) == ("2026-11-16", 24, True)
    assert not run(builder.archive, request, NOW - timedelta(days=1)).result.made
    # Kept for a day from when it was made: today, by the clock of the machine.
    later = datetime.now(UTC) + timedelta(days=1, minutes=1)
    assert [one.place for one in expire(builder.archive.settings, [request.parent], later, dry_run=True)]
    assert (tmp_path / "exports" / "ess-2026-11-16" / "manifest.json").exists()
    gone = expire(builder.archive.settings, [request.parent], later)
    assert [Path(one.place).name for one in gone] == ["ess-2026-11-16"]
    assert list((tmp_path / "exports").iterdir()) == []


def test_what_somebody_put_beside_an_export_stays(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 10)))
    out = tmp_path / "exports" / "one"
    export(builder.archive, TEMPERATURE, at(0), at(10), out=str(out), keep_days=1)
    (out / "thesis.tex").write_text("years of work")
    export(builder.archive, TEMPERATURE, at(0), at(5), out=str(tmp_path / "exports" / "kept"))
    expire(builder.archive.settings, [str(tmp_path / "exports")], datetime.now(UTC) + timedelta(days=2))
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*")) == ["thesis.tex"]
    (kept,) = exports_in(builder.archive.settings, str(tmp_path / "exports"))
    assert (Path(kept.place).name, kept.rows, kept.expires_at) == ("kept", 5, None)


def test_what_was_never_finished_goes_after_a_week_unless_somebody_is_at_it(tmp_path: Path) -> None:
    settings = load_settings({}, None)
    old = time.time() - 8 * 86_400
    for name in ("forgotten", "busy"):
        (tmp_path / f".{name}.partial").mkdir()
        (tmp_path / f".{name}.progress").mkdir()
    with hold(tmp_path / "busy"):
        for path in tmp_path.iterdir():
            os.utime(path, (old, old))
        gone = expire(settings, [str(tmp_path)])
        assert [Path(one.place).name for one in gone] == [".forgotten.partial"]
        assert sorted(path.name for path in tmp_path.iterdir()) == [".busy.partial", ".busy.progress"]


def test_a_name_that_is_not_configured_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean ess"):
        named([asked(tmp_path)], ["es"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"out": "exports/x"},
        {"out": "/exports/same"},
        {"out": "/exports/{period}/{nobody}"},
        {"schedule": "at night"},
        {"tier": "2s"},
        {"name": "M1M3"},
        {"topics": []},
    ],
)
def test_a_configured_request_that_cannot_be_meant_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        asked(tmp_path, **wrong)


def test_an_export_is_compared_with_its_manifest(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 50)))
    out = tmp_path / "out"
    export(builder.archive, TEMPERATURE, at(0), at(60), out=str(out))
    settings = builder.archive.settings
    assert check(settings, str(out), deep=True).ok
    (file,) = files_of(out)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert check(settings, str(out)).ok
    assert "other bytes" in check(settings, str(out), deep=True).problems[0]
    file.write_bytes(data[:-1])
    assert "bytes and not" in check(settings, str(out)).problems[0]
    (out / TEMPERATURE / "stray.parquet").touch()
    assert "readers would read it" in check(settings, str(out)).problems[1]
    file.unlink()
    assert "is not there" in check(settings, str(out)).problems[0]
    with pytest.raises(NoExport):
        check(settings, str(tmp_path))


def test_the_manifest_says_which_weeks_are_sealed(builder: ArchiveBuilder, tmp_path: Path) -> None:
    from efd_pipelines.archive.sealing import seal
    from efd_pipelines.times import Week

    builder.add(TEMPERATURE, messages(seconds(0, 50)))
    builder.add(TEMPERATURE, messages(seconds(7 * 86_400, 7 * 86_400 + 5), first_seq=70))
    seal(builder.archive, builder.archive.settings, week=Week.containing(at(0)), now=at(9 * 86_400))
    export(builder.archive, TEMPERATURE, at(0), at(8 * 86_400), out=str(tmp_path / "out"))
    first, second = manifest_of(tmp_path / "out")["topics"][0]["certificates"]
    assert (first["week"], first["sealed"], first["seal"], first["rows"]) == ("2026-11-16", True, 1, 50)
    assert second == {"week": "2026-11-23", "sealed": False}
