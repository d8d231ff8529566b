"""Topics: what a record is called and looks like.

`names`: topics, datasets, kinds and components. `schemas`: Avro schemas as the archive sees them.
`layout`: how a schema becomes columns. Nothing here talks to a server.
"""
