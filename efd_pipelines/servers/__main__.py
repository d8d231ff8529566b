"""The servers from a shell: `python -m efd_pipelines.servers start|stop|status|install [NAME ...]`.

What `make services` and `make services-stop` run. Settings that reach the servers go to stdout and to the
file `env` in their directory, everything else to stderr.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from efd_pipelines.errors import EfdError
from efd_pipelines.servers.services import DEFAULT_DIRECTORY, SERVERS, Services


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("efd_pipelines").setLevel(logging.INFO)
    try:
        services = Services.named(options.directory, options.names)
        ACTIONS[options.action](services)
    except EfdError as error:
        print(f"Error: {error.message}\nRemedy: {error.remedy}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m efd_pipelines.servers", description="Start and stop the real servers."
    )
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SERVERS)}; all when none is given")
    parser.add_argument("--directory", type=Path, default=DEFAULT_DIRECTORY, help="where they keep their data")
    return parser


def _start(services: Services) -> None:
    for name, value in services.start().items():
        print(f"{name}={value}")
    print(f"Reach them with: set -a; . {services.env_path}; set +a", file=sys.stderr)


def _stop(services: Services) -> None:
    services.stop()


def _status(services: Services) -> None:
    for server in services.servers:
        state = "running" if server.is_running() else "stopped"
        print(f"{server.name:10} {state}  {server.directory}")


def _install(services: Services) -> None:
    for server in services.servers:
        server.install()


ACTIONS = {"start": _start, "stop": _stop, "status": _status, "install": _install}

if __name__ == "__main__":
    sys.exit(main())
