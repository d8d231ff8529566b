"""Sharing: who computes the values of exposures: this process, or, where there are many, the workers of Dask.

Values come back in the order in which they were asked for and are written by the process that asked (`joins.py`), so
that a lost worker loses nothing: another computes the same windows again. What is computed: `computing.py`; the
cluster: `efd_pipelines/cluster.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from efd_pipelines.cluster import cluster_at
from efd_pipelines.exposures.computing import Progress, Values, Work, compute
from efd_pipelines.exposures.plans import Plan
from efd_pipelines.exposures.windows import Windows

if TYPE_CHECKING:
    from efd_pipelines.settings import Settings

Wanted = tuple[Plan, Windows]
"""Columns, and the windows whose values are wanted."""


def compute_all(settings: Settings, wanted: Sequence[Wanted], progress: Progress | None = None) -> Iterator[Values]:
    """The values of each, in order.

    Raises:
        DaskUnavailable: the scheduler of EFD_DASK_SCHEDULER, or its workers, are gone.
        StoreUnavailable: the archive does not answer.
    """
    if not settings.dask_scheduler or len(wanted) < 2:
        for plan, windows in wanted:
            yield compute(plan, windows, progress)
        return
    with cluster_at(settings.dask_scheduler) as cluster:
        works = (Work.of(plan, windows) for plan, windows in wanted)
        for done, (_, values) in enumerate(cluster.results(Work.compute, works)):
            if progress is not None:
                progress("Joining on the Dask cluster", done, len(wanted))
            yield values
