"""SQL: the archive, its tiers, the ledger and ConsDB in one DuckDB, to be asked and not to be changed.

`session.py` answers statements; `names.py` says what the datasets are called there, `views.py` what their rows are,
`consdb.py` brings tables of ConsDB, `statements.py` refuses what is no question. Nothing here needs Dagster or Kafka:
`efd sql` uses it, and so can a notebook. For users: docs/sql.md.
"""

from efd_pipelines.sql.session import Answer, SqlSession

__all__ = ["Answer", "SqlSession"]
