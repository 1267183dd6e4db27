"""Certificates for tests: an authority, a server on loopback, a client."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificates:
    """PEM files."""

    ca: Path
    server: Path  # with its key
    client: Path  # with its key


@cache
def _issued(generation: int) -> tuple[trustme.CA, trustme.LeafCert, trustme.LeafCert]:
    ca = trustme.CA()
    return ca, ca.issue_cert("localhost", "127.0.0.1"), ca.issue_cert("client@example.org")


def certificates(folder: Path, generation: int = 0) -> Certificates:
    """Written to the folder. Those of one generation are always the same, to save time."""
    ca, server, client = _issued(generation)
    found = Certificates(folder / "ca.pem", folder / "server.pem", folder / "client.pem")
    ca.cert_pem.write_to_path(found.ca)
    for path, leaf in ((found.server, server), (found.client, client)):
        path.touch(mode=0o600)
        leaf.private_key_and_cert_chain_pem.write_to_path(path)
    return found
