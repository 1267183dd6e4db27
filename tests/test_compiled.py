"""Each compiled module is what its source says: built, not older, and its .py and .pxd agree.

The .py repeats the types of the .pxd, for its readers and for mypy; Cython believes the .pxd unseen.
"""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("tests/sim", "virtiod")
# "virtiod.poller.rounds" and so on: what has a .pxd beside its .py
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if path.with_suffix(".pxd").exists()
)


def source_of(name: str, suffix: str) -> Path:
    return (ROOT / name.replace(".", "/")).with_suffix(suffix)


@pytest.mark.parametrize("name", MODULES)
def test_module_is_the_extension_and_not_older_than_its_source(name: str) -> None:
    module = importlib.import_module(name)
    built = Path(str(module.__file__))
    assert built.suffix == ".so", "not compiled: run ./test, or python setup.py build_ext --inplace"
    for suffix in (".py", ".pxd"):
        source = source_of(name, suffix)
        assert built.stat().st_mtime >= source.stat().st_mtime, f"built before the last change of {source.name}"


def expanded(pattern: str) -> list[str]:
    """What a glob with alternatives, "a/{b,c/{d,e}}.py", stands for."""
    while "{" in pattern:
        pattern = re.sub(
            r"([^{},]*)\{([^{}]*)\}([^{},]*)",
            lambda found: ",".join(found[1] + one + found[3] for one in found[2].split(",")),
            pattern,
        )
    return pattern.split(",")


def test_lint_exceptions_are_for_the_compiled_modules() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    patterns = [key for key in tools["ruff"]["lint"]["per-file-ignores"] if key.startswith(FOLDERS)]
    excepted = [one.removesuffix(".py").replace("/", ".") for key in patterns for one in expanded(key)]
    assert sorted(excepted) == MODULES


def test_type_exceptions_are_for_the_compiled_modules() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    excepted = [
        name
        for override in tools["mypy"]["overrides"]
        if override.get("disallow_any_unimported") is False
        for name in override["module"]
    ]
    assert excepted == MODULES


def exported(pxd: str) -> dict[str, dict[str, int]]:
    """The constants that a .pxd gives to Python, by the name of their enum; those of unnamed ones under ""."""
    found: dict[str, dict[str, int]] = {}
    members: dict[str, int] | None = None
    for line in pxd.splitlines():
        if match := re.match(r"cpdef enum ?(\w*):", line):
            members = found.setdefault(match[1], {})
        elif members is not None and (match := re.match(r"    (\w+) = (\w+)", line)):
            members[match[1]] = int(match[2], 0)
        elif line and not line.startswith((" ", "#")):
            members = None
    return found


def stubbed(source: str) -> dict[str, set[str]]:
    """The names of a .pyi, in the shape of exported()."""
    found: dict[str, set[str]] = {"": set()}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {ast.unparse(one.targets[0]) for one in node.body if isinstance(one, ast.Assign)}
        elif isinstance(node, ast.AnnAssign):
            found[""].add(ast.unparse(node.target))
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if exported(source_of(name, ".pxd").read_text())])
def test_enums_are_the_same_in_c_in_python_and_for_type_checkers(name: str) -> None:
    module = importlib.import_module(name)
    enums = exported(source_of(name, ".pxd").read_text())
    for enum, members in enums.items():
        owner = getattr(module, enum) if enum else module
        assert {member: int(getattr(owner, member)) for member in members} == members
    assert stubbed(source_of(name, ".pyi").read_text()) == {enum: set(members) for enum, members in enums.items()}


class Signature(NamedTuple):
    parameters: list[tuple[str, str]]  # (name, type)
    returns: str


SHORT = {"None": "void", "bool": "bint", "unsigned int": "uint", "unsigned char": "uchar"}


def pointer_names() -> dict[str, str]:
    """What the names for pointer types stand for: {"SourceArray": "Source **"}."""
    lines = "\n".join(path.read_text() for folder in FOLDERS for path in (ROOT / folder).rglob("*.pxd"))
    return {m[3]: m[1] + m[2] for m in re.finditer(r"^ctypedef ([\w ]+?) *(\*+) *(\w+)$", lines, re.M)}


POINTERS = pointer_names()


def normal(kind: str) -> str:
    """One spelling for a type: "Ring *" in a .pxd, RingPtr and cython.pointer[Ring] in a .py give "Ring*"."""
    kind = re.sub(r"\b(cython\.|const )", "", kind).strip(" \"'")
    if match := re.fullmatch(r"pointer[\[(](.*)[\])]", kind):
        return normal(match[1]) + "*"
    if match := re.fullmatch(r"(.*)\*", kind) or re.fullmatch(r"p_(\w+)", kind):
        return normal(match[1]) + "*"
    if kind in POINTERS:
        return normal(POINTERS[kind])
    return SHORT.get(kind, kind)


def agree(declared: str, annotated: str) -> bool:
    """Any Python type will do for an object; list[int] is a list."""
    return declared in ("object", annotated, annotated.partition("[")[0])


def declarations(pxd: str) -> tuple[dict[str, Signature], dict[str, str]]:
    """The functions and the fields of a .pxd, those of a class as Class.name."""
    text = re.sub(r"#.*|=\*", "", pxd)
    text = re.sub(r"\([^()]*\)", lambda m: re.sub(r"\s+", " ", m[0]), text)  # one line each
    functions, fields, owner = {}, {}, ""
    for line in text.splitlines():
        if not line.startswith(" "):
            match = re.match(r"cdef class (\w+)", line)
            owner = f"{match[1]}." if match else ""
        if line.endswith(":") and " inline " in line:
            continue  # its body is here
        if match := re.match(r"\s*cdef (?!class)(?:inline )?([\w ]+?[ *]+)(\w+)\((.*)\)", line):
            parameters = [re.fullmatch(r"(?:(.*[ *]))?(\w+)", one.strip()) for one in match[3].split(",") if one]
            functions[owner + match[2]] = Signature(
                [(found[2], normal(found[1] or "object")) for found in parameters if found], normal(match[1])
            )
        elif owner and (match := re.match(r"\s+cdef (?:readonly |public )?([\w ]+?[ *]+)(\w+)$", line)):
            fields[owner + match[2]] = normal(match[1])
    return functions, fields


def annotated(source: str) -> tuple[dict[str, Signature], dict[str, str]]:
    """The functions and the annotated fields of a .py, in the shape of declarations()."""
    functions: dict[str, Signature] = {}
    fields: dict[str, str] = {}
    for node in ast.parse(source).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        owner = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for item in inside:
            if isinstance(item, ast.FunctionDef):
                functions[owner + item.name] = Signature(
                    [
                        (arg.arg, normal(ast.unparse(arg.annotation) if arg.annotation else "object"))
                        for arg in item.args.args
                    ],
                    normal(ast.unparse(item.returns) if item.returns else "object"),
                )
            elif owner and isinstance(item, ast.AnnAssign):
                fields[owner + ast.unparse(item.target)] = normal(ast.unparse(item.annotation))
    return functions, fields


def disagreements(pxd: str, source: str) -> list[str]:
    """What the .pxd declares and the .py has differently or not at all."""
    declared, declared_fields = declarations(pxd)
    written, written_fields = annotated(source)
    found = []
    for name, expected in declared.items():
        actual = written.get(name)
        if actual is None:
            found.append(f"{name} is declared only")
            continue
        names, kinds = zip(*expected.parameters, ("", expected.returns), strict=True)
        actual_names, actual_kinds = zip(*actual.parameters, ("", actual.returns), strict=True)
        if names != actual_names or not all(map(agree, kinds, actual_kinds)):
            found.append(f"{name}: .pxd {expected}, .py {actual}")
    for name, kind in written_fields.items():
        if name in declared_fields and not agree(declared_fields[name], kind):
            found.append(f"{name}: .pxd {declared_fields[name]}, .py {kind}")
    return found


@pytest.mark.parametrize("name", MODULES)
def test_pxd_and_py_agree(name: str) -> None:
    pxd, source = (source_of(name, suffix) for suffix in (".pxd", ".py"))
    assert disagreements(pxd.read_text(), source.read_text()) == []


PXD = """
cdef int add(Source *s, unsigned int n,
             void *p) noexcept nogil  # a comment (here)
cdef class Box(Thing):
    cdef Source **sources
    cdef readonly int id
    cdef object put(self, list names, int n=*)
"""

PY = """
def add(s: SourcePtr, n: cython.uint, p: cython.p_void) -> cython.int: ...
class Box(Thing):
    id: cython.int
    def put(self, names: list[str], n: cython.int = 1) -> str: ...
"""


@pytest.mark.parametrize(
    ("was", "becomes", "names"),
    [
        ("", "", []),
        ("s: SourcePtr", "s: IoPtr", ["add"]),
        ("n: cython.uint", "m: cython.uint", ["add"]),
        ("-> cython.int", "-> None", ["add"]),
        ("def add", "def sub", ["add"]),
        ("id: cython.int", "id: uint64_t", ["Box.id"]),
        ("names: list[str]", "names: str", ["Box.put"]),
    ],
)
def test_a_difference_between_pxd_and_py_is_found(was: str, becomes: str, names: list[str]) -> None:
    found = disagreements(PXD, PY.replace(was, becomes) if was else PY)
    assert [re.split(r"[: ]", line)[0] for line in found] == names
