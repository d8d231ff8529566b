"""Policies: how long raw records and each tier are kept, from one file per deployment.

A policy names, for `raw` and for each tier, a time for which it is kept, counted from the end of the week: `1 week`,
`90 days`, `3 months`, `1 year`, or `for ever`. What is coarser is kept at least as long as what is finer, and the
coarsest for ever, since nothing has it at a coarser window. Globs of topics may be kept longer or shorter. Shipped
policies lie in `policies/`; which one is in force, the configuration or EFD_RETENTION says. Errors name the line.
What a policy makes due: `due.py`.
"""

from __future__ import annotations

import calendar
import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from efd_pipelines.errors import SettingsError
from efd_pipelines.tiers.tier import TIERS
from efd_pipelines.topics.names import Dataset, match, nearest

if TYPE_CHECKING:
    from efd_pipelines.settings import Settings

RAW = "raw"
LEVELS = (RAW, *TIERS)
"""What is kept for a time, the finest first: raw records, then the tiers by their windows."""

_LAST = LEVELS[-1]
_SPAN = re.compile(r"([1-9]\d{0,4}) (day|week|month|year)s?")
_FOR_EVER = "for ever"
_KEYS = ("description", "keep", "topics")
_Path = tuple[str, ...]


class PolicyError(SettingsError):
    """A retention policy that is wrong."""

    remedy = "Mend the file; `efd retention show` says what is in force. Nothing is deleted meanwhile."


@dataclass(frozen=True, slots=True)
class Span:
    """For how long something is kept: a number of days, weeks, calendar months or years."""

    count: int
    unit: str

    def after(self, when: datetime) -> datetime:
        """The time that is this much later. A month later than the 31st is the last of a shorter month."""
        if self.unit in ("day", "week"):
            return when + timedelta(days=self.count * (7 if self.unit == "week" else 1))
        months = when.year * 12 + when.month - 1 + self.count * (12 if self.unit == "year" else 1)
        year, month = divmod(months, 12)
        day = min(when.day, calendar.monthrange(year, month + 1)[1])
        return when.replace(year=year, month=month + 1, day=day)

    def __str__(self) -> str:
        return f"{self.count} {self.unit}{'' if self.count == 1 else 's'}"


Keep = Mapping[str, Span | None]
"""By level, for how long it is kept; None: for ever."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How long what is kept. `topics` are globs with what differs for them, the first that fits decides."""

    name: str
    source: str
    description: str
    keep: Keep
    topics: Mapping[str, Keep] = field(default_factory=dict)

    def keeps(self, dataset: Dataset, level: str) -> Span | None:
        """For how long a level of a dataset is kept; None: for ever."""
        for glob, keep in self.topics.items():
            if match([glob], dataset.text):
                return keep[level]
        return self.keep[level]

    @property
    def keeps_everything(self) -> bool:
        return all(span is None for keep in (self.keep, *self.topics.values()) for span in keep.values())


def shipped() -> list[str]:
    """The names of the policies that come with the package."""
    names = [entry.name for entry in files(__package__).joinpath("policies").iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def policy_of(settings: Settings) -> Policy:
    """The policy of a deployment: EFD_RETENTION's, else the configuration's.

    Raises:
        PolicyError: there is no such policy, or it is wrong.
    """
    return read_policy(name_of(settings))


def name_of(settings: Settings) -> str:
    """The name or file of a deployment's policy; the configuration's file is beside it."""
    if settings.retention is not None:
        return settings.retention
    name = settings.configuration.retention.policy
    return name if name in shipped() or settings.config is None else str(Path(settings.config).parent / name)


def read_policy(name: str) -> Policy:
    """A shipped policy by its name, or one of a file.

    Raises:
        PolicyError: there is no such policy, or it is wrong.
    """
    if name in shipped():
        place = files(__package__).joinpath("policies", f"{name}.yaml")
        return parse_policy(place.read_text(encoding="utf-8"), name, f"{name}.yaml")
    if not name.endswith((".yaml", ".yml")):
        raise PolicyError(
            f"There is no retention policy {name!r}{nearest(name, shipped())}",
            remedy=f"There are {', '.join(shipped())}; a file of your own ends in .yaml.",
        )
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"The retention policy {path} cannot be read ({error})") from error
    return parse_policy(text, path.stem, str(path))


def parse_policy(text: str, name: str, source: str) -> Policy:
    """The policy of a text in YAML.

    Raises:
        PolicyError: it is wrong; with all that is, each with its line.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise PolicyError(f"The retention policy {source} is no YAML ({error})") from error
    reading = _Reading(source)
    policy = reading.policy(name, root)
    if policy is None or reading.problems:
        raise PolicyError("; ".join(reading.problems))
    return policy


class _Reading:
    """One reading of a policy's nodes; collects everything that is wrong."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.problems: list[str] = []

    def _wrong(self, node: yaml.Node | None, where: str, reason: str) -> None:
        line = 1 if node is None else node.start_mark.line + 1
        self.problems.append(f"{self._source}, line {line}: {where}: {reason}")

    def policy(self, name: str, root: yaml.Node | None) -> Policy | None:
        entries = dict(self._entries(root, "file", _KEYS))
        if "keep" not in entries:
            self._wrong(root, "keep", "it must say for how long raw and each tier are kept")
            return None
        general = self._keep(entries["keep"], "keep", None)
        topics: dict[str, Keep] = {}
        for glob, node in self._entries(entries.get("topics"), "topics", None):
            topics[glob] = self._keep(node, f"topics.{glob}", general)
        described = entries.get("description")
        if described is not None and not isinstance(described, yaml.ScalarNode):
            self._wrong(described, "description", "must be a text")
            return None
        return Policy(name, self._source, "" if described is None else str(described.value), general, topics)

    def _entries(
        self, node: yaml.Node | None, where: str, known: tuple[str, ...] | None
    ) -> Iterator[tuple[str, yaml.Node]]:
        """The entries of a mapping, each key once."""
        if node is None:
            return
        if not isinstance(node, yaml.MappingNode):
            self._wrong(node, where, "must be a mapping")
            return
        seen: dict[str, int] = {}
        for key, value in node.value:
            text = str(key.value)
            place = text if where == "file" else f"{where}.{text}"
            if text in seen:
                self._wrong(key, place, f"stands here twice, first in line {seen[text]}")
            elif known is not None and text not in known:
                self._wrong(key, place, f"not a key that is known here; there are {', '.join(known)}")
            else:
                seen[text] = key.start_mark.line + 1
                yield text, value

    def _keep(self, node: yaml.Node, where: str, general: Keep | None) -> Keep:
        """By level, for how long; of topics, what is not given is the general one, or what is finer, if longer."""
        before = len(self.problems)
        given = dict(self._entries(node, where, LEVELS))
        keep = {level: self._span(value, f"{where}.{level}") for level, value in given.items()}
        for level in (level for level in LEVELS if level not in given):
            if general is None:
                self._wrong(node, f"{where}.{level}", "is missing; write `for ever` to keep it")
                keep[level] = None
                continue
            finer = [keep[other] for other in LEVELS[: LEVELS.index(level)]]
            keep[level] = functools.reduce(_longer, finer, general[level])
        if len(self.problems) == before:
            self._check_order(node, where, given, keep)
        return keep

    def _check_order(self, node: yaml.Node, where: str, given: Mapping[str, yaml.Node], keep: Keep) -> None:
        for finer, coarser in itertools.pairwise(LEVELS):
            if _is_shorter(keep[coarser], keep[finer]):
                reason = f"is kept for a shorter time ({_text(keep[coarser])}) than {finer} ({_text(keep[finer])})"
                self._wrong(given.get(coarser, node), f"{where}.{coarser}", reason)
        if keep[_LAST] is not None:
            reason = f"nothing has it at a coarser window, so it must be kept {_FOR_EVER}"
            self._wrong(given.get(_LAST, node), f"{where}.{_LAST}", reason)

    def _span(self, node: yaml.Node, where: str) -> Span | None:
        text = str(node.value) if isinstance(node, yaml.ScalarNode) else ""
        if text == _FOR_EVER:
            return None
        found = _SPAN.fullmatch(text)
        if found is None:
            self._wrong(node, where, "must be `for ever` or a time as `1 week`, `90 days`, `3 months`, `1 year`")
            return None
        return Span(int(found[1]), found[2])


_ANY_TIME = datetime(2024, 1, 1, tzinfo=UTC)


def _is_shorter(one: Span | None, other: Span | None) -> bool:
    if one is None:
        return False
    return other is None or one.after(_ANY_TIME) < other.after(_ANY_TIME)


def _longer(one: Span | None, other: Span | None) -> Span | None:
    return other if _is_shorter(one, other) else one


def _text(span: Span | None) -> str:
    return _FOR_EVER if span is None else str(span)


def described(policy: Policy) -> dict[str, Any]:
    """A policy for people and programs."""
    return {
        "policy": policy.name,
        "source": policy.source,
        "description": policy.description,
        "keep": {level: _text(span) for level, span in policy.keep.items()},
        "topics": {glob: {level: _text(span) for level, span in keep.items()} for glob, keep in policy.topics.items()},
    }
