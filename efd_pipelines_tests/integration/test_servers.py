"""The servers themselves: they start, keep what they were given, and leave nothing behind.

With an empty PATH throughout: no Java, no Go, no PostgreSQL of the machine takes part.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from s3fs import S3FileSystem

from efd_pipelines.errors import ServiceUnavailable
from efd_pipelines.servers import postgresql
from efd_pipelines.servers.influxdb import InfluxServer
from efd_pipelines.servers.kafka import KafkaServer
from efd_pipelines.servers.ports import free_port, is_free
from efd_pipelines.servers.postgresql import PostgresServer
from efd_pipelines.servers.registry import RegistryServer
from efd_pipelines.servers.s3 import S3Server
from efd_pipelines.servers.server import Server
from efd_pipelines.servers.services import Services
from efd_pipelines_tests.conftest import start


@pytest.fixture(autouse=True)
def an_empty_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))


def create_topic(server: KafkaServer, name: str, copies: int = 1) -> None:
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    admin.create_topics([NewTopic(name, 1, copies)])[name].result(30)


def write_kafka(server: Any) -> None:
    create_topic(server, "kept")
    producer = Producer({"bootstrap.servers": server.bootstrap})
    # Older than any retention: replayed recordings must stay.
    producer.produce("kept", value=b"one", timestamp=1_600_000_000_000)
    assert producer.flush(30) == 0


def read_kafka(server: Any) -> object:
    consumer = Consumer({"bootstrap.servers": server.bootstrap, "group.id": "none"})
    consumer.assign([TopicPartition("kept", 0, 0)])
    message = consumer.poll(30)
    consumer.close()
    return message is not None and message.value()


def write_registry(server: Any) -> None:
    body = {"schema": '{"type": "record", "name": "kept", "fields": []}'}
    httpx.post(f"{server.url}/subjects/kept-value/versions", json=body).raise_for_status()


def read_registry(server: Any) -> object:
    return httpx.get(f"{server.url}/subjects").json()


def s3_client(server: S3Server) -> S3FileSystem:
    return S3FileSystem(
        endpoint_url=server.endpoint,
        key=server.access_key,
        secret=server.secret_key,
        client_kwargs={"region_name": server.region},
        skip_instance_cache=True,
    )


def write_s3(server: Any) -> None:
    s3_client(server).pipe(f"{server.make_bucket('kept')}/a/b", b"one")


def read_s3(server: Any) -> object:
    return s3_client(server).cat("s3://kept/a/b")


def write_postgres(server: Any) -> None:
    url = server.make_database("kept").replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS one")


def read_postgres(server: Any) -> object:
    with psycopg.connect(server.database_url("kept").replace("+psycopg", "")) as connection:
        return connection.execute("SELECT one FROM t").fetchall()


def write_influx(server: Any) -> None:
    httpx.post(f"{server.url}/query", params={"q": "CREATE DATABASE kept"}).raise_for_status()
    written = httpx.post(f"{server.url}/write", params={"db": "kept"}, content="m one=1i 1000")
    written.raise_for_status()


def read_influx(server: Any) -> object:
    answer = httpx.get(f"{server.url}/query", params={"db": "kept", "q": "SELECT one FROM m", "epoch": "ns"})
    return answer.json()["results"][0]["series"][0]["values"]


@dataclass(frozen=True)
class Kind:
    """A server, and how a client writes to it and finds what was written."""

    make: Callable[..., Server]
    write: Callable[[Any], None]
    read: Callable[[Any], object]
    kept: object


KINDS = {
    "kafka": Kind(KafkaServer, write_kafka, read_kafka, b"one"),
    "registry": Kind(RegistryServer, write_registry, read_registry, ["kept-value"]),
    "s3": Kind(S3Server, write_s3, read_s3, b"one"),
    "postgres": Kind(PostgresServer, write_postgres, read_postgres, [(1,)]),
    "influxdb": Kind(InfluxServer, write_influx, read_influx, [[1000, 1]]),
}


def erase(server: Server) -> None:
    server.stop()
    if isinstance(server, PostgresServer):
        server.erase()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def server(kind: Kind, tmp_path: Path) -> Iterator[Server]:
    server = kind.make(tmp_path / "server", die_with_parent=True)
    start(server)
    yield server
    erase(server)


def processes_about(text: str) -> list[str]:
    """The command lines, of all processes that run, in which `text` occurs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if text in command:
                found.append(command)
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_what_was_acknowledged_is_there_after_a_kill(kind: Kind, server: Server) -> None:
    kind.write(server)
    before = server.settings()
    server.kill()
    assert not server.is_running()
    server.start()
    assert server.settings() == before
    assert kind.read(server) == kind.kept


def test_a_second_start_changes_nothing_and_stop_leaves_nothing(kind: Kind, server: Server) -> None:
    process = (server.directory / "pid").read_text()
    again = kind.make(server.directory)  # as another program finds it
    again.start()
    assert (server.directory / "pid").read_text() == process
    assert again.settings() == server.settings()

    ports = [again.port(purpose) for purpose in server._wanted_ports]
    again.stop()
    again.stop()
    assert not server.is_running()
    assert not (server.directory / "pid").exists()
    assert all(map(is_free, ports))
    assert wait_until(lambda: not processes_about(str(server.directory)))


def test_two_stacks_run_side_by_side(tmp_path: Path) -> None:
    names = ["kafka", "s3", "influxdb"]
    first = Services.named(tmp_path / "one", names, environment={}, die_with_parent=True)
    second = Services.named(tmp_path / "two", names, environment={}, die_with_parent=True)
    for server in first.servers:
        start(server)
    with first, second:
        ours, theirs = first.settings(), second.settings()
        for name in ("EFD_KAFKA_BOOTSTRAP", "EFD_S3_ENDPOINT", "EFD_INFLUX_URL"):
            assert ours[name] != theirs[name]
        KINDS["kafka"].write(first.servers[0])
        topics = AdminClient({"bootstrap.servers": theirs["EFD_KAFKA_BOOTSTRAP"]}).list_topics(timeout=10).topics
        assert "kept" not in topics


def run(*arguments: str | Path) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=300)
    return done.stdout


def test_the_command_starts_servers_for_a_shell_and_stops_them(tmp_path: Path) -> None:
    start_and_stop = ["-m", "efd_pipelines.servers", "--directory", str(tmp_path)]
    printed = run(*start_and_stop, "start", "s3", "influxdb").splitlines()
    try:
        in_a_shell = f". {tmp_path / 'env'}; echo $EFD_S3_ENDPOINT $AWS_SECRET_ACCESS_KEY $EFD_INFLUX_URL"
        heard = subprocess.run(["/bin/sh", "-c", in_a_shell], capture_output=True, text=True, check=True)
        endpoint, secret, url = heard.stdout.split()
        assert f"EFD_S3_ENDPOINT={endpoint}" in printed
        assert f"AWS_SECRET_ACCESS_KEY={secret}" in printed
        assert httpx.get(f"{url}/ping").status_code == 204
        assert run(*start_and_stop, "start", "s3", "influxdb").splitlines() == printed
    finally:
        run(*start_and_stop, "stop")
    assert not (tmp_path / "env").exists()
    assert wait_until(lambda: not processes_about(str(tmp_path)))


STARTS_AND_WAITS = """
import sys, time
from pathlib import Path
from efd_pipelines.servers.s3 import S3Server
S3Server(Path(sys.argv[1]), die_with_parent=True).start()
print("started", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has died")
def test_a_server_of_a_test_ends_when_the_test_is_killed(tmp_path: Path) -> None:
    start(S3Server(tmp_path / "installed"))
    S3Server(tmp_path / "installed").stop()
    directory = tmp_path / "server"
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_AND_WAITS, directory], stdout=subprocess.PIPE, text=True
    ) as test:
        assert test.stdout is not None
        assert test.stdout.readline() == "started\n"
        assert S3Server(directory).is_running()
        test.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not S3Server(directory).is_running())


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = KafkaServer(tmp_path / "kafka", properties={"num.io.threads": "none"}, die_with_parent=True)
    with pytest.raises(ServiceUnavailable, match=r"num\.io\.threads"):
        start(server)
    assert not server.is_running()


def test_a_server_that_ends_while_starting_shows_its_log(tmp_path: Path) -> None:
    server = InfluxServer(tmp_path / "influxdb", die_with_parent=True)
    server.directory.mkdir()
    (server.directory / "data").write_text("in the way")
    with pytest.raises(ServiceUnavailable, match="ended while starting") as raised:
        start(server)
    assert "not a directory" in raised.value.message
    assert str(server.log_path) in raised.value.remedy


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with S3Server(tmp_path / "first", die_with_parent=True) as first:
        port = first.port("clients")
        with pytest.raises(ServiceUnavailable, match=f"port {port}"):
            S3Server(tmp_path / "second", port, die_with_parent=True).start()


def test_a_running_server_keeps_its_port_when_settings_change(tmp_path: Path) -> None:
    with S3Server(tmp_path, die_with_parent=True) as server:
        port = server.port("clients")
        changed = S3Server(tmp_path, free_port([port]))
        changed.start()
        assert changed.endpoint == server.endpoint
        changed.restart()
        assert changed.endpoint != f"http://127.0.0.1:{port}"


def test_a_broker_joins_another(tmp_path: Path) -> None:
    first = KafkaServer(tmp_path / "first", die_with_parent=True)
    start(first)
    with first, KafkaServer(tmp_path / "second", joins=first, node=2, die_with_parent=True) as second:
        create_topic(first, "copied", copies=2)
        partition = AdminClient({"bootstrap.servers": second.bootstrap}).list_topics(timeout=10)
        assert sorted(partition.topics["copied"].partitions[0].replicas) == [1, 2]
        assert partition.cluster_id == first.cluster_id


def test_a_postgresql_on_path_does_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel = postgresql._wheel()
    assert wheel is not None
    # As Debian has it: a link on PATH to a directory where all the programs are.
    (tmp_path / "empty" / "initdb").symlink_to(wheel / "bin" / "initdb")
    monkeypatch.setattr(postgresql, "_wheel", lambda: None)
    server = PostgresServer(tmp_path / "postgres", die_with_parent=True)
    try:
        server.start()
        write_postgres(server)
        assert read_postgres(server) == [(1,)]
    finally:
        server.erase()
    assert not server.data.exists()
