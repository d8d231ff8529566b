"""The cache: where the servers' programs are installed, once per machine, for every checkout and the demo.

`$EFD_SERVERS_CACHE`, else `$XDG_CACHE_HOME/efd_pipelines`, else `~/.cache/efd_pipelines`; a directory per
program and version. An installation is built beside its place and renamed into it, under a lock, so that two
checkouts can install at once and a killed installation leaves nothing that looks complete.
How programs are fetched: `maven.py`, `golang.py`.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from efd_pipelines.errors import ServiceUnavailable

log = logging.getLogger(__name__)


class NotInstalled(ServiceUnavailable):
    """A server's program is not on this machine and could not be put there."""


def directory() -> Path:
    """The cache's place, from the environment as it is now."""
    chosen = os.environ.get("EFD_SERVERS_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().resolve() / "efd_pipelines"


def platform() -> str:
    """What programs are built for here, as part of a version: `linux-x86_64`."""
    machine = os.uname()
    return f"{machine.sysname.lower()}-{machine.machine}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, waiting for whoever holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def installed(name: str, version: str, build: Callable[[Path], None]) -> Path:
    """The directory of program `name` at `version`, built now if it is not there yet.

    Args:
        build: fills the empty directory it is given.

    Raises:
        NotInstalled: the program could not be fetched or the cache cannot be written.
    """
    place = directory() / f"{name}-{version}"
    if place.is_dir():
        return place
    try:
        with locked(place.with_name(f"{place.name}.lock")):
            if not place.is_dir():
                _build(name, version, place, build)
    except OSError as error:
        raise NotInstalled(
            f"{name} {version} cannot be installed in {place.parent}: {error}",
            remedy="Name a directory that you can write, with some 600 MB free, in EFD_SERVERS_CACHE.",
        ) from error
    return place


def _build(name: str, version: str, place: Path, build: Callable[[Path], None]) -> None:
    log.info("Installing %s %s into %s (once per machine)", name, version, place)
    began = time.monotonic()
    staging = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        finished = staging / "finished"
        finished.mkdir()
        build(finished)
        finished.rename(place)
    finally:
        shutil.rmtree(staging)
    log.info("Installed %s %s in %.0f s", name, version, time.monotonic() - began)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
