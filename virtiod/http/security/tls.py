"""TLS of the HTTP server: 1.2 or newer, with a certificate that can be renewed while it runs."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from virtiod.core.errors import InvalidArgument
from virtiod.http.security.secretfile import read_secret, secret_path


@dataclass(frozen=True)
class TlsFiles:
    """PEM files, or credential:NAME. key: "" when it is in the certificate's; client_ca: "" for any client."""

    cert: str
    key: str = ""
    client_ca: str = ""


class Tls:
    """The TLS set-up. `context` is that of the next connection."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self.context = _context(files)

    @property
    def asks_clients(self) -> bool:
        """Whether clients need a certificate, too."""
        return bool(self._files.client_ca)

    def reload(self) -> None:
        """Reads the files again. Raises InvalidArgument naming the option, and keeps what there was then."""
        self.context = _context(self._files)


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    cert = secret_path(files.cert, "--http-cert")
    option = "--http-key" if files.key else "--http-cert"
    key = secret_path(files.key or files.cert, option)
    read_secret(key, option)  # for the checks
    where = f"--http-cert {cert}"
    try:
        context.load_cert_chain(cert, key, password="")  # else OpenSSL prompts for a key's password
        if files.client_ca:
            where = f"--http-client-ca {files.client_ca}"
            context.load_verify_locations(secret_path(files.client_ca, "--http-client-ca"))
            context.verify_mode = ssl.CERT_REQUIRED
    except ssl.SSLError as error:
        raise InvalidArgument(
            f"{where}: not a certificate, or not that of the key ({error.reason or error})"
        ) from error
    except OSError as error:
        raise InvalidArgument(f"{where}: {error.strerror}") from error
    return context
