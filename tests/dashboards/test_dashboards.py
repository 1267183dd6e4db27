"""Dashboards and rules: well formed, about metrics that exist, and answered by a real Prometheus on a loaded daemon."""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.http_server import Live, live
from tests.support.peers import requires, run
from tests.support.process import target
from tests.support.prometheus import ask, prometheus
from tests.support.waiting import LOAD_S, PATIENCE_S
from virtiod.controllers.request import AttachRequest
from virtiod.exports.nbd.exports import NbdExports
from virtiod.load.workload import Workload
from virtiod.metrics.catalogue import ENTRIES

FOLDER = Path(__file__).parents[2] / "dashboards"
RULES = sorted((FOLDER / "rules").glob("*.yml"))
DEADLINE_S = 2 * PATIENCE_S
PANELS = {"row", "stat", "timeseries", "table", "heatmap", "state-timeline"}
CHOICES = {"$instance": ".*", "$bdev": "V0", "$controller": "V0", "$__rate_interval": "1m"}

# ---- what the files say


def dashboards() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((FOLDER / "grafana").glob("*.json"))]


every_dashboard = pytest.mark.parametrize("board", dashboards(), ids=lambda board: board["uid"])


def queries(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Of each panel: its title, and PromQL with a choice made for each variable."""
    for panel in board["panels"]:
        for each in panel.get("targets", []):
            expr = each["expr"]
            for name, value in CHOICES.items():
                expr = expr.replace(name, value)
            assert "$" not in expr, expr
            yield f"{board['uid']}: {panel['title']}", expr


@cache
def rules() -> list[dict[str, str]]:
    """As Prometheus reads them: {"alert" or "record", "expr"}."""
    found = []
    for path in RULES:
        for block in re.split(r"^      - ", path.read_text(), flags=re.MULTILINE)[1:]:
            named = re.match(r"(alert|record): (\S+)", block)
            expr = re.search(r"^        expr: (?:\|\n((?:          .*\n?)+)|(.*))", block, re.MULTILINE)
            assert named and expr, block
            found.append({named[1]: named[2], "expr": " ".join((expr[1] or expr[2]).split())})
    return found


def known() -> set[str]:
    """Every series that there is."""
    ends = {"histogram": ("_bucket", "_sum", "_count")}
    return {e.name + end for e in ENTRIES for end in ends.get(e.kind, ("",))} | {
        rule["record"] for rule in rules() if "record" in rule
    }


def named(expr: str) -> set[str]:
    """The metrics that PromQL names."""
    return set(re.findall(r"[a-z]\w*(?::\w+)*:virtiod_\w+:\w+|virtiod_\w+", expr))


@pytest.mark.programs
def test_the_dashboards_are_those_that_the_program_writes() -> None:
    command = "import build, json; print(json.dumps(build.documents()))"
    written = json.loads(run_in(FOLDER, sys.executable, "-c", command))
    assert written == {path.name: path.read_text() for path in (FOLDER / "grafana").iterdir()}, (
        "run dashboards/build.py"
    )


def run_in(folder: Path, *command: str) -> str:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60).stdout


@every_dashboard
def test_a_dashboard_is_one_that_grafana_can_load(board: dict[str, Any]) -> None:
    assert board["schemaVersion"] >= 36 and board["title"] and re.fullmatch(r"[a-z-]{1,40}", board["uid"])
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    names = [variable["name"] for variable in board["templating"]["list"]]
    assert names[0] == "datasource" and len(set(names)) == len(names)
    for panel in panels:
        assert panel["type"] in PANELS and panel["title"]
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24 and place["h"] >= 1
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"] and panel["fieldConfig"]["defaults"]["unit"]
        refs = [each["refId"] for each in panel["targets"]]
        assert len(set(refs)) == len(refs)
        for each in panel["targets"]:
            assert each["datasource"] == panel["datasource"]
            used = set(re.findall(r"\$(\w+)", each["expr"])) - {"__rate_interval"}
            assert used <= set(names), each["expr"]
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_links_lead_to_dashboards_and_their_variables() -> None:
    boards = {board["uid"]: {variable["name"] for variable in board["templating"]["list"]} for board in dashboards()}
    assert len(boards) == 3
    links = re.findall(r'"url": "(.*?)"', "".join(path.read_text() for path in (FOLDER / "grafana").iterdir()))
    assert links
    for link in links:
        board = re.match(r"/d/([\w-]+)\?", link)
        assert board, link
        assert set(re.findall(r"var-(\w+)=", link)) <= boards[board[1]]


def test_all_that_is_asked_for_exists_and_all_that_exists_is_shown() -> None:
    asked = [expr for board in dashboards() for _, expr in queries(board)]
    for expr in [*asked, *(rule["expr"] for rule in rules())]:
        assert named(expr) or expr.startswith("up{"), expr  # which Prometheus adds itself
        assert named(expr) <= known(), expr
    shown = set().union(*map(named, asked), *(named(rule["expr"]) for rule in rules() if "record" in rule))
    alerted = set().union(*(named(rule["expr"]) for rule in rules() if "alert" in rule))
    stems = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown | alerted}
    sums = {"virtiod_bdev_read_time_seconds_total", "virtiod_bdev_write_time_seconds_total"}
    sums |= {"virtiod_bdev_unmap_time_seconds_total", "virtiod_bdev_flush_time_seconds_total"}  # the histogram's too
    assert {entry.name for entry in ENTRIES} - stems == sums


@pytest.mark.programs
def test_promtool_accepts_rules_and_configuration() -> None:
    requires("promtool")
    run("promtool", "check", "rules", *RULES)
    run("promtool", "check", "config", FOLDER / "prometheus.yml")


@pytest.mark.programs
def test_every_alert_fires_when_it_should_and_only_then() -> None:
    requires("promtool")
    tests = sorted((FOLDER / "rules" / "tests").glob("*.yml"))
    run("promtool", "test", "rules", *tests)
    text = "".join(path.read_text() for path in tests)
    for name in [rule["alert"] for rule in rules() if "alert" in rule]:
        silent = re.findall(rf"alertname: {name}, exp_alerts: \[\]", text)
        fires = re.findall(rf"alertname: {name}\n +exp_alerts:\n +- exp_labels", text)
        assert silent and fires, name


# ---- what a Prometheus says


def configuration(port: int, tokens: str = "") -> str:
    """The one of the repository, made quick, for a daemon at that port; with tokens: its commented part."""
    text = (FOLDER / "prometheus.yml").read_text()
    if tokens:
        head, _, rest = text.partition("  - job_name: virtiod\n")
        commented = "".join(line.removeprefix("  # ") for line in rest.splitlines(True) if line.startswith("  # "))
        text = head + commented[commented.index("- job_name") :]
        text = re.sub(r"^ *scheme: https\n| *tls_config:\n.*\n", "", text, flags=re.MULTILINE)
        text = re.sub(r"credentials_file: \S+", f"credentials_file: {tokens}", text)
        text = re.sub(r"targets: \[.*\]", f'targets: ["127.0.0.1:{port}"]', text)
    text = text.replace("127.0.0.1:9799", f"127.0.0.1:{port}").replace("rules/*.yml", f"{FOLDER}/rules/*.yml")
    return text.replace("15s", "500ms").replace("scrape_timeout: 10s", "scrape_timeout: 500ms")


def answerable(rule: dict[str, str]) -> str:
    """An alert's expression without its threshold: 0 or 1 for each series that it looks at."""
    return re.sub(r"(==|>|<) ([\d.]+)", r"\1 bool \2", rule["expr"]) if "alert" in rule else rule["record"]


async def unanswered(url: str, wanted: dict[str, str], running: Live) -> dict[str, Any]:
    """What has no number for an answer when the time is up."""
    left: dict[str, Any] = dict.fromkeys(wanted)
    end = asyncio.get_running_loop().time() + DEADLINE_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session:
        while left and asyncio.get_running_loop().time() < end:
            await running.daemon.rpc.call("bdev_get_iostat", {})
            for name in list(left):
                left[name] = await ask(session, url, wanted[name])
                if any(not math.isnan(value) for value in left[name]):
                    del left[name]
            await asyncio.sleep(0.2)
    return left


@pytest.mark.programs
def test_prometheus_has_an_answer_to_every_query_of_dashboards_and_rules(run_dir: Path) -> None:
    requires("prometheus")
    wanted = {f"{name}: {expr}": expr for board in dashboards() for name, expr in queries(board)}
    wanted |= {f"rule {rule.get('alert') or rule['record']}": answerable(rule) for rule in rules()}
    wanted |= {
        f"variable {query}": f"count by ({query[1]}) ({query[0].replace('$instance', '.*')})"
        for board in dashboards()
        for variable in board["templating"]["list"][1:]
        for query in re.findall(r"label_values\((.*), (\w+)\)", variable["definition"])
    }
    assert len(wanted) > 80

    async def test(path: Path) -> None:
        async with live(run_dir) as running:
            await running.daemon.system.controllers.attach(AttachRequest("V0", "user", str(path), "blk", None, None))
            await running.daemon.system.exports.of(NbdExports).create("V0", "disk")
            workload = Workload(rw="randrw", queue_depth=4, time_s=LOAD_S)
            load = asyncio.create_task(running.daemon.system.load.run(["V0"], workload))
            with prometheus(run_dir, configuration(running.port)) as url:
                left = await unanswered(url, wanted, running)
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
            assert left == {}, (run_dir / "prometheus.log").read_text()

    with target(run_dir, "--memory", "16M", "--fault", "delay,every=3,delay=1000") as peer:
        asyncio.run(test(peer.socket))


@pytest.mark.programs
def test_prometheus_scrapes_with_a_token(run_dir: Path) -> None:
    requires("prometheus")
    token = "t" * 32
    for name, content in (("tokens", f"read-only prometheus {token}\n"), ("virtiod.token", token)):
        (run_dir / name).write_text(content)
        (run_dir / name).chmod(0o600)

    async def test() -> None:
        async with live(run_dir, http_tokens=str(run_dir / "tokens")) as running:
            config = configuration(running.port, str(run_dir / "virtiod.token"))
            with prometheus(run_dir, config) as url:
                left = await unanswered(url, {"up": 'up{job="virtiod"} == 1'}, running)
            assert left == {}, config

    asyncio.run(test())
