"""Each method that virtiod shares with SPDK, by SPDK's own command line, with all its options."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import daemon, spdk_module, target
from tests.support.spdk_client import Outcome
from tests.support.spdk_schema import JSON_TYPES, PARAMS, RESULTS, misfit
from tests.support.waiting import wait_until
from virtiod.rpc.methods import METHODS

Rpc = Callable[..., Outcome]
Json = Any

UUID = "6d2a5c7e-3f10-4b8e-9a44-0c5f1be2d901"
STARTUP = """
rpc_get_methods -c -i
spdk_get_version
bdev_set_options -p 1024 -c 16 --auto-examine --iobuf-small-cache-size 1 --iobuf-large-cache-size 1
framework_set_scheduler static -p 1000000 --load-limit 20 --core-limit 80 --core-busy 95 --mappings ''
framework_get_scheduler
framework_start_init
framework_wait_init
framework_get_governor
"""
DISKS = """
bdev_virtio_attach_controller V0 -t user -a {dir}/t.sock -d blk --vq-count 1 --vq-size 64
bdev_virtio_attach_controller S0 -t user -a {dir}/s.sock -d scsi
bdev_null_create N0 16 4096 -u {uuid} -p 4096 -m 0 -t 0 -f 0 -a 0 -g 0 -s 0 -c 0 -r 0
bdev_null_create N1 16 512
bdev_wait_for_examine
bdev_virtio_blk_set_hotplug --hotplug -r 100000
bdev_virtio_blk_set_hotplug --no-hotplug
bdev_virtio_scsi_get_devices
bdev_get_bdevs
bdev_get_bdevs -b {uuid}
bdev_set_qd_sampling_period V0 100
bdev_enable_histogram V0 --histogram -o read --granularity 4 --min-nsec 1000 --max-nsec 1000000
bdev_get_histogram V0
bdev_get_histogram_borders V0 --borders 10,100
bdev_enable_histogram V0 --no-histogram
bdev_get_iostat
bdev_get_iostat --names V0,N0 --reset-mode all
bdev_get_iostat --names V0 --reset-mode maxmin
bdev_get_iostat --names V0 --reset-mode error
bdev_get_iostat --names V0 --reset-mode none -c
bdev_reset_iostat
bdev_reset_iostat -b V0 -m all
bdev_reset_iostat -b V0 -m maxmin
bdev_reset_iostat -b V0 -m error
bdev_reset_iostat -b V0 -m none
"""
WAITS = "bdev_get_bdevs -b V0 -t 1000"
REST = """
thread_get_stats
thread_get_pollers
thread_get_io_channels
framework_get_reactors
framework_get_subsystems
framework_get_config bdev
framework_get_config nbd --with-batches
iobuf_get_stats
env_dpdk_get_mem_stats
notify_get_types
notify_get_notifications -i 1 -n 2
log_get_flags
log_set_flag rpc
log_clear_flag all
log_set_level DEBUG
log_set_level ERROR
log_set_level WARNING
log_set_level NOTICE
log_set_level INFO
log_get_level
log_set_print_level DEBUG
log_set_print_level ERROR
log_set_print_level WARNING
log_set_print_level NOTICE
log_set_print_level INFO
log_get_print_level
rpc_get_methods
bdev_null_delete N1
bdev_virtio_detach_controller S0
spdk_kill_instance SIGUSR1
spdk_kill_instance SIGHUP
spdk_kill_instance SIGTERM
"""
# Of choices that SPDK's client offers, those that virtiod has not.
NOT_OFFERED = {("bdev_virtio_attach_controller", "trtype"): {"vfio-user"}}
VALUES = {"admin_cmd_passthru": "identify_ctrlr"}  # of options that the client itself is particular about
# What is refused, by which code, and the parameter that the message names.
REFUSED = [
    ("bdev_null_create N2 16 512 -p 4096", -95, "physical_block_size"),
    ("bdev_null_create N2 16 512 -m 8", -95, "md_size"),
    ("bdev_null_create N2 16 512 -m 8 -t 1", -95, "md_size"),
    ("bdev_null_create N2 16 512 -d", -95, "dif_is_head_of_md"),
    ("bdev_null_create N2 16 512 -f 1", -95, "dif_pi_format"),
    ("bdev_null_create N2 16 512 -a 8", -95, "preferred_write_alignment"),
    ("bdev_null_create N2 16 512 -g 8", -95, "preferred_write_granularity"),
    ("bdev_null_create N2 16 512 -s 8", -95, "optimal_write_size"),
    ("bdev_null_create N2 16 512 -c 8", -95, "preferred_unmap_alignment"),
    ("bdev_null_create N2 16 512 -r 8", -95, "preferred_unmap_granularity"),
    ("bdev_null_create N2 16 512 -u nonsense", -22, "uuid"),
    ("bdev_virtio_attach_controller V1 -t vfio-user -a /x -d blk", -32603, "trtype"),
    ("framework_set_scheduler dynamic", -32602, "name"),
    ("framework_set_scheduler static --mappings 1:0", -95, "mappings"),
    ("bdev_virtio_blk_set_hotplug --hotplug -r 1", -22, "period_us"),
]


def commands() -> dict[str, argparse.ArgumentParser]:
    """The commands of SPDK's client."""
    spdk_module()
    from spdk.spdk_rpc import create_parser

    return dict(create_parser()[1].choices)


def shared() -> set[str]:
    names = METHODS.keys() | {alias for method in METHODS.values() for alias in method.aliases}
    return names & commands().keys()


def foreign() -> list[str]:
    return sorted(name for name in shared() if METHODS[name].foreign and not METHODS[name].params)


def with_all_options(name: str) -> str:
    """A command line with something for each option; of those that exclude each other, for the first."""
    parser, words = commands()[name], [name]
    excluded = {id(one) for group in parser._mutually_exclusive_groups for one in group._group_actions[1:]}
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or id(action) in excluded:
            continue
        words += action.option_strings[:1]
        if action.nargs != 0:
            words.append(VALUES.get(action.dest) or str(next(iter(action.choices)) if action.choices else 1))
    return shlex.join(words)


def exchanged(log: str) -> dict[str, list[tuple[Json, Json]]]:
    """By method: parameters and result of each call that the client logged."""
    decoder = json.JSONDecoder()
    said = [decoder.raw_decode(log, found.end())[0] for found in re.finditer(r"INFO: (Requests|response):\n", log)]
    calls = defaultdict(list)
    for request, response in zip(said[::2], said[1::2], strict=True):
        calls[request["method"]].append((request.get("params", {}), response["result"]))
    return dict(calls)


def test_every_method_that_spdk_has_too_works_with_all_its_options(run_dir: Path, rpc: Rpc) -> None:
    settings = "\n".join(map(with_all_options, foreign()))
    script = f"{settings}{STARTUP}{DISKS}".format(dir=run_dir, uuid=UUID)
    with (
        target(run_dir, "--memory", "16M"),
        target(run_dir, "--scsi", "0:0=16M", name="s"),
        daemon(run_dir, "--wait-for-rpc") as virtiod,
    ):
        # A script can't give a method's own parameter "timeout": that of the connection takes its place.
        outcomes = [rpc("-v", stdin=script), rpc("-v", *WAITS.split()), rpc("-v", stdin=REST)]
        assert [outcome.status for outcome in outcomes] == [0, 0, 0], outcomes
        calls = exchanged("".join(outcome.err for outcome in outcomes))
        virtiod.ends()
    assert calls.keys() == shared(), "a method has no command here"
    for method, found in sorted(calls.items()):
        sent = {name for params, _ in found for name in params}
        known = {word.partition(":")[0] for word in PARAMS.get(method, "").split()}
        assert sent >= known if method in PARAMS else METHODS[method].foreign, (method, known - sent)
        for _, result in found:
            assert (misfit(result, RESULTS[method], method) == "") if method in RESULTS else result is True, (
                method,
                misfit(result, RESULTS[method], method) if method in RESULTS else result,
            )


def test_what_virtiod_has_not_is_refused_by_the_name_of_the_parameter(run_dir: Path, rpc: Rpc) -> None:
    with daemon(run_dir) as virtiod:
        for command, code, param in REFUSED:
            found, message = rpc(*shlex.split(command)).error
            assert (found, bool(re.search(rf"\b{param}\b", message))) == (code, True), (command, found, message)
        assert virtiod.call("bdev_get_bdevs") == []


@pytest.mark.parametrize("method", PARAMS)
def test_parameters_are_those_of_spdks_schema(method: str) -> None:
    assert method in shared()
    theirs = {
        name: (JSON_TYPES.get(kind.removesuffix("!"), "integer"), kind.endswith("!"))
        for name, kind in (word.split(":") for word in PARAMS[method].split())
    }
    ours = {param.name: param for param in METHODS[method].params}
    assert theirs.keys() <= ours.keys()
    for name, param in ours.items():
        kind, required = theirs.get(name, (param.type, False))
        assert param.type == kind, name
        assert required or not param.required, f"{name} is not required by SPDK"


@pytest.mark.parametrize("method", PARAMS)
def test_choices_are_those_of_spdks_client(method: str) -> None:
    ours = {param.name: set(param.choices) for param in METHODS[method].params}
    for action in commands()[method]._actions:
        choices = {choice for choice in action.choices or () if isinstance(choice, str)}
        if choices:
            assert ours[action.dest] == choices - NOT_OFFERED.get((method, action.dest), set()), action.dest


def test_every_shared_method_is_in_the_schema_or_sets_up_what_only_spdk_has() -> None:
    assert shared() == PARAMS.keys() | {name for name in shared() if METHODS[name].foreign}
    assert RESULTS.keys() <= PARAMS.keys()


def test_a_scheduler_that_moves_pollers_is_left_out_of_a_file(run_dir: Path, rpc: Rpc) -> None:
    call = {"method": "framework_set_scheduler", "params": {"name": "dynamic", "period": 1000000}}
    file = run_dir / "c.json"
    file.write_text(json.dumps({"subsystems": [{"subsystem": "scheduler", "config": [call]}]}))
    with daemon(run_dir, "-c", file) as virtiod:
        said = "ignored, virtiod does not have this: framework_set_scheduler"
        wait_until(lambda: said in virtiod.log.read_text(), "a warning")
        assert rpc("framework_get_scheduler").json["scheduler_name"] == "static"
