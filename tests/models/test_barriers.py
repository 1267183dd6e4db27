"""The barriers of rings and pollers: with them nothing is lost, and without any of them something is.

ring.py and sleep.py are searched on both memories of memory.py. A barrier is named by the function that it is in.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.models import ring, sleep
from tests.models.search import Model, Search, Searched

ROOT = Path(__file__).parents[2]
MODELS = {
    "event_idx": ring.model(True, 2),
    "flags": ring.model(False, 2),
    "two senders": sleep.model(),
    "two senders, a queue": sleep.model(sources=1),
    "two messages": sleep.model(senders=1, each=2),
}
RING = [
    ("TSO", "_publish: fence", "waits for ever"),
    ("TSO", "_arm: fence", "waits for ever"),
    ("TSO", "_flush: fence", "waits for ever"),
    ("TSO", "arm: fence", "waits for ever"),
    ("weak", "_publish: fence", "waits for ever"),
    ("weak", "_arm: fence", "waits for ever"),
    ("weak", "_flush: fence", "waits for ever"),
    ("weak", "arm: fence", "waits for ever"),
    ("weak", "_publish: store avail.idx", "avail entry before it is written"),
    ("weak", "poll: load avail.idx", "avail entry before it is written"),
    ("weak", "_flush: store used.idx", "used entry before it is written"),
    ("weak", "_pop: load used.idx", "used entry before it is written"),
]
# On x86 the cas of _push is a fence by itself; and a queue that is armed has one between `sleeping` and the inbox.
SLEEP = [
    ("TSO", "_sleep: fence", "waits for ever"),
    ("weak", "_sleep: fence", "waits for ever"),
    ("weak", "push: fence", "waits for ever"),
    ("weak", "_push: cas inbox", "before what it says has come"),
    ("weak", "run_inbox: exchange inbox", "before what it says has come"),
]
NEEDED = [(name, *case) for name in ("event_idx", "flags") for case in RING]
NEEDED += [("two senders", *case) for case in SLEEP]
# What each function of the code does to shared memory, in order. A change here needs one in the model.
CODE = {
    "virtqueue/split.py _pop": "load_u16 load_u32 load_u32",
    "virtqueue/split.py _publish": "store_u16 fence load_u16 load_u16",
    "virtqueue/split.py _arm": "store_u16 store_u16 fence load_u16",
    "virtqueue/split.py _disarm": "store_u16 store_u16",
    "target/ring.py poll": "load_u16 load_u16",
    "target/ring.py _flush": "store_u16 fence load_u16 load_u16",
    "target/ring.py arm": "store_u16 store_u16 fence load_u16",
    "target/ring.py _disarm": "store_u16 store_u16",
    "poller/rounds.py _push": "load_ptr cas_ptr",
    "poller/rounds.py push": "fence load_u32",
    "poller/rounds.py run_inbox": "exchange_ptr",
    "poller/rounds.py settle": "store_u32 fence load_ptr",
    "poller/rounds.py rise": "store_u32",
}


@cache
def searched(name: str, memory: str) -> Searched:
    return Search(MODELS[name], memory).run()


@pytest.mark.waits
@pytest.mark.parametrize("memory", ["TSO", "weak"])
@pytest.mark.parametrize("name", MODELS)
def test_no_wake_up_is_lost_and_nothing_is_read_too_early(name: str, memory: str) -> None:
    found = searched(name, memory)
    assert found.wrong == "", "\n".join(found.steps)
    print(f"{found.states} states")


@pytest.mark.parametrize(("name", "memory", "barrier", "wrong"), NEEDED)
def test_without_a_barrier_something_is(name: str, memory: str, barrier: str, wrong: str) -> None:
    found = Search(MODELS[name], memory, barrier).run()
    print(*found.steps, found.wrong, sep="\n")
    assert barrier in found.barriers
    assert wrong in found.wrong


@pytest.mark.parametrize("place", CODE)
def test_the_code_has_the_barriers_of_the_model(place: str) -> None:
    path, name = place.split()
    code = (ROOT / "virtiod" / path).read_text()
    function = re.search(rf"^def {name}\(.*?(?=^def |^class |^# ----|\Z)", code, re.MULTILINE | re.DOTALL)
    assert function is not None
    assert re.findall(r"atomics\.(\w+)\(", function[0]) == CODE[place].split()


def test_a_model_that_nothing_wakes_is_found() -> None:
    """The search itself: a poller that sleeps without asking to be told."""

    def deaf() -> Model:
        made = sleep.model(senders=1)
        return Model({**made.threads, "poller": lambda: sleep.run(2, 0)}, made.cells, made.must_end)

    assert Search(deaf(), "TSO").run().wrong == "poller waits for ever"
