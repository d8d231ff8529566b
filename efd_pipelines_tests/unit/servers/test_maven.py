"""Files from Maven: the lists are complete and pinned, and nothing but what they say is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

from efd_pipelines.servers import maven
from efd_pipelines.servers.cache import NotInstalled
from efd_pipelines.servers.maven import MavenFile

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2's example, "abc"


def a_file(sha256: str = ABC) -> MavenFile:
    return MavenFile("org.example", "thing", "1.0", "", "jar", sha256)


@pytest.fixture
def local_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What another Maven has downloaded, with thing-1.0.jar of content "abc"."""
    place = tmp_path / "m2" / "org" / "example" / "thing" / "1.0"
    place.mkdir(parents=True)
    (place / "thing-1.0.jar").write_bytes(b"abc")
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    return tmp_path / "m2"


@pytest.mark.parametrize("server", ["kafka", "registry"])
def test_every_listed_file_has_a_version_and_a_hash(server: str) -> None:
    files = maven.listed(server)
    assert len({file.name for file in files}) == len(files) > 0
    for file in files:
        assert len(bytes.fromhex(file.sha256)) == 32
        assert "SNAPSHOT" not in file.version


def test_the_listed_kafka_is_of_one_version() -> None:
    versions = {file.version for file in maven.listed("kafka") if file.group == "org.apache.kafka"}
    assert versions == {"4.3.1"}


def test_a_listed_archive_has_classifier_and_packaging_in_its_name() -> None:
    (file,) = maven.listed("registry")
    assert file.name == "apicurio-registry-app-3.3.3-all.tar.gz"


@pytest.mark.usefixtures("local_repository")
def test_a_file_that_is_as_listed_is_taken(tmp_path: Path) -> None:
    into = tmp_path / "into"
    into.mkdir()
    maven.fetch([a_file()], into)
    assert (into / "thing-1.0.jar").read_bytes() == b"abc"


@pytest.mark.usefixtures("local_repository")
def test_a_file_with_another_content_is_refused(tmp_path: Path) -> None:
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(NotInstalled, match=f"SHA-256 {ABC}, expected {'0' * 64}"):
        maven.fetch([a_file("0" * 64)], into)
    assert not list(into.iterdir())
