"""All of an export or nothing, in a directory."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from efd_pipelines.errors import StoreFull, StoreUnavailable, UsageError
from efd_pipelines.exports import destination as module
from efd_pipelines.exports import export
from efd_pipelines.exports.destination import NotAnExport, Occupied, destination_at
from efd_pipelines.settings import Settings, load_settings
from efd_pipelines_tests.unit.exports.builders import TEMPERATURE, ArchiveBuilder, at, messages, seconds

REQUEST = {"topics": ["a.b"]}
FILE = {"path": "topic/part.parquet", "bytes": 1}
MANIFEST = json.dumps({"request": REQUEST, "topics": [{"files": [FILE]}]}).encode()


@pytest.fixture
def settings() -> Settings:
    return load_settings({}, None)


def publish(out: Path, settings: Settings, content: bytes = b"1") -> None:
    with destination_at(str(out), settings).stage(REQUEST) as stage:
        with stage.create("topic/part.parquet") as file:
            file.write(content)
        stage.publish(MANIFEST)


def test_nothing_is_seen_before_all_is_there(tmp_path: Path, settings: Settings) -> None:
    out = tmp_path / "deep" / "out"
    with destination_at(str(out), settings).stage(REQUEST) as stage:
        with stage.create("topic/part.parquet") as file:
            file.write(b"1")
        assert not out.exists()
        stage.publish(MANIFEST)
        assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "topic"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_failure_leaves_nothing(tmp_path: Path, settings: Settings) -> None:
    def fail() -> None:
        with destination_at(str(tmp_path / "out"), settings).stage(REQUEST) as stage:
            with stage.create("part.parquet") as file:
                file.write(b"1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_export_that_stands(tmp_path: Path, settings: Settings) -> None:
    publish(tmp_path / "out", settings)
    with pytest.raises(RuntimeError), destination_at(str(tmp_path / "out"), settings).stage(REQUEST):
        raise RuntimeError
    assert (tmp_path / "out" / "topic" / "part.parquet").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_publishing_again_replaces_all_of_it(tmp_path: Path, settings: Settings) -> None:
    publish(tmp_path / "out", settings)
    (tmp_path / "out" / "left over").touch()
    publish(tmp_path / "out", settings, b"2")
    assert (tmp_path / "out" / "topic" / "part.parquet").read_bytes() == b"2"
    assert not (tmp_path / "out" / "left over").exists()


def test_what_a_killed_export_left_is_cleared_away(tmp_path: Path, settings: Settings) -> None:
    script = """
import os, sys
from efd_pipelines.exports.destination import destination_at
from efd_pipelines.settings import load_settings
with destination_at(sys.argv[1], load_settings({}, None)).stage({}) as stage:
    with stage.create("topic/stale.parquet") as file:
        file.write(b"half of it")
        os.kill(os.getpid(), 9)
"""
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], check=False)
    assert killed.returncode == -9
    assert not (tmp_path / "out").exists()
    publish(tmp_path / "out", settings)
    assert [path.name for path in (tmp_path / "out" / "topic").iterdir()] == ["part.parquet"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_second_process_is_refused_while_the_first_writes(tmp_path: Path, settings: Settings) -> None:
    with hold(tmp_path / "out"), pytest.raises(Occupied), destination_at(str(tmp_path / "out"), settings).stage({}):
        pass
    publish(tmp_path / "out", settings)


@pytest.mark.parametrize("content", [None, b"not json", b"[]", b'{"other": 1}'])
def test_what_is_no_export_is_never_replaced(tmp_path: Path, settings: Settings, content: bytes | None) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    if content is not None:
        (tmp_path / "out" / "manifest.json").write_bytes(content)
    with pytest.raises(NotAnExport):
        destination_at(str(tmp_path / "out"), settings).standing(REQUEST)


def test_a_file_is_no_destination(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(NotAnExport):
        destination_at(str(tmp_path / "out"), settings).standing(REQUEST)


def test_an_empty_directory_is_a_destination(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "out").mkdir()
    assert destination_at(str(tmp_path / "out"), settings).standing(REQUEST) is None
    publish(tmp_path / "out", settings)
    assert (tmp_path / "out" / "manifest.json").exists()


def test_what_came_to_be_meanwhile_is_not_overwritten(tmp_path: Path, settings: Settings) -> None:
    with destination_at(str(tmp_path / "out"), settings).stage(REQUEST) as stage:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").write_text("years of work")
        with pytest.raises(NotAnExport):
            stage.publish(MANIFEST)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("out", ["", "s3://bucket", "s3://bucket/", "gs://bucket/prefix"])
def test_a_place_that_is_none_is_refused(settings: Settings, out: str) -> None:
    with pytest.raises(UsageError):
        destination_at(out, settings)


def test_a_full_disk_is_told_and_leaves_nothing(
    builder: ArchiveBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 500)))
    write = module.Hashed.write

    def fill(self: Any, data: Any) -> int:
        if self.size_bytes > 2000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    monkeypatch.setattr(module.Hashed, "write", fill)
    with pytest.raises(StoreFull, match="No space left"):
        export(builder.archive, TEMPERATURE, at(0), at(600), out=str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_a_directory_that_cannot_be_made_is_told(builder: ArchiveBuilder, tmp_path: Path) -> None:
    builder.add(TEMPERATURE, messages(seconds(0, 5)))
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="make the export's directory"):
        export(builder.archive, TEMPERATURE, at(0), at(600), out=str(tmp_path / "file" / "out"))


@contextmanager
def hold(out: Path) -> Iterator[None]:
    """Another process that is exporting to `out`."""
    script = """
import sys
from efd_pipelines.exports.destination import destination_at
from efd_pipelines.settings import load_settings
with destination_at(sys.argv[1], load_settings({}, None)).stage({}) as stage:
    print("holding", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        yield
        assert process.stdin is not None
        process.stdin.close()
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
