"""Names: from a Kafka topic to its dataset, component and kind, and to a safe path.

A dataset's name is its topic's without the home clusters' prefixes (design.md §2). Kafka's grammar
(`[A-Za-z0-9._-]`) is checked here once; whatever leaves this module is safe in paths, SQL and InfluxQL.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from efd_pipelines.errors import NameRejected

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_CLUSTER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SAL_PREFIX = "lsst.sal."
_ROOT = "lsst."
_EMPTY = "~"


class Kind(StrEnum):
    """What a topic carries."""

    TELEMETRY = "telemetry"
    EVENT = "event"
    COMMAND = "command"
    ACK = "ack"
    METRIC = "metric"


@dataclass(frozen=True, slots=True, order=True)
class Dataset:
    """What is archived of one topic: `[cluster@]namespace.name`."""

    topic: str
    cluster: str = ""

    def __post_init__(self) -> None:
        if not _TOPIC.fullmatch(self.topic) or "." not in self.topic:
            raise NameRejected(f"{self.topic!r} is no dataset's name")
        if self.cluster and not _CLUSTER.fullmatch(self.cluster):
            raise NameRejected(f"{self.cluster!r} is no cluster's name")

    @classmethod
    def parse(cls, text: str) -> Dataset:
        """The dataset of `[cluster@]namespace.name`.

        Raises:
            NameRejected: the text is none.
        """
        cluster, at, topic = text.rpartition("@")
        if at and not cluster:
            raise NameRejected(f"{text!r} is no dataset's name")
        return cls(topic, cluster)

    @property
    def text(self) -> str:
        return f"{self.cluster}@{self.topic}" if self.cluster else self.topic

    def __str__(self) -> str:
        return self.text

    @property
    def is_sal(self) -> bool:
        return self.topic.startswith(_SAL_PREFIX) and self.topic.count(".") >= 3

    @property
    def component(self) -> str:
        component = self.topic.split(".", 3)[2] if self.is_sal else self.topic.rpartition(".")[0]
        return f"{self.cluster}@{component}" if self.cluster else component

    @property
    def name(self) -> str:
        return self.topic.split(".", 3)[3] if self.is_sal else self.topic.rpartition(".")[2]

    @property
    def namespace(self) -> str:
        return self.topic[: len(self.topic) - len(self.name) - 1]

    @property
    def kind(self) -> Kind:
        if not self.is_sal:
            return Kind.METRIC
        return kind_of_name(self.name)

    @property
    def path(self) -> str:
        """`<component>/<name>`, safe as a relative path and distinct for distinct datasets."""
        return f"{_path_token(self.component)}/{_path_token(self.name)}"


def kind_of_name(name: str) -> Kind:
    """The kind that a SAL name tells."""
    if name.startswith("logevent_"):
        return Kind.EVENT
    if name.startswith("command_"):
        return Kind.COMMAND
    return Kind.ACK if name == "ackcmd" else Kind.TELEMETRY


def _path_token(token: str) -> str:
    """Kafka allows what a path must not be: empty, hidden, or Delta's own `_` names. `~` is not in its grammar."""
    return f"{_EMPTY}{token}" if not token or token[0] in "._" else token


def dataset_of(topic: str, home_prefixes: Sequence[str] = ()) -> Dataset | None:
    """The dataset of a Kafka topic; None where the topic is not the EFD's (`__consumer_offsets`, `connect-…`).

    `home_prefixes`, e.g. `("summit.",)`, are cut off; any other cluster's prefix stays as `cluster@`.
    """
    for prefix in home_prefixes:
        if prefix and topic.startswith(prefix + _ROOT):
            return Dataset(topic[len(prefix) :])
    if topic.startswith(_ROOT) and len(topic) > len(_ROOT):
        return Dataset(topic)
    cluster, dot, rest = topic.partition(".")
    if dot and cluster and rest.startswith(_ROOT) and len(rest) > len(_ROOT) and _CLUSTER.fullmatch(cluster):
        return Dataset(rest, cluster)
    return None


def match(globs: Iterable[str], text: str) -> bool:
    """Whether any of the globs (case-sensitive, `*` spans dots) matches."""
    return any(fnmatchcase(text, glob) for glob in globs)


def nearest(name: str, names: Iterable[str], count: int = 3) -> str:
    """`; did you mean …?` with the nearest of `names`, or nothing."""
    close = difflib.get_close_matches(name, list(names), n=count, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""
