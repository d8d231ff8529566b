"""Kafka: what the brokers and the schema registry hold, and how it is read.

`connection`: client properties and the mapping of librdkafka's errors. `brokers`: topics, offsets, settings.
`backlog`: reading records up to the end. `frames`: the records as they are read. `registry`: schemas by id and
subject. `catalogue`: all of it together, as discovery sees it. What a frame says: `efd_pipelines.avro`.
"""
