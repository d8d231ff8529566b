"""Cases: what strikes which deed, and when; each drawn from a seed, struck, and checked.

A case is one line of `KINDS`: what is done to a process at a moment that the seed chooses. After it the deed is done
again to its end and the archive is compared with the account of what was produced (`deeds.check`). A group of cases
shares an archive, so that faults meet archives of every age.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from confluent_kafka.admin import AdminClient

from efd_pipelines.settings import load_settings
from efd_pipelines.simulator.producer import SalProducer
from efd_pipelines_tests.faults.proxy import Fault, Proxy, What
from efd_pipelines_tests.faults.site import DATASETS, Servers, Site
from efd_pipelines_tests.faults.zygote import Ended, Running, Strike, Zygote

Store = Literal["directory", "s3", "cluster"]
"""A directory, S3, or a directory that is filled from three brokers."""

PATIENCE_S = 2
"""How long the clients of a struck process wait for an answer: a silent server must not take a minute of each case."""

_DEED_S = 150.0
_LEADERS_WITHIN_S = 60.0
_ATTEMPTS = 2
# About as many calls or requests as a drain makes; one that ends before is tried again with an earlier one.
_FIRST_NTH = 100
_CONFIGURATION = f"""
kafka: {{byte_budget: 65536, stall_s: 20, timeout_s: 10}}
topics: {{include: [{", ".join(DATASETS)}]}}
"""
_ALLOWED = "Unavailable StoreFull StaleWriter DrainIncomplete"


@dataclass(slots=True)
class Outcome:
    """What the cases came to."""

    cases: int = 0
    lost: int = 0
    doubled: int = 0
    failed: int = 0
    by_kind: dict[str, list[float]] = field(default_factory=dict)
    missed: int = 0

    def __str__(self) -> str:
        return f"{self.cases} cases, {self.lost} lost, {self.doubled} doubled, {self.failed} failed"

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.failed)


@dataclass(frozen=True, slots=True)
class Report:
    """One case: what struck where, and what was found wrong afterwards."""

    number: int
    kind: str
    deed: str
    at: str
    seconds: float
    lost: int
    doubled: int
    problems: tuple[str, ...]

    def __str__(self) -> str:
        found = "; ".join(self.problems) or "well"
        return f"case {self.number}: {self.kind}, {self.deed}, {self.at or 'not struck'}, {self.seconds:.1f} s: {found}"


class Stage:
    """Where cases play: servers behind proxies, the zygote, one archive at a time."""

    def __init__(self, servers: Servers, scratch: Path, stack: ExitStack) -> None:
        self.servers = servers
        self.zygote = stack.enter_context(Zygote())
        self.s3 = stack.enter_context(Proxy(servers.s3.port("clients")))
        self.registry = stack.enter_context(Proxy(servers.registry.port("clients")))
        self.steady = stack.enter_context(ThreadPoolExecutor(1))
        self.producer: SalProducer
        self.site: Site
        self.problems: list[str] = []
        self._scratch = scratch
        self._stack = stack
        self._homes: dict[str, tuple[Servers, SalProducer]] = {}
        self._archives = 0
        (scratch / "configuration.yaml").write_text(_CONFIGURATION)

    def begin(self, store: Store) -> None:
        """A new archive, of which nothing is there."""
        self._archives += 1
        name = f"faults-{os.getpid()}-{self._archives}"
        environ = {"EFD_CONFIG": str(self._scratch / "configuration.yaml")}
        servers, self.producer = self._home(store)
        if store == "s3":
            root = f"{servers.s3.make_bucket(name)}/archive"
            environ |= servers.s3.settings()
        else:
            root = str(self._scratch / name)
        self.site = Site(servers, root, environ)
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

    def do(self, deed: str, strike: Strike | None = None, **arguments: Any) -> Running:
        """Begins a deed that is to be struck: by the proxies, and its clients have little patience."""
        registry = self.registry.endpoint + urlsplit(self.servers.registry.url).path
        environ = {**self.site.environ, "EFD_REGISTRY_URL": registry, "EFD_TEST_PATIENCE_S": str(PATIENCE_S)}
        if self.site.is_remote:
            environ["EFD_S3_ENDPOINT"] = self.s3.endpoint
        return self.zygote.begin(deed, environ, strike, **arguments)

    def ended(self, running: Running, meanwhile: Callable[[], None] | None = None) -> Ended:
        """Waits for a deed, and notes what must not happen even to one that was struck."""
        try:
            ended = running.wait(_DEED_S, meanwhile)
        except (TimeoutError, EOFError) as error:
            self.problems.append(f"a process hung ({error})")
            return Ended("killed", {}, {}, "")
        if ended.end == "bug":
            self.problems.append(f"a process died of {ended.answer.get('message', ended.answer)}")
        elif (name := str(ended.answer.get("error", ""))) and not any(of in name for of in _ALLOWED.split()):
            self.problems.append(f"a process ended with {name}: {ended.answer['message']}")
        return ended

    def rival(self, deed: str) -> None:
        """A second writer, from its beginning to its end."""
        self.ended(self.do(deed, run="rival"))


DEEDS = ("drain", "drain", "drain", "drain", "merge", "merge", "seal", "replay", "release")
"""What is struck, half of the time a drain. Cleaning is beside these only where nobody else is at work, since what it
removes here may be minutes old."""

RIVALS = ("drain", "merge", "seal")

Play = Callable[[Stage, np.random.Generator, str, int], Ended]


@dataclass(frozen=True, slots=True)
class KindOfCase:
    """One way to strike: on which stores, how often among a thousand, and what it does."""

    name: str
    stores: tuple[Store, ...]
    weight: float
    play: Play
    deeds: tuple[str, ...] = DEEDS

    @property
    def is_quick(self) -> bool:
        """Whether no server is started anew."""
        return "restarted" not in self.name


def kill_at_a_call(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    return stage.ended(stage.do(deed, Strike("file", nth, "kill")))


def kill_at_a_message(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    return stage.ended(stage.do(deed, Strike("kafka", nth, "kill")))


def fail_a_call(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    number = int(rng.choice([errno.ENOSPC, errno.EDQUOT, errno.EIO]))
    times = int(rng.choice([1, 3, 10_000]))
    return stage.ended(stage.do(deed, Strike("file", nth, "fail", number, times)))


def break_connections(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    number, times = int(rng.choice([errno.ECONNRESET, errno.EPIPE])), int(rng.integers(1, 6))
    return stage.ended(stage.do(deed, Strike("kafka", nth, "fail", number, times)))


def rival_at_a_call(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    other = str(rng.choice(RIVALS))
    return stage.ended(stage.do(deed, Strike("file", nth, "wait")), lambda: stage.rival(other))


def rival_at_a_request(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    other = str(rng.choice(RIVALS))
    what = What(rng.choice([What.BEFORE, What.AFTER]))
    return _with_fault(stage, stage.s3, deed, Fault(what, "", "", nth, 1, lambda: stage.rival(other)))


def together(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    """Two processes at once; the first is killed somewhere."""
    other = stage.do(str(rng.choice(RIVALS)), run="beside")
    struck = (kill_at_a_request if stage.site.is_remote else kill_at_a_call)(stage, rng, deed, nth)
    stage.ended(other)
    return struck


def kill_at_a_request(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    what = What(rng.choice([What.BEFORE, What.AFTER, What.MIDDLE], p=[0.4, 0.4, 0.2]))
    running: list[Running] = []

    def kill() -> None:
        with suppress(ProcessLookupError):
            os.kill(running[0].pid, signal.SIGKILL)

    fault = Fault(what, "PUT" if what is What.MIDDLE else "", "", nth, 1, kill)
    stage.s3.strike(fault)
    running.append(stage.do(deed))
    return _struck(stage.ended(running[0]), stage.s3, fault)


_ANSWERS = (What.TOO_MANY, What.INTERNAL, What.UNAVAILABLE)


def refuse_requests(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    """429, 500, 503: to any request."""
    times = int(rng.choice([1, 2, 5]))
    return _with_fault(stage, stage.s3, deed, Fault(What(rng.choice(list(_ANSWERS))), _method(rng), "", nth, times))


def refuse_writes(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    """409 and 412, to whatever is put; to commits above all."""
    part = str(rng.choice(["log", "log", "file", ""]))
    what = What(rng.choice([What.CONFLICT, What.PRECONDITION]))
    return _with_fault(stage, stage.s3, deed, Fault(what, "PUT", part, 1 + nth % 12, int(rng.choice([1, 2]))))


def lose_answers(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    """What was carried out is not answered, by a connection that ends or a server that is silent."""
    what = What(rng.choice([What.LOST, What.LOST, What.LATE]))
    part = str(rng.choice(["log", "file", ""]))
    return _with_fault(stage, stage.s3, deed, Fault(what, "PUT", part, 1 + nth % 12, 1))


def break_requests(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    """Cut bodies, refused connections, time-outs."""
    what = What(rng.choice([What.CUT, What.REFUSED, What.SILENCE], p=[0.5, 0.3, 0.2]))
    times = 1 if what is What.SILENCE else int(rng.choice([1, 3]))
    return _with_fault(stage, stage.s3, deed, Fault(what, _method(rng), "", nth, times))


def break_the_registry(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    """A registry that is down for the whole of a run, or for its first answers, and back."""
    whats = [What.INTERNAL, What.UNAVAILABLE, What.REFUSED, What.CUT, What.SILENCE]
    what = What(rng.choice(whats, p=[0.3, 0.2, 0.3, 0.15, 0.05]))
    times = 1 if what is What.SILENCE else int(rng.choice([1, 2, 10_000]))
    return _with_fault(stage, stage.registry, deed, Fault(what, "", "", 1, times))


def restart_the_broker(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    def restart() -> None:
        stage.site.servers.kafka.kill()
        stage.site.servers.kafka.start()

    return stage.ended(stage.do(deed, Strike("kafka", 1 + nth % 30, "wait")), restart)


def change_the_leaders(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    """A broker dies while a process reads from it; the others lead its partitions. It is back for the next case."""
    servers = stage.site.servers
    victim = servers.others[int(rng.integers(len(servers.others)))]

    def kill() -> None:
        victim.kill()
        await_leaders(servers)

    try:
        return stage.ended(stage.do(deed, Strike("kafka", 1 + nth % 30, "wait")), kill)
    finally:
        victim.start()


def await_leaders(servers: Servers) -> None:
    """Returns when every partition is led by a broker that runs."""
    running = {broker.node for broker in (servers.kafka, *servers.others) if broker.is_running()}
    admin = AdminClient({"bootstrap.servers": servers.kafka.bootstrap, "log_level": 0})
    deadline = time.monotonic() + _LEADERS_WITHIN_S
    while time.monotonic() < deadline:
        topics = admin.list_topics(timeout=10).topics
        if all(part.leader in running for name in DATASETS for part in topics[name].partitions.values()):
            return
        time.sleep(0.1)
    raise TimeoutError(f"some partition has no leader after {_LEADERS_WITHIN_S:.0f} s")


def restart_the_registry(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    """Down while a process runs, back for the next."""
    stage.servers.registry.kill()
    try:
        ended = stage.ended(stage.do(deed))
    finally:
        stage.servers.registry.start()
    return Ended(ended.end, ended.answer, ended.calls, "the registry is down")


def restart_the_store(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    def restart() -> None:
        stage.servers.s3.kill()
        # In a thread that stays: a server dies with the one that started it, and the proxy's live as long as a client.
        stage.steady.submit(stage.servers.s3.start).result()

    return _with_fault(stage, stage.s3, deed, Fault(What.BEFORE, "", "", nth, 1, restart))


def _method(rng: np.random.Generator) -> str:
    return str(rng.choice(["", "GET", "PUT", "HEAD", "LIST"]))


def _with_fault(stage: Stage, proxy: Proxy, deed: str, fault: Fault) -> Ended:
    proxy.strike(fault)
    return _struck(stage.ended(stage.do(deed)), proxy, fault)


def _struck(ended: Ended, proxy: Proxy, fault: Fault) -> Ended:
    """How a deed ended, with what the proxy knows of it."""
    proxy.strike(None)
    return Ended(ended.end, ended.answer, {"requests": fault.seen}, fault.at)


_DIRECTORY: tuple[Store, ...] = ("directory",)
_S3: tuple[Store, ...] = ("s3",)
_BOTH: tuple[Store, ...] = ("directory", "s3")

KINDS: tuple[KindOfCase, ...] = (
    KindOfCase("SIGKILL at a system call", _DIRECTORY, 220, kill_at_a_call, (*DEEDS, "clean")),
    KindOfCase("SIGKILL at a message to Kafka", _BOTH, 50, kill_at_a_message, ("drain",)),
    KindOfCase("disk full or broken", _DIRECTORY, 120, fail_a_call, (*DEEDS, "clean")),
    KindOfCase("broken connections to Kafka", _BOTH, 50, break_connections, ("drain",)),
    KindOfCase("a second writer at a system call", _DIRECTORY, 100, rival_at_a_call),
    KindOfCase("two writers at once, one killed", _BOTH, 50, together),
    KindOfCase("SIGKILL at a request to S3", _S3, 130, kill_at_a_request, (*DEEDS, "clean")),
    KindOfCase("S3 answers 429, 500, 503", _S3, 60, refuse_requests, (*DEEDS, "clean")),
    KindOfCase("S3 answers 409, 412", _S3, 50, refuse_writes),
    KindOfCase("S3 loses answers", _S3, 50, lose_answers),
    KindOfCase("S3 cuts, refuses, is silent", _S3, 50, break_requests, (*DEEDS, "clean")),
    KindOfCase("a second writer at a request to S3", _S3, 40, rival_at_a_request),
    KindOfCase("registry down and back", _BOTH, 30, break_the_registry, ("drain",)),
    KindOfCase("broker killed and restarted", _BOTH, 12, restart_the_broker, ("drain",)),
    KindOfCase("leaders change, a broker restarted", ("cluster",), 20, change_the_leaders, ("drain",)),
    KindOfCase("registry killed and restarted", _BOTH, 6, restart_the_registry, ("drain",)),
    KindOfCase("S3 killed and restarted", _S3, 12, restart_the_store),
)


def play(stage: Stage, number: int, kind: KindOfCase, rng: np.random.Generator, outcome: Outcome) -> Report:
    """One case, from producing to the check."""
    began = time.monotonic()
    stage.problems = []
    deed = str(rng.choice(list(kind.deeds)))
    nth = int(rng.integers(1, _FIRST_NTH))
    for _ in range(_ATTEMPTS):
        prepare(stage, rng, deed)
        ended = kind.play(stage, rng, deed, nth)
        if ended.was_struck or stage.problems:
            break
        nth = 1 + nth % max(1, max((count for name, count in ended.calls.items() if name != "other"), default=1))
    checked = stage.zygote.run("check", stage.site.environ, _DEED_S, again=deed, expected=stage.site.expected())
    found = checked.answer
    if checked.end != "done" or "error" in found:
        stage.problems.append(f"the work cannot go on: {found.get('message', checked.end)}")
    stage.problems += found.get("problems", [])
    report = Report(
        number,
        kind.name,
        deed,
        ended.at,
        time.monotonic() - began,
        found.get("lost", 0),
        found.get("doubled", 0),
        tuple(stage.problems),
    )
    _count(outcome, report)
    return report


def prepare(stage: Stage, rng: np.random.Generator, deed: str) -> None:
    """What the deed needs to have something to do."""
    stage.site.produce(stage.producer, rng)
    if deed != "drain":
        stage.ended(stage.do("drain", run="before"))
        stage.site.produce(stage.producer, rng)
        if deed == "replay":  # what is archived while the registry has lost its schemas is dead, and replayed later
            stage.registry.strike(Fault(What.UNKNOWN, times=10_000))
        stage.ended(stage.do("drain", run="before"))
        stage.registry.strike(None)
    if deed == "clean":
        stage.ended(stage.do("merge", run="before"))


def _count(outcome: Outcome, report: Report) -> None:
    outcome.cases += 1
    outcome.lost += report.lost
    outcome.doubled += report.doubled
    outcome.failed += bool(report.problems)
    outcome.missed += not report.at
    outcome.by_kind.setdefault(report.kind, []).append(report.seconds)


@contextmanager
def staged(servers: Servers, scratch: Path) -> Iterator[Stage]:
    """A stage on these servers."""
    with ExitStack() as stack:
        yield Stage(servers, scratch, stack)


def draw(kinds: Sequence[KindOfCase], store: Store, rng: np.random.Generator) -> KindOfCase:
    """A kind that this store may meet, by weight."""
    possible = [kind for kind in kinds if store in kind.stores]
    weights = np.array([kind.weight / len(kind.stores) for kind in possible])
    return possible[int(rng.choice(len(possible), p=weights / weights.sum()))]
