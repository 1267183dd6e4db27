"""Runs a section's examples in bash: in a directory of its own, with sockets, ports and sizes of the test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.docs.pages import ROOT, Section, Statement
from tests.support.peers import reap
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_S

DEADLINE_S = 4 * PATIENCE_S  # of a section: a page has dozens of commands
_MARK = "\x01"

# `virtiod` and `virtiod-rpc`, whose default addresses are this test's.
_COMMANDS = {
    "virtiod": """#!{python}
import sys
import virtiod.cli
from virtiod.commands import dump_config, run
def add_arguments(parser, add=run.add_arguments):
    add(parser)
    parser.set_defaults(rpc_socket="{rpc}", http="127.0.0.1:{http}")
run.add_arguments = add_arguments
dump_config.DEFAULT_ADDRESS = "{rpc}"
sys.exit(virtiod.cli.main())
""",
    "virtiod-rpc": """#!{python}
import sys
import rpc_client.cli
rpc_client.cli.DEFAULT_ADDRESS = "{rpc}"
sys.exit(rpc_client.cli.main())
""",
}

# ready: what was started in the background listens. loaded: I/O has been done.
_PRELUDE = r"""
set -eEuo pipefail
trap 'echo "exit code $?: $BASH_COMMAND" >&2' ERR
finish() {
    local jobs job
    mapfile -t jobs < <(jobs -p | tac)
    for job in "${jobs[@]}"; do kill "$job" 2>/dev/null && wait "$job"; done
    return 0
}
trap finish EXIT
listens() { grep -qE "^[^ ]+ [0-9A-F]+ [0-9]+ 00010000 .* $1$" /proc/net/unix; }
ready() { until listens "$1"; do kill -0 "$!"; sleep 0.05; done; }
loaded() { until virtiod-rpc --json bdev_get_iostat | grep -q '"num_read_ops": [1-9]'; do sleep 0.05; done; }
"""


@dataclass(frozen=True)
class Place:
    """Where examples are run: directory, and a port of its own for each that pages name."""

    folder: Path
    ports: dict[str, int]

    def own(self, text: str) -> str:
        """A page's text with this place's paths and ports, and with small sizes and times."""
        for pattern, replacement in (
            (r"(?<=[\s='\":])/(run|etc|var/lib/virtiod)/", f"{self.folder}/"),
            (r"https://(storage\d):9799", lambda found: f"https://localhost:{self.ports[found[1]]}"),
            (r"\b9799\b", str(self.ports["9799"])),
            (r"\b10809\b", str(self.ports["10809"])),
            (r"\b0\.0\.0\.0\b", "127.0.0.1"),
            (r"\b1G\b", "64M"),
            (r"--time \d+", "--time 1"),
            (r"--interval \d+", "--interval 0.5"),
        ):
            text = re.sub(pattern, replacement, text)
        return text

    @property
    def rpc(self) -> Path:
        return self.folder / "virtiod" / "virtiod.sock"


def make_place(folder: Path) -> Place:
    """Commands, an activated environment, and the files that pages name."""
    place = Place(folder, {name: free_port() for name in ("9799", "10809", "storage1", "storage2")})
    for name, text in _COMMANDS.items():
        command = folder / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(text.format(python=sys.executable, rpc=place.rpc, http=place.ports["9799"]))
        command.chmod(0o755)
    place.rpc.parent.mkdir()
    activate = folder / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    (folder / "docs" / "examples").mkdir(parents=True)
    for example in (ROOT / "docs" / "examples").iterdir():
        (folder / "docs" / "examples" / example.name).write_text(place.own(example.read_text()))
    return place


def run_section(place: Place, section: Section) -> list[str]:
    """What each statement printed. Raises AssertionError, with all that was printed, when one fails."""
    script = [_PRELUDE, *_settings(place, section)]
    for number, statement in enumerate(section.statements):
        script += [f"printf '{_MARK}'", *_as_run(place, statement, number)]
    path = ":".join([str(place.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "HOME": str(place.folder), "PYTHONPATH": str(ROOT)}
    output = place.folder / "output"
    with output.open("w") as stdout:
        process = subprocess.Popen(
            ["bash", "-c", "\n".join(script)],
            cwd=place.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stdout,
            start_new_session=True,
        )
    try:
        code: object = process.wait(DEADLINE_S)
    except subprocess.TimeoutExpired:
        code = f"none, it still ran after {DEADLINE_S} s"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    reap(process.pid)
    printed = output.read_text().split(_MARK)[1:]
    logs = "".join(f"\n{log.name}:\n{log.read_text()}" for log in sorted(place.folder.glob("job*.log")))
    assert code == 0, (
        f"{section}: exit code {code} at: {section.statements[len(printed) - 1].text}\n{printed[-1]}{logs}"
    )
    return printed


def _settings(place: Place, section: Section) -> list[str]:
    lines: list[str] = []
    if "a target at /run/disk.sock" in section.settings:
        disk = place.folder / "disk.sock"
        lines += [f"virtiod target {disk} --memory 16M >job-target.log 2>&1 &", f"ready {disk}"]
    if "a daemon" in section.settings:
        lines += ["virtiod >job-daemon.log 2>&1 &", *_ready(place)]
    return lines


def _as_run(place: Place, statement: Statement, number: int) -> list[str]:
    """The statement, and a wait for what a reader sees happen before going on."""
    text = place.own(statement.text)
    if not text.endswith("&"):
        ends = "spdk_kill_instance" in text
        return [text, 'wait "$daemon"'] if ends else [text]
    lines = [f"{text[:-1]} >job{number}.log 2>&1 &"]
    words = text.split()
    if words[:2] == ["virtiod", "target"] or words[0] == "qemu-storage-daemon":
        lines += [f"ready {path}" for path in re.findall(r"[\w./-]+\.sock", text)]
    elif words[0] == "virtiod" and words[1] not in {"perf", "demo"}:
        own = re.search(r"-r (\S+)", text)
        lines += _ready(place, own[1] if own else "", "--wait-for-rpc" not in words)
    elif "perform_tests" in words:
        lines.append("loaded")
    return lines


def _ready(place: Place, address: str | Path = "", wait: bool = True) -> list[str]:
    """Until the daemon that was just started answers."""
    address = address or place.rpc
    lines = ["daemon=$!", f"ready {address}"]
    return [*lines, f"virtiod-rpc -s {address} framework_wait_init >/dev/null"] if wait else lines


def shape(text: str) -> list[str]:
    """Lines with N for each number, its unit included, and one space for several."""
    numbers = re.sub(r"\d+(\.\d+)?( (us|ms|s|[KMGT]iB)\b)?", "N", text)
    return [" ".join(line.split()) for line in numbers.splitlines() if line.strip()]
