"""What is told of data buffers and DMA memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.live import live
from virtiod.api.errors import RpcError
from virtiod.bdev.probe import give_buffers, take_buffers
from virtiod.core.memory import MIB


def files(folder: Path) -> set[Path]:
    return set(folder.iterdir())


def test_buffers_that_were_taken_and_that_there_were_too_few_of_are_counted(run_dir: Path) -> None:
    async def run() -> None:
        async with live(run_dir, http=None) as daemon:
            (pool,) = daemon.system.buffers
            for length in (1, 4096, 65536 + 4096):
                give_buffers(pool, take_buffers(pool, length, 8))
            assert take_buffers(pool, 2 * 65536, 1) == []
            assert await daemon.rpc.call("iobuf_get_stats", {}) == [
                {
                    "module": "virtiod",
                    "small_pool": {"cache": 3, "main": 0, "retry": 0},
                    "large_pool": {"cache": 1, "main": 0, "retry": 1},
                }
            ]

    asyncio.run(run())


def test_the_file_about_memory_is_a_new_one_whatever_has_its_name(run_dir: Path) -> None:
    async def run() -> None:
        async with live(run_dir, http=None) as daemon:
            file, other = run_dir / "rpc-memory.txt", run_dir / "other"
            other.write_text("another's")
            file.symlink_to(other)
            before = files(run_dir)
            assert await daemon.rpc.call("env_dpdk_get_mem_stats", {}) == {"filename": str(file)}
            assert (file.is_symlink(), other.read_text(), files(run_dir)) == (False, "another's", before)
            lines = file.read_text().splitlines()
            assert lines[0].startswith(f"DMA memory: {64 * MIB} bytes, ")
            assert lines[-2] == "poller_0: small buffers: 2048, 2048 free, 0 with kept writes, 0 in quarantine"
            file.unlink()
            file.mkdir()
            with pytest.raises(RpcError, match=f"{file}: Is a directory"):
                await daemon.rpc.call("env_dpdk_get_mem_stats", {})
            assert files(run_dir) == before

    asyncio.run(run())
