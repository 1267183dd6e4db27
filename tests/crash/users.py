"""Users: NBD clients that do random I/O side by side, and the kill that comes at its moment among it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from tests.crash import stamp
from tests.crash.client import FUA, NO_HOLE, Client, Command, Reply
from tests.crash.finding import Finding, Verdict
from tests.crash.history import Change, Flush, Request, Write
from tests.crash.oracle import Oracle, Policy
from tests.crash.plan import DISK_BLOCKS, MAX_REQUEST, Kill, Load, When
from tests.crash.stamp import BLOCK
from tests.crash.turns import Turns

_CHANGES = {Command.WRITE: Change.WRITE, Command.WRITE_ZEROES: Change.ZEROES, Command.TRIM: Change.TRIM}
_COMMANDS = {
    "write": Command.WRITE,
    "read": Command.READ,
    "flush": Command.FLUSH,
    "zeroes": Command.WRITE_ZEROES,
    "trim": Command.TRIM,
}


class Io(NamedTuple):
    """A request to make, in blocks."""

    command: Command
    first: int = 0
    blocks: int = 0
    flags: int = 0


class Trigger:
    """Kills at the moment that a plan says. reached: its requests have been counted; a QUIET kill waits for more."""

    def __init__(self, kill: Callable[[], None]) -> None:
        self._kill = kill
        self._plan: Kill | None = None
        self._left = 0
        self.reached = asyncio.Event()
        self.fired = asyncio.Event()

    def arm(self, plan: Kill) -> None:
        self.reached.clear()
        self.fired.clear()
        self._plan, self._left = plan, plan.count

    def sent(self, io: Io) -> None:
        if self._plan is None:
            return
        flushes = io.command is Command.FLUSH or (io.flags & FUA and io.command is not Command.READ)
        if self._plan.when in {When.SENT, When.QUIET} or (self._plan.when is When.FLUSH and flushes):
            self._count(self._plan)

    def answered(self) -> None:
        if self._plan is not None and self._plan.when is When.ANSWERED:
            self._count(self._plan)

    def _count(self, plan: Kill) -> None:
        self._left -= 1
        if self._left > 0:
            return
        self._plan = None
        self.reached.set()
        if plan.when is When.QUIET:
            return
        if plan.delay:
            asyncio.get_running_loop().call_later(plan.delay, self.fire)
        else:
            self.fire()

    def fire(self) -> None:
        """Kill now."""
        self._kill()
        self.fired.set()


class Traffic:
    """All requests of a run. open: users may send more. found: is called with what its requests find."""

    def __init__(self, oracle: Oracle, trigger: Trigger, found: Callable[[Iterable[Finding]], None]) -> None:
        self.oracle = oracle
        self.trigger = trigger
        self._found = found
        self.open = asyncio.Event()
        self.ended = False
        self.idle = asyncio.Event()
        self.idle.set()
        self.requests = 0
        self.flushes = 0
        self.in_flight: dict[Request, float] = {}  # since when

    def began(self, request: Request) -> None:
        self.requests += 1
        self.in_flight[request] = time.monotonic()
        self.idle.clear()

    def answered(self, request: Request, reply: Reply) -> None:
        del self.in_flight[request]
        if not self.in_flight:
            self.idle.set()
        self._found(self.oracle.end(request, reply.error, reply.data))
        if reply.error and not self._may_fail(request):
            self._found([Finding((Verdict.FAILED,), f"{request.name()}: answered with error {reply.error}")])
        self.trigger.answered()

    def _may_fail(self, request: Request) -> bool:
        """Whether an error may tell of a loss."""
        flushes = isinstance(request, Flush) or (isinstance(request, Write) and request.fua)
        return flushes and bool(self.oracle.kills) and self.oracle.policy is Policy.REPORT

    def unanswered(self, request: Request) -> None:
        """The server hung up."""
        del self.in_flight[request]
        self._found([Finding((Verdict.FAILED,), f"{request.name()}: the server hung up")])

    async def pause(self) -> None:
        """No more requests, and those in flight are answered."""
        self.open.clear()
        await self.idle.wait()


class User:
    """A client and its requests."""

    def __init__(self, number: int, client: Client, traffic: Traffic) -> None:
        self.number = number
        self.client = client
        self._traffic = traffic
        self._sent = 0

    async def do(self, io: Io) -> Reply:
        """One request from sending to judging."""
        traffic = self._traffic
        request = self._begin(io)
        data = b""
        if io.command is Command.WRITE:
            data = stamp.data(traffic.oracle.seed, self.number, request.number, io.first, io.blocks)
        traffic.began(request)
        future = self.client.send(io.command, io.first * BLOCK, io.blocks * BLOCK, io.flags, data)
        traffic.trigger.sent(io)
        try:
            reply = await future
        except ConnectionError:
            traffic.unanswered(request)
            raise
        traffic.answered(request, reply)
        return reply

    def _begin(self, io: Io) -> Request:
        oracle = self._traffic.oracle
        self._sent += 1
        if io.command is Command.READ:
            return oracle.read(self.number, self._sent, io.first, io.blocks)
        if io.command is Command.FLUSH:
            self._traffic.flushes += 1
            return oracle.flush(self.number, self._sent)
        return oracle.write(self.number, self._sent, _CHANGES[io.command], io.first, io.blocks, bool(io.flags & FUA))


class Worker(User):
    """A user that does random I/O in a window of blocks, as long as the traffic is open."""

    def __init__(
        self, number: int, client: Client, traffic: Traffic, turns: Turns, load: Load, block_size: int
    ) -> None:
        super().__init__(number, client, traffic)
        self._turns = turns
        self._commands = [_COMMANDS[name] for name in load.shares]
        self._shares = list(load.shares.values())
        self._fua = load.fua
        self._step = block_size // BLOCK
        self._rng = random.Random()
        self._window = (0, DISK_BLOCKS)

    def turn_to(self, window: tuple[int, int], seed: str) -> None:
        """From now on it works there, on what that seed says."""
        self._window = window
        self._rng = random.Random(f"{seed}/{self.number}")

    async def work(self) -> None:
        """Request after request; several of these make a queue depth."""
        while not self._traffic.ended:
            io = self._next()
            alone = io.command in {Command.WRITE_ZEROES, Command.TRIM}
            await self._turns.take(io.first, io.blocks, alone)
            await self._traffic.open.wait()
            if not self._traffic.ended:
                await self.do(io)
            self._turns.give(io.first, io.blocks, alone)

    def _next(self) -> Io:
        rng = self._rng
        (command,) = rng.choices(self._commands, self._shares)
        if command is Command.FLUSH:
            return Io(command)
        first, count = self._range()
        flags = FUA if command is not Command.READ and rng.random() < self._fua else 0
        if command is Command.WRITE_ZEROES and rng.random() < 0.5:
            flags |= NO_HOLE
        return Io(command, first, count, flags)

    def _range(self) -> tuple[int, int]:
        """Mostly a few blocks, sometimes many."""
        rng, step = self._rng, self._step
        start, blocks = self._window
        most = rng.choice([1, 4, 8, 8, MAX_REQUEST])
        count = min(blocks, step * -(-rng.randint(1, most) // step))
        return start + step * rng.randint(0, (blocks - count) // step), count
