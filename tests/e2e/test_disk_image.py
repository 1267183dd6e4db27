"""A file system in an image: qemu-storage-daemon -> SPDK's client attaches it -> NBD clients read and write it."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import requires, run, storage_daemon
from tests.support.process import daemon
from tests.support.spdk_client import Outcome

MIB = 1 << 20
SIZE = 48 * MIB
FILES = {"hello.txt": b"hello\n", "empty": b"", "data.bin": hashlib.shake_256(b"data").digest(3 * MIB + 17)}

Rpc = Callable[..., Outcome]


def make_image(run_dir: Path, name: str, files: dict[str, bytes] = FILES) -> Path:
    """An ext4 file system with the files in it."""
    content = run_dir / f"{name}.d"
    content.mkdir()
    for file, data in files.items():
        (content / file).write_bytes(data)
    image = run_dir / name
    with image.open("wb") as raw:
        raw.truncate(SIZE)
    run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", content, image)
    return image


def file_in(image: Path, name: str) -> bytes:
    """A file's content, by debugfs: nothing is mounted."""
    requires("debugfs")
    return subprocess.run(["debugfs", "-R", f"cat {name}", str(image)], capture_output=True, check=True).stdout


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def attach(rpc: Rpc, socket: Path, *more: str) -> None:
    outcome = rpc("bdev_virtio_attach_controller", "-d", "blk", "-t", "user", "-a", socket, *more, "V0")
    assert (outcome.status, outcome.out) == (0, "V0\n"), outcome


@pytest.mark.parametrize(("block_size", "queues"), [(512, 1), (4096, 1), (512, 4)])
def test_an_image_is_read_and_written_as_it_is(run_dir: Path, rpc: Rpc, block_size: int, queues: int) -> None:
    image = make_image(run_dir, "disk.img")
    other = make_image(run_dir, "other.img", {**FILES, "second": b"second"})
    copy = run_dir / "copy.img"
    blockdev = f"driver=file,filename={image}"
    options = f"logical-block-size={block_size}"
    with (
        storage_daemon(run_dir, blockdev, queues=queues, options=options) as qsd,
        daemon(run_dir) as virtiod,
    ):
        attach(rpc, qsd.socket, "--vq-count", str(queues))
        bdev = virtiod.bdev()
        assert (bdev["block_size"], bdev["num_blocks"] * block_size) == (block_size, SIZE)
        assert bdev["driver_specific"]["virtio"]["vq_count"] == queues
        uri = virtiod.export()
        run("nbdcopy", uri, copy)
        assert sha256(copy) == sha256(image)
        run("nbdcopy", "--flush", other, uri)
        place = overwrite_a_file(uri, other)
    assert sha256(image) == hashlib.sha256(with_fives(other, place)).hexdigest()
    assert file_in(image, "second") == b"second"
    assert file_in(image, "data.bin")[4096:] == FILES["data.bin"][4096:]
    assert file_in(image, "data.bin")[:4096] == b"\x55" * 4096
    run("e2fsck", "-fn", image)


def overwrite_a_file(uri: str, image: Path) -> int:
    """Have qemu-io fill the first block of data.bin with 0x55 and flush; where it is."""
    found = re.search(r"\d+", run("debugfs", "-R", "blocks data.bin", image))
    assert found
    place = int(found[0]) * 4096
    run("qemu-io", "-f", "raw", "-c", f"write -P 0x55 {place} 4096", "-c", "flush", uri)
    assert "verification failed" not in run("qemu-io", "-f", "raw", "-c", f"read -P 0x55 {place} 4096", uri)
    return place


def with_fives(image: Path, place: int) -> bytes:
    data = image.read_bytes()
    return data[:place] + b"\x55" * 4096 + data[place + 4096 :]


def test_a_read_only_image_stays_as_it_is(run_dir: Path, rpc: Rpc) -> None:
    image = make_image(run_dir, "disk.img")
    before = sha256(image)
    requires("qemu-io", "nbdinfo")
    blockdev = f"driver=file,filename={image},read-only=on"
    with storage_daemon(run_dir, blockdev, options="writable=off") as qsd, daemon(run_dir) as virtiod:
        attach(rpc, qsd.socket)
        assert virtiod.bdev()["read_only"] is True
        assert virtiod.bdev()["supported_io_types"]["write"] is False
        uri = virtiod.export()
        assert '"is_read_only": true' in run("nbdinfo", "--json", uri)
        run("nbdcopy", uri, run_dir / "copy.img")
        assert sha256(run_dir / "copy.img") == before
        write = ["qemu-io", "-f", "raw", "-c", "write 0 4096", uri]
        refused: Any = subprocess.run(write, capture_output=True, text=True, check=False)
        assert refused.returncode != 0 or "fail" in refused.stdout + refused.stderr
    assert sha256(image) == before
