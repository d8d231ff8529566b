"""Sharing: who does the pieces of an export: this process, or the workers of Dask.

Pieces come back in the order in which they were asked for, with what was written of each; those that an interrupted
export had finished come back at once. What is done: `work.py`; the cluster: `efd_pipelines/cluster.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from efd_pipelines.cluster import cluster_at
from efd_pipelines.exports.destination import Stage
from efd_pipelines.exports.work import PieceWork, Written

if TYPE_CHECKING:
    from efd_pipelines.settings import Settings


def do_all(settings: Settings, stage: Stage, works: Iterable[PieceWork]) -> Iterator[tuple[PieceWork, Written]]:
    """Each piece with what was written of it.

    Raises:
        DaskUnavailable: the scheduler of EFD_DASK_SCHEDULER, or its workers, are gone.
        LostFile, StoreUnavailable: see `PieceWork.write`.
    """
    if not settings.dask_scheduler:
        for work in works:
            yield work, done_before(stage, work) or work.write(stage)
        return
    with cluster_at(settings.dask_scheduler) as cluster:
        for (_, work), written in cluster.results(_written, ((stage, work) for work in works)):
            yield work, written


def done_before(stage: Stage, work: PieceWork) -> Written | None:
    """What was written of a piece before the export was interrupted; None where any of it is not there."""
    data = stage.noted(work.record)
    if data is None:
        return None
    written = Written.from_json(data)
    return written if stage.holds({part.path: part.size_bytes for part in written.parts}) else None


def _written(task: tuple[Stage, PieceWork]) -> Written:
    stage, work = task
    return done_before(stage, work) or work.write(stage)
