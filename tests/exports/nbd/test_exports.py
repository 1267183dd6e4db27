"""Exports and listeners, with a stand-in for the transmission phase."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.clocks import Stopwatch, threads
from tests.support.waiting import PATIENCE_S, until
from virtiod.bdev import Bdev, BdevInfo, BdevRegistry
from virtiod.bdev.channel import BdevChannels
from virtiod.bdev.use import Access, Use
from virtiod.core import peers
from virtiod.core.errors import AlreadyExists, Busy, ConnectError, InvalidArgument, NotFound, VirtiodError
from virtiod.core.levels import NOTICE
from virtiod.exports.interface import ExportContext, ExportCounters, ListenOptions
from virtiod.exports.nbd import listener as server
from virtiod.exports.nbd import places, wire
from virtiod.exports.nbd.export import NbdExport
from virtiod.exports.nbd.exports import NbdExports
from virtiod.exports.nbd.listener import ListenAddress
from virtiod.exports.nbd.places import Places
from virtiod.exports.nbd.wire import Option, Reply


class FakeTransmission:
    """Holds the socket; ends when stopped or aborted, unless it is told to hang on."""

    poller_name = "poller_0"

    def __init__(
        self,
        sock: socket.socket,
        export: NbdExport,
        *,
        leftover: bytes,
        structured: bool,
        on_end: Callable[[str], None],
    ) -> None:
        self.sock, self.leftover, self.structured, self.on_end = sock, leftover, structured, on_end
        self.asked: list[str] = []
        self.obey = {"stop", "abort"}

    def counters(self) -> ExportCounters:
        return ExportCounters(requests=3, received=84)

    def stop(self) -> None:
        self._end("stop")

    def abort(self) -> None:
        self._end("abort")

    def _end(self, how: str) -> None:
        self.asked.append(how)
        if how in self.obey:
            self.sock.close()
            self.on_end(how)


class Setup:
    """A manager of one bdev on a Unix socket; `started` are the connections handed over."""

    def __init__(self, path: Path) -> None:
        self.max_payload = 32 << 20
        self.file, self.path = path, str(path)
        self.bdevs = BdevRegistry()
        self.bdev = Bdev("Disk0", BdevInfo(512, 2048, io_types=frozenset({"read", "write"})), BdevChannels([]))
        self.bdevs.register(self.bdev)
        self.started: list[FakeTransmission] = []
        self.manager = NbdExports(ExportContext(self.bdevs, ()), self)

    def start(
        self,
        sock: socket.socket,
        export: NbdExport,
        *,
        leftover: bytes,
        structured: bool,
        on_end: Callable[[str], None],
    ) -> FakeTransmission:
        self.started.append(FakeTransmission(sock, export, leftover=leftover, structured=structured, on_end=on_end))
        return self.started[-1]

    def exists(self) -> bool:
        return self.file.exists()

    def mode(self) -> int:
        return self.file.stat().st_mode

    async def __aenter__(self) -> Setup:
        await self.manager.listen(ListenAddress.parse(f"unix:{self.path}"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.manager.stop(0.1)
        assert not self.bdev.claimed
        assert not self.exists()


class Peer:
    """A client that speaks the negotiation only."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, path: str) -> Peer:
        peer = cls(*await asyncio.open_unix_connection(path))
        assert await peer.reader.readexactly(18) == b"NBDMAGICIHAVEOPT\0\3"
        peer.writer.write(struct.pack(">I", 3))
        return peer

    async def go(self, name: str, after: bytes = b"") -> list[int]:
        """Asks for an export; the reply types."""
        data = struct.pack(f">I{len(name)}sH", len(name), name.encode(), 0)
        self.writer.write(wire.OPTION.pack(wire.OPTION_MAGIC, Option.GO, len(data)) + data + after)
        kinds: list[int] = []
        while not kinds or kinds[-1] == Reply.INFO:
            _, _, kind, length = wire.REPLY.unpack(await self.reader.readexactly(20))
            await self.reader.readexactly(length)
            kinds.append(kind)
        return kinds

    async def closed(self) -> bool:
        return await self.reader.read(1) == b""

    def leave(self) -> None:
        self.writer.close()


def negotiations() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("NBD negotiation")]


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path / "n.sock")


def run(coroutine: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 2 * PATIENCE_S))


def test_go_hands_the_socket_over_with_what_came_after_it(setup: Setup) -> None:
    async def main() -> None:
        async with setup as s:
            await s.manager.create("Disk0", "disk")
            peer = await Peer.connect(s.path)
            assert (await peer.go("disk", b"early"))[-1] == Reply.ACK
            await until(lambda: s.started)
            (given,) = s.started
            assert (given.leftover, given.structured, given.sock.getblocking()) == (b"early", False, False)
            (client,) = s.manager.list()[0].clients
            assert client.peer == f"pid {os.getpid()} uid {os.getuid()}"
            await s.manager.delete("disk")
            assert given.asked == ["stop"]
            assert await peer.closed()
            peer.leave()

    run(main())


def test_an_export_tells_its_bdev_who_is_connected_and_may_write(setup: Setup) -> None:
    async def main() -> None:
        async with setup as s:
            me = f"pid {os.getpid()} uid {os.getuid()}"
            for name, read_only, access in (("rw", False, Access.WRITE), ("ro", True, Access.READ)):
                await s.manager.create("Disk0", name, read_only=read_only)
                idle = Use("nbd", "NBD export", name, Access.NONE, [], read_only)
                assert s.bdev.uses()[-1] == idle
                peers = [await Peer.connect(s.path) for _ in range(2)]
                assert s.bdev.uses()[-1] == idle  # who negotiates has chosen nothing yet
                assert [(await peer.go(name))[-1] for peer in peers] == [Reply.ACK] * 2
                await until(lambda: len(s.started) == 2)
                assert s.bdev.uses()[-1] == Use("nbd", "NBD export", name, access, [me], read_only)
                s.started[0].abort()
                assert s.bdev.uses()[-1].access is access
                s.started[1].abort()
                assert s.bdev.uses()[-1] == idle
                s.started.clear()
                for peer in peers:
                    peer.leave()

    run(main())


def test_no_client_gets_in_while_somebody_has_the_bdev_for_itself(setup: Setup) -> None:
    async def main() -> None:
        async with setup as s:
            await s.manager.create("Disk0", "disk")
            load = Use("load", "load", "randwrite", Access.WRITE, exclusive=True)
            handle = s.bdev.open(lambda: load)
            peer = await Peer.connect(s.path)
            assert await peer.go("disk") == [Reply.ERR_POLICY]
            assert await peer.go("disk") == [Reply.ERR_POLICY]
            handle.close()
            assert (await peer.go("disk"))[-1] == Reply.ACK  # on the same connection
            handle = s.bdev.open(lambda: replace(load, exclusive=False))
            forced = await Peer.connect(s.path)
            assert (await forced.go("disk"))[-1] == Reply.ACK
            handle.close()
            for one in (peer, forced):
                one.leave()

    run(main())


@pytest.mark.parametrize("clients", [0, 2])
def test_the_log_says_whose_connections_end_with_an_export(
    setup: Setup, clients: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with setup as s:
            await s.manager.create("Disk0", "disk")
            peers = [await Peer.connect(s.path) for _ in range(clients)]
            for peer in peers:
                await peer.go("disk")
            await until(lambda: len(s.started) == clients)
            await s.manager.delete("disk")
            told = [record.message for record in caplog.records if record.levelno == NOTICE]
            me = f"pid {os.getpid()} uid {os.getuid()}"
            assert told == ([f"NBD export disk ends, and with it the connections of {me}"] if clients else [])
            for peer in peers:
                peer.leave()

    run(main())


def test_exports_are_listed_with_their_uris_and_lasting_counters(setup: Setup) -> None:
    async def main() -> None:
        async with setup as s:
            await s.manager.listen(ListenAddress.parse("tcp:127.0.0.1:0"))
            export = await s.manager.create("Disk0", "a b/c")
            port = s.manager.uris(export)[1].split(":")[2].split("/")[0]
            assert s.manager.uris(export) == [
                f"nbd+unix:///a%20b%2Fc?socket={s.path}",
                f"nbd://127.0.0.1:{port}/a%20b%2Fc",
            ]
            peer = await Peer.connect(s.path)
            await peer.go("a b/c")
            await until(lambda: s.started)
            assert export.counters() == ExportCounters(requests=3, received=84)
            s.started[0].abort()
            assert (export.clients, export.counters()) == ([], ExportCounters(requests=3, received=84))
            peer.leave()

    run(main())


def test_connections_of_an_export_are_limited(setup: Setup) -> None:
    async def main() -> None:
        async with setup as s:
            await s.manager.create("Disk0", "disk", max_connections=1)
            first, second = await Peer.connect(s.path), await Peer.connect(s.path)
            assert (await first.go("disk"))[-1] == Reply.ACK
            assert await second.go("disk") == [Reply.ERR_POLICY]
            await until(lambda: s.started)
            s.started[0].abort()
            assert (await second.go("disk"))[-1] == Reply.ACK
            await until(lambda: len(s.started) == 2)
            first.leave()
            second.leave()

    run(main())


def test_silent_client_is_dropped_at_its_deadline_and_delays_nobody(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_S", 1.0)  # which is long for the other one

    async def main() -> None:
        async with setup as s:
            await s.manager.create("Disk0", "disk")
            silent = await Peer.connect(s.path)
            peer = await Peer.connect(s.path)
            assert (await peer.go("disk"))[-1] == Reply.ACK
            assert await silent.closed()
            peer.leave()
            silent.leave()

    run(main())


def test_client_that_leaves_in_negotiation_frees_its_place(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_NEGOTIATING", 1)

    async def main() -> None:
        async with setup as s:
            await s.manager.create("Disk0", "disk")
            for _ in range(3):
                (await Peer.connect(s.path)).leave()
            peer = await Peer.connect(s.path)
            assert (await peer.go("disk"))[-1] == Reply.ACK
            peer.leave()

    run(main())


@pytest.mark.parametrize("idle", [192, 300])
def test_clients_that_sit_in_the_handshake_hold_up_no_other(setup: Setup, idle: int) -> None:
    async def main() -> None:
        async with setup as s:
            await s.manager.create("Disk0", "disk")
            sitting = [await asyncio.open_unix_connection(s.path) for _ in range(idle)]
            for _ in range(3):
                watch = Stopwatch(threads())
                peer = await Peer.connect(s.path)
                assert (await peer.go("disk"))[-1] == Reply.ACK
                assert watch.own_s() < 5  # and not after deadlines of 10 s each
                peer.leave()
            assert len(negotiations()) <= server.MAX_OF_PEER  # all of them are this process's
            for _, writer in sitting:
                writer.close()

    run(main())


def test_many_clients_of_one_process_that_come_at_once_are_all_served(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "OWN_WAIT_S", PATIENCE_S)
    monkeypatch.setattr(places, "SILENT_S", PATIENCE_S)
    monkeypatch.setattr(places, "LONG_S", PATIENCE_S)

    async def main() -> None:
        async with setup as s:
            await s.manager.create("Disk0", "disk", max_connections=256)

            async def client() -> Peer:
                peer = await Peer.connect(s.path)
                assert (await peer.go("disk"))[-1] == Reply.ACK
                return peer

            clients = await asyncio.gather(*(client() for _ in range(200)))
            for peer in clients:
                peer.leave()

    run(main())


def test_a_process_whose_clients_keep_talking_holds_up_its_own_only(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "MAX_OF_PEER", 2)
    for module, name in ((server, "HANDSHAKE_S"), (places, "SILENT_S"), (places, "LONG_S")):
        monkeypatch.setattr(module, name, 10 * PATIENCE_S)
    processes = iter(["greedy"] * 3 + ["other"])
    monkeypatch.setattr(server, "peer_of", lambda _: peers.Peer(*[next(processes)] * 3))

    async def main() -> None:
        async with setup as s:
            await s.manager.create("Disk0", "disk")
            talking = [await Peer.connect(s.path) for _ in range(2)]
            reader, writer = await asyncio.open_unix_connection(s.path)
            other = await Peer.connect(s.path)
            assert (await other.go("disk"))[-1] == Reply.ACK
            assert await reader.read() == b""
            assert (await talking[0].go("disk"))[-1] == Reply.ACK
            writer.close()
            for peer in (other, *talking):
                peer.leave()

    run(main())
    assert "2 clients negotiate; greedy has too many of them: one was closed" in caplog.text


def test_an_acceptor_outlives_what_nobody_foresaw(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = Places.in_the_way

    def broken(_: Places, peer: object) -> None:
        monkeypatch.setattr(Places, "in_the_way", real)
        raise ZeroDivisionError

    monkeypatch.setattr(Places, "in_the_way", broken)

    async def main() -> None:
        async with setup as s:
            await s.manager.create("Disk0", "disk")
            reader, writer = await asyncio.open_unix_connection(s.path)
            assert await reader.read() == b""
            writer.close()
            peer = await Peer.connect(s.path)
            assert (await peer.go("disk"))[-1] == Reply.ACK
            peer.leave()

    run(main())
    assert "a client was not served" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_removal_of_the_bdev_ends_the_export(setup: Setup) -> None:
    async def main() -> None:
        async with setup as s:
            await s.manager.create("Disk0", "disk")
            peer = await Peer.connect(s.path)
            await peer.go("disk")
            await until(lambda: s.started)
            await s.bdevs.unregister(s.bdev)
            assert (s.manager.list(), s.bdev.claimed) == ([], False)
            assert await peer.closed()
            peer.leave()
            late = await Peer.connect(s.path)
            assert await late.go("disk") == [Reply.ERR_UNKNOWN]
            late.leave()

    run(main())


@pytest.mark.parametrize("obeys", [{"abort"}, set()])
def test_delete_returns_though_in_flight_io_does_not(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, obeys: set[str]
) -> None:
    monkeypatch.setattr("virtiod.exports.nbd.export.ABORT_S", 0.05)

    async def main() -> None:
        async with setup as s:
            await s.manager.create("Disk0", "disk")
            peer = await Peer.connect(s.path)
            await peer.go("disk")
            await until(lambda: s.started)
            s.started[0].obey = obeys
            await asyncio.gather(s.manager.delete("disk", 0.05), s.manager.delete("disk", 0.05))
            assert s.started[0].asked == ["stop", "abort"]
            assert (s.manager.list(), s.bdev.claimed) == ([], False)
            s.started[0].sock.close()
            peer.leave()

    run(main())


def test_client_is_told_of_an_ending_export(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with setup as s:
            await s.manager.create("Disk0", "disk")
            peer, late = await Peer.connect(s.path), await Peer.connect(s.path)
            await peer.go("disk")
            await until(lambda: s.started)
            s.started[0].obey = {"abort"}
            ending = asyncio.create_task(s.manager.delete("disk", PATIENCE_S))
            await until(lambda: s.started[0].asked)
            assert await late.go("disk") == [Reply.ERR_SHUTDOWN]
            s.started[0].abort()
            await ending
            peer.leave()
            late.leave()

    run(main())


def test_size_is_told_as_it_is_at_go(setup: Setup) -> None:
    async def main() -> None:
        async with setup as s:
            export = await s.manager.create("Disk0", "disk")
            s.bdevs.update(s.bdev, replace(s.bdev.info, num_blocks=4096))
            assert export.info().size == 2 << 20

    run(main())


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"bdev_name": "none"}, NotFound, "bdev 'none' does not exist"),
        ({"name": ""}, InvalidArgument, "name must have 1 to 255 characters"),
        ({"name": "x" * 256}, InvalidArgument, "name must have 1 to 255 characters, not 256"),
        ({"name": "a\u202eb"}, InvalidArgument, r"U\+202E, which can't be printed"),
        ({"name": "a\nb"}, InvalidArgument, "can't be printed"),
        ({"description": "a\u202eb"}, InvalidArgument, r"description 'a\\u202eb': holds U\+202E"),
        ({"description": "d" * 4097}, InvalidArgument, "description must have 0 to 4096"),
        ({"max_connections": 0}, InvalidArgument, "max_connections 0: must be 1 to 1024"),
        (
            {"name": "taken", "read_only": True, "max_connections": 1},
            AlreadyExists,
            "NBD export 'taken' already exists, with read_only false, not true; max_connections 64, not 1",
        ),
    ],
)
def test_create_says_what_is_wrong(setup: Setup, params: dict[str, Any], error: type[VirtiodError], text: str) -> None:
    async def main() -> None:
        async with setup as s:
            await s.manager.create("Disk0", "taken")
            with pytest.raises(error, match=text):
                await s.manager.create(**{"bdev_name": "Disk0", **params})
            assert len(s.bdev.handles) == 1

    run(main())


def test_delete_of_an_unknown_export_says_so(setup: Setup) -> None:
    async def main() -> None:
        async with setup as s:
            with pytest.raises(NotFound, match="no NBD export 'x'"):
                await s.manager.delete("x")

    run(main())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("tcp", "tcp:127.0.0.1:10809"),
        ("tcp:", "tcp:127.0.0.1:10809"),
        ("tcp:0.0.0.0", "tcp:0.0.0.0:10809"),
        ("tcp:10.1.2.3:99", "tcp:10.1.2.3:99"),
        ("tcp::99", "tcp:127.0.0.1:99"),
        ("tcp:[::1]:99", "tcp:[::1]:99"),
        ("tcp:[::1]", "tcp:[::1]:10809"),
    ],
)
def test_listen_address_is_loopback_unless_asked_otherwise(text: str, expected: str) -> None:
    assert str(ListenAddress.parse(text)) == expected


@pytest.mark.parametrize("text", ["", "unix:", "udp:1.2.3.4", "tcp:example", "tcp:1.2.3.4:x", "tcp:1.2.3.4:70000"])
def test_bad_listen_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="listen address"):
        ListenAddress.parse(text)


def test_socket_is_its_owners_only_and_a_stale_one_is_replaced(setup: Setup) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(setup.path)
        async with setup as s:
            assert stat.S_IMODE(s.mode()) == 0o600
            with pytest.raises(Busy, match="another process listens there"):
                await s.manager.listen(ListenAddress.parse(f"unix:{s.path}"))

    run(main())


def test_starting_listens_where_the_options_say(setup: Setup) -> None:
    async def main() -> None:
        await setup.manager.start(ListenOptions(), None)
        export = await setup.manager.create("Disk0")
        assert setup.manager.uris(export) == []
        await setup.manager.start(ListenOptions(setup.path, "127.0.0.1:0"), None)
        unix, tcp = setup.manager.uris(export)
        assert unix == f"nbd+unix:///Disk0?socket={setup.path}"
        assert tcp.startswith("nbd://127.0.0.1:")
        await setup.manager.stop(0.1)
        assert not setup.exists()

    run(main())


def test_starting_serves_a_socket_that_was_handed_over_once(setup: Setup) -> None:
    async def main() -> None:
        handed = socket.socket(socket.AF_UNIX)
        handed.bind(setup.path)
        handed.listen()
        handed.setblocking(False)
        await setup.manager.start(ListenOptions(setup.path), handed)
        export = await setup.manager.create("Disk0")
        assert setup.manager.uris(export) == [f"nbd+unix:///Disk0?socket={setup.path}"]
        await setup.manager.stop(0.1)
        assert setup.exists()  # it is the service manager's to remove

    run(main())


def test_listening_where_it_can_not_be_names_the_cause(setup: Setup, tmp_path: Path) -> None:
    async def main() -> None:
        async with setup as s:
            plain = tmp_path / "file"
            plain.write_text("")
            with pytest.raises(AlreadyExists, match="is no socket"):
                await s.manager.listen(ListenAddress.parse(f"unix:{plain}"))
            with pytest.raises(ConnectError, match="No such file or directory"):
                await s.manager.listen(ListenAddress.parse("unix:/none/x.sock"))
            with pytest.raises(ConnectError, match="too long"):
                await s.manager.listen(ListenAddress.parse("unix:/tmp/" + "x" * 200))
            with pytest.raises(ConnectError, match="Cannot assign requested address"):
                await s.manager.listen(ListenAddress.parse("tcp:192.0.2.1:99"))

    run(main())
