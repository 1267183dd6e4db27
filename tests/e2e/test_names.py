"""Names that break the rule are refused wherever they come from: RPC, a configuration, saved state, a command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.process import Daemon, RpcFailure, daemon
from tests.support.spdk_client import Outcome
from tests.support.waiting import PATIENCE_S, wait_until

Rpc = Callable[..., Outcome]

FORGED = "x\n2026-01-01 NOTICE  virtiod.rpc.audit: alice (admin): ok"
NO_NAMES = {"": "not 0", "x" * 60_000: "not 60000", FORGED: "U+000A", "a\x1b[31m": "U+001B", "abc\u202ecba": "U+202E"}


def creates(name: str) -> dict[str, dict[str, Any]]:
    """A call of each method that is given a name."""
    attach = {"trtype": "user", "traddr": "/nobody", "dev_type": "blk", "wait_for_device": True}
    return {
        "bdev_null_create": {"name": name, "num_blocks": 8},
        "bdev_virtio_attach_controller": {"name": name, **attach},
        "nbd_create_export": {"bdev_name": "N0", "name": name},
    }


def config(*calls: tuple[str, dict[str, Any]]) -> str:
    entries: dict[str, list[dict[str, Any]]] = {"bdev": [], "nbd": []}
    for method, params in calls:
        entries["nbd" if method.startswith("nbd") else "bdev"].append({"method": method, "params": params})
    return json.dumps({"subsystems": [{"subsystem": name, "config": found} for name, found in entries.items()]})


@pytest.mark.parametrize("name", NO_NAMES, ids=lambda name: ascii(name[:9]))
def test_by_rpc(run_dir: Path, name: str) -> None:
    with daemon(run_dir) as virtiod:
        virtiod.call("bdev_null_create", name="N0", num_blocks=8)
        for method, params in creates(name).items():
            with pytest.raises(RpcFailure, match=re.escape(NO_NAMES[name])) as caught:
                virtiod.call(method, **params)
            assert caught.value.code == (-32603 if "virtio" in method else -32602)
            assert caught.value.message.isascii() and caught.value.message.isprintable()
            assert len(caught.value.message) < 250
        for method, params in (("bdev_get_bdevs", {"name": name}), ("perform_tests", {"bdevs": ["N0", name]})):
            with pytest.raises(RpcFailure, match=re.escape(NO_NAMES[name])):
                virtiod.call(method, **params)
        assert [bdev["name"] for bdev in virtiod.call("bdev_get_bdevs")] == ["N0"]
        assert virtiod.call("virtiod_get_controllers") == virtiod.call("nbd_get_exports") == []


def test_by_the_commands(run_dir: Path, rpc: Rpc) -> None:
    with daemon(run_dir) as virtiod:
        for method, words in (("bdev_virtio_attach_controller", ("-t", "user", "-a", "/x", "-d", "blk")),):
            code, message = rpc(method, "a\x1b[2J", *words).error
            assert code == -32603 and r"U+001B, which can't be printed: 'a\x1b[2J'" in message
        command = [sys.executable, "-m", "rpc_client.cli", "-s", str(virtiod.socket), "bdev_null_create"]
        for name, why in ((b"a\x1b[2J", rb"can't be printed: 'a\x1b[2J'"), (b"a\xff", b"not UTF-8")):
            tried = subprocess.run([*command, name, "8"], capture_output=True, timeout=PATIENCE_S, check=False)
            assert tried.returncode == 1 and tried.stderr.startswith(b"virtiod-rpc: ") and why in tried.stderr
            assert tried.stderr.count(b"\n") == 1 and b"\x1b" not in tried.stderr
        assert virtiod.call("bdev_get_bdevs") == []


@pytest.mark.parametrize("name", [*NO_NAMES, "\ud800"], ids=lambda name: ascii(name[:9]))
def test_in_a_configuration(run_dir: Path, name: str) -> None:
    """`\\ud800` can't come by RPC: its framer takes valid UTF-8 only."""
    why = NO_NAMES.get(name, r"must not hold lone surrogates: '\ud800'")
    file = run_dir / "config.json"
    file.write_text(config(("bdev_null_create", {"name": "N0", "num_blocks": 8}), *creates(name).items()))
    command = [sys.executable, "-m", "virtiod.cli", "check-config", str(file)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    failing = Daemon(run_dir, "-c", file)
    try:
        wait_until(lambda: failing.process.poll() is not None, "the daemon to refuse")
        said = failing.log.read_text()
    finally:
        failing.stop()
    for status, text in ((checked.returncode, checked.stderr), (failing.process.returncode, said)):
        assert status == 1
        places = re.findall(r"config\.json:1:\d+: subsystems\[\d\]\.config\[\d\]\.params\.name \((\w+)\)", text)
        assert places == list(creates(name))
        assert text.count(why) == len(places) and "\x1b" not in text and "\u202e" not in text
        assert not re.search(r"^2026-01-01", text, re.MULTILINE)


def test_in_the_state_that_an_older_daemon_saved(run_dir: Path) -> None:
    state = run_dir / "state.json"
    null, attach, export = creates("a\ud800\x1b[2J").items()
    state.write_text(config(null, attach, ("bdev_null_create", {"name": "N0", "num_blocks": 8}), export))
    for _ in range(2):  # they are kept for the next start
        with daemon(run_dir, "--state", state) as virtiod:
            assert [bdev["name"] for bdev in virtiod.call("bdev_get_bdevs")] == ["N0"]
            said = [line for line in virtiod.log.read_text().splitlines() if " ERROR " in line]
            for line, (method, _) in zip(said, (null, attach, export), strict=True):
                assert f"({method}): {method}: 'name' must not hold lone surrogates: 'a\\ud800\\x1b[2J'" in line
                assert re.search(r"state\.json:\d+:\d+: subsystems\[\d\]\.config\[\d\]", line)


def test_no_two_bdevs_are_one_series(run_dir: Path) -> None:
    """A lone surrogate, which saved state could hold, can't be encoded: it was shown as "?"."""
    saved = ["x?", "x\ud800"]
    state = run_dir / "state.json"
    state.write_text(config(*(("bdev_null_create", {"name": name, "num_blocks": 8}) for name in saved)))
    names = ["x", "X", "x\\ufffd", "x\ufffd", 'x"', "x\\", "x\\n", "x,bdev=y", "größe", "gro\u0308ße", "x" * 255]
    with daemon(run_dir, "--state", state, "--http", "127.0.0.1:0") as virtiod:
        for name in names:
            virtiod.call("bdev_null_create", name=name, num_blocks=8)
            virtiod.call("nbd_create_export", bdev_name=name)
        port = re.search(r"HTTP at 127\.0\.0\.1 port (\d+)", virtiod.log.read_text())
        assert port is not None
        with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics", timeout=PATIENCE_S) as page:
            text = page.read().decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        series = [(sample.name, *sorted(sample.labels.items())) for sample in samples]
        assert len(series) == len(set(series))
        assert [sample.labels["bdev"] for sample in samples if sample.name == "virtiod_bdev_capacity_bytes"] == [
            saved[0],
            *names,
        ]
