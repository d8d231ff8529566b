"""What tests on real servers share: an empty broker, and settings that reach everything.

The session's broker is one for all tests; `empty_kafka` removes the EFD's topics of earlier tests, so that an
archive that drains everything finds only what its own test produced. Registered schemas stay: they are harmless.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AdminClient

from efd_pipelines.archive.archive import Archive
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.servers.registry import RegistryServer
from efd_pipelines.servers.s3 import S3Server
from efd_pipelines.settings import Settings, load_settings

if TYPE_CHECKING:
    import dagster as dg

MakeSettings = Callable[..., Settings]


@pytest.fixture
def empty_kafka(kafka: KafkaServer) -> KafkaServer:
    """The session's broker without topics of the EFD."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 2})
    deadline = time.monotonic() + 60
    while topics := [name for name in admin.list_topics(timeout=10).topics if not name.startswith("_")]:
        for deleted in admin.delete_topics(topics).values():
            deleted.exception()
        assert time.monotonic() < deadline, f"{len(topics)} topics do not go away"
        time.sleep(0.1)
    return kafka


@pytest.fixture
def site(empty_kafka: KafkaServer, registry: RegistryServer, tmp_path: Path) -> MakeSettings:
    """Makes settings for the real broker and registry and an archive of this test alone; overrides by field."""

    def make(**overrides: object) -> Settings:
        environ = {"EFD_KAFKA_BOOTSTRAP": empty_kafka.bootstrap, "EFD_REGISTRY_URL": registry.url}
        return load_settings(environ, None, **{"archive": str(tmp_path / "archive"), **overrides})

    return make


@pytest.fixture
def local_settings(site: MakeSettings) -> Settings:
    return site()


@pytest.fixture
def s3_settings(site: MakeSettings, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The same with the archive on S3."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    return site(archive=f"{bucket}/archive", s3_endpoint=s3.endpoint, s3_region=s3.region)


@pytest.fixture(params=["directory", "s3"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """Settings for an archive in a directory, and on S3: a test that takes this runs twice."""
    name = "local_settings" if request.param == "directory" else "s3_settings"
    found: Settings = request.getfixturevalue(name)
    return found


@pytest.fixture
def archive(settings: Settings) -> Archive:
    return Archive(settings)


@pytest.fixture(params=["sqlite", "postgres"])
def consdb_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty ConsDB, in a file and in PostgreSQL: a test that takes this runs twice."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'somewhere' / 'consdb.sqlite'}"
    return str(request.getfixturevalue("database_url"))


@pytest.fixture
def definitions(local_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dg.Definitions:
    """The definitions of a process whose environment names the real broker and registry, and a ConsDB of this test."""
    from efd_pipelines.definitions import build_defs

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFD_KAFKA_BOOTSTRAP", local_settings.require_kafka())
    monkeypatch.setenv("EFD_REGISTRY_URL", local_settings.require_registry())
    monkeypatch.setenv("EFD_ARCHIVE", local_settings.archive)
    monkeypatch.setenv("EFD_CONSDB_URL", local_settings.require_consdb())
    return build_defs(local_settings.configuration)
