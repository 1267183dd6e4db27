"""An asyncio event loop in simulated time: while it has nothing to do, everything else takes its turns."""

from __future__ import annotations

import asyncio
import selectors

from tests.sim.engine import Engine

AT_ONCE_S = 100_000.0  # nothing is waited for by time


class _Selector(selectors.DefaultSelector):
    """Waits in simulated time. `frozen`: time goes on, but nobody has a turn any more."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine
        self.frozen = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.frozen:
            return []
        if timeout is not None and timeout <= 0:
            self._engine.few_turns()
        else:
            self._engine.run(AT_ONCE_S if timeout is None else timeout)
        return super().select(0)


class SimLoop(asyncio.SelectorEventLoop):
    """Its time is the engine's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sim_selector = _Selector(engine)
        self._ahead_s = 0.0
        super().__init__(self._sim_selector)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        if self._sim_selector.frozen:
            self._ahead_s += 0.01
        return self._engine.time() + self._ahead_s

    def abandon(self) -> None:
        """After a violation: end all tasks without anybody else's taking a turn."""
        self._sim_selector.frozen = True
        for _ in range(100):
            tasks = asyncio.all_tasks(self)
            if not tasks:
                return
            for task in tasks:
                task.cancel()
            self.run_until_complete(asyncio.wait(tasks, timeout=1))
        raise RuntimeError(f"tasks that do not end: {asyncio.all_tasks(self)}")
