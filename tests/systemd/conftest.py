"""The machine that the tests of this folder share, with the package installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.peers import requires
from tests.systemd.machine import ROOT, Machine, booted

PACKAGE_S = 900.0


@pytest.fixture(scope="session")
def package() -> Path:
    """The Debian package, built unless nothing has changed since."""
    requires("dpkg-buildpackage", "dh")
    done = subprocess.run(
        [ROOT / "scripts" / "package.sh"], capture_output=True, text=True, timeout=PACKAGE_S, check=False
    )
    if done.returncode:
        pytest.fail(f"scripts/package.sh: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def machine(package: Path) -> Iterator[Machine]:
    run_dir = Path(tempfile.mkdtemp(prefix="vs-", dir="/tmp"))
    try:
        with booted(run_dir) as machine:
            machine.copy(package, "/srv/virtiod.deb")
            machine.run("dpkg", "-i", "/srv/virtiod.deb")
            yield machine
    finally:
        shutil.rmtree(run_dir)
