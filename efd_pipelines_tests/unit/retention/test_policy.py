"""Policies: what may be written, what is said where it may not, and from when on something is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from efd_pipelines.configuration import load_configuration
from efd_pipelines.errors import SettingsError
from efd_pipelines.retention.policy import (
    PolicyError,
    Span,
    described,
    parse_policy,
    policy_of,
    read_policy,
    shipped,
)
from efd_pipelines.settings import load_settings
from efd_pipelines.times import Week
from efd_pipelines_tests.unit.retention.builders import FAST, OTHER

GOOD = """
keep:
  raw: 1 month
  1s: 3 months
  1m: 1 year
  1h: for ever
topics:
  lsst.sal.MTM1M3.*: {raw: 2 years}
"""


def said(text: str) -> list[str]:
    with pytest.raises(PolicyError) as error:
        parse_policy(text, "own", "own.yaml")
    return error.value.message.split("; ")


def test_the_shipped_policies_are_those_of_the_seeds() -> None:
    assert shipped() == ["summit", "usdf", "week-month-year"]
    assert read_policy("usdf").keeps_everything
    summit = described(read_policy("summit"))["keep"]
    assert summit == {"raw": "1 month", "1s": "3 months", "1m": "1 year", "1h": "for ever"}
    third = described(read_policy("week-month-year"))["keep"]
    assert third == {"raw": "1 week", "1s": "1 month", "1m": "1 year", "1h": "for ever"}


def test_the_first_glob_that_fits_decides_and_what_is_coarser_is_kept_as_long() -> None:
    policy = parse_policy(GOOD, "own", "own.yaml")
    assert [str(policy.keeps(OTHER, level)) for level in ("raw", "1s", "1m")] == ["1 month", "3 months", "1 year"]
    assert [str(policy.keeps(FAST, level)) for level in ("raw", "1s", "1m")] == ["2 years"] * 3
    assert policy.keeps(FAST, "1h") is None


def test_what_is_wrong_is_said_with_file_and_line() -> None:
    assert said(GOOD.replace("3 months", "soon")) == [
        "own.yaml, line 4: keep.1s: must be `for ever` or a time as `1 week`, `90 days`, `3 months`, `1 year`"
    ]
    assert said(GOOD.replace("3 months", "2 weeks")) == [
        "own.yaml, line 4: keep.1s: is kept for a shorter time (2 weeks) than raw (1 month)"
    ]
    assert said(GOOD.replace("1h: for ever", "1h: 9 years"))[0] == (
        "own.yaml, line 6: keep.1h: nothing has it at a coarser window, so it must be kept for ever"
    )
    assert said(GOOD.replace("  1m: 1 year\n", ""))[0].startswith("own.yaml, line 3: keep.1m: is missing")
    assert said(GOOD.replace("  1m", "  1s"))[0] == "own.yaml, line 5: keep.1s: stands here twice, first in line 4"
    assert said(GOOD + "keeps: 1\n")[0].startswith("own.yaml, line 9: keeps: not a key that is known here")


@pytest.mark.parametrize("text", ["", "[]", "keep: 3", "keep: {raw: -1 days}", "keep: {raw: 0 days}", "a: [", "\0"])
def test_nonsense_is_refused(text: str) -> None:
    assert said(text)[0].startswith(("own.yaml", "The retention policy own.yaml is no YAML"))


def test_a_policy_may_be_a_file_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text(GOOD)
    own = tmp_path / "config.yaml"
    own.write_text("retention:\n  policy: ours.yaml\n")
    settings = load_settings({"EFD_CONFIG": str(own)}, None)
    assert policy_of(settings).name == "ours"
    overridden = load_settings({"EFD_CONFIG": str(own), "EFD_RETENTION": "summit"}, None)
    assert policy_of(overridden).name == "summit"
    with pytest.raises(SettingsError, match=r"did you mean summit\?"):
        policy_of(load_settings({"EFD_RETENTION": "sumit"}, None))
    with pytest.raises(PolicyError, match="cannot be read"):
        policy_of(load_settings({"EFD_RETENTION": str(tmp_path / "none.yaml")}, None))


def test_by_default_everything_is_kept() -> None:
    assert policy_of(load_settings({}, None, configuration=load_configuration(None))).keeps_everything


@pytest.mark.parametrize(
    ("span", "begins", "ends"),
    [
        (Span(1, "week"), "2026-11-23", "2026-11-30"),
        (Span(1, "month"), "2026-01-31", "2026-02-28"),
        (Span(1, "month"), "2024-01-31", "2024-02-29"),
        (Span(3, "month"), "2025-11-30", "2026-02-28"),
        (Span(1, "year"), "2024-02-29", "2025-02-28"),
        (Span(13, "month"), "2025-12-01", "2027-01-01"),
    ],
)
def test_months_are_those_of_the_calendar(span: Span, begins: str, ends: str) -> None:
    assert span.after(datetime.fromisoformat(begins)) == datetime.fromisoformat(ends)


def test_summer_time_moves_nothing() -> None:
    """Chile's clocks change on 2026-04-05 and 2026-09-06; a week of retention is 168 hours all the same."""
    for key in ("2026-03-30", "2026-08-31"):
        week = Week.parse(key)
        assert Span(1, "week").after(week.end) - week.end == timedelta(hours=168)
        assert week.end.tzinfo is UTC
