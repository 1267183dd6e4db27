"""The files that are made of the methods."""

from __future__ import annotations

from pathlib import Path

import pytest

from virtiod.rpc.describe import FILES, description


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_is_up_to_date(path: Path) -> None:
    assert path.read_text() == FILES[path](description()), "run python -m virtiod.rpc.describe"
