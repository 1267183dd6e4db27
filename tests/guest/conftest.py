"""Makes the tests of this folder run in the guest, once in each variant, and report here as if they had run here.

The host collects them and starts a guest for each variant; the guest gets the chosen ones, and its reports are
replayed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.devices import VARIANTS
from tests.guest.host import GuestDied, Session
from tests.guest.inside import Host
from tests.guest.packages import Unavailable

HERE = Path(__file__).parent
INSIDE = os.environ.get("VIRTIOD_GUEST")  # the variant, when this is the guest
TEST_S = 300.0  # for one test, in the guest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """@pytest.mark.variants("plain") keeps a test out of the others."""
    marker = metafunc.definition.get_closest_marker("variants")
    metafunc.parametrize("variant", marker.args if marker else VARIANTS, indirect=True, scope="session")


@pytest.fixture(scope="session", autouse=True)
def variant(request: pytest.FixtureRequest) -> str:
    """In which guest this is."""
    return str(request.param)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    order = {item: (variant_of(item), item.get_closest_marker("last") is not None) for item in ours}
    places = [place for place, item in enumerate(items) if item in order]
    for place, item in zip(places, sorted(ours, key=order.__getitem__), strict=True):
        items[place] = item
    for item in ours:
        item.add_marker(pytest.mark.timeout(TEST_S if INSIDE else 0))


def variant_of(item: pytest.Item) -> str:
    return str(item.callspec.params["variant"])  # type: ignore[attr-defined]


class Replay:
    """A guest's tests, reported on the host one by one as it asks for them, in the order that both have."""

    def __init__(self, variant: str, items: list[pytest.Item]) -> None:
        self.variant = variant
        self._trouble = ""
        self._session: Session | None = None
        try:
            self._session = Session(variant)
            self._session.start({"tests": [item.nodeid for item in items]})
            self._heard = self._session.hear()
        except (Unavailable, GuestDied) as trouble:
            self._trouble = str(trouble)

    def report(self, item: pytest.Item) -> None:
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def _reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        if self._session is None:
            yield verdict(item, self._trouble, missing=True)
            return
        started = False
        try:
            for kind, value in () if self._trouble else self._heard:
                if kind == "start":
                    started = value == item.nodeid
                elif kind == "report" and started:
                    yield item.config.hook.pytest_report_from_serializable(config=item.config, data=value)
                elif kind == "finish" and started:
                    return
                elif kind == "trouble":
                    self._trouble += value
                elif kind == "end":
                    self._trouble += f"\nthe guest's pytest ended ({value}) before this test\n"
                    self._trouble += self._session.guest.last_words()
                    break
        except GuestDied as death:
            self._trouble = str(death)
        yield verdict(item, self._trouble)

    def close(self) -> None:
        if self._session:
            self._session.close()
            self._session = None


def verdict(item: pytest.Item, why: str, missing: bool = False) -> pytest.TestReport:
    """A test that can't be run: failed; but skipped where nothing was installed for it (CI=true says it was)."""
    skipped = missing and os.environ.get("CI") != "true"
    path, line, _ = item.location
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome="skipped" if skipped else "failed",
        longrepr=(path, (line or 0) + 1, f"Skipped: {why}") if skipped else why,
        when="setup",
    )


REPLAY = pytest.StashKey[Replay]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if INSIDE or not item.path.is_relative_to(HERE):
        return None
    stash, variant = item.config.stash, variant_of(item)
    if REPLAY not in stash:
        rest = item.session.items[item.session.items.index(item) :]
        ours = [other for other in rest if other.path.is_relative_to(HERE) and variant_of(other) == variant]
        stash[REPLAY] = Replay(variant, ours)
    stash[REPLAY].report(item)
    if nextitem is None or not nextitem.path.is_relative_to(HERE) or variant_of(nextitem) != variant:
        end_replay(item.config)
    return True


def end_replay(config: pytest.Config) -> None:
    if REPLAY in config.stash:
        config.stash[REPLAY].close()
        del config.stash[REPLAY]


def pytest_unconfigure(config: pytest.Config) -> None:
    end_replay(config)


@pytest.fixture
def host() -> Host:
    """The host, to be asked."""
    return Host()
