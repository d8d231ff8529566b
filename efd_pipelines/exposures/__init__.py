"""Exposures: the telemetry that belongs to each exposure, from the archive into the Consolidated Database.

`configuration.py` reads the observatory's transformation configurations, `functions.py` has the functions that they
name, `checking.py` compares them with what topics have, `windows.py` says when an exposure was, `columns.py` finds
a column's samples in the archive, `consdb.py` talks to the database, `results.py` keeps the tables of results, and
`joins.py` does the work.
"""
