"""`efd retention`: what operators ask and do, from the policy in force to a week that has gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from efd_pipelines_tests.unit.cli.conftest import Efd
from efd_pipelines_tests.unit.retention.builders import FAST, FIRST, an_archive_of, weeks_from

WEEKS = weeks_from(FIRST, 2)
OLD, NEW = (week.key for week in WEEKS)


@pytest.fixture
def archive(efd: Efd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "archive"
    an_archive_of(root, WEEKS)
    monkeypatch.setenv("EFD_ARCHIVE", str(root))
    monkeypatch.setenv("EFD_RETENTION", "summit")
    return root


def test_from_a_plan_to_a_week_that_has_gone(efd: Efd, archive: Path) -> None:
    shown = efd("retention", "show", "--json").document
    assert (shown["policy"], shown["keep"]["1s"], shown["gone"]) == ("summit", "3 months", {})

    made = efd("retention", "pin", "--week", NEW, "--why", "first light", "--json").document
    assert [one["why"] for one in efd("retention", "pins", "--json").document] == ["first light"]

    planned = efd("retention", "apply", "--dry-run", "--json").document
    assert {(one["level"], one["week"]) for one in planned["going"]} == {(level, OLD) for level in ("raw", "1s", "1m")}
    assert {(one["kind"], one["week"]) for one in planned["refused"]} == {("pinned", NEW)}
    assert efd("retention", "plan", "--strict").code == 1

    done = efd("retention", "apply", "--week", OLD, "--json").document
    assert len(done["gone"]) == 3
    assert done["rows"] == sum(one["rows"] for one in planned["going"])

    assert efd("retention", "unpin", made["name"]).code == 0
    again = efd("retention", "plan", "--at", "2024-01-20", "--json").document
    assert (again["going"], again["refused"]) == ([], [])
    listed = efd("retention", "show", "--expired", "--json").document["expired"]
    assert {one["week"] for one in listed} == {OLD}
    assert all("is kept for" in one["reason"] for one in listed)

    files = efd("archive", "files", FAST.text, "--json")
    assert {one["week"] for one in files.document} == {NEW}
    assert f"from {OLD} to {OLD}" in files.err
    verified = efd("archive", "verify", "--json").document
    assert (verified["ok"], verified["expired"], verified["rows"]) == (True, 100, 100)
    assert efd("retention", "late", FAST.text, "--json").document == []


def test_by_default_nothing_is_due(efd: Efd, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EFD_RETENTION")
    done = efd("retention", "apply", "--json").document
    assert (done["policy"], done["gone"], done["refused"]) == ("usdf", [], [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("plan", "--policy", "sumit"), "did you mean summit?"),
        (("plan", "MTM1M"), "did you mean MTM1M3?"),
        (("pin", "--why", "x"), "Give a week, a night or a topic"),
        (("pin", "--why", "x", "--week", "2024-01-02"), "2024-01-01"),
        (("unpin", "nothing"), "`efd retention pins` lists them"),
        (("apply", "--policy", "none.yaml"), "cannot be read"),
    ],
)
def test_wrong_use_is_explained(efd: Efd, archive: Path, arguments: tuple[str, ...], words: str) -> None:
    answer = efd("retention", *arguments)
    assert answer.code == 2
    assert words in answer.err
