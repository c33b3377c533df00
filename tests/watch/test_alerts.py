"""Alerts and dashboard ask only for what is exported; each alert fires when it should, and says what to do."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.registry import ALL_KINDS
from tests.watch import dashboard, metrics_table
from worker.report.thresholds import DISPATCH_LATE_S, DUE_LATE_S, HELD_LONG_S, MONEY_LATE_S, NOTICES_LATE_S

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"][0]["rules"]
CASES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
PANELS = [panel for row in dashboard.ROWS.values() for panel in row]
EXPRESSIONS = [rule["expr"] for rule in RULES] + [query for panel in PANELS for query in panel.queries.values()]

_SELECTOR = re.compile(r"(b2copy_\w+)(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"\b(?:by|without) \(([^)]*)\)")
_OF_THE_SCRAPE = {"instance", "job", "pod"}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_and_label_that_is_asked_for_is_exported(expression: str) -> None:
    exported = metrics_table.names()
    found = _SELECTOR.findall(expression)
    labels = set().union(*(exported[name] for name, _ in found if name in exported))

    assert found
    for name, matchers in found:
        assert name in exported
        assert set(re.findall(r"(\w+)(?:!=|=~|!~|=)", matchers)) <= set(exported[name])
    for grouping in _GROUPING.findall(expression):
        assert {label.strip() for label in grouping.split(",")} <= labels | _OF_THE_SCRAPE


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_alert_says_what_to_do_and_where_that_is_explained(rule: dict[str, Any]) -> None:
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["action"]
    assert rule["annotations"]["runbook"] == f"deploy/README.md#{rule['alert'].lower()}"
    assert rule["labels"]["severity"] in {"page", "warn"}


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    fires = {case["alertname"] for test in CASES for case in test.get("alert_rule_test", []) if case.get("exp_alerts")}

    assert fires == {rule["alert"] for rule in RULES}


def test_unresolved_money_pages_whatever_its_lane_and_all_else_warns() -> None:
    """As `moves_money` of worker/report/replayable.py: by kind, in the lane money, or of an unknown kind (`other`)."""
    money = "|".join([*sorted(kind.name for kind in ALL_KINDS.values() if kind.moves_money), "other"])
    expressions = {rule["alert"]: rule["expr"] for rule in RULES}
    unresolved = 'b2copy_operations{state="failed", reason="unresolved", '

    assert f'{unresolved}lane="money"}}' in expressions["MoneyUnresolved"]
    assert f'{unresolved}kind=~"{money}"}}' in expressions["MoneyUnresolved"]
    assert f'{unresolved}lane!="money", kind!~"{money}"}}' in expressions["Unresolved"]


def test_commands_that_alerts_name_exist() -> None:
    from typer.main import get_command

    from worker.cli import app

    commands: Any = get_command(app)
    named = {name for rule in RULES for name in re.findall(r"`b2copy-sync (\w+)", rule["annotations"]["action"])}

    assert named
    assert named <= set(commands.commands)


def test_no_alert_sends_people_to_b2copy_before_the_page_of_the_operation_names_the_step() -> None:
    [action] = [rule["annotations"]["action"] for rule in RULES if rule["alert"] == "MoneyUnresolved"]

    assert (
        "`b2copy-sync failed show KEY` for each: it names the command. For a fee run that was sent it is a replay"
        in action
    )


def test_the_alerts_fire_when_they_should(promtool: Callable[..., str]) -> None:
    assert "SUCCESS" in promtool("check", "rules", str(FOLDER / "rules.yml"))
    assert "SUCCESS" in promtool("check", "config", str(FOLDER / "prometheus.yml"))
    assert "SUCCESS" in promtool("test", "rules", str(FOLDER / "rules_test.yml"))


def test_the_dashboards_queries_are_promql(promtool: Callable[..., str], tmp_path: Path) -> None:
    records = [{"record": f"query_{number}", "expr": expression} for number, expression in enumerate(EXPRESSIONS)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": records}]}))

    assert f"SUCCESS: {len(records)} rules found" in promtool("check", "rules", str(file))


def test_the_dashboard_is_the_generators() -> None:
    assert dashboard.PATH.read_text() == dashboard.text(), "write it: make env"
    assert all(panel.description.endswith(".") and panel.unit for panel in PANELS)


def test_the_ages_at_which_alerts_fire_are_those_of_commands_and_console() -> None:
    limits = {rule["alert"]: rule["expr"].rpartition(" > ")[2] for rule in RULES}

    assert float(limits["MoneyLate"]) == MONEY_LATE_S
    assert float(limits["NobodyWorks"]) == float(limits["RequestsNotTaken"]) == DUE_LATE_S
    assert float(limits["NoWorkerRuns"]) == DISPATCH_LATE_S
    assert float(limits["LongHold"]) == HELD_LONG_S
    [notices] = [rule["expr"] for rule in RULES if rule["alert"] == "NoticesLate"]
    assert f" > {NOTICES_LATE_S:.0f} unless " in notices
