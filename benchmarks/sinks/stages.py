"""Stages: what a drain spends processor time on, by measuring its steps from outside.

Each step is wrapped in what counts its thread's processor time, without that of steps within it. What is left of the
process's time is `rest`: threads of librdkafka and delta-rs, loading code, what stands between the steps.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

STAGES = ("consume", "decode", "slice", "encode", "write", "commit", "rest")


class Stages:
    """Counts processor time by stage from the moment it is made, in this process."""

    def __init__(self) -> None:
        from efd_pipelines.archive import encoding, writing
        from efd_pipelines.kafka import backlog

        self._spent: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._within = threading.local()
        self._began = time.process_time()
        steps: list[tuple[Any, str, str]] = [
            (backlog._Reader, "_take", "consume"),
            (encoding, "decode", "decode"),
            (encoding, "_with_system", "slice"),
            (encoding, "_sort_into", "slice"),
            (writing, "sort_rows", "slice"),
            (writing, "encoded_file", "encode"),
            (writing, "put_file", "write"),
            (writing, "commit", "commit"),
        ]
        for owner, name, stage in steps:
            setattr(owner, name, self._measured(getattr(owner, name), stage))

    def _measured(self, step: Callable[..., Any], stage: str) -> Callable[..., Any]:
        @functools.wraps(step)
        def measured(*args: Any, **named: Any) -> Any:
            inner: list[float] = self._within.__dict__.setdefault("inner", [])
            inner.append(0.0)
            began = time.thread_time()
            try:
                return step(*args, **named)
            finally:
                whole = time.thread_time() - began
                own = whole - inner.pop()
                if inner:
                    inner[-1] += whole
                with self._lock:
                    self._spent[stage] += own

        return measured

    def cpu_s(self) -> dict[str, float]:
        """Seconds by stage so far."""
        spent = dict(self._spent)
        spent["rest"] = time.process_time() - self._began - sum(spent.values())
        return {stage: spent.get(stage, 0.0) for stage in STAGES}
