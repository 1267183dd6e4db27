"""Daemons that are managed from afar, as pages have them: with TLS, a token, and an authority of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import trustme

from tests.docs.shell import Place
from tests.support.process import daemon

TOKEN = "5b0f6a8d9c3e2714" * 4


@contextmanager
def remote_hosts(place: Place) -> Iterator[None]:
    """storage1 and storage2; ca.pem and ~/.virtiod-token to reach them with."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(place.folder / "ca.pem"))
    issued = authority.issue_cert("localhost")
    certificate = place.folder / "host.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    tokens = place.folder / "tokens"
    tokens.write_text(f"admin operator {TOKEN}\n")
    own = place.folder / ".virtiod-token"
    own.write_text(TOKEN)
    for secret in (certificate, tokens, own):
        secret.chmod(0o600)
    with ExitStack() as stack:
        for name in ("storage1", "storage2"):
            (place.folder / name).mkdir()
            address = f"127.0.0.1:{place.ports[name]}"
            options = ("--http", address, "--http-tokens", tokens, "--http-rpc", "--http-cert", certificate)
            stack.enter_context(daemon(place.folder / name, *options))
        yield
