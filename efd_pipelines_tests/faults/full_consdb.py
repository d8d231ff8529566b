"""Joins exposures into a ConsDB whose disk is full, then has room.

    python -m efd_pipelines_tests.faults.full_consdb postgres|sqlite DIRECTORY

DIRECTORY is a small file system of its own, where the database lies (of PostgreSQL, its tablespace). It is filled when
40 exposures have been joined; printed is one JSON document: the error of the join, and the rows then and after there
was room. `ON_A_SMALL_DISK` makes the file system for whoever has no rights, in a namespace; since nobody can run
PostgreSQL as root, it runs what follows in a second one as somebody else.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from efd_pipelines.errors import EfdError
from efd_pipelines_tests.unit.exposures.builders import (
    AZIMUTH,
    NIGHT,
    Observatory,
    a_column,
    a_configuration,
    an_exposure,
    table_of,
    times,
)

BEFORE, ALL = 40, 240
FIELDS = 120
ON_A_SMALL_DISK = (
    'mount -t tmpfs -o size=32m,mode=777 none "$2" && exec unshare -U --map-user=1000 --map-group=1000 '
    '"$0" -m efd_pipelines_tests.faults.full_consdb "$1" "$2"'
)
"""For a shell in `unshare -Urm`: $0 is Python, $1 and $2 are the arguments."""


def main() -> None:
    kind, directory = sys.argv[1], Path(sys.argv[2])
    beside = directory.with_name(f"{directory.name}-beside")
    beside.mkdir()
    if kind == "sqlite":
        print(json.dumps(joined(f"sqlite:///{directory / 'consdb.sqlite'}", directory, beside)))
        return
    from efd_pipelines.servers.postgresql import PostgresServer

    server = PostgresServer(beside / "postgres", die_with_parent=True)
    server.start()
    try:
        print(json.dumps(joined(_in_tablespace(server, directory), directory, beside)))
    finally:
        server.erase()


def _in_tablespace(server: Any, directory: Path) -> str:
    import psycopg

    (directory / "space").mkdir(mode=0o700)
    with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE TABLESPACE small LOCATION '{directory / 'space'}'")
        connection.execute("CREATE DATABASE small TABLESPACE small")
    return str(server.database_url("small"))


def joined(url: str, directory: Path, beside: Path) -> dict[str, Any]:
    """What became of exposures when the disk was full, and afterwards."""
    vector = a_column("forces", fields=["force"], store_unpivoted="True")
    columns = [a_column(), vector.replace("[exposure_efd]", "[exposure_efd_unpivoted, visit1_efd_unpivoted]")]
    observatory = Observatory.at(beside, url, config=a_configuration(beside, columns))
    force = np.outer(np.arange(float(ALL * 10)), np.ones(FIELDS))
    observatory.archives(
        AZIMUTH, table_of(times(NIGHT, ALL * 10, 1.0), {"actualPosition": force[:, 0], "force": force})
    )
    observatory.exposes(*(an_exposure(NIGHT + timedelta(seconds=10 * n), 5.0, seq_num=n + 1) for n in range(ALL)))
    observatory.joins(end=NIGHT + timedelta(seconds=10 * BEFORE))
    found: dict[str, Any] = {"before": _rows(observatory)}
    ballast = directory / "ballast"
    _fill(ballast)
    try:
        observatory.joins()
    except EfdError as error:
        found |= {"error": type(error).__name__, "message": str(error)}
    found["full"] = _rows(observatory)
    ballast.unlink()
    found["joined"] = observatory.joins().exposures
    found["after"] = _rows(observatory)
    found["right"] = [row["value"] for row in observatory.rows()] == [10.0 * n + 2.5 for n in range(ALL)]
    return found


def _fill(ballast: Path) -> None:
    """Takes what room there is, save some for what a database writes before it needs more."""
    place = os.statvfs(ballast.parent)
    with ballast.open("wb") as file:
        file.write(bytes(max(0, place.f_bavail * place.f_frsize - 1024 * 1024)))


def _rows(observatory: Observatory) -> dict[str, int]:
    tables = ("exposure_efd", "exposure_efd_provenance", "exposure_efd_unpivoted", "visit1_efd_unpivoted")
    return {table: len(observatory.rows(table)) for table in tables}


if __name__ == "__main__":
    main()
