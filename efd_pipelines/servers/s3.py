"""versitygw: an S3 server over a directory, with the conditional writes that the archive needs.

What belongs here: installing and starting it. Bucket names have at least three characters; a key cannot be
both an object and a prefix. The archive on S3: `efd_pipelines.archive.store`.
"""

from __future__ import annotations

import errno
import os
from http import HTTPStatus
from pathlib import Path
from typing import ClassVar

from efd_pipelines.servers import cache, golang
from efd_pipelines.servers.server import Program, Server, http_status

VERSION = "1.8.0"
HEALTH = "/health"


class S3Server(Server):
    """One versitygw.

    Args:
        port: for clients; 0 for any free one.
        access_key: whoever has it and the secret may do everything.
    """

    name: ClassVar[str] = "s3"
    region: ClassVar[str] = "us-east-1"

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        access_key: str = "efd",
        secret_key: str = "efd-secret-key",  # noqa: S107 - of a server on loopback that lives for a test
        die_with_parent: bool = False,
    ) -> None:
        super().__init__(directory, ports={"clients": port}, die_with_parent=die_with_parent)
        self.access_key = access_key
        self.secret_key = secret_key

    @property
    def endpoint(self) -> str:
        """The URL of the server; buckets are addressed by path."""
        return f"http://127.0.0.1:{self.port('clients')}"

    def make_bucket(self, name: str) -> str:
        """Create bucket `name`, if there is none of that name; its `s3://` URL."""
        import botocore.session

        client = botocore.session.get_session().create_client(
            "s3",
            region_name=self.region,
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )
        try:
            client.create_bucket(Bucket=name)
        except client.exceptions.BucketAlreadyOwnedByYou:
            return f"s3://{name}"
        return f"s3://{name}"

    def install(self) -> None:
        """Build the server from its Go module into the cache (1-2 minutes, once)."""
        self._program()

    def prepare(self) -> Program:
        """Create the directory of the buckets."""
        buckets = self.directory / "data"
        buckets.mkdir(exist_ok=True)
        server = f"127.0.0.1:{self.port('clients')}"
        command: list[str | Path] = [self._program(), "--port", server, "--region", self.region]
        command += ["--health", HEALTH, "--quiet"]
        command += ["posix", *self._where_attributes_go(buckets), buckets]
        # Keys by environment: a command line can be read by everybody on the machine.
        return Program(command, {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key})

    def is_healthy(self) -> bool:
        """Whether the server says so."""
        return http_status(self.port("clients"), HEALTH) == HTTPStatus.OK

    def settings(self) -> dict[str, str]:
        """Endpoint, region and keys."""
        return {
            "EFD_S3_ENDPOINT": self.endpoint,
            "EFD_S3_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def _program(self) -> Path:
        return cache.installed("versitygw", f"{VERSION}-{cache.platform()}", _build) / "versitygw"

    def _where_attributes_go(self, buckets: Path) -> list[str | Path]:
        """Options for a file system without extended attributes, such as tmpfs: a directory beside."""
        if _keeps_attributes(buckets):
            return []
        beside = self.directory / "attributes"
        beside.mkdir(exist_ok=True)
        return ["--sidecar", beside]


def _keeps_attributes(directory: Path) -> bool:
    if not hasattr(os, "setxattr"):
        return True  # not Linux; the server finds out by itself
    try:
        os.setxattr(directory, "user.efd_probe", b"1")
        os.removexattr(directory, "user.efd_probe")
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM):
            return False
        raise
    return True


def _build(into: Path) -> None:
    golang.install([f"github.com/versity/versitygw/cmd/versitygw@v{VERSION}"], into)
