"""The client library and the command line."""

from __future__ import annotations

import http.server
import io
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rpc_client import Access, BadReply, Client, ConnectFailed, ConnectionLost, MethodError, TimedOut, cli
from rpc_client.tables import duration, size, table
from rpc_client.top import Sample, top, view
from tests.support.daemon import FakeDaemon
from tests.support.rpc_server import scripted, with_daemon
from tests.support.waiting import PATIENCE_S
from virtiod.bdev.counters import ERRORS, NO_IO
from virtiod.load.job import LoadCounters
from virtiod.load.report import JobReport, figures
from virtiod.rpc.methods import METHODS

ATTACH = {"name": "B0", "trtype": "user", "traddr": "/x.sock", "dev_type": "blk"}


# ---- the library


def test_calls_and_their_errors(run_dir: Path) -> None:
    def use(path: str, _: FakeDaemon) -> None:
        with Client(path) as client:
            assert client.call("bdev_get_bdevs") == []
            assert client.call("bdev_virtio_attach_controller", ATTACH) == ["B0"]
            with pytest.raises(MethodError, match=r"bdev_get_bdevs: bdev 'x' does not exist \(-19\)") as caught:
                client.call("bdev_get_bdevs", {"name": "x"})
            assert caught.value.code == -19
            assert client.call("bdev_get_bdevs", {"name": "B0"})[0]["name"] == "B0"
        client.close()
        assert client.call("log_get_level") == "INFO"  # connects again
        client.close()

    with_daemon(run_dir, use)


def test_a_time_out_is_in_real_time_and_its_answer_comes_to_no_other_call(run_dir: Path) -> None:
    def use(path: str, daemon: FakeDaemon) -> None:
        with Client(path, timeout_s=PATIENCE_S) as client:
            started = time.monotonic()
            with pytest.raises(TimedOut, match="bdev_virtio_attach_controller: no answer"):
                client.call("bdev_virtio_attach_controller", ATTACH | {"traddr": "/slow"}, timeout_s=0.2)
            assert time.monotonic() - started >= 0.2
            daemon.fakes.fake_controllers.release.set()
            assert client.call("log_get_level") == "INFO"

    with_daemon(run_dir, use)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b'{"jsonrpc":"2.0","result":1,"id":7}\n', BadReply),
        (b'{"jsonrpc":"2.0","result":1,"error":{"code":1},"id":1}\n', BadReply),
        (b'{"jsonrpc":"2.0","id":1}\n', BadReply),
        (b'{"jsonrpc":"2.0","error":"bad","id":1}\n', BadReply),
        (b"[]\n", BadReply),
        (b"hello\n", BadReply),
        (b'{"jsonrpc":"2.0","error":{"code":-32700,"message":"Parse error"},"id":null}\n', MethodError),
        (b'{"jsonrpc":"2.0","error":{"code":-1,"message":"x"},"id":9}\n', BadReply),
        (b'{"jsonrpc":"2.0","resu', ConnectionLost),
        (b"", ConnectionLost),
        (None, TimedOut),
    ],
)
def test_an_answer_that_is_none_is_an_error(run_dir: Path, answer: bytes | None, error: type[Exception]) -> None:
    timeout_s = 0.3 if answer is None else PATIENCE_S
    with (
        scripted(run_dir, answer) as path,
        Client(path, timeout_s=timeout_s) as client,
        pytest.raises(error),
    ):
        client.call("log_get_level")


def test_nobody_there(run_dir: Path) -> None:
    with pytest.raises(ConnectFailed, match="/nobody: No such file or directory"):
        Client(str(run_dir / "nobody")).call("log_get_level")


class _Handler(http.server.BaseHTTPRequestHandler):
    end = threading.Event()  # of what is slow

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = 200
        body: object = {"jsonrpc": "2.0", "id": request["id"], "result": [self.path, request.get("params")]}
        if self.headers.get("Authorization") != "Basic dTpw":  # u:p
            status, body = 401, "who are you"
        elif request["method"] == "bad":
            status = 400
            body = {"jsonrpc": "2.0", "id": request["id"], "error": {"code": -1, "message": "no"}}
        elif request["method"] == "slow":
            self.end.wait(PATIENCE_S)
        data = json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        pass


def test_http(run_dir: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            with Client(url, access=Access(credentials=("u", "p"))) as client:
                assert client.call("m", {"a": 1}) == ["/rpc", {"a": 1}]
                with pytest.raises(MethodError):
                    client.call("bad")
                with pytest.raises(TimedOut):
                    client.call("slow", timeout_s=0.1)
                _Handler.end.set()
            with Client(url) as client, pytest.raises(ConnectFailed, match="401"):
                client.call("m")
        finally:
            server.shutdown()
            thread.join()
    with pytest.raises(ConnectFailed), Client(url) as client:
        client.call("m")


# ---- the command line


def run_cli(capsys: pytest.CaptureFixture[str], path: str, *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(["-s", path, *words])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_the_command_line_has_every_method_and_help_needs_no_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in METHODS)
    for name in METHODS:
        with pytest.raises(SystemExit, match="0"):
            cli.main([name, "--help"])
        shown = capsys.readouterr().out
        assert "usage: virtiod-rpc" in shown and "\nresult: " in shown


def test_help_shows_what_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["virtiod_get_controllers", "--help"])
    lines = re.sub(" {2,}", "  ", capsys.readouterr().out).splitlines()
    assert "result: array of objects: in the order of their attach" in lines
    assert "  vq_count  virtqueues in use, with SCSI's control and event queues (integer)" in lines
    assert "  socket  path of the vhost-user socket (string, optional)" in lines


def test_an_operators_session(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def use(path: str, daemon: FakeDaemon) -> None:
        def ok(*words: str) -> str:
            status, out, err = run_cli(capsys, path, *words)
            assert status == 0, err
            return out

        attach = ("bdev_virtio_attach_controller", "--dev-type", "blk", "--trtype", "user", "--traddr", "/x.sock")
        assert ok(*attach, "B0") == "B0\n"
        assert run_cli(capsys, path, *attach, "B0", "--vq-size", "64")[::2] == (
            1,
            "virtiod-rpc: bdev_virtio_attach_controller: controller 'B0' already exists (-32602)\n",
        )
        lines = ok("bdev_get_bdevs", "-b", "B0").splitlines()
        assert lines[0].split()[:3] == ["NAME", "PRODUCT", "SIZE"]
        assert "1 GiB" in lines[1]
        assert json.loads(ok("--json", "bdev_get_bdevs"))[0]["name"] == "B0"
        assert "up" in ok("virtiod_get_controllers")
        daemon.bdev("B0").count("read", 2500)
        assert "2.5 us" in ok("bdev_get_iostat", "--names", "B0")
        assert "thread 2" in ok("bdev_get_iostat", "--names", "B0", "-c")
        assert "50.0" in ok("virtiod_get_pollers")
        assert "disk" in ok("nbd_create_export", "B0", "-n", "disk", "-r")
        assert "nbd+unix:///disk" in ok("nbd_get_exports")
        assert ok("nbd_delete_export", "disk") == ""
        assert ok("call", "log_get_level") == "ERROR\n"
        assert json.loads(ok("--json", "call", "notify_get_notifications", '{"max": 1}'))[0]["ctx"] == "B0"
        assert '"rpc": false' in ok("log_get_flags")
        assert ok("bdev_enable_histogram", "B0", "--histogram") == ""
        assert "borders_count" in ok("bdev_get_histogram_borders", "B0", "--borders", "10,20")
        assert "bdev_get_bdevs\n" in ok("rpc_get_methods", "--no-current")
        assert ok("virtiod_get_version").startswith("{")
        assert ok("bdev_virtio_detach_controller", "B0") == ""

    with_daemon(run_dir, use, log_level="ERROR")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("no_such_method",),
        ("bdev_virtio_attach_controller", "B0", "-t", "tcp", "-a", "/x", "-d", "blk"),
        ("bdev_virtio_attach_controller", "B0"),
        ("call", "m", "[1]"),
        ("call", "m", "{"),
    ],
)
def test_a_command_that_is_wrong_is_refused_before_anybody_is_called(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["-s", "/nobody", *words])


def test_nobody_there_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run_cli(capsys, "/nobody", "bdev_get_bdevs")
    assert (status, out, err) == (1, "", "virtiod-rpc: connect to /nobody: No such file or directory\n")


def test_the_result_of_a_load_is_a_table(capsys: pytest.CaptureFixture[str], run_dir: Path) -> None:
    def use(path: str, daemon: FakeDaemon) -> None:
        daemon.fakes.fake_load.report.results.append(load_job("failed", failed=1, timeouts=3, mismatches=2))
        _, out, _ = run_cli(capsys, path, "perform_tests", "-b", "B0", "-w", "verify", "-t", "1")
        # What failed makes no IOPS, and a time-out is one failure.
        assert out.splitlines()[1].split()[:6] == ["B0", "0x1", "verify", "failed", "123456", "482.0"]
        assert out.splitlines()[1].split()[-1] == "6"

    with_daemon(run_dir, use)


def load_job(status: str, failed: int = 0, timeouts: int = 0, mismatches: int = 0) -> JobReport:
    """The report of a job of a second. failed: but for timeouts."""
    errors = [{"io": failed, "timeout": timeouts}.get(one, 0) for one in ERRORS]
    io = NO_IO._replace(completed=123456, failed=failed + timeouts, bytes=482 << 20, time_ns=10**9, errors=errors)
    counters = LoadCounters(0, 10**9, io, [], mismatches, first_error=-5)
    return JobReport(
        job="B0",
        core_mask="0x1",
        workload="verify",
        status=status,
        queue_depth=1,
        io_size=4096,
        keeps_writes=False,
        **vars(figures(counters)),
    )


@pytest.mark.parametrize(
    ("job", "code", "says"),
    [
        (load_job("finished"), 0, ""),
        (load_job("failed", failed=1), 1, "B0: 1 I/O failed (123457 I/Os ended)"),
        (load_job("failed", timeouts=1), 1, "B0: 1 I/O failed (123457 I/Os ended)"),
        (load_job("failed", mismatches=2), 1, "B0: 2 read other data than was written (123456 I/Os ended)"),
        (load_job("terminated"), 1, "B0: ended before its time (123456 I/Os ended)"),
    ],
)
@pytest.mark.parametrize("words", [(), ("--json",)])
def test_the_exit_status_says_whether_all_io_of_a_load_succeeded(
    capsys: pytest.CaptureFixture[str], run_dir: Path, words: tuple[str, ...], job: JobReport, code: int, says: str
) -> None:
    def use(path: str, daemon: FakeDaemon) -> None:
        daemon.fakes.fake_load.report.results.append(job)
        status, out, err = run_cli(capsys, path, *words, "perform_tests", "-b", "B0")
        said = [line for line in err.splitlines() if line.startswith("virtiod-rpc")]
        assert (status, said) == (code, [f"virtiod-rpc: perform_tests: {says}"] if says else [])
        assert "B0" in out

    with_daemon(run_dir, use)


# ---- tables and top


def test_quantities_are_readable() -> None:
    assert [size(n) for n in (0, 512, 1536, 1 << 30, 3 << 60)] == ["0 B", "512 B", "1.5 KiB", "1 GiB", "3072 PiB"]
    assert [duration(n) for n in (0, 999, 1500, 2_500_000, 3e9)] == ["-", "999 ns", "1.5 us", "2.5 ms", "3 s"]


def test_columns_are_aligned() -> None:
    assert table(("A", "NUMBER"), [("x", 1), ("long", 22)]) == "A     NUMBER\nx          1\nlong      22"
    assert table(("A", "B"), []) == "A  B"


def test_top_shows_what_happened_between_two_looks() -> None:
    def iostat(ticks: int, ops: int, latency: int) -> dict[str, Any]:
        zero = {f"{k}_{op}_ops": 0 for k in ("num",) for op in ("write", "unmap")}
        zero |= {"write_latency_ticks": 0, "unmap_latency_ticks": 0, "bytes_written": 0}
        bdev = {"name": "B0", "num_read_ops": ops, "bytes_read": ops * 4096, "read_latency_ticks": latency, **zero}
        return {"tick_rate": 10**9, "ticks": ticks, "bdevs": [bdev | {"queue_depth": 32}]}

    def pollers(busy: int, sleep: int) -> dict[str, Any]:
        times = {"busy": busy, "idle": 0, "sleep": sleep, "in_flight": 5}
        return {"pollers": [{"id": 1, "name": "poller_0", "cpu": 3, "mode": "adaptive", **times}]}

    def at(ticks: int, ops: int, latency: int, busy: int, sleep: int) -> Sample:
        return Sample(iostat(ticks, ops, latency), pollers(busy, sleep), [controller()])

    before = at(10**9, 1000, 5_000_000, 100, 100)
    text = [line for line, _ in view(before, at(3 * 10**9, 201_000, 2_005_000_000, 175, 125))]
    assert text[0] == "1 of 1 controllers up, 1 bdev, 32 I/Os in flight"
    assert text[3].split() == ["B0", "blk", "up", "2", "1", "7", "/run/x.sock"]
    assert text[6].split() == ["B0", "100000", "0", "390.6", "0.0", "10", "us", "32", "-", "0"]
    assert text[9].split() == ["poller_0", "3", "adaptive", "75.0", "0.0", "25.0", "5"]
    reset = [line for line, _ in view(before, at(2 * 10**9, 10, 10_000, 200, 100))]
    assert reset[6].split()[1] == "10"


def controller(name: str = "B0", state: str = "up") -> dict[str, Any]:
    queues = [{"in_flight": 7}]
    return {"name": name, "dev_type": "blk", "traddr": "/run/x.sock", "state": state, "reconnects": 2, "queues": queues}


def test_top_fits_the_terminal_and_keeps_what_matters() -> None:
    def at(ticks: int) -> Sample:
        bdevs: list[dict[str, Any]] = [{"name": f"B{n}", "num_read_ops": n * ticks} for n in range(1000)]
        bdevs[3] |= {"io_error": {"-5": ticks}, "num_read_ops": 10**6 * ticks}
        controllers = [controller(f"C{n}", "reconnecting" if n == 900 else "up") for n in range(1000)]
        times = {"busy": 1, "idle": 1, "sleep": 1, "in_flight": 0, "cpu": 0, "mode": "busy"}
        poller = {"id": 1, "name": "poller_0", **times}
        return Sample({"tick_rate": 1, "ticks": ticks, "bdevs": bdevs}, {"pollers": [poller]}, controllers)

    lines = view(at(1), at(2), 22)
    assert len(lines) <= 22
    assert lines[0][1] == "bad"  # as a controller is not up
    text, style = lines[3]
    assert text.startswith("C900") and "reconnecting" in text and style == "bad"
    (first,) = [number for number, (text, _) in enumerate(lines) if text.startswith("BDEV")]
    assert lines[first + 1][0].split()[0] == "B3" and lines[first + 1][1] == "bad"  # it fails
    assert lines[first + 2][0].split()[:2] == ["B999", "999"]
    assert [text for text, _ in lines if text.startswith("and ")] == ["and 996 more", "and 992 more"]
    assert lines[-1][0].startswith("poller_0")
    assert len(view(at(1), at(2))) > 2000


def test_top_takes_the_terminal_and_gives_it_back(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def flush(self) -> None:
            if self.getvalue().count("BDEV") == 2:
                raise KeyboardInterrupt

    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def use(path: str, _: FakeDaemon) -> None:
        out = Terminal()
        with Client(path) as client, pytest.raises(KeyboardInterrupt):
            client.call("bdev_virtio_attach_controller", ATTACH)
            top(client, 0.01, None, out)
        shown = out.getvalue()
        assert shown.startswith("\x1b[?1049h") and shown.endswith("\x1b[?1049l")
        assert shown.count("\x1b[H") == 2
        plain = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", shown)
        assert max(map(len, plain.splitlines())) == 60

    with_daemon(run_dir, use)


def test_top_writes_plain_text_where_there_is_no_terminal(run_dir: Path) -> None:
    def use(path: str, _: FakeDaemon) -> None:
        out = io.StringIO()
        with Client(path) as client:
            client.call("bdev_virtio_attach_controller", ATTACH)
            top(client, 0.01, 2, out)
        assert out.getvalue().count("READS/S") == 2
        assert "\x1b" not in out.getvalue()

    with_daemon(run_dir, use)
