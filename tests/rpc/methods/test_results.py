"""What every method answers: its members, their order, and that it is as the method describes it."""

from __future__ import annotations

from pathlib import Path

from tests.rpc.methods.conversation import calls, converse, shapes
from virtiod.rpc.methods import METHODS

PINNED = Path(__file__).with_name("answers.txt")


def test_the_members_of_every_result_are_those_that_clients_know_in_their_order(run_dir: Path) -> None:
    assert shapes(converse(run_dir)) == PINNED.read_text()


def test_every_method_is_called(run_dir: Path) -> None:
    assert {method for method, _ in calls(run_dir)} == METHODS.keys()
