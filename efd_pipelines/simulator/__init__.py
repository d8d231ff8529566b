"""The simulator: puts SAL-faithful records onto Kafka, for the demo, for development and for the tests.

`sal`: what a topic looks like on the wire; `fixtures`: built-in definitions. `encoding`: columns → Avro
bodies; `series`: the records of one topic; `producer`: topics, schemas and records onto Kafka.
Sources of records: `replay` (recorded EFD results), `observatory` (a deterministic one, from a seed),
`everything` (each SAL topic there is), `faulty` (what must not happen and does).
"""
