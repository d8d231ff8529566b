"""Tiers: summaries of fast telemetry at a fixed window, kept as tables of the archive's own kind.

`tier.py` says which tiers there are and which datasets have one; `windows.py` finds the windows of rows,
`statistics.py` computes over them (`kernel.py` is its compiled part), `columns.py` names the results, `rows.py`
reads what is summarised, `summary.py` puts these together, `build.py` finds what is stale and commits it.
The exact definitions for readers: docs/tiers.md.
"""
