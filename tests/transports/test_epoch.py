"""How sessions end: what is over tells it once, and what is watched is let go of."""

from __future__ import annotations

from tests.support.rig import in_loop
from virtiod.transports.epoch import Epoch, EpochState


def test_a_session_is_live_at_first_and_over_when_its_device_stopped() -> None:
    told: list[Epoch] = []
    epoch = Epoch("/a")
    assert (epoch.state, epoch.over) == (EpochState.LIVE, False)
    epoch.on_over(told.append)
    epoch.quiesce("it was reset")
    assert (epoch.state, epoch.over, epoch.reason) == (EpochState.QUIESCED, True, "it was reset")
    assert told == [epoch]


def test_what_is_over_stays_so_and_tells_it_once() -> None:
    told: list[Epoch] = []
    epoch = Epoch("/a")
    epoch.on_over(told.append)
    epoch.die("gone")
    epoch.quiesce("later")
    epoch.doubt("later still")
    assert (epoch.state, epoch.reason, told) == (EpochState.DEAD, "gone", [epoch])
    epoch.on_over(told.append)
    assert told == [epoch, epoch]


def test_the_watch_ends_when_the_session_is_over_or_forgotten() -> None:
    ended: list[str] = []
    told: list[Epoch] = []
    over, forgotten, early = Epoch("/a"), Epoch("/b"), Epoch("/c")
    over.doubt("runs", lambda: ended.append("over"))
    over.die("gone")
    forgotten.doubt("runs", lambda: ended.append("forgotten"))
    forgotten.on_over(told.append)
    forgotten.forget()
    assert forgotten.state is EpochState.POSSIBLY_ALIVE
    early.quiesce("reset")
    early.doubt("runs", lambda: ended.append("early"))
    assert ended == ["over", "forgotten", "early"]
    assert not told


@in_loop
async def test_numbers_ascend_and_waiting_ends_with_the_session() -> None:
    first, second = Epoch("/a"), Epoch("/a")
    assert second.number > first.number
    first.die("gone")
    await first.wait_over()
