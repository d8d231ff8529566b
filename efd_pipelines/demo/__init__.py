"""The demo: the whole path on a simulated observatory, in one directory, and its UI.

`site.py` is that directory: its broker, registry, archive, database and Dagster home, and who uses it. `observatory.py`
decides what is simulated next, `run.py` runs the job `main` once (`efd demo`), `dev.py` keeps everything running with
the UI (`efd dev`), `children.py` are the processes that both start. Dagster is only executed here, never imported.
"""
