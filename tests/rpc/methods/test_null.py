"""Null bdevs by RPC: what SPDK's clients say of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.daemon import FakeDaemon
from tests.support.rpc_peer import Peer, talk
from virtiod.config.check import check_calls
from virtiod.config.document import Source, parse_config
from virtiod.rpc.methods import METHODS

NULL = {"name": "N0", "num_blocks": 2048, "block_size": 4096}
NONE_OF_IT = {
    "physical_block_size": 4096,
    "md_size": 0,
    "dif_type": 0,
    "dif_is_head_of_md": False,
    "dif_pi_format": 0,
    "preferred_write_granularity": 0,
    "preferred_write_alignment": 0,
    "optimal_write_size": 0,
    "preferred_unmap_granularity": 0,
    "preferred_unmap_alignment": 0,
}
REFUSED = {name: True if value is False else 512 for name, value in NONE_OF_IT.items()}


def test_parameters_that_ask_for_nothing_special_are_taken(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        assert await peer.result("bdev_null_create", **NULL, **NONE_OF_IT) == "N0"
        assert await peer.result("bdev_null_create", name="N1", num_blocks=8, physical_block_size=0) == "N1"
        assert [bdev.block_size for bdev in daemon.system.bdevs.list()] == [4096, 512]

    talk(run_dir, ask)


@pytest.mark.parametrize("name", NONE_OF_IT)
def test_what_only_null_bdevs_of_spdk_have_is_refused_by_its_name(run_dir: Path, name: str) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        code, message = await peer.error("bdev_null_create", **NULL, **{name: REFUSED[name]})
        assert (code, message.startswith(f"{name} {str(REFUSED[name]).lower()}: ")) == (-95, True), message
        assert daemon.system.bdevs.list() == []

    talk(run_dir, ask)
    call = {"method": "bdev_null_create", "params": {**NULL, name: REFUSED[name]}}
    document = {"subsystems": [{"subsystem": "bdev", "config": [call]}]}
    ((_, problem),) = check_calls(parse_config(document, Source("f")), METHODS).problems
    assert problem.startswith(f"f: subsystems[0].config[0].params.{name} (bdev_null_create): {name} "), problem
