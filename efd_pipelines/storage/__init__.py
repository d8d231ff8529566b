"""Storage: what keeping the engineering data costs, per week, component and topic.

`sizes.py` measures (the ledger; published tables instead), `throughput.py` makes the weekly report of it,
`render.py` writes it for people, `chart.py` draws it.
"""

from efd_pipelines.storage.throughput import StorageReport, storage_report

__all__ = ["StorageReport", "storage_report"]
