"""The tokens of HTTP clients, and what each may do. A file has a line for each:

    ROLE NAME TOKEN             read-only grafana 7b1f... or admin alice sha256:9f86...

A token is given as such or, with sha256: in front, as its hash; it must be long and random, as its hash is fast.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass

from virtiod.api.caller import Caller, Role
from virtiod.core.errors import InvalidArgument
from virtiod.http.security.secretfile import read_secret, secret_path

OPTION = "--http-tokens"
MIN_CHARACTERS = 16
MAX_ENTRIES = 1024
MAX_HEADER = 1024

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_HASH = re.compile(r"sha256:([0-9a-fA-F]{64})")
_ROLES = {role.value: role for role in Role}


@dataclass(frozen=True)
class Entry:
    caller: Caller
    digest: bytes  # SHA-256 of the token


class Tokens:
    """The tokens of a file. reload() reads it again."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.entries: list[Entry] = []
        self.reload()

    def reload(self) -> None:
        """Reads the file. Raises InvalidArgument, which names the line but no token, and keeps the old tokens then."""
        path = secret_path(self._source, OPTION)
        self.entries = parse_tokens(read_secret(path, OPTION), f"{OPTION} {path}")

    def find(self, authorization: str) -> Caller | None:
        """The caller of a header "Authorization": Bearer TOKEN, or Basic with NAME and TOKEN; None if it is unknown.

        It takes equally long whether, and where, something matches.
        """
        name, token = _presented(authorization)
        digest = hashlib.sha256(token).digest()
        found = None
        for entry in self.entries:
            fits = hmac.compare_digest(entry.digest, digest)
            named = name is None or hmac.compare_digest(entry.caller.name.encode(), name)
            if fits & named:
                found = entry.caller
        return found


def parse_tokens(content: bytes, source: str) -> list[Entry]:
    """The entries of a file's content. Raises InvalidArgument, which names source and line."""
    entries: list[Entry] = []
    try:
        lines = content.decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise InvalidArgument(f"{source}: not ASCII") from None
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            entry = _parse_line(line.split(), f"{source}:{number}")
            if any(entry.digest == other.digest or entry.caller.name == other.caller.name for other in entries):
                raise InvalidArgument(f"{source}:{number}: the name or the token was given before")
            entries.append(entry)
    if not entries:
        raise InvalidArgument(f"{source}: has no token")
    if len(entries) > MAX_ENTRIES:
        raise InvalidArgument(f"{source}: more than {MAX_ENTRIES} tokens")
    return entries


def _parse_line(words: list[str], where: str) -> Entry:
    if len(words) != 3:
        raise InvalidArgument(f"{where}: must be ROLE NAME TOKEN")
    role, name, token = words
    if role not in _ROLES:
        raise InvalidArgument(f"{where}: the role must be {' or '.join(_ROLES)}")
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"{where}: a name has 1 to 64 letters, digits and . _ @ -")
    hashed = _HASH.fullmatch(token)
    if token.startswith("sha256:") and not hashed:
        raise InvalidArgument(f"{where}: sha256: must be followed by 64 hexadecimal digits")
    if not hashed and len(token) < MIN_CHARACTERS:
        raise InvalidArgument(f"{where}: the token has fewer than {MIN_CHARACTERS} characters")
    digest = bytes.fromhex(hashed[1]) if hashed else hashlib.sha256(token.encode()).digest()
    return Entry(Caller(name, _ROLES[role]), digest)


def _presented(authorization: str) -> tuple[bytes | None, bytes]:
    """Name (None for Bearer) and token; what can't be read is a token that is nobody's."""
    scheme, _, value = authorization.partition(" ")
    value = value.strip()
    if len(authorization) > MAX_HEADER:
        return b"", b""
    if scheme.lower() == "bearer":
        return None, value.encode("utf-8", "surrogateescape")
    if scheme.lower() == "basic":
        try:
            name, separator, token = base64.b64decode(value, validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return b"", b""
        return (name, token) if separator else (b"", b"")
    return b"", b""
