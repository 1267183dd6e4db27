"""Debian packages of which the guest is made: fetched by apt-get and unpacked, never installed. No need to be root."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

# Small, and has every driver that the tests want. Its package is named by what this one depends on.
KERNEL = "linux-image-cloud-amd64"
TOOLS = ("busybox-static",)
FETCH_S = 600.0


class Unavailable(Exception):
    """What the guest needs can't be had here; the message says why."""


def _run(command: list[str], folder: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_S, check=False)
    except FileNotFoundError as missing:
        raise Unavailable(f"{command[0]} is missing: the guest is made of Debian's packages") from missing
    except subprocess.TimeoutExpired as late:
        raise Unavailable(f"{' '.join(command)}: still running after {FETCH_S:g} s") from late
    if done.returncode:
        raise Unavailable(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Packages:
    """The current versions by the system's lists; when those are missing or stale, by lists of our own in `cache`."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._options = ["-q", "-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else ["-q"]
        try:
            self._look()
        except Unavailable:
            self._update()
            self._look()

    def _apt(self, program: str, *words: str, folder: Path | None = None) -> str:
        return _run([program, *self._options, *words], folder)

    def _update(self) -> None:
        lists = self._cache / "apt"
        for name in ("lists/partial", "archives/partial"):
            (lists / name).mkdir(parents=True, exist_ok=True)
        self._options += ["-o", f"Dir::State::lists={lists}/lists/", "-o", f"Dir::Cache={lists}/"]
        self._apt("apt-get", "update")

    def _look(self) -> None:
        depends = self._apt("apt-cache", "depends", KERNEL)
        found = re.search(r"Depends: (linux-image-\S+)", depends)
        if not found:
            raise Unavailable(f"apt-cache depends {KERNEL}: no kernel in {depends!r}")
        self.names = [found[1], *TOOLS]
        uris = self._apt("apt-get", "download", "--print-uris", *self.names)
        self.versions = sorted(line.split()[1] for line in uris.splitlines() if line.startswith("'"))
        if len(self.versions) != len(self.names):
            raise Unavailable(f"apt-get knows no way to download all of {' '.join(self.names)}")

    def fetch(self, folder: Path) -> None:
        """Unpack them all into the folder."""
        downloads = folder.parent / "debs"
        downloads.mkdir(exist_ok=True)
        try:
            self._apt("apt-get", "download", *self.names, folder=downloads)
        except Unavailable:  # gone from the mirror since the lists were fetched
            self._update()
            self._look()
            self._apt("apt-get", "download", *self.names, folder=downloads)
        for package in sorted(downloads.glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(folder)])
