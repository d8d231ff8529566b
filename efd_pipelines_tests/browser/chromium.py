"""Where a Chromium is, and in CI how one gets there: from Debian's packages, as root or without.

On somebody's own machine nothing is installed: the tests say what is missing and are skipped. In CI nothing may go
untested, so it is installed: by apt as root, else its packages are fetched and unpacked into the servers' cache.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from efd_pipelines.servers import cache
from efd_pipelines.servers.cache import NotInstalled

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGE = "chromium"
_INSTALL = ("install", "--yes", "--no-install-recommends", PACKAGE)
# Somebody else on this machine may be installing, too.
_PATIENT = ("-o", "DPkg::Lock::Timeout=600")
_STARTER = """\
#!/bin/sh
here=$(dirname "$0")
libraries=$(ls -d "$here"/usr/lib/*-linux-gnu* "$here"/usr/lib/*-linux-gnu*/pulseaudio "$here"/lib/*-linux-gnu* \\
    2>/dev/null | tr '\\n' ':')
LD_LIBRARY_PATH="$libraries$LD_LIBRARY_PATH" exec "$here/usr/lib/chromium/chromium" "$@"
"""


def executable(*, may_install: bool) -> Path:
    """A Chromium that can be started.

    Raises:
        NotInstalled: there is none, and none could be installed.
    """
    found = _on_path()
    if found is not None:
        return found
    if not may_install:
        raise NotInstalled("No Chromium is on PATH", remedy="Install it (Debian: apt install chromium).")
    if shutil.which("apt-get") is None:
        raise NotInstalled("No Chromium is on PATH, and no apt-get that could fetch one", remedy="Install Chromium.")
    if os.geteuid() == 0:
        return _installed_as_root()
    return cache.installed(PACKAGE, f"debian-{cache.platform()}", unpack) / PACKAGE


def _on_path() -> Path | None:
    return next((Path(path) for name in NAMES if (path := shutil.which(name))), None)


def _installed_as_root() -> Path:
    """Chromium as apt installs it, by one of the tests' processes while the others wait."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with cache.locked(cache.directory() / f"{PACKAGE}-apt.lock"):
        found = _on_path()
        if found is not None:
            return found
        install = ["apt-get", *_PATIENT, *_INSTALL]
        if subprocess.run(install, env=environment, check=False, capture_output=True).returncode:
            _run(["apt-get", "update"])
            _run(install, environment=environment)
    return _on_path() or Path(f"/usr/bin/{PACKAGE}")


def unpack(directory: Path) -> None:
    """Fetches what is not on this machine of Chromium and what it needs, and unpacks it, without root."""
    plan = _run(["apt-get", "--simulate", *_INSTALL])
    packages = re.findall(r"^Inst (\S+)", plan, flags=re.MULTILINE)
    if not packages:
        raise NotInstalled("apt-get does not know how to get Chromium", remedy="Install Chromium.")
    fetched = directory / "packages"
    fetched.mkdir()
    _run(["apt-get", "download", *packages], directory=fetched)
    for package in sorted(fetched.glob("*.deb")):
        _run(["dpkg", "--extract", str(package), str(directory)])
    shutil.rmtree(fetched)
    starter = directory / PACKAGE
    starter.write_text(_STARTER)
    starter.chmod(0o755)


def _run(command: Sequence[str], *, directory: Path | None = None, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise NotInstalled(f"`{' '.join(command[:3])}` failed: {' '.join(last)}", remedy="Install Chromium.")
    return done.stdout
