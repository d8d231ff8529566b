"""Configured joins: which instruments are joined, and with which transformation configuration.

`exposures` of `EFD_CONFIG` says so; here it is found what a command line means by an instrument, a file or a column.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from efd_pipelines.configuration import ExposureJoin
from efd_pipelines.errors import UsageError
from efd_pipelines.exposures.configuration import TransformationError, load_transformation
from efd_pipelines.settings import Settings
from efd_pipelines.topics.names import Dataset, nearest


def find_join(settings: Settings, config: str) -> ExposureJoin:
    """The join that a command line's CONFIG means: an instrument of the configuration, its file, or another file.

    The instrument of a file that is not configured is told by its name, `config_<instrument>.yaml`.

    Raises:
        UsageError: it means none.
    """
    joins = settings.configuration.exposures
    for join in joins:
        if config in (join.instrument, join.config) or Path(config).absolute() == Path(join.config).absolute():
            return join
    named = re.fullmatch(r"(?:.*_)?([a-z][a-z0-9]*)", Path(config).stem)
    if config.endswith((".yaml", ".yml")) and Path(config).is_file() and named:
        return ExposureJoin(instrument=named[1], config=config)
    known = ", ".join(join.instrument for join in joins) or "none"
    raise UsageError(
        f"{config!r} is no instrument and no transformation configuration",
        remedy=f"Name an instrument ({known}), or a file config_<instrument>.yaml.",
    )


def join_with_column(settings: Settings, column: str) -> ExposureJoin:
    """The configured join that has a column.

    Raises:
        UsageError: none has, or several have.
        TransformationError: a configured file is wrong.
    """
    joins = settings.configuration.exposures
    columns = {join.instrument: {one.name for one in load_transformation(join.config).columns} for join in joins}
    found = [join for join in joins if column in columns[join.instrument]]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(join.instrument for join in found)
        raise UsageError(f"Several instruments have a column {column}", remedy=f"Give --config: one of {names}.")
    hint = nearest(column, set().union(*columns.values()))
    raise UsageError(f"No configured instrument has a column {column}{hint}", remedy="Give --config and its file.")


def datasets_read(joins: Iterable[ExposureJoin]) -> frozenset[Dataset]:
    """The datasets that joins read: what is to be archived within minutes.

    A join whose configuration is wrong has none: it must keep no record out of the archive.
    """
    found: set[Dataset] = set()
    for join in joins:
        try:
            found.update(load_transformation(join.config).datasets)
        except TransformationError:
            continue  # Its asset's description says what is wrong, and so does each of its runs.
    return frozenset(found)
