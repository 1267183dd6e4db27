"""Callers over HTTP with their roles: tokens, the file that names them, and what they send."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

READER, ADMIN = "reader-0123456789abcdef", "admin-0123456789abcdef"
HASH = hashlib.sha256(ADMIN.encode()).hexdigest()


FILE = f"# who may ask\n\nread-only grafana {READER}\n  admin alice sha256:{HASH.upper()}\n"


def written(path: Path, content: str = FILE, mode: int = 0o600) -> str:
    path.write_text(content)
    path.chmod(mode)
    return str(path)


def basic(name: str, token: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{token}".encode()).decode()


AS_ADMIN, AS_READER = {"Authorization": f"Bearer {ADMIN}"}, {"Authorization": f"Bearer {READER}"}


def request(method: str, request_id: Any = 1, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params, "id": request_id}
