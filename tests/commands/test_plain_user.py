"""`virtiod run` by a user who may not make /run/virtiod: in the user's own runtime directory, or an error in words."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from rpc_client import AsyncClient, Client, places
from virtiod import cli
from virtiod.commands import run as command
from virtiod.daemon import daemon


@pytest.fixture
def nowhere(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The place of the system's socket, where nobody can make a directory: root neither."""
    (run_dir / "file").touch()
    path = str(run_dir / "file" / "virtiod" / "virtiod.sock")
    monkeypatch.setattr(command, "DEFAULT_RPC_SOCKET", path)
    monkeypatch.setattr(places, "DEFAULT_ADDRESS", path)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return path


def test_the_users_own_directory_is_taken(nowhere: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run_dir))
    served: list[tuple[str, str]] = []

    async def serve(daemon: daemon.Daemon, _notifier: object) -> int:
        served.append((daemon.options.rpc_socket, daemon.options.nbd_socket))
        daemon.logs.close()
        return 0

    monkeypatch.setattr(command, "_serve", serve)
    for what_is_for_the_whole_process in ("log_what_python_prints", "bound_last_words", "log_stacks_when_asked"):
        monkeypatch.setattr(command, what_is_for_the_whole_process, lambda *_: None)
    assert cli.main(["run", "-r", nowhere]) == 0
    folder = run_dir / "virtiod"
    assert served == [(f"{folder}/virtiod.sock", f"{folder}/virtiod-nbd.sock")]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_without_one_the_error_says_what_to_do(nowhere: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "-r", nowhere]) == 1
    folder = nowhere.removesuffix("/virtiod.sock")
    assert capsys.readouterr().err == (
        f"virtiod: {folder}: Not a directory: this user may not run the system's virtiod. Give -r PATH, in a directory "
        "of your own, or set XDG_RUNTIME_DIR to one; or run virtiod as root\n"
    )


def test_clients_find_the_users_own_daemon(nowhere: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run_dir))
    own = run_dir / "virtiod" / "virtiod.sock"
    assert Client(nowhere).address == AsyncClient(nowhere).address == nowhere, "there is none yet"
    own.parent.mkdir()
    own.touch()
    assert Client(nowhere).address == AsyncClient(nowhere).address == str(own)
    assert Client("/other.sock").address == "/other.sock"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "virtiod")
    assert Client(nowhere).address == nowhere, "a relative one is not valid"
