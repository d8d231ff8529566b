"""Ports: free ones, chosen once per server and remembered in its directory.

A restart keeps the ports, so that clients reconnect, and two checkouts side by side never meet. Ports given
by settings win over remembered ones. Who uses them: `server.py`.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

# Below the range from which Linux takes the client side of connections (32768 and up): a port of a stopped
# server must still be free when it starts again.
CHOICE = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(taken: Iterable[int] = ()) -> int:
    """A port on which nobody listens, not one of `taken`."""
    taken = set(taken)
    # Random and not counted upwards: two processes that choose at the same moment choose differently.
    while True:
        port = random.choice(CHOICE)  # noqa: S311
        if port not in taken and is_free(port):
            return port


def remembered(path: Path) -> dict[str, int]:
    """The ports that `path` remembers, by what each is for; none when there is no such file."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    return {str(name): int(port) for name, port in found.items()}


def settle(path: Path, wanted: Mapping[str, int]) -> dict[str, int]:
    """Ports for `wanted` (0: any): the given one, else the one `path` remembers, else a free one; kept."""
    before = remembered(path)
    ports: dict[str, int] = {}
    for name, given in wanted.items():
        ports[name] = given or before.get(name) or free_port([*ports.values(), *wanted.values()])
    if ports != before:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(ports, indent=2) + "\n")
        temporary.replace(path)
    return ports
