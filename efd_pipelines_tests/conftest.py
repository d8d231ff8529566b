"""What every test may ask for: the shared material, and the real servers.

Each server starts at the first test that wants it, once per session, in a temporary directory, and ends with
the session, even with one that is killed. Tests that share a server keep apart by names: `unique`, `bucket`,
`database_url`. Where a server's program cannot be installed, its tests are skipped; where CI is set, they
fail: there, nothing may go untested unnoticed.
Tests of the servers themselves start their own: `integration/test_servers.py`.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from efd_pipelines.servers.cache import NotInstalled
from efd_pipelines.servers.influxdb import InfluxServer
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.servers.postgresql import PostgresServer
from efd_pipelines.servers.registry import RegistryServer
from efd_pipelines.servers.s3 import S3Server
from efd_pipelines.servers.server import Server

if TYPE_CHECKING:
    import dagster as dg

# A busy machine is no failure: how long things take is measured in benchmarks/.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")

HERE = Path(__file__).parent
MARKED_BY_DIRECTORY = ("integration", "browser", "faults")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the directory that they are in."""
    for item in items:
        top = item.path.relative_to(HERE).parts[0]
        if top in MARKED_BY_DIRECTORY:
            item.add_marker(top)


def start(server: Server) -> None:
    """Start a server for tests; skip, or in CI fail, where it cannot be installed."""
    try:
        server.start()
    except NotInstalled as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's shared material beside the repository: recordings, published tables, configurations."""
    directory = HERE.parents[1] / "shared"
    if not directory.is_dir():
        pytest.skip(f"{directory} is not here")
    return directory


@pytest.fixture
def unique() -> str:
    """A name that no other test has, good in topics, buckets, databases and directories."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A Kafka broker of this session."""
    # One that is killed before it has noted what was deleted gives it out again: by default it notes so once a minute.
    notes_soon = {"log.flush.start.offset.checkpoint.interval.ms": "100"}
    server = KafkaServer(tmp_path_factory.mktemp("kafka"), properties=notes_soon, die_with_parent=True)
    start(server)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """A schema registry of this session."""
    server = RegistryServer(tmp_path_factory.mktemp("registry"), die_with_parent=True)
    start(server)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server of this session."""
    server = S3Server(tmp_path_factory.mktemp("s3"), die_with_parent=True)
    start(server)
    yield server
    server.stop()


@pytest.fixture
def bucket(s3: S3Server, unique: str) -> str:
    """A bucket of this test alone, as `s3://name`."""
    return s3.make_bucket(unique)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL of this session."""
    server = PostgresServer(tmp_path_factory.mktemp("postgres"), die_with_parent=True)
    start(server)
    yield server
    server.erase()


@pytest.fixture
def database_url(postgres: PostgresServer, unique: str) -> str:
    """The SQLAlchemy URL of an empty PostgreSQL database of this test alone."""
    return postgres.make_database(unique)


@pytest.fixture(scope="session")
def influx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxServer]:
    """An InfluxDB of this session."""
    server = InfluxServer(tmp_path_factory.mktemp("influx"), die_with_parent=True)
    start(server)
    yield server
    server.stop()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance of this test alone, in memory."""
    import dagster as dg

    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral
