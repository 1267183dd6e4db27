"""The units as files: what systemd-analyze says of them, without starting anything."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import rpc_client.cli
from tests.support.peers import run
from tests.systemd.machine import ROOT
from virtiod.cli import parse

UNITS = ROOT / "systemd"
EXAMPLES = sorted((UNITS / "examples").glob("*.conf"))
MOST_EXPOSED = 40  # tenths


def lay_out(tmp_path: Path, *drop_ins: Path) -> None:
    """A root directory with the units and the drop-ins."""
    units = tmp_path / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    for unit in [*UNITS.glob("*.service"), *UNITS.glob("*.socket")]:
        shutil.copy(unit, units)
    (units / "virtiod.service.d").mkdir()
    for drop_in in drop_ins:
        shutil.copy(drop_in, units / "virtiod.service.d")


def exposure(root: Path) -> int:
    printed = run("systemd-analyze", "security", "--offline=yes", f"--root={root}", "--no-pager", "virtiod.service")
    match = re.search(r"Overall exposure level for virtiod.service: (\d+)\.(\d)", printed)
    assert match, printed
    return int(match[1]) * 10 + int(match[2])


@pytest.mark.parametrize("drop_ins", [(), EXAMPLES, *((one,) for one in EXAMPLES)], ids=lambda some: str(len(some)))
def test_the_service_is_hardly_exposed_with_any_of_the_drop_ins(tmp_path: Path, drop_ins: tuple[Path, ...]) -> None:
    lay_out(tmp_path, *drop_ins)
    assert exposure(tmp_path) < MOST_EXPOSED


def test_commands_of_the_units_are_accepted() -> None:
    text = (UNITS / "virtiod.service").read_text()
    match = re.search(r"^ExecStart=/usr/bin/virtiod (.*)$", text, re.MULTILINE)
    assert match
    words = match[1].replace("${STATE_DIRECTORY}", "/var/lib/virtiod").replace("$VIRTIOD_OPTIONS", "").split()
    assert parse(words).state == "/var/lib/virtiod/state.json"
    match = re.search(r"^ExecReload=/usr/bin/virtiod-rpc (.*)$", text, re.MULTILINE)
    assert match
    assert rpc_client.cli.parser().parse_args(match[1].split()).method == "virtiod_reload_config"


def test_drop_ins_say_where_they_go() -> None:
    for example in EXAMPLES:
        assert example.read_text().startswith(f"# /etc/systemd/system/virtiod.service.d/{example.name}: ")


def test_every_unit_is_in_the_package() -> None:
    rules = (ROOT / "debian" / "rules").read_text()
    for unit in [*UNITS.glob("*.service"), *UNITS.glob("*.socket")]:
        assert f" {unit.name}" in rules, "dh_installsystemd does not know it"
