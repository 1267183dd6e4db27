"""What the embedded SCSI target does beside answering: task management, events, hot plug, and faults on demand."""

from __future__ import annotations

import asyncio
import signal
import struct
import subprocess
import sys
from functools import partial
from random import Random

import pytest

from tests.support.fake_scsi_units import descriptor_sense
from tests.support.rig import in_loop
from tests.support.waiting import soon, until
from tests.target.scsi.frontend import REQUEST, Pending, connected, serving
from virtiod.core.errors import InvalidArgument, NotFound
from virtiod.scsi.address import pack_listed
from virtiod.scsi.spec import Asc, Opcode, SenseKey, Status
from virtiod.target.scsi.device import CAPACITY_CHANGED, HostSpec
from virtiod.target.scsi.luns import LunFault, LunSpec, parse_luns
from virtiod.virtio.scsi import EventFlag, EventType, ResetReason, Response, TmfType

MIB = 1 << 20
TWO = HostSpec({0: {0: LunSpec(MIB, memory=True), 1: LunSpec(MIB)}}, queues=2)
TEST_UNIT_READY = bytes([Opcode.TEST_UNIT_READY, 0, 0, 0, 0, 0])
SILENCE = LunFault("silence")


async def is_silent(*pending: object) -> bool:
    """Nothing completes meanwhile."""
    await asyncio.sleep(0.05)
    for one in pending:
        one.ring.look()  # type: ignore[attr-defined]
        if one.head in one.ring.done:  # type: ignore[attr-defined]
            return False
    return True


def are_done(*pending: Pending) -> bool:
    """Whether all were answered."""
    for one in pending:
        one.ring.look()
    return all(one.head in one.ring.done for one in pending)


@in_loop
async def test_task_management_ends_the_tasks_it_means_and_no_others(path: str) -> None:
    async with serving(path, TWO) as device, connected(path, queues=4) as front:
        await front.ready((0, 0), (0, 1))
        device.fault(0, 0, SILENCE)
        device.fault(0, 1, SILENCE)
        before = device.requests()
        tasks = [front.send(0, lun, TEST_UNIT_READY, queue=q) for lun, q in ((0, 0), (0, 1), (0, 1), (1, 0))]
        await until(lambda: device.requests() == before + 4, "the tasks to be taken")
        assert await is_silent(*tasks)
        assert await front.tmf(TmfType.QUERY_TASK, 0, 0, tasks[0].tag) == Response.FUNCTION_SUCCEEDED  # it is there
        assert await front.tmf(TmfType.QUERY_TASK, 0, 0, 999) == Response.OK
        assert await front.tmf(TmfType.ABORT_TASK, 0, 0, tasks[0].tag) == Response.OK
        tasks[0].ring.look()
        assert tasks[0].head in tasks[0].ring.done  # the task ended before the function did
        assert (await tasks[0].reply()).response == Response.ABORTED
        assert await is_silent(*tasks[1:])
        device.fault(0, 0, LunFault())
        assert await front.tmf(TmfType.LOGICAL_UNIT_RESET, 0, 0) == Response.OK
        assert [(await task.reply()).response for task in tasks[1:3]] == [Response.RESET] * 2
        assert (await front.run(0, 0, TEST_UNIT_READY)).what == (SenseKey.UNIT_ATTENTION, Asc.DEVICE_RESET)
        assert await is_silent(tasks[3])
        assert await front.tmf(TmfType.I_T_NEXUS_RESET, 0, 0) == Response.OK
        assert (await tasks[3].reply()).response == Response.RESET


@in_loop
async def test_functions_that_can_not_be_are_refused_or_met_with_silence(path: str) -> None:
    async with serving(path, TWO) as device, connected(path, queues=4) as front:
        reset = TmfType.LOGICAL_UNIT_RESET
        assert await front.tmf(reset, 9, 0) == Response.BAD_TARGET
        assert await front.tmf(reset, 0, 9) == Response.INCORRECT_LUN
        assert await front.tmf(TmfType.CLEAR_ACA, 0, 0) == Response.FUNCTION_REJECTED
        assert await front.tmf(99, 0, 0) == Response.FUNCTION_REJECTED
        ring = front.rings[0]
        query = ring.put(struct.pack("<I", 1) + bytes([1, 0, 0, 0, 0, 0, 0, 0]) + struct.pack("<I", 2))
        answer = ring.put(b"\xee" * 5)
        assert await ring.completion(ring.submit([(query, 16, 0), (answer, 5, 2)])) == 5
        assert ring.get(answer, 5) == bytes(5)
        device.control("reject")
        assert await front.tmf(TmfType.LOGICAL_UNIT_RESET, 0, 0) == Response.FUNCTION_REJECTED
        device.control("silence")
        with pytest.raises(TimeoutError):
            await front.tmf(TmfType.LOGICAL_UNIT_RESET, 0, 0, timeout=0.1)


@in_loop
async def test_luns_come_change_and_go_with_an_event_each_and_silent_tasks_end_with_their_lun(path: str) -> None:
    async with serving(path, TWO) as device, connected(path, queues=4) as front:
        await front.ready((0, 0), (0, 1))
        offered = [front.offer_event() for _ in range(3)]
        assert await device.hot_add(3, 300, LunSpec(MIB))
        assert await front.event(offered[0]) == (EventType.TRANSPORT_RESET, pack_listed(3, 300), ResetReason.RESCAN)
        assert (await front.run(3, 300, TEST_UNIT_READY)).what == (SenseKey.UNIT_ATTENTION, Asc.POWER_ON_OR_RESET)
        assert await device.resize(0, 1, 2 * MIB)
        assert await front.event(offered[1]) == (EventType.PARAM_CHANGE, pack_listed(0, 1), CAPACITY_CHANGED)
        assert (await front.run(0, 1, TEST_UNIT_READY)).what == (SenseKey.UNIT_ATTENTION, Asc.CAPACITY_CHANGED)
        device.fault(0, 1, SILENCE)
        before = device.requests()
        task = front.send(0, 1, TEST_UNIT_READY, queue=1)
        await until(lambda: device.requests() == before + 1, "the task to be taken")
        assert await is_silent(task)
        assert await device.hot_remove(0, 1)
        assert await front.event(offered[2]) == (1, bytes([1, 0, 0, 1, 0, 0, 0, 0]), 2)
        assert (await task.reply()).response == 2
        assert (await front.run(0, 1, TEST_UNIT_READY)).what == (SenseKey.ILLEGAL_REQUEST, Asc.LUN_NOT_SUPPORTED)
        assert (await front.run(0, 0, TEST_UNIT_READY)).what == (SenseKey.UNIT_ATTENTION, Asc.REPORTED_LUNS_CHANGED)
        with pytest.raises(NotFound):
            await device.hot_remove(0, 1)
        with pytest.raises(InvalidArgument):
            await device.hot_add(0, 16384, LunSpec(MIB))


@in_loop
async def test_events_without_a_buffer_are_told_to_be_missed(path: str) -> None:
    async with serving(path, TWO) as device, connected(path, queues=4) as front:
        assert not await device.tell(EventType.TRANSPORT_RESET, 0, 0, 0)
        assert await front.event(front.offer_event()) == (EventFlag.EVENTS_MISSED, bytes(8), 0)
        offered = front.offer_event()
        assert await device.tell(EventType.TRANSPORT_RESET, 0, 0, 0)
        assert (await front.event(offered))[0] == EventType.TRANSPORT_RESET


@in_loop
async def test_each_fault_is_what_it_says(path: str) -> None:
    async with serving(path, TWO) as device, connected(path, queues=4) as front:
        await front.ready((0, 0), (0, 1))
        medium, check = SenseKey.MEDIUM_ERROR, Status.CHECK_CONDITION
        read, realloc = Asc.UNRECOVERED_READ_ERROR, Asc.READ_ERROR_REALLOCATION_FAILED
        for fault, expected in (
            (
                LunFault("sense", key=medium, asc=read >> 8, ascq=realloc & 0xFF),
                (Response.OK, check, (medium, realloc), 18),
            ),
            (LunFault("sense", key=medium, asc=read >> 8, sense_length=14), (Response.OK, check, (medium, read), 14)),
            (LunFault("status", value=Status.BUSY), (0, Status.BUSY, None, 0)),
            (LunFault("status", value=Status.TASK_SET_FULL), (0, Status.TASK_SET_FULL, None, 0)),
            (LunFault("response", value=Response.FAILURE), (Response.FAILURE, 0, None, 0)),
        ):
            device.fault(0, 0, fault)
            reply = await front.run(0, 0, TEST_UNIT_READY)
            found = (reply.response, reply.status, reply.what if reply.sense else None, len(reply.sense))
            assert found == expected
        device.fault(0, 0, LunFault("sense", key=5, asc=Asc.INVALID_OPCODE >> 8, descriptor=True))
        assert (await front.run(0, 0, TEST_UNIT_READY)).sense == descriptor_sense(5, Asc.INVALID_OPCODE)
        device.fault(0, 0, LunFault("no-response"))
        assert (await front.run(0, 0, TEST_UNIT_READY)).used == 0
        device.fault(
            0, 0, LunFault("status", after=1, every=2, times=2, value=Status.BUSY, opcode=Opcode.TEST_UNIT_READY)
        )
        statuses = [(await front.run(0, 0, TEST_UNIT_READY)).status for _ in range(8)]
        assert [status == Status.BUSY for status in statuses] == [False, False, True, False, True, False, False, False]
        assert set(statuses) == {Status.GOOD, Status.BUSY}
        assert device.lun(0, 0).spoiled() == 2
        device.fault(0, 0, LunFault(delay_us=200_000))
        slow, quick = front.send(0, 0, TEST_UNIT_READY), front.send(0, 1, TEST_UNIT_READY)
        await until(partial(are_done, slow, quick), "both to be answered")
        assert list(slow.ring.done) == [quick.head, slow.head]  # in this order
        assert (await slow.reply()).status == 0


@in_loop
async def test_a_silent_target_delays_nobody_else(path: str) -> None:
    spec = HostSpec({0: {0: LunSpec(MIB)}}, silent=frozenset({7}))
    async with serving(path, spec), connected(path) as front:
        task = front.send(7, 0, TEST_UNIT_READY)
        await front.ready((0, 0))
        assert (await front.run(0, 0, TEST_UNIT_READY)).status == 0
        assert await is_silent(task)


@pytest.mark.programs
@in_loop
async def test_the_command_serves_luns_and_dies_when_told(path: str) -> None:
    command = [sys.executable, "-m", "virtiod.cli", "target", path, "--scsi", "0:0=1M,3:300=null:1G"]
    command += ["--fault", "death,opcode=0,after=1"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == f"serving 2 LUNs at {path}\n".encode()
        async with connected(path) as front:
            await front.ready((0, 0), (3, 300))
            front.send(0, 0, TEST_UNIT_READY)
            assert await soon(process.wait()) == -signal.SIGKILL
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("text", ["", "0:0", "0=1M", "0:0=1Q", "0:0=1M,0:0=2M", "a:0=1M", "0:0=null:"])
def test_luns_that_can_not_be_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_luns(text, LunFault())


@pytest.mark.parametrize("text", ["bad", "sense,key=zz", "sense,color=1"])
def test_faults_that_can_not_be_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        LunFault.parse(text)


# ---- front-ends that break the rules


def malformed(front: object, what: str) -> list[tuple[int, int, int]]:
    """Segments that no driver would send."""
    ring = front.rings[REQUEST]  # type: ignore[attr-defined]
    header = front.header(0, 0, TEST_UNIT_READY)  # type: ignore[attr-defined]
    request, response = (ring.put(header), len(header)), ring.put(bytes(256))
    return {
        "no response": [(*request, 0)],
        "short response": [(*request, 0), (response, 107, 2)],
        "short header": [(request[0], 50, 0), (response, 108, 2)],
        "no header": [(response, 108, 2)],
        "wild address": [(0x10, len(header), 0), (response, 108, 2)],
        "huge length": [(*request, 0), (response, 0xFFFFFFFF, 2)],
        "wrong order": [(response, 108, 2), (*request, 0)],
        "indirect of odd size": [(request[0], 17, 4)],
    }[what]


@pytest.mark.parametrize(
    "what",
    [
        "no response",
        "short response",
        "short header",
        "no header",
        "wild address",
        "huge length",
        "wrong order",
        "indirect of odd size",
    ],
)
@in_loop
async def test_a_malformed_request_marks_its_ring_broken_and_the_next_front_end_is_served(path: str, what: str) -> None:
    async with serving(path, TWO):
        async with connected(path, queues=4) as front:
            front.rings[REQUEST].submit(malformed(front, what))
            await until(lambda: front.lost, "the ring to be marked")
            assert "broken" in str(front.lost[0])
        async with connected(path, queues=4) as front:
            assert (await front.run(0, 1, TEST_UNIT_READY)).what == (SenseKey.UNIT_ATTENTION, Asc.POWER_ON_OR_RESET)


@in_loop
async def test_odd_but_lawful_chains_are_served(path: str) -> None:
    async with serving(path, TWO), connected(path, queues=4) as front:
        await front.ready((0, 0))
        ring = front.rings[REQUEST]
        header = front.header(0, 0, struct.pack(">BBIBHB", Opcode.WRITE_10, 0, 1, 0, 1, 0))
        request, response = ring.put(header + b"o" * 512), ring.put(bytes(108))
        pieces = [(request, 20, 0), (request + 20, 100, 0), (request + 120, len(header) + 392, 0)]
        await ring.completion(ring.submit([*pieces, (response, 11, 2), (response + 11, 97, 2)]))
        assert ring.get(response, 12) == bytes(12)
        header = front.header(0, 0, struct.pack(">BBIBHB", Opcode.READ_10, 0, 1, 0, 1, 0))
        request, answer = ring.put(header), ring.put(bytes(700))
        head = ring.submit([(request, len(header), 0), (answer, 200, 2), (answer + 200, 0, 2), (answer + 200, 500, 2)])
        assert await ring.completion(head) == 620
        assert ring.get(answer, 700) == bytes(4) + struct.pack("<I", 80) + bytes(100) + b"o" * 512 + bytes(80)


@in_loop
async def test_event_and_control_buffers_that_are_too_short_break_their_ring_only(path: str) -> None:
    async with serving(path, TWO) as device, connected(path, queues=4) as front:
        ring = front.rings[1]
        ring.submit([(ring.put(bytes(16)), 15, 2)])
        assert not await device.tell(EventType.TRANSPORT_RESET, 0, 0, 0)
        ring = front.rings[0]
        ring.submit([(ring.put(bytes(16)), 3, 0), (ring.put(bytes(1)), 1, 2)])
        assert (await front.run(0, 0, TEST_UNIT_READY)).what == (SenseKey.UNIT_ATTENTION, Asc.POWER_ON_OR_RESET)


@in_loop
async def test_commands_of_random_bytes_and_sizes_all_end_with_an_answer(path: str) -> None:
    random = Random(5)
    opcodes = sorted(set(Opcode) - {Opcode.READ_12, Opcode.WRITE_12})
    async with serving(path, TWO), connected(path, queues=4) as front:
        ring = front.rings[REQUEST]
        start = ring.next_buffer
        for _ in range(3000):
            ring.next_buffer = start
            cdb = bytes(
                [random.choice(opcodes), *(random.choice((0, 0, 1, 255, random.getrandbits(8))) for _ in range(15))]
            )
            out, into = bytes(random.choice((0, 1, 8, 24, 512, 4096))), random.choice((0, 1, 8, 255, 512, 70_000))
            reply = await front.run(0, random.choice((0, 1, 2)), cdb, out, into)
            assert reply.response in {Response.OK, Response.OVERRUN}
            assert reply.status in {Status.GOOD, Status.CHECK_CONDITION}
            assert reply.residual <= len(out) + into and 108 <= reply.used <= 108 + into
        assert not front.lost
