"""The manual pages and shell completions of both commands, as a reader and a shell take them."""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.peers import reap, requires
from virtiod.manuals import PARSERS, write
from virtiod.rpc.methods import METHODS

# Completes the words given, as bash does when its user presses the tabulator.
COMPLETE = r"""
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
[[ $(complete -p "$1") =~ -F\ ([^ ]+) ]]
"${BASH_REMATCH[1]}" "$1" "${@: -1}" "${@: -2:1}"
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("described")
    write(folder)
    return folder


def completed(written: Path, *words: str) -> list[str]:
    script = written / "bash" / words[0]
    command = ["bash", "-c", COMPLETE, "bash", str(script), *words]
    bash = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    out, _ = bash.communicate(timeout=30)
    reap(bash.pid)  # process substitutions, for which bash does not wait
    assert bash.returncode == 0
    return out.split()


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in set(action.choices.values()):
                yield from parsers(command)


@pytest.mark.programs
@pytest.mark.parametrize("name", PARSERS)
def test_the_manual_page_has_every_command_and_option(written: Path, name: str) -> None:
    requires("man")
    page = written / "man" / f"{name}.1"
    shown = subprocess.run(
        ["man", "--warnings", "--local-file", page],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "200", "MAN_KEEP_FORMATTING": "", "LC_ALL": "C"},
    )
    assert shown.stderr == ""
    text = re.sub(r".\x08", "", shown.stdout)
    for parser in parsers(PARSERS[name]()):
        assert parser.prog in text
        for action in parser._actions:
            assert action.dest == "help" or all(option in text for option in action.option_strings), action


@pytest.mark.programs
def test_bash_completes_methods_and_their_parameters(written: Path) -> None:
    methods = [alias for method in METHODS.values() for alias in (method.name, *method.aliases)]
    assert set(methods) | {"top", "call", "save_config", "load_config"} == set(completed(written, "virtiod-rpc", ""))
    attach = ("virtiod-rpc", "bdev_virtio_attach_controller")
    assert completed(written, *attach, "--tr") == ["--trtype", "--traddr"]
    assert completed(written, *attach, "V0", "--dev-type", "") == ["blk", "scsi"]


@pytest.mark.programs
def test_bash_completes_commands_options_and_files(written: Path, tmp_path: Path) -> None:
    assert {"run", "target", "perf", "pci", "demo"} <= set(completed(written, "virtiod", ""))
    assert completed(written, "virtiod", "pci", "") == ["list", "bind", "unbind"]
    assert completed(written, "virtiod", "run", "--poll-mode", "b") == ["busy"]
    (tmp_path / "virtiod.json").touch()
    assert completed(written, "virtiod", "run", "-c", f"{tmp_path}/vir") == [f"{tmp_path}/virtiod.json"]


@pytest.mark.programs
@pytest.mark.parametrize("name", PARSERS)
def test_zsh_completions_are_valid(written: Path, name: str) -> None:
    requires("zsh")
    subprocess.run(["zsh", "-n", written / "zsh" / f"_{name}"], timeout=30, check=True)
