"""Compiles the data plane. Everything else about the package is in pyproject.toml.

VIRTIOD_TESTS=1 compiles what tests need, too (tests/sim).
VIRTIOD_SANITIZE=address builds with AddressSanitizer; VIRTIOD_ANNOTATE=1 leaves Cython's annotated HTML
in build/cython. A Cython "performance hint" means that a poller would take the GIL: it fails the build.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
from functools import cache
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
    "infer_types": False,
}


def extensions() -> list[Extension]:
    """One extension for each compiled module: those that have a .pxd beside the .py."""
    compile_args = ["-O3", "-fno-strict-aliasing", "-Wno-unused-function", "-Werror=implicit-function-declaration"]
    link_args: list[str] = []
    if os.environ.get("VIRTIOD_SANITIZE") == "address":
        compile_args = ["-O1", "-g", "-fno-strict-aliasing", "-fno-omit-frame-pointer", "-fsanitize=address"]
        link_args = ["-fsanitize=address"]
    folders = ["virtiod", *(["tests/sim"] if os.environ.get("VIRTIOD_TESTS") else [])]
    return [
        Extension(
            ".".join(path.with_suffix("").parts),
            [str(path)],
            define_macros=[("_GNU_SOURCE", "1")],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
        for folder in folders
        for path in sorted(Path(folder).rglob("*.py"))
        if path.with_suffix(".pxd").exists()
    ]


CIMPORT = re.compile(r"^(?:from cython\.cimports\.([\w.]+) import|from ([\w.]+) cimport) +(\([^)]*\)|.*)", re.MULTILINE)


@cache
def cimported(path: Path) -> frozenset[Path]:
    """The .pxd files of this tree that a source needs, and those that they need."""
    found: set[Path] = {path.with_suffix(".pxd")} - {path}
    for py, pxd, names in CIMPORT.findall(path.read_text()):
        module = Path(*(py or pxd).split("."))
        found |= {module.with_suffix(".pxd"), *(module / f"{name}.pxd" for name in re.findall(r"\w+", names))}
    direct = {one for one in found if one.exists()}
    return frozenset(direct.union(*(cimported(one) for one in direct)))


def forget_outdated() -> None:
    """Remove what was made of sources that cimport a .pxd that has changed since.

    Cython itself overlooks modules that are cimported by `from cython.cimports.package import module`.
    """
    for extension in extensions():
        source = Path(extension.sources[0])
        made = Path("build/cython") / source.with_suffix(".c")
        if made.exists() and any(one.stat().st_mtime > made.stat().st_mtime for one in cimported(source)):
            made.unlink()


def compile_modules() -> list[Extension]:
    printed = io.StringIO()
    forget_outdated()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
        try:
            modules = cythonize(
                extensions(),
                compiler_directives=DIRECTIVES,
                annotate=bool(os.environ.get("VIRTIOD_ANNOTATE")),
                build_dir="build/cython",
                force=bool(os.environ.get("VIRTIOD_FORCE")),
            )
        finally:
            sys.__stderr__.write(printed.getvalue())  # type: ignore[union-attr]
    if "performance hint" in printed.getvalue():
        shutil.rmtree("build/cython")  # or the next run would find these modules up to date, and say nothing
        sys.exit("error: Cython printed a performance hint (above): a nogil path would take the GIL")
    return list(modules)


setup(ext_modules=compile_modules())
