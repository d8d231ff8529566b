"""Everything Dagster: what the UI shows, what runs when. One short file per concept.

`sources` (Kafka's topics), `archive`, `tiers`, `exposures`, `reports` and `exports` have the assets and the ops of
each stage; `jobs` puts ops together, `sensors` and `schedules` start jobs, `checks` judge the archive. `events` is
what Dagster is told of work that was done, `metadata` its keys, `failures` how errors look.
A body here calls one function of the domain and turns what that gives into metadata; the domain knows no Dagster.
The domain is imported where it is called: every run, tick and page loads these modules, 1.5 s faster without it.
"""
