"""Installing programs: once, whole or not at all, also when several install at once or are killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from efd_pipelines.servers import cache
from efd_pipelines.servers.cache import NotInstalled


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("EFD_SERVERS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache.directory() == tmp_path / "cache"
    monkeypatch.delenv("EFD_SERVERS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.directory() == tmp_path / "xdg" / "efd_pipelines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.directory() == tmp_path / "home" / ".cache" / "efd_pipelines"


def test_a_program_is_built_once_and_each_version_apart() -> None:
    built: list[Path] = []

    def build(into: Path) -> None:
        built.append(into)
        (into / "program").write_text("run me")

    first = cache.installed("thing", "1", build)
    assert cache.installed("thing", "1", build) == first
    assert (first / "program").read_text() == "run me"
    assert len(built) == 1
    assert cache.installed("thing", "2", build) != first
    assert len(built) == 2


def test_a_failed_installation_leaves_nothing_that_looks_complete(own_cache: Path) -> None:
    def half(into: Path) -> None:
        (into / "program").write_text("half of")
        raise NotInstalled("the network is gone")

    with pytest.raises(NotInstalled, match="the network is gone"):
        cache.installed("thing", "1", half)
    assert [path.name for path in own_cache.iterdir()] == ["thing-1.lock"]
    assert cache.installed("thing", "1", lambda into: None).is_dir()


def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    monkeypatch.setenv("EFD_SERVERS_CACHE", str(in_the_way))
    with pytest.raises(NotInstalled, match=str(in_the_way)) as raised:
        cache.installed("thing", "1", lambda into: None)
    assert "EFD_SERVERS_CACHE" in raised.value.remedy


INSTALLS_SLOWLY = """
import time
from efd_pipelines.servers import cache

def build(into):
    print("built", flush=True)
    time.sleep(0.5)
    (into / "program").write_text("run me")

print((cache.installed("thing", "1", build) / "program").read_text())
"""


def test_checkouts_that_install_at_once_build_once() -> None:
    several = [
        subprocess.Popen([sys.executable, "-c", INSTALLS_SLOWLY], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = [process.communicate(timeout=60)[0].splitlines() for process in several]
    assert sorted(said) == [["built", "run me"], ["run me"], ["run me"]]
