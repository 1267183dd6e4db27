"""Several hosts at once: the file that names them, and what is shown of each."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from rpc_client import Client, cli
from rpc_client.fleet import Host, on_each, read_hosts
from rpc_client.tables import render_each
from tests.support.daemon import FakeDaemon
from tests.support.rpc_server import with_daemon
from tests.support.waiting import PATIENCE_S


def test_the_file_has_addresses_with_or_without_names(run_dir: Path) -> None:
    path = run_dir / "hosts"
    path.write_text("# all\nunix:/run/a.sock\nberlin https://192.0.2.1:9799  # the old one\n\n")
    assert read_hosts(str(path)) == [
        Host("unix:/run/a.sock", "unix:/run/a.sock"),
        Host("berlin", "https://192.0.2.1:9799"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "hosts: holds no address"),
        ("\na b c\n", "hosts:2: must be"),
        ("a\n" * 1001, "hosts: holds more than 1000 addresses"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(run_dir: Path, content: str, message: str) -> None:
    path = run_dir / "hosts"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_hosts(str(path))


def test_a_host_that_says_nothing_holds_up_nobody(run_dir: Path) -> None:
    def use(path: str, _: FakeDaemon) -> None:
        silent = str(run_dir / "silent")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(silent)
            listener.listen()
            hosts = [Host("silent", silent), Host("there", path), Host("dead", "/nowhere")]
            outcomes = on_each(
                hosts,
                lambda host: Client(host.address, timeout_s=0.3 if host.name == "silent" else PATIENCE_S),
                lambda client: client.call("log_get_level"),
                PATIENCE_S,
            )
            assert [one.host.name for one in outcomes] == ["silent", "there", "dead"]
            assert "no answer from" in str(outcomes[0].error)
            assert outcomes[1].result == "ERROR"
            assert str(outcomes[2].error) == "connect to /nowhere: No such file or directory"

    with_daemon(run_dir, use, log_level="ERROR")


def test_the_table_has_a_row_for_what_failed_and_for_what_is_empty() -> None:
    export = {"name": "e", "bdev_name": "b", "size": 1 << 30, "read_only": False, "connections": 1, "uris": ["nbd://x"]}
    shown = render_each("nbd_get_exports", [("a", [export, export]), ("b", [])], [("c", "gone")]).splitlines()
    assert shown[0].split() == ["HOST", "NAME", "BDEV", "SIZE", "READ-ONLY", "CONNECTIONS", "ADDRESS", "ERROR"]
    assert [line.split()[0] for line in shown] == ["HOST", "a", "a", "b", "c"]
    assert shown[-1].split() == ["c", *"------", "gone"]
    assert render_each("log_set_level", [("a", True), ("b", True)], []).splitlines()[1:] == ["a     done", "b     done"]
    assert "ERROR" not in render_each("log_get_level", [("a", "INFO")], [])


def test_the_exit_status_tells_how_many_failed(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def use(path: str, _: FakeDaemon) -> None:
        here, gone = ("--url", f"unix:{path}"), ("--url", "/nowhere")
        assert cli.main([*here, *here, "log_get_level"]) == 0
        assert cli.main([*here, *gone, "log_get_level"]) == 3
        assert cli.main([*gone, *gone, "log_get_level"]) == 1
        capsys.readouterr()
        assert cli.main(["--json", *here, *gone, "bdev_get_bdevs", "-b", "x"]) == 1
        found = json.loads(capsys.readouterr().out)
        assert found == [
            {"host": f"unix:{path}", "address": f"unix:{path}", "error": found[0]["error"]},
            {
                "host": "/nowhere",
                "address": "/nowhere",
                "error": {"code": None, "message": "connect to /nowhere: No such file or directory"},
            },
        ]
        assert found[0]["error"]["code"] == -19
        assert cli.main([*here, *gone, "top", "-n", "1"]) == 1
        assert "top takes one host at a time" in capsys.readouterr().err

    with_daemon(run_dir, use, log_level="ERROR")
