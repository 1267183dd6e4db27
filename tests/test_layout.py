"""The tests' tree is the code's: the tests of virtiod/a/b.py are found in tests/a/."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
FOLDERS = {  # of tests, but not of code
    "contracts": "what each kind of a thing must do",
    "crash": "targets that are killed under load",
    "sim": "pollers, controllers and disks in one thread and simulated time",
    "dashboards": "those of /dashboards",
    "docs": "pages, and the examples in them",
    "e2e": "the daemon as a process",
    "fuzz": "fuzz functions, and what they run on",
    "guest": "in virtual machines",
    "models": "models that are searched exhaustively",
    "rpc_client": "those of /rpc_client",
    "support": "helpers",
    "systemd": "the package, under systemd",
}


def test_each_folder_is_one_of_the_code_or_says_what_it_is_for() -> None:
    for folder in {path.parent for path in TESTS.rglob("test_*.py")} - {TESTS}:
        inside = folder.relative_to(TESTS)
        assert (ROOT / "virtiod" / inside).is_dir() or inside.parts[0] in FOLDERS, inside
        assert (folder / "__init__.py").exists(), inside


def imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return found | {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}


def test_what_tests_share_is_in_no_test_module() -> None:
    for path in TESTS.rglob("*.py"):
        assert [name for name in imports(path) if name.startswith("tests.") and ".test_" in name] == [], path
