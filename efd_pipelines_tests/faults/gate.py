"""The gate: a process's system calls on files and to Kafka, held one by one until somebody says what becomes of each.

`shut` puts a seccomp filter before the calling process that hands every call that writes a file or sends a message to
the holder of its `Gate`, delta-rs's and librdkafka's among them, which no patch of Python sees. The holder lets a call
pass, makes it fail, waits with it as long as it likes, or kills the process. Linux 5.5 and later, x86-64 and ARM;
elsewhere `IS_AVAILABLE` is false and the harness says so. Who uses it: `zygote.py`.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import select
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

Kind = Literal["file", "kafka", "other"]

_ACTIONS = Path("/proc/sys/kernel/seccomp/actions_avail")
_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CALLS: Final[dict[str, dict[str, int]]] = {
    "x86_64": {
        "openat": 257,
        "rename": 82,
        "renameat": 264,
        "renameat2": 316,
        "link": 86,
        "linkat": 265,
        "unlink": 87,
        "unlinkat": 263,
        "mkdir": 83,
        "mkdirat": 258,
        "fsync": 74,
        "fdatasync": 75,
        "ftruncate": 77,
        "write": 1,
        "pwrite64": 18,
        "writev": 20,
        "sendmsg": 46,
    },
    "aarch64": {
        "openat": 56,
        "renameat": 38,
        "renameat2": 276,
        "linkat": 37,
        "unlinkat": 35,
        "mkdirat": 34,
        "fsync": 82,
        "fdatasync": 83,
        "ftruncate": 46,
        "write": 64,
        "pwrite64": 68,
        "writev": 66,
        "sendmsg": 211,
    },
}
_MACHINE = platform.machine()
_NAMES = {number: name for name, number in _CALLS.get(_MACHINE, {}).items()}
IS_AVAILABLE: Final = _MACHINE in _CALLS and _ACTIONS.exists() and "user_notif" in _ACTIONS.read_text()

# Where in a call's arguments its path or file descriptor stands; the last path is what the call makes.
_PATHS = {"openat": 1, "rename": 1, "renameat": 3, "renameat2": 3, "link": 1, "linkat": 3, "unlink": 0, "unlinkat": 1}
_PATHS |= {"mkdir": 0, "mkdirat": 1}

_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_LOAD, _EQUAL, _ANY_OF, _RETURN = 0x20, 0x15, 0x45, 0x06
_ARGUMENTS = 16
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_SET_NO_NEW_PRIVS = 38
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_MAX_PATH = 4096

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Call:
    """One call that waits: `what` is the path, or what the file descriptor is."""

    id: int
    pid: int
    name: str
    what: str

    def kind(self, root: str) -> Kind:
        """Whether it concerns files under `root`, or the brokers; librdkafka alone sends by sendmsg."""
        if self.name == "sendmsg":
            return "kafka"
        return "file" if self.what.startswith(root) else "other"


class Gate:
    """The other end of a shut gate: calls come, and wait."""

    def __init__(self, listener: int) -> None:
        self.number = listener

    @classmethod
    def received(cls, control: socket.socket) -> Self:
        """The gate of the process at the other end of `control`, once it has shut it."""
        _, (listener,), _, _ = socket.recv_fds(control, 1, 1)
        return cls(listener)

    def register(self, poll: select.poll) -> None:
        """Has `poll` say when a call waits."""
        poll.register(self.number, select.POLLIN)

    def next(self) -> Call | None:
        """The call that waits; None when there is none any more."""
        buffer = bytearray(80)
        try:
            fcntl.ioctl(self.number, _RECEIVE, buffer)
        except OSError:
            return None  # the process was killed between
        number, pid, _flags, call = struct.unpack_from("=QIIi", buffer)
        arguments = struct.unpack_from("=6Q", buffer, 32)
        name = _NAMES[call]
        return Call(number, pid, name, _object(pid, name, arguments))

    def let(self, call: Call) -> None:
        """The call is done as if nobody had looked."""
        self._answer(struct.pack("=QqiI", call.id, 0, 0, _CONTINUE))

    def fail(self, call: Call, number: int) -> None:
        """The call is not done and fails with this `errno`."""
        self._answer(struct.pack("=QqiI", call.id, 0, -number, 0))

    def _answer(self, answer: bytes) -> None:
        try:
            fcntl.ioctl(self.number, _SEND, bytearray(answer))
        except OSError:
            return  # the process was killed between


def shut(control: socket.socket, kind: Kind) -> None:
    """Shuts the gate before this process, which must have one thread, and gives its other end to `control`'s.

    Only calls that may be of that kind are held: each costs two changes of process. Messages by `control` itself pass,
    if they are sent with `sendmsg`.
    """
    calls = {name: number for name, number in _CALLS[_MACHINE].items() if (name == "sendmsg") == (kind == "kafka")}
    program = _program(calls, _ARCHITECTURES[_MACHINE], control.fileno())
    code = ctypes.create_string_buffer(program)
    filtered = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    if _libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    listener = _libc.syscall(
        _SECCOMP[_MACHINE], _SET_MODE_FILTER, _NEW_LISTENER, ctypes.create_string_buffer(filtered, len(filtered))
    )
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    socket.send_fds(control, [b"g"], [listener])
    os.close(listener)


def _program(calls: dict[str, int], architecture: int, control: int) -> bytes:
    """The filter in BPF: architecture, then call by call."""
    steps = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, 0)]
    for name, number in calls.items():
        if name == "openat":
            steps += _unless(number, argument=2, test=(_ANY_OF, _WRITING), otherwise=_NOTIFY, then=_ALLOW)
        elif name == "sendmsg":
            steps += _unless(number, argument=0, test=(_EQUAL, control), otherwise=_ALLOW, then=_NOTIFY)
        else:
            steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _NOTIFY)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", code, yes, no, value) for code, yes, no, value in steps)


def _unless(
    number: int, *, argument: int, test: tuple[int, int], otherwise: int, then: int
) -> list[tuple[int, int, int, int]]:
    """For one call: `otherwise` where its argument passes the test, `then` where not."""
    code, value = test
    return [
        (_EQUAL, 0, 4, number),
        (_LOAD, 0, 0, _ARGUMENTS + 8 * argument),
        (code, 0, 1, value),
        (_RETURN, 0, 0, otherwise),
        (_RETURN, 0, 0, then),
    ]


def _object(pid: int, name: str, arguments: tuple[int, ...]) -> str:
    """What the call is about: a path from the process's memory, or what its file descriptor is."""
    try:
        if name in _PATHS:
            return _text(pid, arguments[_PATHS[name]])
        return str(Path(f"/proc/{pid}/fd/{arguments[0]}").readlink())
    except OSError:
        return ""  # the process was killed between


def _text(pid: int, address: int) -> str:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        # Not over the end of a page, behind which there may be none.
        found = memory.read(_MAX_PATH - address % _MAX_PATH)
        if b"\0" not in found:
            found += memory.read(_MAX_PATH)
    return found.partition(b"\0")[0].decode(errors="replace")
