"""Files with secrets, which only the daemon's user may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from virtiod.core.errors import InvalidArgument

MAX_BYTES = 1 << 20
_CREDENTIAL = "credential:"


def secret_path(text: str, option: str) -> Path:
    """The file that an option names: a path, or credential:NAME for one that systemd passed (LoadCredential=).

    Raises InvalidArgument naming the option.
    """
    if not text.startswith(_CREDENTIAL):
        return Path(text)
    name, folder = text.removeprefix(_CREDENTIAL), os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise InvalidArgument(f"{option} {text}: systemd passed no credentials (LoadCredential= in the unit)")
    if not name or "/" in name or name in {".", ".."}:
        raise InvalidArgument(f"{option} {text}: not the name of a credential")
    return Path(folder, name)


def read_secret(path: Path, option: str) -> bytes:
    """The content of a file. Raises InvalidArgument when others could read or replace it, or when it can't be read."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise InvalidArgument(f"{option} {path}: not a regular file")
            # systemd lets a service's user read its credentials by an access list, which shows in the group's bits.
            folder = os.environ.get("CREDENTIALS_DIRECTORY")
            allowed = 0o740 if folder and path.parent == Path(folder) else 0o700
            if found.st_mode & 0o777 & ~allowed:
                mode = stat.S_IMODE(found.st_mode)
                raise InvalidArgument(f"{option} {path}: mode {mode:04o} lets others use it (chmod 600 {path})")
            if found.st_uid not in {0, os.geteuid()}:
                raise InvalidArgument(f"{option} {path}: belongs to user {found.st_uid}, not to root or virtiod's own")
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidArgument(f"{option} {path}: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise InvalidArgument(f"{option} {path}: longer than {MAX_BYTES} bytes")
    return content
