"""The dashboard asks for gauges that exist, by tags that they have, and shows every one of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fedsim.engine.gauges import BANK_GAUGES, GAUGES

DASHBOARD = json.loads((Path(__file__).resolve().parents[2] / "cluster" / "grafana.json").read_text())
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
ALL = GAUGES | BANK_GAUGES


def test_every_query_names_a_gauge_and_every_gauge_is_shown() -> None:
    shown = {name for target in TARGETS for name in re.findall(r"ray_(fedsim_\w+)", target["expr"])}
    assert shown == set(ALL)
    assert all(re.fullmatch(r'ray_fedsim_\w+\{run=~"\$run"\}', target["expr"]) for target in TARGETS)


def test_legends_use_the_gauge_s_tags() -> None:
    for target in TARGETS:
        (name,) = re.findall(r"ray_(fedsim_\w+)", target["expr"])
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= set(ALL[name][1])


def test_variables_and_places() -> None:
    names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "run"]
    assert "ray_fedsim_round," in DASHBOARD["templating"]["list"][1]["query"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]}
    assert len(places) == len(DASHBOARD["panels"])
