"""What the check of a configuration file finds, and where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from virtiod.cli import main
from virtiod.config.check import check_calls
from virtiod.config.document import Source, find, parse_config
from virtiod.rpc.methods import METHODS

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def check(*subsystems: dict[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """Methods that are made, warnings, problems."""
    checked = check_calls(parse_config({"subsystems": list(subsystems)}, Source("f")), METHODS)
    return [call.method for call in checked.calls], checked.warnings(), [message for _, message in checked.problems]


def bdev(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"subsystem": "bdev", "config": list(calls)}


def null(**params: Any) -> dict[str, Any]:
    return {"method": "bdev_null_create", "params": {"name": "N0", "num_blocks": 8, **params}}


def attach(**params: Any) -> dict[str, Any]:
    given = {"name": "V0", "trtype": "user", "traddr": "/x", "dev_type": "blk", **params}
    return {"method": "bdev_virtio_attach_controller", "params": given}


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (null(num_blocks="8"), "params.num_blocks (bdev_null_create): 'num_blocks' must be an integer"),
        (null(speed=1), "params.speed (bdev_null_create): unknown parameter 'speed'"),
        ({"method": "bdev_null_create", "params": {"name": "N0"}}, "config[0] (bdev_null_create): missing parameter"),
        ({"method": "bdev_nul_create"}, "config[0].method (bdev_nul_create): there is no method 'bdev_nul_create'"),
        (attach(trtype="usr"), "params.trtype (bdev_virtio_attach_controller): 'trtype' must be one of"),
        (attach(vq_size=3), "params.vq_size (bdev_virtio_attach_controller): vq_size 3: must be a power of two"),
        (attach(name="a\tb"), "params.name (bdev_virtio_attach_controller): 'name' must not hold U+0009, which can't"),
        (attach(name="a" * 246), "params.name (bdev_virtio_attach_controller): 'name' must have 1 to 245 characters"),
        (null(name=""), "params.name (bdev_null_create): 'name' must have 1 to 255 characters, not 0"),
        (null(name="\ud800"), r"params.name (bdev_null_create): 'name' must not hold lone surrogates: '\ud800'"),
        (
            attach(traddr="/x\x1b[2J"),
            r"params.traddr (bdev_virtio_attach_controller): traddr '/x\x1b[2J': holds U+001B",
        ),
    ],
)
def test_a_call_that_can_not_be_right_is_named_with_its_parameter(call: dict[str, Any], problem: str) -> None:
    made, _, problems = check(bdev(call, null(name="N1")))
    assert made == ["bdev_null_create"]
    assert len(problems) == 1
    assert problem in problems[0]
    assert problems[0].startswith("f: subsystems[0].config[0]")


def test_two_things_of_one_name_are_one_too_many() -> None:
    _, _, problems = check(bdev(null(), null(num_blocks=9), attach(), attach(name="V1", traddr="/y"), null(name="N1")))
    assert problems == [
        "f: subsystems[0].config[1].params.name (bdev_null_create): "
        "'N0' is created twice, first by f: subsystems[0].config[0]"
    ]


def test_what_spdk_saves_of_parts_that_virtiod_has_not_is_left_out_with_a_warning() -> None:
    made, warnings, problems = check(
        {"subsystem": "keyring", "config": []},
        {"subsystem": "iobuf", "config": [{"method": "iobuf_set_options", "params": {"small_pool_count": 8192}}]},
        {"subsystem": "sock", "config": [{"method": "sock_set_default_impl", "params": {"impl_name": "posix"}}]},
        bdev(
            {"method": "bdev_set_options", "params": {"bdev_io_pool_size": 65535}},
            {"method": "bdev_raid_set_options", "params": {"process_window_size_kb": 1024}},
            {"method": "bdev_nvme_set_hotplug", "params": {"enable": False, "period_us": 100000}},
            attach(),
            {"method": "bdev_wait_for_examine"},
        ),
        {"subsystem": "nvmf", "config": [{"method": "nvmf_set_config", "params": {}}]},
    )
    assert problems == []
    assert made == ["bdev_set_options", "bdev_virtio_attach_controller", "bdev_wait_for_examine"]
    assert [warning.partition(": ignored")[2] for warning in warnings] == [
        ", virtiod does not have this: iobuf_set_options",
        ", virtiod does not have this: sock_set_default_impl",
        ", virtiod does not have this: bdev_raid_set_options, bdev_nvme_set_hotplug",
        ", virtiod does not have this: nvmf_set_config",
    ]


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ((), '{ "a": [1,'),
        (("a", 0), "1,"),
        (("a", 1, "b\n"), "[]},"),
        (("a", 2), '"]"'),
        (("c",), "true"),
        (("d",), "-1.5e3"),
    ],
)
def test_a_place_is_found_in_the_text(place: tuple[str | int, ...], line: str) -> None:
    text = '\n { "a": [1,\n  {"x": {"y": "}"}, "b\\n": []},\n "]"\n], "d": 0, "c" : true,\n"d": -1.5e3}'
    assert text[find(text, place) :].startswith(line)
    value = json.loads(text)
    for step in place:
        value = value[step]
    assert json.JSONDecoder().raw_decode(text, find(text, place))[0] == value


def test_the_command_says_line_and_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps({"subsystems": [bdev(null()), {"subsystem": "sock", "config": [{"method": "x"}]}]}))
    bad.write_text(
        '{"subsystems": [{"subsystem": "bdev", "config": [\n'
        '  {"method": "bdev_null_create",\n   "params": {"name": "N0", "num_blocks": 0}}]}]}'
    )
    assert main(["check-config", str(good)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{good}: 1 call, 1 ignored: ok\n"
    assert printed.err.endswith(": ignored, virtiod does not have this: x\n")
    assert main(["check-config", str(good), str(bad)]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"{bad}:3:43: subsystems[0].config[0].params.num_blocks (bdev_null_create): "
        "'num_blocks' must be from 1 to 9223372036854775807, not 0"
    )
    assert main(["check-config", str(tmp_path / "none.json")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_the_command_takes_comments_and_says_where_errors_beside_them_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.json"
    text = '// N0\n{"subsystems": [{"subsystem": "bdev", /* only\n*/ "config": [ /* */ %s]}]}'
    file.write_text(text % json.dumps(null()))
    assert main(["check-config", str(file)]) == 0
    file.write_text(text % json.dumps(null(speed=77)))
    assert main(["check-config", str(file)]) == 1
    column = file.read_text().splitlines()[2].index("77") + 1
    told = capsys.readouterr().err
    assert told.startswith(f"{file}:3:{column}: subsystems[0].config[0].params.speed (bdev_null_create): ")


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.name)
def test_the_examples_of_the_documentation_are_right(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", str(example)]) == 0
    ignored = capsys.readouterr().err.splitlines()
    assert len(ignored) == (8 if example.name == "saved-by-spdk.json" else 0)
    page = (EXAMPLES.parent / "operations.md").read_text()
    assert f"(examples/{example.name})" in page
