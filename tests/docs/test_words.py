"""One name for one thing, in all that people read outside the code; docs/README.md defines the names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Generated from the code, or written for those who read the code.
OTHERS = {"architecture.md", "metrics.md", "rpc.md"}
READ = sorted(
    path
    for pattern in (
        *("*.md", "docs/*.md", "dashboards/*.md", "dashboards/rules/*.yml", "dashboards/grafana/*.json"),
        *(
            "virtiod/http/static/*.html",
            "virtiod/http/static/*.js",
            "virtiod/commands/*.py",
            "virtiod/daemon/options.py",
        ),
        *("rpc_client/cli.py", "rpc_client/tables.py", "rpc_client/top.py", "benchmarks/*.py", "systemd/**/*.*"),
    )
    for path in ROOT.glob(pattern)
    if path.name not in OTHERS
)
# Words that are not used, and the names that are used instead.
REPLACED = {
    r"I/Os? (a|each) second": "IOPS",
    r"99th percentile|\b99 %\"": "p99",
    r"\beach (\d[\d.]*|\{[^}]*\}) m?s\b": "every 2 s",
    r"\bfrom afar\b": "remote",
    r"\bgo(es)? on\b": "resume, continue",
    r"\bnot up\b": "down",
    r"\bSCSI units?\b": "LUN",
    r"\bIN FLIGHT\b|\"In flight\"": "DEPTH, Queue depth",
    r"\bCLIENTS\b": "CONNECTIONS",
}

# Compiled and plain modules. Pictures, and the terms that docstrings, comments and messages have instead.
CODE = sorted(
    path for name in ("virtiod", "rpc_client") for path in (ROOT / name).rglob("*.p[yx]*") if path.suffix != ".pyc"
)
PICTURES = {
    r"\bdevice layer": "kind of controller",
    r"\bcomes? round\b": "complete a round",
    r"\b(goes|go) on (?!the |a |to )": "resume, continue",
    r"\blets? go of\b": "release",
    r"\bmakes? way\b": "is skipped",
    r"\bhangs? up\b": "close the connection",
    r"\bnow and then\b": "from time to time, every 10 ms",
    r"\bin mid-": "within",
}


@pytest.mark.parametrize("path", READ, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_thing_has_one_name(path: Path) -> None:
    text = path.read_text()
    found = {match[0]: name for words, name in REPLACED.items() for match in re.finditer(words, text)}
    assert not found, f"use these names instead: {found}"


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_has_terms_and_no_pictures(path: Path) -> None:
    text = path.read_text()
    found = {match[0]: name for words, name in PICTURES.items() for match in re.finditer(words, text)}
    assert not found, f"use these words instead: {found}"
