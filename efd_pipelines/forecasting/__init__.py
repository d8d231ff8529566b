"""Forecasting: where the engineering data is going, and what leaves its past.

`growth.py` projects years from assumptions, `what_if.py` changes them, `databases.py` splits what grows too large;
`series.py` reads what has arrived, `forecast.py` carries it on (its proof, the back-test, is among the tests),
`capacity.py` says when a store is full; `report.py` puts these together, `render.py` writes them for people.
`counts.py` counts by half day (`half_days.py`), `detection.py` looks for topics that leave what is expected of them
(`references.py`, `twins.py`, `states.py`; `sporadic.py`, `record_sizes.py`, `creeps.py`), `anomalies.py` tells of them.
"""
