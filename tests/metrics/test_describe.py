"""The page of the docs about the metrics."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.peers import requires
from virtiod.metrics import describe
from virtiod.metrics.catalogue import ENTRIES


def test_the_page_about_the_metrics_is_up_to_date() -> None:
    assert describe.DOCUMENT.read_text() == describe.document(), "run python -m virtiod.metrics.describe"


@pytest.mark.programs
def test_the_queries_of_that_page_are_ones(tmp_path: Path) -> None:
    requires("promtool")
    rules = [{"record": "a:b", "expr": query} for query in describe.QUERIES.values()]
    file = tmp_path / "rules.json"  # which is YAML too
    file.write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    named = set(re.findall(r"virtiod_\w+", " ".join(describe.QUERIES.values())))
    known = {
        e.name + end for e in ENTRIES for end in (("_bucket", "_sum", "_count") if e.kind == "histogram" else ("",))
    }
    assert named <= known
