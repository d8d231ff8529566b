"""The archive: every record, exactly once, as one Delta table per dataset, partitioned by week (design.md §4).

Read the modules in this order: `store` (a directory or S3), `slices` (units of time), `files` (Parquet files),
`tables` (snapshots and guarded commits), `ledger` (the index of all commits), `reading`, `archive` (the front door),
then the work: `encoding` (frames → rows), `drain` (Kafka → commits), `merging` and `sealing`, `status`,
`dead_letters` and `quarantine`. What proves it: `audit` (metadata), `deep_audit` and `file_audit` (every file),
`recount` and `value_audit` (Kafka), `certificate_audit`, `sequences` (the writers' own numbers). `collapse` keeps the
ledger small, `reindex` makes it anew.
"""
