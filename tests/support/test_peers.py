"""The helpers that start real programs: a peer is ready when it is handed over, and gone afterwards."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.peers import is_listening, nbd_uri, qemu_nbd, requires, run, storage_daemon


@pytest.mark.programs
def test_storage_daemon_listens_inside_the_block_and_is_gone_after_it(run_dir: Path) -> None:
    with storage_daemon(run_dir, "driver=null-co,size=1048576", queues=2) as target:
        assert is_listening(target.socket)
    assert target.process.returncode is not None
    assert not is_listening(target.socket)


def test_a_socket_listens_whatever_it_has_accepted(tmp_path: Path) -> None:
    for number in range(8):  # the order of the kernel's list is by chance
        path = tmp_path / f"{number}.sock"
        with ExitStack() as stack:
            listener, client = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
            listener.bind(str(path))
            assert not is_listening(path)
            listener.listen()
            client.connect(str(path))
            accepted = stack.enter_context(listener.accept()[0])
            assert is_listening(path)
            listener.close()
            assert accepted.getsockname() == str(path)
            assert not is_listening(path)


@pytest.mark.programs
def test_a_peer_that_fails_to_start_fails_the_test_with_what_it_printed(run_dir: Path) -> None:
    with (
        pytest.raises(pytest.fail.Exception, match="does not accept value 'nonsense'"),
        storage_daemon(run_dir, "driver=nonsense"),
    ):
        pass


@pytest.mark.programs
def test_a_paused_peer_can_be_stopped(run_dir: Path) -> None:
    image = run_dir / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with qemu_nbd(run_dir, image) as server:
        info = json.loads(run("nbdinfo", "--json", nbd_uri(server.socket)))
        assert info["exports"][0]["export-size"] == 1 << 20
        server.pause()


@pytest.mark.programs
def test_a_failed_command_fails_the_test_with_its_output() -> None:
    with pytest.raises(pytest.fail.Exception, match="exit code 3\nsaid\n"):
        run("sh", "-c", "echo said; exit 3")


def test_a_missing_program_fails_under_ci_only_if_debian_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="install Debian's package fio"):
        requires("fio")
    with pytest.raises(pytest.skip.Exception):
        requires("not-in-debian")
    monkeypatch.setenv("CI", "false")
    with pytest.raises(pytest.skip.Exception):
        requires("fio")
