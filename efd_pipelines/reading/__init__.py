"""Reading: which files, row groups and columns hold an answer, and getting them, from a disk or from S3.

`scan.py` is one question to one table and gives its rows in the order of time, each record once; `groups.py` finds row
groups by their statistics; `footers.py` keeps what files say of themselves; `ranges.py` fetches bytes;
`estimate.py` says how much it will be before it is read, `completeness.py` what the archive is known to lack.
Built on tables and the ledger, knows neither of files of an export nor of notebooks: `efd_pipelines.client` and
`efd_pipelines.exports` are above.
"""
