"""SPDK's own client, unmodified, as a process."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.waiting import PATIENCE_S

# As the script of the package does; run by this interpreter, whether or not its directory is in PATH.
_COMMAND = (sys.executable, "-W", "ignore", "-c", "import sys; from spdk.spdk_rpc import main; sys.exit(main())")


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> tuple[int, str]:
        """Code and message of the response that the client prints."""
        assert self.status == 1, self
        found = re.search(r"response:\n(\{.*\})", self.out, re.DOTALL)
        assert found, self
        answer = json.loads(found[1])
        return answer["code"], answer["message"]


async def spdk_rpc(run_dir: Path, *words: str, stdin: str = "") -> Outcome:
    process = await asyncio.create_subprocess_exec(
        *_COMMAND,
        "-s",
        str(run_dir / "rpc"),
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate(stdin.encode())
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Outcome(process.returncode, out.decode(), err.decode())
