"""What every method answers: its members, their order, and that it is as the method describes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rpc.methods.conversation import calls, converse, shapes
from virtiod.api.params import Name
from virtiod.api.registry import Method
from virtiod.core.names import MAX_CONTROLLER_NAME, MAX_NAME, PATTERN
from virtiod.rpc.methods import METHODS

PINNED = Path(__file__).with_name("answers.txt")


def test_the_members_of_every_result_are_those_that_clients_know_in_their_order(run_dir: Path) -> None:
    assert shapes(converse(run_dir)) == PINNED.read_text()


def test_every_method_is_called(run_dir: Path) -> None:
    assert {method for method, _ in calls(run_dir)} == METHODS.keys()


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_every_parameter_that_is_a_name_has_the_rule_of_names(method: Method) -> None:
    for param in method.params:
        if param.name in {"name", "names", "bdev_name", "bdevs", "flag"} and not param.choices:
            assert isinstance(param.arg, Name), param.name
            schema = param.schema()
            one = schema["items"] if param.items else schema
            assert isinstance(one, dict)
            longest = MAX_CONTROLLER_NAME if method.name == "bdev_virtio_attach_controller" else MAX_NAME
            assert (one["minLength"], one["maxLength"], one["pattern"]) == (1, longest, PATTERN)
