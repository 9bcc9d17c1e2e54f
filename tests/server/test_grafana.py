"""The dashboard asks for figures that there are, and for labels that these have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.engine.durations import Durations
from server.metrics import ENGINE, Metrics
from server.request_record import RequestRecord

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "mxserve.json").read_text(encoding="utf-8"))
DOCUMENT = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
NAME = re.compile(r"(?:vllm:|mxserve_|process_)[a-z0-9_]+")
LINUX_ONLY = {"process_resident_memory_bytes"}  # other systems have no /proc
SCRAPED = {"instance"}  # a label that Prometheus adds


def figures() -> dict[str, set[str]]:
    """Every figure that a server which was used has, with its labels, by the sample's name."""
    health = SimpleNamespace(
        status="ready", active=1, queued=0, last_step_age_s=None, cache_bytes=1, cache_entries=1,
        model=SimpleNamespace(id="m"), slots=4, memory={"active_bytes": 1}, disk_cache_bytes=1,
        model_state="loaded", uptime_s=1.0,
        mtp={"steps": 1, "drafted": 2, "accepted": 1},
    )  # fmt: skip
    metrics = Metrics(
        lambda: health,  # type: ignore[arg-type]
        lambda: {"decode": Durations()},
        {"queue_limit": 64, "connections_limit": 1000},
    )
    for value in vars(metrics).values():
        names: Any = getattr(value, "_labelnames", None)
        if names and names[0] == "model_name":
            child = value.labels("m", ENGINE, *["x"] * (len(names) - 2))
            child.observe(1) if hasattr(child, "observe") else child.inc()
    metrics.ended(RequestRecord("id", "GET", "/", route="/", status=200))
    text = metrics.page("")[0].decode()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


FIGURES = figures()


def expressions() -> list[str]:
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    variables = [v["query"]["query"] for v in DASHBOARD["templating"]["list"][1:]]
    return asked + variables


@pytest.mark.parametrize("expression", expressions())
def test_every_figure_asked_for_is_there(expression):
    names = set(NAME.findall(expression)) - LINUX_ONLY
    assert names or "process_" in expression
    assert names <= set(FIGURES)


@pytest.mark.parametrize("expression", expressions())
def test_every_label_asked_for_is_there(expression):
    for name, selector in re.findall(rf"({NAME.pattern})\{{([^}}]*)\}}", expression):
        labels = set(re.findall(r"(\w+)=~?\"", selector)) - SCRAPED
        assert name in LINUX_ONLY or labels <= FIGURES[name], name
    for by, name in re.findall(rf"by \(([^)]*)\) \((?:rate\()?({NAME.pattern})", expression):
        assert set(by.replace(" ", "").split(",")) <= FIGURES[name], name


def test_every_panel_says_what_it_shows():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 15
    assert all(panel["description"] and panel["targets"] for panel in panels)


def test_every_figure_is_documented_and_no_other():
    """By the family's name: without _bucket, _sum and _count."""
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in FIGURES}
    families = {name for name in families if not name.startswith("process_")}
    documented = set(re.findall(r"`((?:vllm:|mxserve_)[a-z0-9_]+)`", DOCUMENT))
    assert families - documented == set()
    assert documented - families == set()
