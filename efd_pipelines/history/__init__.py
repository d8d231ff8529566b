"""History: what Kafka no longer has, from InfluxDB or from files exported from it, put where the archive lacks it.

Read the modules in this order: `intervals` (stretches of event time), `coverage` (which of them the archive lacks),
`sources` (who may have them), `influx` and `lines` (the two that there are; `configured`: those that the settings
name), `casting` (InfluxDB's values back in the types in which they were sent), `filling` (rows → commits), `asked`
(what has been asked for already), `answers` (what the sources give, committed piece by piece), `turns` (one process at
a time asks the server), then `healing`, which does all of it, `results` (what it came to), `planning` (what is next).
`holders` says who still has what the archive lacks.
"""
