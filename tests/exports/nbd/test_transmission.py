"""The transmission phase, byte by byte, on a null bdev: order, limits, and clients that misbehave."""

from __future__ import annotations

import asyncio
from errno import ENOMEM
from pathlib import Path

import pytest

from tests.exports.nbd.service import (
    DISC,
    EINVAL,
    ENOSPC,
    ESHUTDOWN,
    FLUSH,
    FUA,
    READ,
    TRIM,
    WRITE,
    WRITE_ZEROES,
    Reply,
    Service,
    Wire,
    request,
    serve,
)
from tests.support.waiting import PATIENCE_S, until
from virtiod.exports.interface import ExportCounters
from virtiod.exports.nbd.listener import ListenAddress
from virtiod.poller.poller import Poller
from virtiod.target.backend import Backend
from virtiod.target.blk.device import BlkDevice, DiskSpec

MIB = 1 << 20


async def asleep(poller: Poller) -> None:
    """Returns once the poller has stopped spinning."""
    rounds = -1
    async with asyncio.timeout(PATIENCE_S):
        while poller.stats().rounds > rounds + 20:
            rounds = poller.stats().rounds
            await asyncio.sleep(0.1)


BLOCKS = 1 << 20


@pytest.mark.parametrize("structured", [False, True])
def test_every_request_is_answered_once_whatever_is_sent_ahead(run_dir: Path, structured: bool) -> None:
    async def main() -> None:
        async with Service(run_dir) as service:
            export = await service.null(BLOCKS)
            peer = await service.connect(structured)
            count = 1000  # four times what a connection may have in flight
            for cookie in range(count):
                peer.send(READ, cookie * 512, 512 + cookie % 9 * 4096, cookie=cookie)
            seen = [await peer.reply() for _ in range(count)]
            assert sorted(reply.cookie for reply in seen) == list(range(count))
            assert all(len(r.data) == 512 + r.cookie % 9 * 4096 and not r.error for r in seen)
            sent = sum(len(r.data) + (28 if structured else 16) for r in seen)
            counters = ExportCounters(requests=count, received=28 * count, sent=sent)
            await until(lambda: export.counters() == counters)  # the poller counts what it has sent
            peer.writer.write(request(DISC))
            assert await peer.closed()
            await until(lambda: not export.clients)
            assert export.counters() == counters._replace(received=28 * count + 28)
            await peer.close()

    serve(main())


def test_bytes_may_come_one_by_one(run_dir: Path) -> None:
    async def main() -> None:
        async with Service(run_dir) as service:
            await service.null()
            peer = await service.connect()
            peer.reads[5] = 512
            for byte in request(WRITE, 0, 512, cookie=4, data=bytes(512)) + request(READ, 0, 512, cookie=5):
                peer.writer.write(bytes([byte]))
                await peer.writer.drain()
            assert [(await peer.reply()).cookie, (await peer.reply()).cookie] == [4, 5]
            await peer.close()

    serve(main())


@pytest.mark.parametrize("length", [512, 65024, 65536, 65536 + 512, MIB, MIB + 512, 32 * MIB])
def test_requests_of_any_length_keep_the_stream_in_step(run_dir: Path, length: int) -> None:
    async def main() -> None:
        async with Service(run_dir) as service:
            await service.null(BLOCKS)
            peer = await service.connect(structured=True)
            peer.send(WRITE, 512, length, cookie=1, data=bytes(length))
            peer.send(READ, 512, length, cookie=2)
            peer.send(FLUSH, cookie=3)
            replies = {r.cookie: r for r in [await peer.reply() for _ in range(3)]}
            assert [(replies[i].error, len(replies[i].data)) for i in (1, 2, 3)] == [(0, 0), (0, length), (0, 0)]
            await peer.close()

    serve(main())


@pytest.mark.parametrize(
    ("offset", "length", "error"), [(1 << 40, 512, ENOSPC), (1, 512, EINVAL), (0, 40 * MIB, EINVAL), (0, 100, EINVAL)]
)
def test_payload_of_a_refused_write_is_skipped(run_dir: Path, offset: int, length: int, error: int) -> None:
    async def main() -> None:
        async with Service(run_dir) as service:
            await service.null(BLOCKS)
            peer = await service.connect(structured=True)
            peer.send(WRITE, offset, length, cookie=1, data=b"\x25\x60\x95\x13" * (length // 4))
            reply = await peer.reply()
            assert (reply.cookie, reply.error) == (1, error)
            assert reply.text
            assert await peer.ask(FLUSH, cookie=2) == Reply(2, 0, b"")
            await peer.close()

    serve(main())


def test_every_command_is_answered(run_dir: Path) -> None:
    async def main() -> None:
        async with Service(run_dir) as service:
            export = await service.null()
            peer = await service.connect(structured=True)
            for command, length, flags in [(TRIM, 512, FUA), (WRITE_ZEROES, 512, FUA), (FLUSH, 0, 0), (TRIM, MIB, 0)]:
                assert await peer.ask(command, 0, length, flags=flags, cookie=9) == Reply(9, 0, b"")
            flushes = export.bdev.stats().ops["flush"].completed
            assert flushes == 2  # that of the client, and one after the TRIM with FUA
            assert export.bdev.stats().ops["unmap"].completed == 2
            await peer.close()

    serve(main())


def test_flush_succeeds_on_a_bdev_that_has_nothing_to_flush(run_dir: Path) -> None:
    async def main() -> None:
        async with Service(run_dir) as service:
            await service.null(io_types=frozenset({"read", "write"}))
            peer = await service.connect()
            assert await peer.ask(FLUSH, cookie=1) == Reply(1, 0, b"")
            assert (await peer.ask(TRIM, 0, 512, cookie=1)).error == EINVAL
            await peer.close()

    serve(main())


@pytest.mark.parametrize("data", [b"x" * 28, request(READ, 0, 512) + b"GET / HTTP/1.1\r\nHost: disk\r\n\r\n"])
def test_what_is_no_request_closes_the_connection(run_dir: Path, data: bytes) -> None:
    async def main() -> None:
        async with Service(run_dir) as service:
            export = await service.null()
            peer = await service.connect()
            peer.writer.write(data)
            async with asyncio.timeout(PATIENCE_S):
                answer = await peer.reader.read()
            assert len(answer) in {0, 16 + 512}
            await until(lambda: not export.clients)
            await peer.close()

    serve(main())


@pytest.mark.parametrize("part", [1, 27, 28, 28 + 512, 28 + 65536])
def test_client_that_leaves_in_the_middle_of_a_write_leaves_nothing_behind(run_dir: Path, part: int) -> None:
    async def main() -> None:
        async with Service(run_dir) as service:
            export = await service.null(BLOCKS)
            peer = await service.connect()
            peer.writer.write(request(WRITE, 0, MIB, data=bytes(MIB))[:part])
            await peer.close()
            await until(lambda: not export.clients)
            assert export.bdev.stats().ops["write"].submitted == 0

    serve(main())


def test_replies_are_sent_to_a_client_that_has_closed_its_half(run_dir: Path) -> None:
    async def main() -> None:
        async with Service(run_dir) as service:
            await service.null()
            peer = await service.connect()
            peer.send(READ, 0, MIB, cookie=1)
            peer.writer.write_eof()
            assert len((await peer.reply()).data) == MIB
            assert await peer.closed()
            await peer.close()

    serve(main())


def test_client_that_does_not_read_holds_up_only_itself(run_dir: Path) -> None:
    async def main() -> None:
        async with Service(run_dir) as service:
            export = await service.null(BLOCKS)
            silent, peer = await service.connect(), await service.connect()
            for cookie in range(2048):
                silent.send(READ, 0, 65536, cookie=cookie)
            await until(lambda: export.clients[0].counters().requests)
            for _ in range(50):
                assert len((await peer.ask(READ, 0, MIB)).data) == MIB
            assert export.clients[0].counters().requests < 1024
            for _ in range(2048):
                assert len((await silent.reply()).data) == 65536
            await silent.close()
            await peer.close()

    serve(main())


def test_too_few_buffers_delay_requests_and_lose_none(run_dir: Path) -> None:
    async def main() -> None:
        async with Service(run_dir, buffers=(8, 16)) as service:
            export = await service.null(BLOCKS)
            assert export.info().max_payload == MIB
            peers = [await service.connect(structured=True) for _ in range(8)]

            async def send(number: int, peer: Wire) -> None:
                for cookie in range(60):
                    length = (4096, 65536, MIB)[(cookie + number) % 3]
                    peer.send(READ, 0, length, cookie=cookie)
                    peer.send(WRITE, 0, length, cookie=1000 + cookie, data=bytes(length))
                    await peer.writer.drain()

            async def receive(peer: Wire) -> None:
                assert {(await peer.reply()).cookie for _ in range(120)} == {*range(60), *range(1000, 1060)}

            await asyncio.gather(*(send(*both) for both in enumerate(peers)), *map(receive, peers))
            assert service.engine.buffers[0].stats()["exhausted"]
            for peer in peers:
                await peer.close()

    serve(main())


def test_a_request_that_needs_buffers_that_are_kept_is_refused_until_they_are_flushed(run_dir: Path) -> None:
    async def main() -> None:
        async with Service(run_dir, buffers=(64, 40)) as service:
            disk = BlkDevice(DiskSpec(size=4 * MIB, memory=True), service.engine.pollers)
            backend = Backend(str(run_dir / "v.sock"), disk)
            await backend.start()
            export = await service.attach(run_dir / "v.sock")
            longest = export.info().max_payload
            peer = await service.connect()
            assert (await peer.ask(WRITE, 0, 65536, data=bytes(65536))).error == 0
            assert service.engine.buffers[0].stats()["kept_large"] == 1
            assert (await peer.ask(READ, 0, longest)).error == ENOMEM
            assert len((await peer.ask(READ, 0, longest - 65536)).data) == longest - 65536
            assert (await peer.ask(FLUSH)).error == 0
            assert len((await peer.ask(READ, 0, longest)).data) == longest
            await peer.close()
            await service.engine.controllers.detach("Virtio0")
            await backend.stop()
            disk.close()

    serve(main())


def test_request_that_fails_while_it_waits_for_buffers_lets_the_next_ones_have_them(run_dir: Path) -> None:
    async def main() -> None:
        async with Service(run_dir, buffers=(1, 4)) as service:
            export = await service.null(BLOCKS)
            holder, waiter, third = [await service.connect() for _ in range(3)]
            pool = service.engine.buffers[0]
            for cookie in range(400):  # more than its socket takes: what does not fit holds all buffers
                holder.send(READ, 0, 65536, cookie=cookie)
            sent = [-1] * 5

            def stuck() -> bool:
                sent.append(export.clients[0].counters().sent)
                return pool.stats()["large_free"] == 0 and len(set(sent[-5:])) == 1

            await until(stuck)
            waiter.send(READ, 1 << 28, 65536, cookie=1000)
            await until(lambda: export.clients[1].counters().received == 28)
            service.engine.bdevs.update(export.bdev, type(export.bdev.info)(512, 1024))
            assert (await waiter.reply()).error == EINVAL  # the bdev has shrunk: it needs no buffers any more
            for _ in range(400):
                await holder.reply()
            assert (await third.ask(READ, 0, 4096)).error == 0
            assert (await waiter.ask(READ, 0, 4096)).error == 0
            for peer in (holder, waiter, third):
                await peer.close()

    serve(main())


@pytest.mark.waits
def test_client_that_sits_on_buffers_others_wait_for_is_cut_off(run_dir: Path) -> None:
    async def main() -> None:
        async with Service(run_dir, buffers=(8, 16)) as service:
            export = await service.null(BLOCKS)
            sitting, peer = await service.connect(), await service.connect()
            sitting.writer.write(request(WRITE, 0, MIB, data=b"begun"))
            await until(lambda: export.clients[0].counters().requests)
            assert len((await peer.ask(READ, 0, MIB)).data) == MIB
            assert await sitting.closed()
            await until(lambda: len(export.clients) == 1)  # told after the socket was closed
            await sitting.close()
            await peer.close()

    serve(main())


def test_connections_are_spread_over_the_pollers(run_dir: Path) -> None:
    async def main() -> None:
        async with Service(run_dir, pollers=2) as service:
            export = await service.null()
            peers = [await service.connect() for _ in range(4)]
            assert [(await peer.ask(READ, 0, 512)).error for peer in peers] == [0] * 4
            names = sorted(client.transmission.poller_name for client in export.clients if client.transmission)
            assert names == ["poller_0", "poller_0", "poller_1", "poller_1"]
            assert sum(s.name == "nbd_disk" for p in service.engine.pollers for s in p.sources()) == 4
            for peer in peers:
                await peer.close()

    serve(main())


def test_a_client_of_a_null_bdev_reads_zeroes_not_what_another_client_wrote(run_dir: Path) -> None:
    async def main() -> None:
        async with Service(run_dir) as service:
            await service.null()
            one, other = await service.connect(), await service.connect()
            for length in (512, 4096, 65536, 3 * 65536 + 1024):
                assert (await one.ask(WRITE, 0, length, data=b"secret!!" * (length // 8))).error == 0
                assert (await other.ask(READ, 0, length)).data == bytes(length)
            await one.close()
            await other.close()

    serve(main())


def test_smaller_bdev_refuses_what_is_beyond_its_end_now(run_dir: Path) -> None:
    async def main() -> None:
        async with Service(run_dir) as service:
            export = await service.null(num_blocks=2048)
            peer = await service.connect()
            assert (await peer.ask(READ, 1 << 19, 512)).error == 0
            service.engine.bdevs.update(export.bdev, type(export.bdev.info)(512, 1024))
            assert (await peer.ask(READ, 1 << 19, 512)).error == EINVAL
            assert export.info().size == 1 << 19
            await peer.close()

    serve(main())


def test_removed_bdev_ends_its_export_and_closes_idle_clients(run_dir: Path) -> None:
    async def main() -> None:
        async with Service(run_dir) as service:
            export = await service.null()
            peers = [await service.connect() for _ in range(3)]
            assert (await peers[0].ask(READ, 0, 512)).error == 0
            await service.engine.bdevs.unregister(export.bdev)
            assert [await peer.closed() for peer in peers] == [True] * 3
            assert service.manager.list() == []
            for peer in peers:
                await peer.close()

    serve(main())


def test_requests_sent_while_the_export_ends_are_answered_or_refused(run_dir: Path) -> None:
    async def main() -> None:
        async with Service(run_dir) as service:
            await service.null(BLOCKS)
            peer = await service.connect()
            for cookie in range(256):
                peer.send(READ, 0, 65536, cookie=cookie)
            await peer.reply()
            ending = asyncio.create_task(service.manager.delete("disk"))
            errors = set()
            while True:
                try:
                    errors.add((await peer.reply()).error)
                except (asyncio.IncompleteReadError, ConnectionResetError):
                    break
            assert errors <= {0, ESHUTDOWN}
            await ending
            await peer.close()

    serve(main())


def test_idle_client_lets_the_poller_sleep(run_dir: Path) -> None:
    async def main() -> None:
        async with Service(run_dir) as service:
            await service.null()
            peer = await service.connect()
            (poller,) = service.engine.pollers
            for _ in range(50):
                assert (await peer.ask(READ, 0, 512)).error == 0
            await asleep(poller)
            assert (await peer.ask(READ, 0, 512)).error == 0
            await peer.close()

    serve(main())


def test_client_that_does_not_read_lets_the_poller_sleep(run_dir: Path) -> None:
    async def main() -> None:
        async with Service(run_dir) as service:
            export = await service.null(BLOCKS)
            peer = await service.connect()
            for cookie in range(512):
                peer.send(READ, 0, 65536, cookie=cookie)
            await until(lambda: export.counters().requests)
            (poller,) = service.engine.pollers
            await asleep(poller)
            await peer.close()
            await until(lambda: not export.clients)

    serve(main())


@pytest.mark.programs
def test_exports_are_served_over_tcp(run_dir: Path) -> None:
    async def main() -> None:
        async with Service(run_dir) as service:
            export = await service.null()
            await service.manager.listen(ListenAddress.parse("tcp:127.0.0.1:0"))
            uri = service.manager.uris(export)[1]
            assert "is_read_only" in await service.client("nbdinfo", "--json", uri)
            host, port = uri.removeprefix("nbd://").split("/")[0].split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            assert (await reader.readexactly(18)).startswith(b"NBDMAGIC")
            writer.close()
            await writer.wait_closed()

    serve(main())
