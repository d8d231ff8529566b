"""Publishing: tiers and events into InfluxDB, where people look.

`policy.py` says which topics and fields go into which database; `stale.py` finds what has changed since it was
published, `rows.py` reads it, `lines.py` makes line protocol of it (`kernel.py` is its compiled part), `difference.py`
compares that with what `records.py` remembers to be there, `influx.py` writes, `deleting.py` deletes, `publish.py` puts
these together. `server.py` asks an InfluxDB of 1.x or 2.x, `administration.py` makes its databases and keeps their
retention, `counts.py` compares it with what is published.
For users and operators: docs/publishing.md.
"""
