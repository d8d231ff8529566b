"""Restoring: records of the archive back to where they were lost: InfluxDB, files of line protocol, Kafka.

`portions.py` what there is to give back, `rows.py` reading it in order, `restore.py` the work; a target each in
`kafka.py`, `lines.py` and `influx.py`. What is done already stands at the target itself or is checked there, so that
a target that is lost again forgets it too.
"""
