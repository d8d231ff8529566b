"""Avro: from the bytes of a frame to Arrow columns.

`frames`: the five bytes before the body. `decoder`: bodies of one schema → the columns of a layout; what every
decoder promises, and their order. `batches` and `messages`: the two decoders there are, fast and thorough.
`columns`: fields as Arrow arrays → flat columns. `grammar`: Avro schemas reduced to what decoding needs, and a
strict check of a body. `json`: values that are JSON text. Where frames come from: `efd_pipelines.kafka`.
"""
