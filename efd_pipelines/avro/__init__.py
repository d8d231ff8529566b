"""Avro: from the bytes of a frame to Arrow columns.

`frames`: the five bytes before the body. `bodies`: where the others lie. `decoder`: bodies of one schema → the columns
of a layout; what every decoder promises (`attempts`), and their order. `compiled` and `messages`: the two decoders,
fast and thorough; `kernel` is the compiled part of the fast one. `columns`: fields as Arrow arrays → flat columns.
`grammar`: Avro schemas reduced to what decoding needs, and a strict check of a body. `json`: values that are JSON text.
Where frames come from: `efd_pipelines.kafka`.
"""
