"""`efd export` and `efd exports` as a user calls them."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from efd_pipelines.cli.exports import parse_size
from efd_pipelines.errors import UsageError
from efd_pipelines_tests.unit.cli.conftest import Efd
from efd_pipelines_tests.unit.exports.builders import TEMPERATURE, ArchiveBuilder, messages, seconds

DAY = ("--day-obs", "20261116")


@pytest.fixture
def archive(tmp_path: Path) -> str:
    builder = ArchiveBuilder(str(tmp_path / "archive"))
    builder.add(TEMPERATURE, messages(seconds(0, 3 * 86_400, 3600)))
    return builder.root


def test_an_export_is_estimated_made_listed_checked_and_removed(efd: Efd, archive: str, tmp_path: Path) -> None:
    out = tmp_path / "exports" / "one"
    asked = ("export", TEMPERATURE, *DAY, "--arrays", "list", "--out", str(out), "--json")
    expected = efd(*asked, "--estimate", EFD_ARCHIVE=archive)
    assert (expected.code, expected.document["rows"], expected.document["topics"]) == (0, 24, 1)
    assert not out.exists()
    made = efd(*asked, "--keep", "0.000001", EFD_ARCHIVE=archive)
    assert (made.code, made.document["rows"], made.document["files"]) == (0, 24, 1)
    assert Path(made.document["manifest"]).is_file()
    assert "read_parquet" in made.document["open_it"]["dask"]
    assert "temperatureItem" in pq.read_table(out / TEMPERATURE).column_names
    assert efd("exports", "check", str(out), "--deep").code == 0
    (listed,) = efd("exports", "list", str(out.parent), "--json").document
    assert (listed["place"], listed["rows"]) == (str(out), 24)
    assert [one["place"] for one in efd("exports", "expire", str(out.parent), "--json").document["removed"]] == [
        str(out)
    ]
    assert not out.exists()


def test_a_damaged_export_is_told_by_the_exit_code(efd: Efd, archive: str, tmp_path: Path) -> None:
    efd("export", TEMPERATURE, *DAY, "--out", "one", EFD_ARCHIVE=archive)
    (file,) = (tmp_path / "one" / TEMPERATURE).iterdir()
    file.unlink()
    answer = efd("exports", "check", "one", "--json")
    assert (answer.code, answer.document["ok"]) == (1, False)
    assert "is not there" in answer.document["problems"][0]


def test_configured_exports_run_by_name(efd: Efd, archive: str, tmp_path: Path) -> None:
    (tmp_path / "efd.yaml").write_text(
        f'exports: [{{name: ess, topics: ["{TEMPERATURE}"], out: "./exports/{{name}}-{{period}}"}}]'
    )
    settings = {"EFD_ARCHIVE": archive, "EFD_CONFIG": "efd.yaml"}
    (ran,) = efd("exports", "run", "ess", "--at", "2026-11-17T15:00", "--json", **settings).document
    assert (ran["name"], ran["period"], ran["rows"], ran["made"]) == ("ess", "20261116", 24, True)
    assert (tmp_path / "exports" / "ess-20261116" / "manifest.json").is_file()
    assert efd("exports", "run", "nobody", **settings).code == 2


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ((), "No times are given"),
        ((*DAY, "--limit", "much"), "'much' is no size"),
        ((*DAY, "--limit", "1kB"), "more than the limit"),
        ((*DAY, "--resample", "now"), "is no window"),
        ((*DAY, "--exposures", "lsstcam"), "has no table"),
    ],
)
def test_what_is_wrong_is_said(efd: Efd, archive: str, tmp_path: Path, wrong: tuple[str, ...], says: str) -> None:
    answer = efd("export", TEMPERATURE, *wrong, "--out", "there", EFD_ARCHIVE=archive)
    assert answer.code in (1, 2)
    assert says in answer.err
    assert not (tmp_path / "there").exists()


def test_sizes_are_those_of_people() -> None:
    assert [parse_size(text) for text in ("none", "500", "20kB", "1.5 GB", "2T")] == [
        None, 500, 20_000, 1_500_000_000, 2_000_000_000_000,
    ]  # fmt: skip
    with pytest.raises(UsageError):
        parse_size("a lot")
