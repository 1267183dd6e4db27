"""The order of rooms: a room knows only those below it. The order itself stands in pyproject.toml."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def lint(tree: Path) -> tuple[bool, str]:
    """Whether import-linter keeps the contracts of a tree, and what it says."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=100, check=False)
    return done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A tree of its own, of Python only."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("virtiod", "rpc_client"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.so", "static", "__pycache__")
        )
    return tmp_path


def test_imports_go_down_only() -> None:
    kept, said = lint(ROOT)
    assert kept, said


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("virtiod/core/errors.py", "virtiod.poller.poller"),
        ("virtiod/bdev/registry.py", "virtiod.controllers.manager"),
        ("virtiod/target/backend.py", "virtiod.controllers.request"),
        ("virtiod/config/saved.py", "virtiod.rpc.protocol.dispatcher"),
        ("virtiod/http/app.py", "virtiod.daemon.daemon"),
        ("rpc_client/client.py", "virtiod.core.errors"),
    ],
)
def test_an_import_that_goes_up_is_found(copy: Path, importer: str, imported: str) -> None:
    path = copy / importer
    path.write_text(f"{path.read_text()}\nimport {imported}\n")
    kept, said = lint(copy)
    assert not kept
    name = importer.removesuffix(".py").replace("/", ".")
    assert f"{name} -> {imported}" in said
