"""A line in the log for each call that changes something, or would have: who, what, and how it ended."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping

from virtiod.api.caller import Caller
from virtiod.core.levels import NOTICE

MAX_PARAMS = 1024  # characters

_SECRET = re.compile(r"password|passwd|secret|token|psk|(^|_)key$", re.IGNORECASE)

logger = logging.getLogger("virtiod.rpc.audit")  # a name that operators search for


def audit(caller: Caller, method: str, params: Mapping[str, object], outcome: str, seconds: float) -> None:
    """Logs a call. outcome: "ok", or the error."""
    text = json.dumps(redacted(params))
    if len(text) > MAX_PARAMS:
        text = f"{text[:MAX_PARAMS]}... ({len(text)} characters)"
    logger.log(NOTICE, "%s: %s %s: %s, %.1f ms", caller, method, text, outcome, seconds * 1e3)


def redacted(value: object) -> object:
    """The value without the contents of members whose names say that they are secret."""
    if isinstance(value, dict):
        return {name: "***" if _SECRET.search(name) else redacted(member) for name, member in value.items()}
    return [redacted(item) for item in value] if isinstance(value, list) else value
