"""Real NBD clients on a real disk: a vhost-user-blk target of qemu-storage-daemon, exported."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import textwrap
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from tests.exports.nbd.service import EIO, FLUSH, READ, WRITE, Service, serve
from tests.support.peers import Peer, nbd_uri, requires, storage_daemon
from tests.support.waiting import PATIENCE_S, until
from virtiod.exports.nbd.export import NbdExport

pytestmark = pytest.mark.programs

MIB = 1 << 20
SIZE = 16 * MIB
NULL = f"driver=null-co,size={1 << 30},read-zeroes=on"


@pytest.fixture
def disk(run_dir: Path) -> Path:
    """A raw image with content, half of it zeroes."""
    path = run_dir / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE // 2) + bytes(SIZE // 2))
    return path


def target(run_dir: Path, disk: Path, queues: int = 1, options: str = "") -> AbstractContextManager[Peer]:
    return storage_daemon(run_dir, f"driver=file,filename={disk},discard=unmap", queues=queues, options=options)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_nbdinfo_sees_what_the_export_can_do(run_dir: Path, disk: Path) -> None:
    async def main(daemon: Peer) -> None:
        async with Service(run_dir) as service:
            await service.attach(daemon.socket, description="a disk to test")
            (export,) = json.loads(await service.client("nbdinfo", "--json", "URI"))["exports"]
            truths = ("can_df", "can_fast_zero", "can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero")
            assert {name: export[name] for name in truths} == dict.fromkeys(truths, True)
            assert (export["is_read_only"], export["can_cache"]) == (False, False)
            assert export["export-size"] == SIZE
            sizes = [export[f"block_size_{name}"] for name in ("minimum", "preferred", "maximum")]
            assert sizes == [512, 4096, 32 * MIB]
            listed = json.loads(await service.client("nbdinfo", "--json", "--list", nbd_uri(service.socket)))
            assert [(e["export-name"], e["description"]) for e in listed["exports"]] == [("disk", "a disk to test")]

    with target(run_dir, disk) as daemon:
        asyncio.run(main(daemon))


@pytest.mark.parametrize("pollers", [1, 2])
def test_copies_out_and_in_are_identical(run_dir: Path, disk: Path, pollers: int) -> None:
    before = digest(disk)
    other = run_dir / "other.img"
    other.write_bytes(random.Random(2).randbytes(SIZE))

    async def main(daemon: Peer) -> None:
        async with Service(run_dir, pollers=pollers) as service:
            await service.attach(daemon.socket)
            out, again = run_dir / "out.img", run_dir / "again.img"
            await service.client("nbdcopy", "--connections=4", "URI", out)
            assert digest(out) == before
            await service.client("qemu-img", "convert", "-f", "raw", "-O", "raw", "-W", "-m", "8", "URI", again)
            assert digest(again) == before
            await service.client("nbdcopy", "--connections=4", "--flush", other, "URI")
            await service.client("qemu-img", "compare", "-f", "raw", "-F", "raw", other, "URI")
            await service.engine.controllers.detach("Virtio0")

    with target(run_dir, disk, queues=2) as daemon:
        asyncio.run(main(daemon))
    assert digest(disk) == digest(other)


def test_qemu_io_writes_discards_zeroes_and_reads_back(run_dir: Path, disk: Path) -> None:
    steps = [
        "write -P 0x11 0 1M",
        "write -f -P 0x22 1M 64k",
        "write -z 2M 1M",
        "write -z -u 4M 1M",
        "discard 8M 1M",
        "flush",
        "read -P 0x11 0 1M",
        "read -P 0x22 1M 64k",
        "read -P 0 2M 1M",
        "read -P 0 4M 1M",
        "aio_write -P 0x33 512 512",
        "aio_flush",
        "read -P 0x33 512 512",
    ]

    async def main(daemon: Peer) -> None:
        async with Service(run_dir) as service:
            export = await service.attach(daemon.socket)
            words = [word for step in steps for word in ("-c", step)]
            said = await service.client("qemu-io", "-f", "raw", "-t", "none", "URI", *words)
            assert "verification failed" not in said
            assert export.bdev.stats().ops["unmap"].completed
            assert export.bdev.stats().ops["write_zeroes"].completed

    with target(run_dir, disk) as daemon:
        asyncio.run(main(daemon))


NBDSH = """
import errno
h.set_strict_mode(0)
h.connect_uri(uri)
size = h.get_size()
def fails(number, call, *args, **rest):
    try:
        call(*args, **rest)
    except nbd.Error as error:
        assert error.errno == errno.errorcode[number], (error, number)
    else:
        raise AssertionError((call, args, rest))
"""


def script(text: str) -> str:
    return NBDSH + textwrap.dedent(text)


async def nbdsh(service: Service, text: str) -> None:
    requires("nbdsh")  # a script that runs whichever python3 comes first: the system's has its module
    await service.client("/usr/bin/python3", "-m", "nbd", "-c", "uri = 'URI'", "-c", script(text))


def test_nbdsh_gets_the_errors_of_the_protocol(run_dir: Path, disk: Path) -> None:
    async def main(daemon: Peer) -> None:
        async with Service(run_dir) as service:
            await service.attach(daemon.socket)
            await nbdsh(
                service,
                """
                fails(errno.EINVAL, h.pread, 512, size)
                fails(errno.EINVAL, h.pread, 1024, size - 512)
                fails(errno.EINVAL, h.pread, 100, 0)
                fails(errno.EINVAL, h.pread, 512, 1)
                fails(errno.ENOSPC, h.pwrite, bytes(512), size)
                fails(errno.EINVAL, h.pwrite, bytes(100), 0)
                fails(errno.EINVAL, h.trim, 512, size)
                fails(errno.ENOSPC, h.zero, 512, size)
                fails(errno.EINVAL, h.cache, 512, 0)
                fails(errno.EINVAL, h.zero, 512, 0, nbd.CMD_FLAG_REQ_ONE)
                h.pwrite(b"x" * 512, 0, nbd.CMD_FLAG_FUA)
                assert h.pread(512, 0, nbd.CMD_FLAG_DF) == b"x" * 512
                h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
                assert h.pread(4096, 0) == bytes(4096)
                h.flush()
                h.shutdown()
                """,
            )

    with target(run_dir, disk) as daemon:
        asyncio.run(main(daemon))


def test_read_only_export_refuses_every_change(run_dir: Path, disk: Path) -> None:
    before = digest(disk)

    async def main(daemon: Peer) -> None:
        async with Service(run_dir) as service:
            await service.attach(daemon.socket, read_only=True)
            await nbdsh(
                service,
                """
                assert h.is_read_only()
                fails(errno.EPERM, h.pwrite, bytes(512), 0)
                fails(errno.EPERM, h.trim, 512, 0)
                fails(errno.EPERM, h.zero, 512, 0)
                fails(errno.EPERM, h.pwrite, bytes(1 << 20), size)
                assert len(h.pread(512, 0)) == 512
                h.flush()
                h.shutdown()
                """,
            )

    with target(run_dir, disk) as daemon:
        asyncio.run(main(daemon))
    assert digest(disk) == before


def test_blocks_of_4096_bytes_must_be_known_to_the_client(run_dir: Path, disk: Path) -> None:
    async def main(daemon: Peer) -> None:
        async with Service(run_dir) as service:
            export = await service.attach(daemon.socket)
            assert export.info().block_size == 4096
            await nbdsh(
                service,
                """
                assert h.get_block_size(nbd.SIZE_MINIMUM) == 4096
                fails(errno.EINVAL, h.pread, 512, 0)
                fails(errno.EINVAL, h.pwrite, bytes(4096), 512)
                assert len(h.pread(4096, 4096)) == 4096
                ignorant = nbd.NBD()
                ignorant.set_request_block_size(False)
                try:
                    ignorant.connect_uri(uri)
                except nbd.Error as error:
                    assert "NBD_INFO_BLOCK_SIZE" in error.string or "size" in error.string, error.string
                else:
                    raise AssertionError("was let in")
                """,
            )
            steps = ("-c", "write -P 0x44 512 512", "-c", "read -P 0x44 512 512")
            assert "failed" not in await service.client("qemu-io", "-f", "raw", "URI", *steps)

    with target(run_dir, disk, options="logical-block-size=4096") as daemon:
        asyncio.run(main(daemon))


def test_fio_verifies_what_it_wrote(run_dir: Path, disk: Path) -> None:
    async def main(daemon: Peer) -> None:
        async with Service(run_dir, pollers=2) as service:
            export = await service.attach(daemon.socket)
            words = ["--ioengine=nbd", "--uri=URI", "--rw=randwrite", "--iodepth=32", "--size=4m", "--numjobs=2"]
            more = [
                "--offset_increment=8m",
                "--bsrange=4k-64k",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--verify_state_save=0",
                "--name=v",
            ]
            requires("fio")
            await service.client("fio", *words, *more)
            await until(lambda: not export.clients)
            stats = export.bdev.stats()
            assert all(op.submitted == op.completed + op.failed for op in stats.ops.values())
            assert stats.in_flight == 0

    with target(run_dir, disk, queues=2) as daemon:
        asyncio.run(main(daemon))


async def start_fio(service: Service) -> asyncio.subprocess.Process:
    requires("fio")
    words = ["--name=x", "--ioengine=nbd", f"--uri={nbd_uri(service.socket, 'disk')}", "--rw=randrw", "--bs=4k"]
    return await asyncio.create_subprocess_exec(
        *("fio", *words, "--thread", "--iodepth=64", "--size=1g", "--time_based", "--runtime=60"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )


def served(export: NbdExport, requests: int) -> bool:
    return export.counters().requests > requests


def test_killed_client_costs_its_connection_only(run_dir: Path) -> None:
    async def main(daemon: Peer) -> None:
        async with Service(run_dir) as service:
            export = await service.attach(daemon.socket)
            peer = await service.connect()
            for _ in range(3):
                enough = export.counters().requests + 500
                process = await start_fio(service)
                await until(partial(served, export, enough))
                process.kill()
                await process.wait()
                await until(lambda: len(export.clients) == 1)
                assert (await peer.ask(READ, 0, 4096)).error == 0
            await peer.close()

    with storage_daemon(run_dir, NULL) as daemon:
        serve(main(daemon))


def test_detach_under_load_ends_export_and_connections(run_dir: Path) -> None:
    async def main(daemon: Peer) -> None:
        async with Service(run_dir) as service:
            export = await service.attach(daemon.socket)
            process = await start_fio(service)
            await until(lambda: export.counters().requests > 1000)
            await service.engine.controllers.detach("Virtio0")
            assert service.manager.list() == []
            async with asyncio.timeout(PATIENCE_S):
                await process.wait()

    with storage_daemon(run_dir, NULL) as daemon:
        serve(main(daemon))


def test_in_flight_io_is_answered_before_an_export_ends(run_dir: Path) -> None:
    async def main(daemon: Peer) -> None:
        async with Service(run_dir) as service:
            export = await service.attach(daemon.socket)
            peer, other = await service.connect(), await service.connect()
            daemon.pause()
            for cookie in range(8):
                peer.send(WRITE, cookie * 4096, 4096, cookie=cookie, data=bytes(4096))
            peer.send(FLUSH, cookie=8)
            await until(lambda: export.counters().in_flight == 9)
            ending = asyncio.create_task(service.manager.delete("disk"))
            assert await other.closed()
            daemon.resume()
            replies = [await peer.reply() for _ in range(9)]
            assert sorted((r.cookie, r.error) for r in replies) == [(i, 0) for i in range(9)]
            assert await peer.closed()
            await ending
            await peer.close()
            await other.close()

    with storage_daemon(run_dir, NULL) as daemon:
        serve(main(daemon))


def test_client_that_dies_with_io_in_flight_is_released_when_the_device_answers(run_dir: Path) -> None:
    async def main(daemon: Peer) -> None:
        async with Service(run_dir) as service:
            export = await service.attach(daemon.socket)
            peer = await service.connect()
            daemon.pause()
            for cookie in range(8):
                peer.send(READ, 0, 4096, cookie=cookie)
            await until(lambda: export.counters().in_flight == 8)
            await peer.close()
            other = await service.connect()
            assert len(export.clients) == 2
            daemon.resume()
            await until(lambda: len(export.clients) == 1)
            assert (await other.ask(READ, 0, 4096)).error == 0
            await other.close()

    with storage_daemon(run_dir, NULL) as daemon:
        serve(main(daemon))


@pytest.mark.parametrize("end", ["resume", "kill"])
def test_buffers_of_io_that_timed_out_are_in_quarantine_until_the_target_has_stopped(run_dir: Path, end: str) -> None:
    async def main(daemon: Peer) -> None:
        async with Service(run_dir, io_timeout_s=1) as service:
            await service.attach(daemon.socket)
            peer = await service.connect()
            daemon.pause()
            assert (await peer.ask(READ, 0, 4096, cookie=1)).error == EIO
            assert service.engine.buffers[0].stats()["quarantined_small"] == 1
            (kept,) = service.engine.controllers.quarantine.kept().values()
            assert (kept.small, kept.large) == (4096, 0)
            if end == "resume":
                daemon.resume()
                await until(lambda: service.engine.controllers.list()[0].state == "up")
                assert (await peer.ask(READ, 0, 4096, cookie=2)).error == 0
            else:
                await asyncio.to_thread(daemon.kill)
            await until(lambda: not service.engine.controllers.quarantine.kept())
            assert service.engine.buffers[0].stats()["quarantined_small"] == 0
            await peer.close()

    with storage_daemon(run_dir, NULL) as daemon:
        serve(main(daemon))


def test_restarted_target_is_invisible_to_the_client(run_dir: Path, disk: Path) -> None:
    content = disk.read_bytes()

    async def main() -> None:
        async with Service(run_dir) as service:
            with target(run_dir, disk) as daemon:
                await service.attach(daemon.socket)
                peer = await service.connect()
                assert (await peer.ask(READ, 0, 4096)).data == content[:4096]
                daemon.kill()
                peer.send(READ, 4096, 4096)
            with target(run_dir, disk):
                assert (await peer.reply()).data == content[4096:8192]
            await peer.close()

    serve(main())
