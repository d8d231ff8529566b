"""Fixtures: definitions of the topics that the simulator knows without any other file.

At least the fixture topics of efd-facts §13, what `observatory.py` produces and what the recorded nights
hold, so that a replay knows their types. The facts stand in `fixtures.txt`: a topic's name, `indexed` where
its component is, then its public fields in order, a line for each run of one SAL type and unit.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

from efd_pipelines.errors import UsageError
from efd_pipelines.simulator.sal import SalField, SalTopic
from efd_pipelines.topics.names import nearest

_RUN = re.compile(r"  (?P<type>[a-z ]+?)(?: \((?P<units>.+)\))?: (?P<names>.+)")
_NAME = re.compile(r"(?P<name>\w+)(?:\[(?P<count>\d+)\])?")


@functools.cache
def builtin_topics() -> Mapping[str, SalTopic]:
    """All built-in topics by name."""
    text = resources.files(__package__).joinpath("fixtures.txt").read_text(encoding="utf-8")
    topics = {}
    for block in re.split(r"\n(?=\S)", text.rstrip("\n")):
        head, *runs = block.split("\n")
        name, _, indexed = head.partition(" ")
        fields = [field for run in runs for field in _fields(run)]
        topics[name] = SalTopic.of(name, fields, indexed=indexed == "indexed")
    return MappingProxyType(topics)


def builtin_topic(name: str) -> SalTopic:
    """The built-in topic of a name, with or without `lsst.sal.`.

    Raises:
        UsageError: there is none.
    """
    topics = builtin_topics()
    full = name if name.startswith("lsst.") else f"lsst.sal.{name}"
    if full not in topics:
        raise UsageError(f"{name!r} is no built-in topic{nearest(full, topics)}")
    return topics[full]


def _fields(run: str) -> list[SalField]:
    found = _RUN.fullmatch(run)
    assert found, f"fixtures.txt has a line that is no run of fields: {run!r}"
    fields = []
    for word in found["names"].split():
        part = _NAME.fullmatch(word)
        assert part, f"fixtures.txt has a word that is no field: {word!r}"
        count = int(part["count"] or 1)
        fields.append(SalField(part["name"], found["type"], count, found["units"] or "unitless"))
    return fields
