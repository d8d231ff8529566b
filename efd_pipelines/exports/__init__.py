"""Exports: plain directories of Parquet, for Dask, pandas and everybody else.

An archive is read through its log; an export as it lies: sorted by time, one schema per topic, no file that
others replaced. Read the modules in this order: `request` (what is asked for), `ranges` (its times), `selection` (what
that means in this archive), `shape` (the columns that are written), `pieces` (work that can be done anywhere and
again), `estimate` (what it will be), `stream` (rows in order of time, in little memory), `parts` (rows → files),
`work` (one piece), `sharing` (who does it), `destination`, `directory` and `bucket` (where it goes, all or nothing),
`provenance`, `manifest` and `readme` (what the export says of itself), `export` (the order of it all).
"""

from efd_pipelines.exports.export import ExportResult, export

__all__ = ["ExportResult", "export"]
