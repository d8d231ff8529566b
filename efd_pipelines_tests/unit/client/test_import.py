"""Importing the client is quick and brings neither Dagster nor Kafka nor anything that connects."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, sys, resource
before = resource.getrusage(resource.RUSAGE_SELF)
from efd_pipelines.client import EfdArchive
after = resource.getrusage(resource.RUSAGE_SELF)
seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(json.dumps([seconds, sorted(name for name in sys.modules if "." not in name)]))
"""


def test_importing_takes_less_than_a_second_and_brings_little() -> None:
    answer = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, check=True, text=True)
    seconds, modules = json.loads(answer.stdout)
    assert seconds < 1.0  # of processor time: the machine may be busy
    heavy = {
        "dagster",
        "confluent_kafka",
        "distributed",
        "dask",
        "duckdb",
        "matplotlib",
        "numba",
        "pandas",
        "sqlalchemy",
    }
    assert not heavy & set(modules)
