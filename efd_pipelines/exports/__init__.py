"""Exports: plain directories of Parquet, for Dask, pandas and everybody else.

An archive is read through its log; an export as it lies: sorted by time, one schema per topic, no file that
others replaced. Read the modules in this order: `request` (what is asked for and what that means in this
archive), `stream` (rows in order of time, in little memory), `parts` (rows → files), `destination` (where
they go, all or nothing), `manifest` (what the export says of itself), `export` (the work).
"""

from efd_pipelines.exports.export import ExportResult, export

__all__ = ["ExportResult", "export"]
