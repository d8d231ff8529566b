"""The notebooks of docs/notebooks: the night that they look at, and how they are executed.

`python -m efd_pipelines_tests.notebooks` executes them anew and writes their outputs; the test executes them and writes
nothing. The night is a simulated observatory's, archived without Kafka, with its exposures and, since the simulator
looks through no telescope, an image quality made of airmass, wind and chance.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import sqlalchemy as sa
from nbclient import NotebookClient

from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.exposures.consdb import write_exposures
from efd_pipelines.exposures.joins import join_exposures
from efd_pipelines.simulator.plan import Exposure, exposures
from efd_pipelines_tests.observed import observe
from efd_pipelines_tests.unit.exports.builders import ArchiveBuilder

_read: Callable[..., Any] = nbformat.read
_write: Callable[..., Any] = nbformat.write

DIRECTORY = Path(__file__).parents[1] / "docs" / "notebooks"
START = datetime(2026, 11, 20, 2, tzinfo=UTC)
SECONDS = 1200.0
SEED = 1
TOPICS = (
    "MTMount.azimuth",
    "MTMount.elevation",
    "MTM1M3.hardpointActuatorData",
    "ESS.airFlow",
    "ESS.temperature",
)


def make_night(directory: Path) -> None:
    """Twenty minutes of an archive in `archive`, joined to exposures in `consdb.sqlite` beside it."""
    builder = ArchiveBuilder(str(directory / "archive"))
    settings = builder.archive.settings
    observe(builder, TOPICS, [START], SECONDS, seed=SEED, rate=0.4, unit=SliceUnit.HOUR)
    taken = exposures(SEED, START, SECONDS)
    write_exposures(settings.require_consdb(), "cdb_lsstcam", [one.row() for one in taken])
    _look(settings.require_consdb(), taken)
    for join in settings.configuration.exposures:
        join_exposures(builder.archive, settings, join)


def _look(url: str, taken: Sequence[Exposure]) -> None:
    """The image quality of each visit, in a table as the observatory's pipelines have one."""
    table = sa.Table(
        "cdb_lsstcam_visit1_quicklook",
        sa.MetaData(),
        sa.Column("visit_id", sa.BigInteger, primary_key=True),
        sa.Column("psf_sigma_median", sa.Double),
    )
    rng = np.random.default_rng(SEED)
    airmass = 1 / np.sin(np.radians([one.elevation_deg for one in taken]))
    sigma = 1.9 * airmass**0.6 * (1 + 0.06 * rng.standard_normal(len(taken)))
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        table.create(connection)
        rows = [{"visit_id": one.id, "psf_sigma_median": float(s)} for one, s in zip(taken, sigma, strict=True)]
        connection.execute(table.insert(), rows)
    engine.dispose()


def notebooks() -> list[Path]:
    return sorted(DIRECTORY.glob("*.ipynb"))


def read(path: Path) -> Any:
    """A notebook as it lies."""
    return _read(path, as_version=4)


def execute(path: Path, directory: Path) -> Any:
    """The notebook with its outputs, executed in a directory with a night.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    notebook = read(path)
    with _environment(directory):
        client = NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": directory}}
        )
        client.execute()
    return _cleaned(notebook)


@contextmanager
def _environment(directory: Path) -> Iterator[None]:
    """What the kernel inherits: the night's archive by a relative name, no settings of this machine, no colours."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("EFD_")]:
        del os.environ[name]
    kept = {"EFD_ARCHIVE": "archive", "NO_COLOR": "1", "PYTHONWARNINGS": "ignore", "MPLBACKEND": ""}
    kept["PYTHONPATH"] = os.pathsep.join([str(DIRECTORY.parents[1]), before.get("PYTHONPATH", "")])
    kept["IPYTHONDIR"] = str(directory / "ipython")
    os.environ.update(kept)
    del os.environ["MPLBACKEND"]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _cleaned(notebook: Any) -> Any:
    """Without what differs from run to run and from machine to machine."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
    return notebook


def paths_of_machines(notebook: Any) -> list[str]:
    """Absolute paths in a notebook, which would be of the machine that executed it."""
    text = "\n".join(
        str(part)
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind, part in [*output.get("data", {}).items(), ("text", output.get("text", ""))]
        if kind in ("text", "text/plain", "text/html", "text/markdown")
    )
    return re.findall(r"(?<![\w.:/<])/(?:home|tmp|root|work|usr|var|opt)\b[^\s'\"]*", text)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        make_night(Path(name))
        for path in notebooks():
            _write(execute(path, Path(name)), path)
            print(path.name)


if __name__ == "__main__":
    main()
