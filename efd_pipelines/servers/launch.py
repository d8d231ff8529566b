"""Launching: the step between our process and the server's program. Run as a script, never imported.

Executed as `python -I -S launch.py PARENT UID GID PROGRAM [ARGUMENT ...]`: becomes the user UID:GID (-1:
stays who it is), asks the kernel to be killed with process PARENT (0: lives on), and turns into PROGRAM. A
step of its own because the kernel forgets the request when the user changes, and because code between fork
and exec in a process that runs librdkafka's threads can deadlock. Starting it: `server.py`.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Change user, tie the life of this process to its parent's, become the program."""
    parent, uid, gid = (int(argument) for argument in sys.argv[1:4])
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if parent:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the process that wanted this server has ended")
    os.execv(sys.argv[4], sys.argv[4:])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
