"""Ports: free, kept, and ruled by settings."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from efd_pipelines.errors import SettingsError, UsageError
from efd_pipelines.servers import ports
from efd_pipelines.servers.services import SERVERS, Services


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert not ports.is_free(taken.getsockname()[1])


def test_free_ports_avoid_those_of_outgoing_connections() -> None:
    chosen = [ports.free_port() for _ in range(50)]
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(chosen) < lowest_outgoing
    assert all(map(ports.is_free, chosen))


def test_ports_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "server" / "ports.json"
    first = ports.settle(path, {"clients": 0, "controller": 0})
    assert len(set(first.values())) == 2
    assert ports.settle(path, {"clients": 0, "controller": 0}) == first


def test_a_given_port_wins_over_a_kept_one(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    ports.settle(path, {"clients": 0})
    assert ports.settle(path, {"clients": 9092}) == {"clients": 9092}
    assert ports.settle(path, {"clients": 0}) == {"clients": 9092}


def ports_of(tmp_path: Path, environment: dict[str, str]) -> dict[str, int]:
    services = Services.named(tmp_path, environment=environment)
    return {server.name: server.port("clients") for server in services.servers}


def test_a_base_gives_every_server_its_place(tmp_path: Path) -> None:
    assert ports_of(tmp_path, {"EFD_SERVICES_PORT_BASE": "21000"}) == {
        "kafka": 21000,
        "registry": 21001,
        "s3": 21002,
        "postgres": 21003,
        "influxdb": 21004,
    }


def test_a_server_can_be_given_its_own_port(tmp_path: Path) -> None:
    found = ports_of(tmp_path, {"EFD_SERVICES_PORT_BASE": "21000", "EFD_SERVICES_PORT_S3": "9000"})
    assert found["s3"] == 9000
    assert found["kafka"] == 21000


@pytest.mark.parametrize("value", ["many", "80", "65535"])
def test_a_base_that_gives_no_ports_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match=r"EFD_SERVICES_PORT_BASE|cannot listen"):
        Services.named(tmp_path, environment={"EFD_SERVICES_PORT_BASE": value})


def test_an_unknown_server_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="kafak") as raised:
        Services.named(tmp_path, ["kafak"], environment={})
    assert all(name in raised.value.remedy for name in SERVERS)
