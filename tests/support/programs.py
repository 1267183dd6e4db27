"""Which tests start other programs, and so are not among those of `./test --quick`.

The rule: a test that starts a process of any kind says so by @pytest.mark.programs, or its module does by
`pytestmark = pytest.mark.programs`, or it lies in one of FOLDERS. Any other test that starts one fails.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

QUICK = "VIRTIOD_QUICK" in os.environ  # ./test --quick sets it: of random inputs a few are enough
TESTS = Path(__file__).parents[1]
FOLDERS = [TESTS / name for name in ("e2e", "guest", "systemd")]
EVENTS = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "os.system"}

_started: list[str] = []


def watch() -> None:
    """Notes each program that this process starts, from now on."""

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event in EVENTS:
            _started.append(f"{event} {arguments[0] if arguments else ''}")

    sys.addaudithook(note)


def started() -> list[str]:
    """What was started since the last call."""
    found = list(_started)
    _started.clear()
    return found


def mark_folders(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in FOLDERS):
            item.add_marker(pytest.mark.programs)
