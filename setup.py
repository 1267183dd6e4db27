"""Compiles the data plane. Everything else about the package is in pyproject.toml.

VIRTIOD_SANITIZE=address builds with AddressSanitizer; VIRTIOD_ANNOTATE=1 leaves Cython's annotated HTML
in build/cython. A Cython "performance hint" means that a poller would take the GIL: it fails the build.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
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
    return [
        Extension(
            ".".join(path.with_suffix("").parts),
            [str(path)],
            define_macros=[("_GNU_SOURCE", "1")],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
        for path in sorted(Path("virtiod").rglob("*.py"))
        if path.with_suffix(".pxd").exists()
    ]


def compile_modules() -> list[Extension]:
    printed = io.StringIO()
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
