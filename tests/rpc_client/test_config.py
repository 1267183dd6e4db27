"""Configurations that the client loads: what SPDK saved, and what a daemon has not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rpc_client import cli
from rpc_client.config import SUBSYSTEMS
from tests.support.daemon import FakeDaemon
from tests.support.rpc_server import with_daemon
from virtiod import system

SAVED_BY_SPDK = Path(__file__).parents[2] / "docs" / "examples" / "saved-by-spdk.json"
LEFT_OUT = """\
fsdev: left out, virtiod does not have this: fsdev_set_opts
iobuf: left out, virtiod does not have this: iobuf_set_options
sock: left out, virtiod does not have this: sock_set_default_impl, sock_impl_set_options
accel: left out, virtiod does not have this: accel_set_options
bdev: left out, virtiod does not have this: bdev_raid_set_options, bdev_iscsi_set_options, bdev_nvme_set_options, \
bdev_nvme_set_hotplug
nvmf: left out, virtiod does not have this: nvmf_set_config, nvmf_set_max_subsystems, nvmf_set_crdt
iscsi: left out, virtiod does not have this: iscsi_set_options
scheduler: left out, virtiod does not have this: framework_set_scheduler
"""


def test_the_subsystems_are_those_of_a_daemon() -> None:
    assert tuple(system.SUBSYSTEMS) == SUBSYSTEMS


@pytest.mark.parametrize("wait_for_rpc", [False, True])
def test_what_spdk_saved_is_loaded_and_what_is_left_out_is_listed(
    run_dir: Path, capsys: pytest.CaptureFixture[str], wait_for_rpc: bool
) -> None:
    def use(path: str, daemon: FakeDaemon) -> None:
        capsys.readouterr()
        assert cli.main(["-s", path, "load_config", "-f", str(SAVED_BY_SPDK)]) == 0
        assert capsys.readouterr().out == LEFT_OUT
        assert sorted(bdev.name for bdev in daemon.system.bdevs.list()) == ["Null0", "VirtioBlk0"]

    with_daemon(run_dir, use, wait_for_rpc=wait_for_rpc, log_level="ERROR")


@pytest.mark.parametrize(
    ("subsystem", "call", "left_out"),
    [
        ("nvmf", {"method": "nvmf_create_transport", "params": {"trtype": "TCP"}}, True),
        ("bdev", {"method": "bdev_xnvme_set_options"}, True),
        ("bdev", {"method": "bdev_malloc_create", "params": {"name": "M0"}}, False),
        ("nbd", {"method": "nbd_start_disk", "params": {"bdev_name": "N0"}}, False),
    ],
)
def test_a_setting_is_left_out_and_what_would_create_something_is_refused(
    run_dir: Path, capsys: pytest.CaptureFixture[str], subsystem: str, call: dict[str, Any], left_out: bool
) -> None:
    file = run_dir / "c.json"
    file.write_text(json.dumps({"subsystems": [{"subsystem": subsystem, "config": [call]}]}))

    def use(path: str, _: FakeDaemon) -> None:
        capsys.readouterr()
        status = cli.main(["-s", path, "load_config", "-f", str(file)])
        told = capsys.readouterr()
        if left_out:
            assert (status, told.err) == (0, "")
            assert told.out == f"{subsystem}: left out, virtiod does not have this: {call['method']}\n"
        else:
            assert status == 1
            assert told.err.endswith(f"the daemon does not have these methods of the configuration: {call['method']}\n")

    with_daemon(run_dir, use, log_level="ERROR")
