"""All benchmarks, one after the other, each in a process of its own; writes `results.md` beside this file."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import benchmarks
from benchmarks import Benchmark, as_text, note

RESULTS = Path(__file__).with_name("results.md")


def main() -> int:
    parts, failed = [], []
    for name in sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.ispkg):
        if name.startswith("_"):
            continue
        note(f"— {name}")
        answer = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", "--json"], stdout=subprocess.PIPE, check=False, text=True
        )
        if answer.returncode:
            failed.append(name)
            continue
        benchmark: Benchmark = importlib.import_module(f"benchmarks.{name}").BENCHMARK
        parts.append(as_text(benchmark, json.loads(answer.stdout)))
        print(parts[-1], flush=True)
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    RESULTS.write_text("\n".join([f"# Benchmarks, {when}", "", *parts]), encoding="utf-8")
    note(f"Written to {RESULTS}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
