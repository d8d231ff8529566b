"""Kafka: what the brokers and the schema registry hold, and how it is read.

`connection`: client properties and the mapping of librdkafka's errors. `brokers`: topics, offsets, settings.
`backlog`: reading records up to the end, in `chunks` of `frames`. `registry`: schemas by id and subject.
`catalogue`: brokers and registry together, as discovery sees them; one topic of it is in `catalogued`, what
changed in `changes`. What a frame says: `efd_pipelines.avro`.
"""
