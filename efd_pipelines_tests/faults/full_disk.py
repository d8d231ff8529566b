"""Drains into a file system that is full, then has room: run in a mount namespace of its own.

    unshare -Urm python -m efd_pipelines_tests.faults.full_disk DIRECTORY

Mounts a tmpfs of 2 MiB on DIRECTORY and prints one JSON document: the error of the first drain, and what the archive
holds after there was room. Settings come from the environment, the archive lies in DIRECTORY.
"""

from __future__ import annotations

import json
import subprocess
import sys

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.audit import verify
from efd_pipelines.archive.drain import drain
from efd_pipelines.errors import EfdError
from efd_pipelines.settings import load_settings


def mount(directory: str, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", directory], check=True)


def main() -> None:
    directory = sys.argv[1]
    mount(directory, "size=2m")
    settings = load_settings(env_file=None, archive=f"{directory}/archive")
    found: dict[str, object] = {}
    try:
        drain(Archive(settings), settings)
    except EfdError as error:
        found["error"] = type(error).__name__
        found["message"] = str(error)
    mount(directory, "remount,size=400m")
    archive = Archive(settings)
    drain(archive, settings, until_caught_up=True)
    audit = verify(archive, deep=True)
    found["rows"], found["records"] = audit.rows, audit.records
    found["problems"] = [problem.detail for problem in audit.problems]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
