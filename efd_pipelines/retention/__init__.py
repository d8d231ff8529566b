"""Retention: how long raw records and their summaries are kept, and letting go of what a policy says is due.

`policy.py` reads the policy of a deployment, `pins.py` keeps what must never go, `due.py` finds the weeks whose time
is over, `verification.py` proves that what is coarser covers them, `plan.py` puts these together, `enforce.py` lets
go, one week of one dataset at a time, `records.py` says what has gone and why. The commit: `archive/expiry.py`.
For users and operators: docs/retention.md.
"""
