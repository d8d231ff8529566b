"""Exposures: the telemetry that belongs to each exposure, from the archive into the Consolidated Database.

`configuration.py` reads the observatory's transformation configurations, `configured.py` says which are in force,
`checking.py` compares them with what topics have. `subjects.py` are exposures and visits, `windows.py` says when they
were, `consdb.py` talks to the database. `columns.py` finds a column's fields in the archive, `stretches.py` reads rows,
`samples.py` and `packed.py` make samples of them, `functions.py`, `moments.py` and `kernel.py` values of these.
`plans.py` and `computing.py` put that together, `staleness.py` says what is to be computed, `joins.py` does the work.
`tables.py`, `results.py` and `bulk.py` keep the results; `explaining.py` shows where one comes from.
"""
