"""The stage: where cases play: servers behind proxies, the zygote, one archive at a time.

A case's deeds are begun here, those that are to be struck with proxies between them and every server, and what must
not happen even to a process that was struck is noted. What strikes them: `strikes.py`. What was produced: `site.py`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from efd_pipelines.settings import load_settings
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines_tests.faults.lost import History
from efd_pipelines_tests.faults.proxy import Proxy
from efd_pipelines_tests.faults.site import DATASETS, Servers, Site
from efd_pipelines_tests.faults.zygote import Ended, Running, Strike, Zygote

Store = Literal["directory", "s3", "cluster"]
"""A directory, S3, or a directory that is filled from three brokers."""

PATIENCE_S = 2
"""How long the clients of a struck process wait for an answer: a silent server must not take a minute of each case."""

DEED_S = 150.0
_CONFIGURATION = f"""
kafka: {{byte_budget: 65536, stall_s: 20, timeout_s: 10}}
topics: {{include: [{", ".join(DATASETS)}]}}
"""
_ALLOWED = "Unavailable StoreFull StaleWriter DrainIncomplete"


class Stage:
    """Where cases play: servers behind proxies, the zygote, one archive at a time."""

    def __init__(self, servers: Servers, scratch: Path, stack: ExitStack) -> None:
        self.servers = servers
        self.zygote = stack.enter_context(Zygote())
        self.s3 = stack.enter_context(Proxy(servers.s3.port("clients")))
        self.registry = stack.enter_context(Proxy(servers.registry.port("clients")))
        self.influx = stack.enter_context(Proxy(servers.influx.port("clients")))
        self.steady = stack.enter_context(ThreadPoolExecutor(1))
        self.producer: SalProducer
        self.site: Site
        self.problems: list[str] = []
        self._scratch = scratch
        self._stack = stack
        self._homes: dict[str, tuple[Servers, SalProducer]] = {}
        self._archives = self._drains = 0
        (scratch / "configuration.yaml").write_text(_CONFIGURATION)
        (scratch / "certificate.pem").write_text(_a_certificate())

    def begin(self, store: Store) -> None:
        """A new archive, of which nothing is there."""
        self._archives += 1
        name = f"faults-{os.getpid()}-{self._archives}"
        environ = {"EFD_CONFIG": str(self._scratch / "configuration.yaml")}
        servers, self.producer = self._home(store)
        if store == "s3":
            root = f"{servers.s3.make_bucket(name)}/archive"
            # delta-rs reads all the certificates that it is told to trust for every table that it opens.
            environ |= {**servers.s3.settings(), "SSL_CERT_FILE": str(self._scratch / "certificate.pem")}
        else:
            root = str(self._scratch / name)
        self.site = Site(servers, root, environ, History(servers.influx, name, self._scratch / f"{name}-lines"))
        self.site.begin(self.producer)

    def _home(self, store: Store) -> tuple[Servers, SalProducer]:
        """Where the store's records come from; three brokers start at the first case that wants them."""
        name = "cluster" if store == "cluster" else "servers"
        if name not in self._homes:
            servers = self.servers
            if name == "cluster":
                servers = self.servers.with_three_brokers(self._scratch)
                for broker in (servers.kafka, *servers.others):
                    self._stack.callback(broker.kill)
            environ = {"EFD_KAFKA_BOOTSTRAP": servers.bootstrap, "EFD_REGISTRY_URL": servers.registry.url}
            self._homes[name] = servers, self._stack.enter_context(SalProducer(load_settings(environ, None)))
        return self._homes[name]

    def arguments(self, deed: str) -> dict[str, Any]:
        """What the deed has to know of the site. Every second drain reads as if there were much."""
        if deed == "drain":
            self._drains += 1
            return {"compiled": self._drains % 2 == 0}
        return {"weeks": self.site.history.weeks()[-2:]} if deed == "heal" else {}

    def do(self, deed: str, strike: Strike | None = None, **arguments: Any) -> Running:
        """Begins a deed that is to be struck: by the proxies, and its clients have little patience."""
        registry = self.registry.endpoint + urlsplit(self.servers.registry.url).path
        environ = {
            **self.site.environ,
            "EFD_REGISTRY_URL": registry,
            "EFD_HISTORY_INFLUX_URL": self.influx.endpoint,
            "EFD_HISTORY_TIMEOUT_S": str(PATIENCE_S),
            "EFD_TEST_PATIENCE_S": str(PATIENCE_S),
        }
        if self.site.is_remote:
            environ["EFD_S3_ENDPOINT"] = self.s3.endpoint
        return self.zygote.begin(deed, environ, strike, **self.arguments(deed), **arguments)

    def ended(self, running: Running, meanwhile: Callable[[], None] | None = None) -> Ended:
        """Waits for a deed, and notes what must not happen even to one that was struck."""
        try:
            ended = running.wait(DEED_S, meanwhile)
        except (TimeoutError, EOFError) as error:
            self.problems.append(f"{running.deed}: a process hung ({error})")
            return Ended("killed", {}, {}, "")
        if ended.end == "bug":
            self.problems.append(f"a process died of {ended.answer.get('message', ended.answer)}")
        elif (name := str(ended.answer.get("error", ""))) and not any(of in name for of in _ALLOWED.split()):
            self.problems.append(f"a process ended with {name}: {ended.answer['message']}")
        return ended

    def rival(self, deed: str, **arguments: Any) -> None:
        """A second writer, from its beginning to its end."""
        self.ended(self.do(deed, run="rival", **arguments))


@contextmanager
def staged(servers: Servers, scratch: Path) -> Iterator[Stage]:
    """A stage on these servers."""
    with ExitStack() as stack:
        yield Stage(servers, scratch, stack)


def _a_certificate() -> str:
    """Any one that this machine trusts; nothing here speaks TLS."""
    trusted = ssl.create_default_context().get_ca_certs(binary_form=True)
    return ssl.DER_cert_to_PEM_cert(trusted[0]) if trusted else ""
