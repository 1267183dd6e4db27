"""What the guest starts from: a kernel, and a file system in memory with this very Python and what it imports.

The large part (interpreter, standard library, packages, C libraries, kernel modules) is built once and kept in
.cache/guest under a key of all that it is made of. This tree travels behind it, packed anew for each start.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement

from tests.guest import modules
from tests.guest.cpio import Archive
from tests.guest.packages import Packages, Unavailable
from tests.support.cache import kept

ROOT = Path(__file__).parents[2]
BUILDERS = ("cpio.py", "image.py", "init.sh", "modules.py", "packages.py")  # a change of these makes a new image
RUNNERS = ("pytest", "pytest-timeout")  # beside what virtiod itself needs
SITE = PurePosixPath("/site")  # packages, in the guest
TREE = PurePosixPath("/virtiod")  # this tree, in the guest
CARRIED = ("virtiod", "rpc_client", "tests", "benchmarks", "pyproject.toml")
UNUSED = {  # parts of the standard library that nothing in the guest imports
    *("test", "tests", "idlelib", "tkinter", "lib2to3", "ensurepip", "turtledemo", "pydoc_data", "distutils"),
    *("site-packages", "dist-packages", "__pycache__"),
}


@dataclass(frozen=True)
class Image:
    kernel: Path
    base: Path  # the archive that is the same at each start

    def with_tree(self, path: Path, programs: tuple[str, ...] = ()) -> None:
        """Write the whole initial file system to `path`, with more programs of this host if any are named."""
        shutil.copyfile(self.base, path)
        with path.open("ab") as file:
            archive = Archive(file)
            pack_tree(archive)
            for name in programs:
                pack_program(archive, name)
            archive.end()


def build() -> Image:
    """The image for the current packages; takes a moment when it is there already. Raises Unavailable."""
    if os.uname().machine != "x86_64":
        raise Unavailable(f"the guest is made for x86_64, and runs the Python of this {os.uname().machine} machine")
    with kept("guest") as cache:
        packages = Packages(cache)
        home = cache / key(packages)
        if not home.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix="new-") as scratch:
                make(packages, Path(scratch))
                (Path(scratch) / "done").rename(home)
            forget_others(home)
    return Image(home / "vmlinuz", home / "base.cpio")


def forget_others(home: Path) -> None:
    for path in home.parent.iterdir():
        if path != home and re.fullmatch("[0-9a-f]{16}", path.name):
            shutil.rmtree(path, ignore_errors=True)


def key(packages: Packages) -> str:
    parts = [sys.version, sys.base_prefix, *packages.versions]
    parts += [f"{found.name} {found.version}" for found in distributions()]
    parts += [(Path(__file__).parent / name).read_text() for name in BUILDERS]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def make(packages: Packages, scratch: Path) -> None:
    unpacked, done = scratch / "unpacked", scratch / "done"
    unpacked.mkdir()
    done.mkdir()
    packages.fetch(unpacked)
    (kernel,) = (unpacked / "boot").glob("vmlinuz-*")
    shutil.copyfile(kernel, done / "vmlinuz")
    with (done / "base.cpio").open("wb") as file:
        archive = Archive(file)
        pack_base(archive, unpacked)
        pack_modules(archive, unpacked)
        pack_python(archive)
        archive.end()


def pack_base(archive: Archive, unpacked: Path) -> None:
    for name in ("bin", "sbin", "lib", "lib64"):  # as on this host, whose libraries go to where they are here
        host = Path("/") / name
        if host.is_symlink():
            archive.link(PurePosixPath("/") / name, str(host.readlink()))
    for name in ("dev", "proc", "sys", "tmp", "run", "mnt", "etc", "guest/bin"):
        archive.folder(PurePosixPath("/") / name)
    archive.copy(unpacked / "bin/busybox", PurePosixPath("/guest/busybox"))
    archive.link(PurePosixPath(os.path.realpath("/bin")) / "sh", "/guest/busybox")
    archive.file(PurePosixPath("/init"), (Path(__file__).parent / "init.sh").read_bytes(), 0o755)
    archive.link(PurePosixPath("/guest/python"), str(interpreter()))
    archive.file(PurePosixPath("/etc/passwd"), b"root:x:0:0:root:/:/bin/sh\n")
    archive.file(PurePosixPath("/etc/group"), b"root:x:0:\n")
    archive.file(PurePosixPath("/etc/hosts"), b"127.0.0.1 localhost\n")


def pack_modules(archive: Archive, unpacked: Path) -> None:
    (root,) = (unpacked / "lib/modules").iterdir()
    folder = PurePosixPath(os.path.realpath("/lib")) / "modules" / root.name
    needs: dict[str, list[str]] = {}
    for name, content, wanted in modules.select(root):
        needs[name] = wanted
        archive.file(folder / f"{name}.ko", content)
    known = {name: [need for need in wanted if need in needs] for name, wanted in needs.items()}
    archive.file(folder / "modules.dep", modules.dependency_table(known).encode())


def interpreter() -> Path:
    """The real program behind a virtual environment's python."""
    return Path(os.path.realpath(sys.executable))


def pack_python(archive: Archive) -> None:
    program = interpreter()
    archive.copy(program, PurePosixPath(program))
    standard = Path(sysconfig.get_path("stdlib"))
    compiled = [program]
    for path in standard_library(standard):
        pack_source(archive, path, PurePosixPath(path))
        if path.suffix == ".so":
            compiled.append(path)
    for found in distributions():
        for file in found.files or []:
            source = Path(str(found.locate_file(file)))
            if ".." in file.parts or source.suffix == ".pyc" or not source.is_file():
                continue
            pack_source(archive, source, SITE / PurePosixPath(file))
            if ".so" in source.suffixes:
                compiled.append(source)
    pack_libraries(archive, compiled)


def standard_library(standard: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(standard):
        names[:] = sorted(name for name in names if name not in UNUSED and not name.startswith("config-"))
        for name in sorted(files):
            if name.endswith((".py", ".so")) and not name.startswith(("_tkinter.", "_sqlite3.", "_test")):
                yield Path(folder) / name


def pack_source(archive: Archive, source: Path, path: PurePosixPath) -> None:
    """The file, and if it is Python, compiled too: the guest is slow."""
    archive.copy(source, path)
    if source.suffix != ".py":
        return
    cached = Path(importlib.util.cache_from_source(str(source)))
    if cached.is_file() and fresh(cached, source):
        content = cached.read_bytes()
    else:
        with tempfile.NamedTemporaryFile(suffix=".pyc") as scratch:
            py_compile.compile(str(source), scratch.name, dfile=str(path), doraise=False, quiet=2)
            content = Path(scratch.name).read_bytes()
    archive.file(path.parent / "__pycache__" / cached.name, content)


def fresh(cached: Path, source: Path) -> bool:
    """Whether it was compiled from the source as it is, by the time and size that it notes (PEP 552)."""
    found = source.stat()
    return cached.read_bytes()[4:16] == b"".join(
        (value & 0xFFFFFFFF).to_bytes(4, "little") for value in (0, int(found.st_mtime), found.st_size)
    )


def distributions() -> list[importlib.metadata.Distribution]:
    """The packages that the guest imports, and all that these need."""
    found: dict[str, importlib.metadata.Distribution] = {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [*RUNNERS, *(Requirement(needed).name for needed in project["dependencies"])]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as missing:
            raise Unavailable(f"the Python package {name} is not installed here, and the guest needs it") from missing
        requirements = map(Requirement, found[name].requires or [])
        waiting += [wanted.name for wanted in requirements if not wanted.marker or wanted.marker.evaluate()]
    return sorted(found.values(), key=lambda one: one.name)


def libraries(programs: Iterable[Path]) -> set[Path]:
    """What the dynamic loader would load for them, by ldd."""
    done = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, timeout=60, check=False)
    return {Path(path) for path in re.findall(r"^\s+(?:\S+ => )?(/\S+) \(0x", done.stdout, re.MULTILINE)}


def pack_libraries(archive: Archive, programs: list[Path]) -> None:
    compiled = sorted((ROOT / "virtiod").rglob("*.so"))
    wanted = libraries([*programs, *compiled])
    libc = next(path for path in wanted if path.name.startswith("libc."))
    wanted |= {path for path in [libc.with_name("libgcc_s.so.1")] if path.exists()}  # loaded when a thread ends
    site = {Path(str(found.locate_file(""))) for found in distributions()}
    for path in sorted(wanted):
        if not any(path.is_relative_to(folder) for folder in site):  # those travel with their package
            archive.copy(path, PurePosixPath(os.path.realpath(path.parent)) / path.name)


def pack_program(archive: Archive, name: str) -> None:
    found = shutil.which(name)
    if not found:
        raise Unavailable(f"{name} is missing on this host, which lends it to the guest")
    archive.copy(Path(found), PurePosixPath("/guest/bin") / name)
    for path in sorted(libraries([Path(found)])):
        archive.copy(path, PurePosixPath(os.path.realpath(path.parent)) / path.name)


def pack_tree(archive: Archive) -> None:
    """This tree as it is: sources, compiled modules, tests and what pytest made of them."""
    for name in CARRIED:
        top = ROOT / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            inside = TREE / PurePosixPath(path.relative_to(ROOT))
            if not path.is_file() or "corpus" in inside.parts or path.suffix in (".c", ".html"):
                continue
            if path.suffix == ".py" and not path.match("test_*.py"):  # of those, pytest makes its own
                pack_source(archive, path, inside)
            elif path.suffix != ".pyc" or "pytest" in path.name:
                archive.copy(path, inside)
