"""Sites: the directory that a demo lives in, its services and settings, and who is using it.

Whatever is in force outside does not matter here: a demo that somebody starts in a shell with production's settings
must neither read nor write there.
"""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from efd_pipelines.errors import StoreUnavailable, UsageError
from efd_pipelines.servers.services import Services
from efd_pipelines.settings import Settings, load_settings

_SERVICES = ("kafka", "registry")
_KEPT = ("EFD_SERVICES_", "EFD_SERVERS_", "EFD_LEAP_SECONDS")
"""Settings that say how, not what: where servers' programs are, which ports, which leap seconds."""

_INSTANCE = "dagster.yaml"
_WORKSPACE = """\
load_from:
  - python_module:
      module_name: efd_pipelines.definitions
      location_name: efd_pipelines
"""


class SiteInUse(UsageError):
    """Another demo, or `efd dev`, runs on the directory."""

    remedy = "Wait for it or end it, or choose another directory with --data (make: DATA=)."


@dataclass(frozen=True, slots=True)
class Site:
    """One demo's directory."""

    directory: Path

    @classmethod
    def at(cls, directory: Path) -> Site:
        """The site of a directory, which is made.

        Raises:
            StoreUnavailable: it cannot be made or written.
        """
        place = directory.expanduser().absolute()
        try:
            for part in (place, place / "dagster", place / "services"):
                part.mkdir(parents=True, exist_ok=True)
            (place / "dagster" / _INSTANCE).write_text(_instance_file())
            (place / "dagster" / "workspace.yaml").write_text(_WORKSPACE)
        except OSError as error:
            raise StoreUnavailable(
                f"{error.filename or place} cannot be written ({error.strerror})",
                remedy="Name a directory that you can write: efd demo --data DIR, make demo DATA=DIR.",
            ) from error
        return cls(place)

    @property
    def archive(self) -> Path:
        return self.directory / "archive"

    @property
    def dagster(self) -> Path:
        """Dagster's home: its runs and materialisations, and their logs."""
        return self.directory / "dagster"

    @property
    def exports(self) -> Path:
        return self.directory / "exports"

    @property
    def consdb_url(self) -> str:
        return f"sqlite:///{self.directory / 'consdb.sqlite'}"

    def services(self) -> Services:
        """The broker and the registry; they end with the process that starts them, however that ends."""
        return Services.named(self.directory / "services", _SERVICES, die_with_parent=True)

    def variables(self, reached: Mapping[str, str]) -> dict[str, str]:
        """The settings of this site; `reached`: those of its services while they run."""
        return {
            **reached,
            "EFD_PROFILE": "demo",
            "EFD_ARCHIVE": str(self.archive),
            "EFD_CONSDB_URL": self.consdb_url,
            "DAGSTER_HOME": str(self.dagster),
        }

    def environment(self, reached: Mapping[str, str]) -> dict[str, str]:
        """The environment of a process that works on this site."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EFD_")}
        how = {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}
        return {**kept, **how, **self.variables(reached), "PYTHONUNBUFFERED": "1"}

    def settings(self, reached: Mapping[str, str]) -> Settings:
        """The same for this process."""
        return load_settings(self.environment(reached), env_file=None)

    @property
    def env(self) -> Path:
        """The settings for a shell: `set -a; . env; set +a`."""
        return self.directory / "env"

    @contextmanager
    def served(self) -> Iterator[tuple[Services, dict[str, str]]]:
        """The services while they run, and the settings that reach them, which `env` has too meanwhile."""
        self._write_env({})
        with self.services() as services:
            reached = services.settings()
            self._write_env(reached)
            try:
                yield services, reached
            finally:
                self._write_env({})

    def _write_env(self, reached: Mapping[str, str]) -> None:
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in self.variables(reached).items()]
        temporary = self.env.with_suffix(".tmp")
        temporary.write_text("".join(lines), encoding="utf-8")
        temporary.replace(self.env)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Holds the site: two demos would stop each other's services.

        Raises:
            SiteInUse: another process holds it.
        """
        with (self.directory / ".lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise SiteInUse(f"{self.directory} is in use by process {lock.read().strip()}") from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield


def _instance_file() -> str:
    """The repository's dagster.yaml, which the package carries."""
    return resources.files("efd_pipelines").joinpath(_INSTANCE).read_text(encoding="utf-8")
