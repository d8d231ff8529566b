"""The notebooks of the documentation run, and what is committed is what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from efd_pipelines_tests.notebooks import execute, make_night, notebooks, paths_of_machines, read


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("night")
    make_night(directory)
    return directory


def outputs(notebook: Any) -> list[list[str]]:
    """What each code cell shows: text as it is, of pictures that there is one."""
    return [
        [
            str(
                output.get("text")
                or "picture" * ("image/png" in output.get("data", {}))
                or output["data"]["text/plain"]
            )
            for output in cell.outputs
        ]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_there_are_two() -> None:
    assert [path.name for path in notebooks()] == ["exposures.ipynb", "slew.ipynb"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_is_committed(path: Path, night: Path) -> None:
    committed = read(path)
    assert paths_of_machines(committed) == []
    assert all(outputs(committed))
    assert outputs(execute(path, night)) == outputs(committed)
