"""Annotations: from YAML, from Chronograf, added and taken away."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from efd_pipelines.archive.archive import Archive
from efd_pipelines.errors import UsageError
from efd_pipelines.settings import load_settings
from efd_pipelines.storage.annotations import (
    Annotation,
    add,
    all_annotations,
    of_chronograf,
    read_annotations,
    remove,
)

Archives = Callable[..., Any]
WASHED = Annotation(datetime(2026, 11, 3, 12, tzinfo=UTC), datetime(2026, 11, 4, tzinfo=UTC), "Mirror washed: M1M3")
EXPORT = """\
# DML
# CONTEXT-DATABASE:chronograf
annotations,id=aa text="Dome, \\"slit\\" open" 1793793600000000000
annotations,id=aa start_time=1793707200000000000i 1793793600000000000
annotations,id=aa modified_time_ns=5i 1793793600000000000
annotations,id=aa deleted=false 1793793600000000000
annotations,id=bb deleted=false,modified_time_ns=5i,start_time=1793707200000000000i,text="moved" 1793707200000000000
annotations,id=bb deleted=true,modified_time_ns=6i,start_time=0i,text="",type="" 1793707200000000000
annotations,id=bb deleted=false,modified_time_ns=7i,start_time=1793800000000000000i,text="moved" 1793800000000000000
annotations,id=cc deleted=true,modified_time_ns=9i,start_time=0i,text="",type="" 1793700000000000000
logs,id=dd text="no annotation" 1793700000000000000
"""


def test_chronografs_export_gives_the_newest_form_of_each_and_none_deleted() -> None:
    dome, moved = of_chronograf(EXPORT, "export.lp")
    assert (dome.text, dome.at, dome.until) == (
        'Dome, "slit" open',
        datetime.fromtimestamp(1793707200, UTC),
        datetime.fromtimestamp(1793793600, UTC),
    )
    assert (moved.text, moved.at, moved.source) == ("moved", datetime.fromtimestamp(1793800000, UTC), "Chronograf")


def test_what_is_added_is_kept_once_and_can_be_taken_away(archive_of: Archives) -> None:
    archive = archive_of()
    assert (add(archive, [WASHED, WASHED]), add(archive, [WASHED])) == (1, 0)
    assert all_annotations(archive) == [WASHED]
    remove(archive, WASHED.key)
    assert all_annotations(archive) == []
    with pytest.raises(UsageError, match="no annotation"):
        remove(archive, WASHED.key)


def test_the_configured_file_lies_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("reports: {annotations: happened.yaml}\n")
    (tmp_path / "happened.yaml").write_text(
        "- {at: 2026-11-03T12:00:00, until: 2026-11-04, text: 'Mirror washed: M1M3'}\n"
        "- {at: 2026-11-05, text: New firmware, topics: ['lsst.sal.MTM1M3.*']}\n"
    )
    settings = load_settings({"EFD_CONFIG": str(tmp_path / "site.yaml")}, None, archive=str(tmp_path / "archive"))
    archive = Archive(settings)
    add(archive, [WASHED])
    found = all_annotations(archive)
    assert [one.text for one in found] == [WASHED.text, "New firmware"]
    assert found[1].topics == ("lsst.sal.MTM1M3.*",)


@pytest.mark.parametrize(
    "text",
    ["- {at: 2026-11-03}", "- {at: x, text: y}", "text: y", "- {at: 2026-11-03, until: 2026-11-02, text: y}", "- ["],
)
def test_an_entry_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "happened.yaml"
    path.write_text(text)
    with pytest.raises(UsageError):
        read_annotations(path)
