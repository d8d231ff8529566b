"""Benchmarks: every figure beside its baselines, from one run on the same data.

`python -m benchmarks.NAME --json` prints one JSON document; `python -m benchmarks` runs all and writes `results.md`.
What belongs here: what all benchmarks share. A benchmark is a module that has a `BENCHMARK` and ends in
`run(BENCHMARK)`; `__main__.py` finds it by itself. Names of figures end in their unit, and ratios are taken within
one run only: the machine is never as idle twice.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What is measured, and against what.

    `ratios` maps what a ratio says to (figure of ours, figure of the baseline).
    """

    name: str
    about: str
    measure: Callable[[argparse.Namespace], Figures]
    ratios: Mapping[str, tuple[str, str]]
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    packages: Sequence[str] = field(default=())


def run(benchmark: Benchmark, argv: Sequence[str] | None = None) -> None:
    """Measures and prints, as the command line asks for."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark.name}", description=benchmark.about)
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    benchmark.arguments(parser)
    options = parser.parse_args(argv)
    figures = benchmark.measure(options)
    document = {"benchmark": benchmark.name, **figures, "machine": machine(benchmark.packages)}
    print(json.dumps(document, indent=2) if options.json else as_text(benchmark, document))


def as_text(benchmark: Benchmark, document: Mapping[str, Any]) -> str:
    """Ratios and figures in Markdown, for terminals and for `results.md`."""
    lines = [f"## {benchmark.name}", "", benchmark.about, "", "| ratio | |", "|---|---:|"]
    lines += [f"| {what} | {value:.3g} × |" for what, value in ratios(benchmark, document).items()]
    lines += ["", "| figure | |", "|---|---:|"]
    lines += [f"| {name} | {value:.4g} |" for name, value in document.items() if isinstance(value, int | float)]
    about = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
    return "\n".join([*lines, "", about, ""])


def ratios(benchmark: Benchmark, document: Mapping[str, Any]) -> dict[str, float]:
    """The ratios of which both figures were measured."""
    return {
        what: document[ours] / document[baseline]
        for what, (ours, baseline) in benchmark.ratios.items()
        if document.get(ours) is not None and document.get(baseline)
    }


def machine(packages: Sequence[str] = ()) -> dict[str, Any]:
    """On what it ran: processor, cores, memory, load at the end, and versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return models[0] if models else platform.machine()


def best_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Wall time of the fastest of some runs; the first is not counted where there are more."""
    times = []
    for _ in range(repeats + (repeats > 1)):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times[-repeats:])


def note(text: str) -> None:
    """Says on stderr what is being measured."""
    print(text, file=sys.stderr, flush=True)
