"""Servers: the real Kafka, schema registry, S3, InfluxDB and PostgreSQL, started from packages alone.

For the demo, `make dev`, `make services` and the tests; production has its own. One module per server:

    from efd_pipelines.servers.kafka import KafkaServer

    with KafkaServer(tmp_path / "kafka") as kafka:  # started and healthy here, stopped at the end
        kafka.bootstrap                             # "127.0.0.1:24311"
        kafka.kill()                                # SIGKILL, as a power cut
        kafka.restart()                             # the same data on the same port

and likewise `registry.RegistryServer` (`.url`), `s3.S3Server` (`.endpoint`, `.access_key`, `.secret_key`,
`.region`), `influxdb.InfluxServer` (`.url`, `.inspect`) and `postgresql.PostgresServer` (`.url`). Every one
takes the directory for its data, log and pid file, starts on free ports that it remembers there, and can be
started twice without harm. `die_with_parent=True`, which the tests use, ends a server with the process that
started it, even when that is killed. `services.Services` starts several together and knows the `EFD_*`
settings that reach them; `python -m efd_pipelines.servers start kafka registry` is the same from a shell.

What belongs here: one module per server, `server.py` (what they have in common: starting, health, stopping),
`launch.py` (the step between our process and the server's), `cache.py` (where their programs are installed,
once per machine), `maven.py` and `golang.py` (how), `ports.py`, `services.py`. Nothing here needs root, a
system Java or a system Go.
"""
