"""Strikes: what is done to a process that does a deed, at a moment that the seed chose; and how the deed ended.

Each takes the stage, a source of chance, the deed and which call, message or request it is; what is struck was begun
here. Which strikes there are for whom, and how often: `cases.py`. Where they happen: `stage.py`.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import suppress

import numpy as np
from confluent_kafka.admin import AdminClient

from efd_pipelines_tests.faults.proxy import Fault, Proxy, What
from efd_pipelines_tests.faults.site import DATASETS, Servers
from efd_pipelines_tests.faults.stage import Stage
from efd_pipelines_tests.faults.zygote import Ended, Running, Strike

RIVALS = ("drain", "merge", "seal")

_LEADERS_WITHIN_S = 60.0


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


def healer_at_a_call(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    """Another healer, of files: of those that ask InfluxDB one would wait for the other."""
    return stage.ended(stage.do(deed, Strike("file", nth, "wait")), lambda: stage.rival("heal", lines=True))


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
    return _kill_at(stage, stage.s3, deed, what, nth)


def kill_at_a_question(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    """A question to InfluxDB, before it or between it and its answer."""
    return _kill_at(stage, stage.influx, deed, What(rng.choice([What.BEFORE, What.AFTER])), _question(nth))


def _kill_at(stage: Stage, proxy: Proxy, deed: str, what: What, nth: int) -> Ended:
    running: list[Running] = []

    def kill() -> None:
        with suppress(ProcessLookupError):
            os.kill(running[0].pid, signal.SIGKILL)

    fault = Fault(what, "PUT" if what is What.MIDDLE else "", "", nth, 1, kill)
    proxy.strike(fault)
    running.append(stage.do(deed))
    return _struck(stage.ended(running[0]), proxy, fault)


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


def break_the_history(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    """An InfluxDB that has enough to do, breaks off its answers or is silent; for a while, or for good."""
    whats = [What.TOO_MANY, What.INTERNAL, What.UNAVAILABLE, What.CUT, What.REFUSED, What.SILENCE, What.LATE]
    what = What(rng.choice(whats, p=[0.2, 0.15, 0.2, 0.2, 0.1, 0.1, 0.05]))
    is_slow = what in (What.SILENCE, What.LATE)
    times = 1 if is_slow else int(rng.choice([1, 2, 5, 10_000]))
    return _with_fault(stage, stage.influx, deed, Fault(what, "", "", _question(nth), times))


def _question(nth: int) -> int:
    """Which of the some dozen questions of a healer."""
    return 1 + nth % 30


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


def restart_the_history(stage: Stage, rng: np.random.Generator, deed: str, nth: int) -> Ended:
    def restart() -> None:
        stage.servers.influx.kill()
        stage.steady.submit(stage.servers.influx.start).result()

    return _with_fault(stage, stage.influx, deed, Fault(What.BEFORE, "", "", _question(nth), 1, restart))


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
