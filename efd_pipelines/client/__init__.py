"""Client: what a notebook imports to read the archive.

    from efd_pipelines.client import EfdArchive

`archive.py` is what people call, with lsst-efd-client's names and arguments; importing it is quick and needs neither
Dagster nor Kafka nor a server. `reader.py` answers: `moments.py` and `windows.py` understand times, `fields.py` names
of fields, `portions.py` knows tables and other servers, `selection.py` is one question with its answer in any form,
`dask_frames.py`, `plots.py`, `answers.py` are some of the forms. `frames.py` and `packed.py` work on data frames alone.
For users: docs/client.md.
"""

from efd_pipelines.client.archive import EfdArchive
from efd_pipelines.client.asynchronous import AsyncEfdArchive
from efd_pipelines.client.frames import rendezvous_dataframes, resample
from efd_pipelines.client.packed import merge_packed_time_series

__all__ = [
    "AsyncEfdArchive",
    "EfdArchive",
    "merge_packed_time_series",
    "rendezvous_dataframes",
    "resample",
]
