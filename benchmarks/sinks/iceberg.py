"""Iceberg: the sink of Kafka Connect on the same topic as ours, on the same machine, one after the other.

Each reads the whole topic from a broker that has all of it. The sink's clock runs from when its tasks run until the
commit after which nothing is missing, so a JVM's start is not counted; what it had of processors is the JVM's own
since then. Ours is a drain in a process of its own, from its start to its end. The sink's files are counted as they
are: it writes one for each task and commit, and merges none.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks import Figures, note
from benchmarks.sinks.connect import CONTROL_TOPIC, Committed, ConnectServer
from benchmarks.sinks.site import BenchSite, bench_site, topic_of

DEFAULT_COMMIT_S = 300
"""How often the sink commits where nobody says anything else."""

_LOOK_S = 0.2
_WITHIN_S = 900.0
_TICKS_S = os.sysconf("SC_CLK_TCK")


def measure_iceberg(options: argparse.Namespace) -> Figures:
    with (
        tempfile.TemporaryDirectory(prefix="efd-iceberg-", dir=options.directory) as scratch,
        bench_site(Path(scratch) / "servers") as site,
    ):
        return _measure(options, site, Path(scratch))


def _measure(options: argparse.Namespace, site: BenchSite, scratch: Path) -> Figures:
    from benchmarks.archive import end_to_end

    topic = topic_of(options.topic)
    note(f"producing {options.records} records of {topic.name}")
    _, values = site.produce(topic, options.records, options.data, datetime(2026, 11, 17, 3, tzinfo=UTC))
    mb = sum(map(len, values)) / 1e6
    figures: dict[str, float] = {"mb": mb, "records": len(values)}
    note("measuring the sink")
    figures |= _sink(site, scratch, site.name(topic), len(values), mb, options.commit_s)
    note("measuring ours")
    found = [end_to_end(site, scratch / f"ours{n}") for n in range(options.repeats)]
    fastest = min(found, key=lambda one: one["seconds"])
    assert fastest["records"] == len(values)
    return figures | {
        "end_to_end_mb_s": fastest["mb"] / fastest["seconds"],
        "end_to_end_cpu_ms_mb": fastest["cpu_s"] * 1e3 / fastest["mb"],
        "end_to_end_peak_bytes": fastest["peak_bytes"],
        "end_to_end_files": fastest["files"],
        "ours_files_h": _ours_files_h(site, scratch),
    }


def _sink(site: BenchSite, scratch: Path, topic: str, records: int, mb: float, commit_s: int) -> dict[str, float]:
    _make_control_topic(site)
    # Apicurio's converter speaks Apicurio's own API, which lies beside Confluent's.
    registry = site.registry.url.partition("/apis/")[0] + "/apis/registry/v2"
    with ConnectServer(scratch / "connect", site.kafka.bootstrap, registry, topic, commit_s=commit_s) as connect:
        pid = int(json.loads((connect.directory / "pid").read_text())["pid"])
        began, cpu_s = time.monotonic(), _cpu_s(pid)
        done = _finished(connect, records)
        seconds, cpu_s = time.monotonic() - began, _cpu_s(pid) - cpu_s
        return {
            "iceberg_mb_s": mb / seconds,
            "iceberg_cpu_ms_mb": cpu_s * 1e3 / mb,
            "iceberg_peak_bytes": _peak_bytes(pid),
            "iceberg_files": done.files,
            "iceberg_commits": done.snapshots,
            "iceberg_commit_s": commit_s,
            "iceberg_file_bytes": done.bytes,
            "iceberg_files_h": done.files / done.snapshots * 3600 / DEFAULT_COMMIT_S,
        }


def _finished(connect: ConnectServer, records: int) -> Committed:
    """Waits until all records are committed."""
    deadline = time.monotonic() + _WITHIN_S
    while (found := connect.committed()).records < records:
        if reason := connect.failure():
            raise RuntimeError(f"the sink has stopped: {reason}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"the sink committed {found.records} of {records} records in {_WITHIN_S:.0f} s")
        time.sleep(_LOOK_S)
    assert found.records == records, f"{found.records} records were committed of {records}"
    return found


def _ours_files_h(site: BenchSite, scratch: Path) -> float:
    """What a reader has to open of an hour that is over, when it is merged: the files of a slice of an hour."""
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.merging import merge

    settings = site.settings(scratch / "ours0")
    archive = Archive(settings)
    merge(archive, now=datetime(2027, 1, 1, tzinfo=UTC))
    files = [file for dataset in archive.datasets() for file in archive.snapshot(dataset).files()]
    slices = {file.slice for file in files}
    return len(files) / len(slices)


def _make_control_topic(site: BenchSite) -> None:
    admin = AdminClient({"bootstrap.servers": site.kafka.bootstrap, "log_level": 0})
    for made in admin.create_topics([NewTopic(CONTROL_TOPIC, 1, 1)]).values():
        made.result(30)


def _cpu_s(pid: int) -> float:
    state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(state[11]) + int(state[12])) / _TICKS_S


def _peak_bytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return float(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")))
