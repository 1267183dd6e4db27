"""A real Prometheus that scrapes what a test says, and its answers."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.ports import free_port


@contextlib.contextmanager
def prometheus(run_dir: Path, config: str) -> Iterator[str]:
    """Its URL."""
    (run_dir / "prometheus.yml").write_text(config)
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={run_dir}/prometheus.yml",
        f"--storage.tsdb.path={run_dir}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (run_dir / "prometheus.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


async def ask(session: aiohttp.ClientSession, url: str, query: str) -> list[Any]:
    """The values; none while Prometheus isn't up."""
    try:
        async with session.get(f"{url}/api/v1/query", params={"query": query}) as response:
            if response.status != 200:
                return []
            answer = await response.json()
    except (aiohttp.ClientConnectionError, TimeoutError):
        return []
    return [float(result["value"][1]) for result in answer["data"]["result"]]
