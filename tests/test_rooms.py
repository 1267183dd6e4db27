"""The order of rooms: a room knows only those below it. The order itself stands in pyproject.toml."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def layers() -> list[str]:
    """The rooms from the ground up. Those of one layer, which do not know each other, one after the other."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = (one for one in config["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
    return [room for layer in reversed(contract["layers"]) for room in layer.split(" | ")]


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


@pytest.mark.programs
def test_imports_go_down_only() -> None:
    kept, said = lint(ROOT)
    assert kept, said


@pytest.mark.programs
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


def test_the_page_shows_the_same_order() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.partition("\n## Rooms\n")[2].partition("\n## ")[0]
    modules = {"cli", "manuals"}  # no rooms: the page names them below the table
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [room for room in layers() if room not in modules]


# ---- cimports, which import-linter does not see

CIMPORT = re.compile(
    r"^(?:from cython\.cimports\.(?P<py>virtiod[\w.]*) import"
    r"|from (?P<pxd>virtiod[\w.]*) cimport"
    r"|cimport (?P<whole>virtiod[\w.]*))",
    re.M,
)


def levels(tree: Path) -> dict[str, int]:
    """How high each room is, by the contract; rooms that stand side by side are of one height."""
    contracts = tomllib.loads((tree / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return {room.strip(): height for height, layer in enumerate(reversed(layers)) for room in layer.split("|")}


def upward_cimports(tree: Path) -> list[str]:
    """Cimports of what is not below: "virtiod/poller/rounds.py: virtiod.bdev.channel"."""
    height = levels(tree)
    found = []
    for path in sorted([*(tree / "virtiod").rglob("*.py"), *(tree / "virtiod").rglob("*.pxd")]):
        name = path.relative_to(tree)
        own = name.parts[1].partition(".")[0]
        for match in CIMPORT.finditer(path.read_text()):
            module = match["py"] or match["pxd"] or match["whole"]
            room = module.split(".")[1]
            if room != own and height[room] >= height[own]:
                found.append(f"{name}: {module}")
    return found


def test_cimports_go_down_only() -> None:
    assert upward_cimports(ROOT) == []


@pytest.mark.parametrize(
    ("importer", "line", "imported"),
    [
        ("poller/rounds.py", "from cython.cimports.virtiod.bdev import channel", "virtiod.bdev"),
        ("virtqueue/layout.pxd", "from virtiod.controllers.scsi.port cimport Port", "virtiod.controllers.scsi.port"),
        ("core/types.pxd", "cimport virtiod.load.job", "virtiod.load.job"),
        ("target/ring.pxd", "from virtiod.controllers.blk.queue cimport BlkArea", "virtiod.controllers.blk.queue"),
    ],
)
def test_a_cimport_that_goes_up_is_found(copy: Path, importer: str, line: str, imported: str) -> None:
    path = copy / "virtiod" / importer
    path.write_text(f"{path.read_text()}\n{line}\n")
    assert upward_cimports(copy) == [f"virtiod/{importer}: {imported}"]


# ---- seams: who may name one kind of a thing


def users(module: str) -> set[str]:
    """The files outside it that import or cimport a module or a package, such as "exports/table.py".

    The embedded target is not among them: it is the other side of vhost-user.
    """
    home = module.replace(".", "/")
    found = set()
    for path in (ROOT / "virtiod").rglob("*.py"):
        name = str(path.relative_to(ROOT))
        if name.startswith((f"{home}/", f"{home}.py", "virtiod/target/")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                source = node.module.removeprefix("cython.cimports.")
                named = (source, *(f"{source}.{alias.name}" for alias in node.names))
                if any(f"{one}.".startswith(f"{module}.") for one in named):
                    found.add(name.removeprefix("virtiod/"))
    return found


@pytest.mark.parametrize(
    ("kind", "named_by"),
    [
        ("virtiod.virtqueue.split", {"virtqueue/handle.py"}),
        ("virtiod.exports.nbd", {"exports/table.py", "rpc/methods/nbd.py"}),
        ("virtiod.transports.pci", {"transports/table.py"}),
        ("virtiod.transports.vhost_user", {"transports/table.py"}),
    ],
)
def test_only_its_table_and_its_own_methods_name_a_kind(kind: str, named_by: set[str]) -> None:
    assert users(kind) == named_by
