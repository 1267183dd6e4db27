"""Panels and dashboards as Grafana's JSON wants them; places and numbers are counted here."""

from __future__ import annotations

from typing import Any

SCHEMA_VERSION = 39  # Grafana 10.4 or newer; it brings older ones up to date itself
COLUMNS = 24

Panel = dict[str, Any]
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def panel(kind: str, title: str, queries: dict[str, str], unit: str, width: int, height: int, **more: Any) -> Panel:
    """queries: by legend. more: what the kind of panel has besides."""
    targets = [
        {"refId": chr(ord("A") + number), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend}
        for number, (legend, expr) in enumerate(queries.items())
    ]
    defaults: dict[str, Any] = {"unit": unit, "min": 0, **more.pop("defaults", {})}
    return {
        "type": kind,
        "title": title,
        "description": more.pop("description", ""),
        "datasource": DATASOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": more.pop("overrides", [])},
        "options": more.pop("options", {}),
        "gridPos": {"w": width, "h": height},
        **more,
    }


def lines(title: str, queries: dict[str, str], unit: str = "short", width: int = 12, **more: Any) -> Panel:
    """Lines over time; stacked=True for areas on one another."""
    custom: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never", "spanNulls": False}
    if more.pop("stacked", False):
        custom |= {"fillOpacity": 40, "stacking": {"mode": "normal", "group": "A"}}
    options = {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "mean", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    defaults = {"custom": custom, **more.pop("defaults", {})}
    return panel("timeseries", title, queries, unit, width, 8, defaults=defaults, options=options, **more)


def stat(title: str, expr: str, unit: str = "short", red: float | None = None, below: bool = False) -> Panel:
    """One number; red from that value on, or below it."""
    steps: list[dict[str, Any]] = [{"color": "text", "value": None}]
    if red is not None:
        first, second = ("red", "green") if below else ("green", "red")
        steps = [{"color": first, "value": None}, {"color": second, "value": red}]
    options = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "graphMode": "area"}
    defaults = {"thresholds": {"mode": "absolute", "steps": steps}}
    return panel("stat", title, {"": expr}, unit, 4, 4, options=options, defaults=defaults)


def heatmap(title: str, expr: str, width: int = 24) -> Panel:
    """Of a histogram's buckets, by le."""
    shown = panel("heatmap", title, {"{{le}}": expr}, "short", width, 9)
    shown["targets"][0]["format"] = "heatmap"
    shown["options"] = {
        "calculate": False,
        "cellGap": 0,
        "color": {"mode": "scheme", "scheme": "Blues", "scale": "exponential", "exponent": 0.5, "steps": 64},
        "yAxis": {"unit": "s", "axisPlacement": "left"},
        "rowsFrame": {"layout": "auto"},
        "filterValues": {"le": 1e-9},
        "tooltip": {"mode": "single", "yHistogram": True},
        "legend": {"show": True},
    }
    return shown


def states(title: str, expr: str, legend: str) -> Panel:
    """A band for each series, coloured where it is 1."""
    mappings = [
        {
            "type": "value",
            "options": {"1": {"text": "yes", "color": "blue"}, "0": {"text": " ", "color": "transparent"}},
        }
    ]
    options = {"showValue": "never", "mergeValues": True, "rowHeight": 0.8, "legend": {"showLegend": False}}
    return panel(
        "state-timeline", title, {legend: expr}, "short", 24, 6, options=options, defaults={"mappings": mappings}
    )


def table(
    title: str, columns: dict[str, tuple[str, str]], keys: list[str], link: tuple[str, str], **more: Any
) -> Panel:
    """columns: (expr, unit) by title; keys: labels that name a row; link: the label with a link, and its address."""
    shown = panel("table", title, {name: expr for name, (expr, _) in columns.items()}, "short", 24, 9, **more)
    for target in shown["targets"]:
        target |= {"format": "table", "instant": True}
    letters = [target["refId"] for target in shown["targets"]]
    names = {f"Value #{letter}": name for letter, name in zip(letters, columns, strict=True)}
    shown["transformations"] = [
        {"id": "merge", "options": {}},
        {"id": "filterFieldsByName", "options": {"include": {"names": [*keys, *names]}}},
        {"id": "organize", "options": {"renameByName": names}},
    ]
    shown["fieldConfig"]["overrides"] = [
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": unit}]}
        for name, (_, unit) in columns.items()
    ] + [
        {
            "matcher": {"id": "byName", "options": link[0]},
            "properties": [{"id": "links", "value": [{"title": "Open its dashboard", "url": link[1]}]}],
        }
    ]
    first = next(iter(columns))
    shown["options"] = {"sortBy": [{"displayName": first, "desc": True}], "footer": {"show": False}}
    return shown


def variable(name: str, query: str, multi: bool = True) -> dict[str, Any]:
    """A choice among a label's values."""
    return {
        "type": "query",
        "name": name,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 7,
        "multi": multi,
        "includeAll": multi,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"} if multi else {},
    }


def dashboard(uid: str, title: str, variables: list[dict[str, Any]], rows: dict[str, list[Panel]]) -> dict[str, Any]:
    """Panels are put side by side, row after row, and numbered."""
    panels: list[Panel] = []
    y = 0
    for name, inside in rows.items():
        panels.append(
            {
                "type": "row",
                "title": name,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            }
        )
        y, x, height = y + 1, 0, 0
        for one in inside:
            place = one["gridPos"]
            if x + place["w"] > COLUMNS:
                y, x, height = y + height, 0, 0
            panels.append({**one, "gridPos": {**place, "x": x, "y": y}})
            x, height = x + place["w"], max(height, place["h"])
        y += height
    source = {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "current": {}}
    return {
        "uid": uid,
        "title": title,
        "tags": ["virtiod"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [
            {"type": "dashboards", "title": "virtiod", "tags": ["virtiod"], "keepTime": True, "includeVars": True}
        ],
        "templating": {"list": [source, *variables]},
        "panels": [{"id": number, **one} for number, one in enumerate(panels, 1)],
    }
