"""What sg3-utils say of the same bytes."""

from __future__ import annotations

from pathlib import Path

from tests.support.peers import requires, run


def sg(tool: str, run_dir: Path, data: bytes, *options: str) -> str:
    requires(tool)
    file = run_dir / "answer"
    file.write_bytes(data)
    return run(tool, *options, f"--inhex={file}", "--raw")
