"""`python -m tests.watch.dashboard` writes deploy/grafana/b2copy-sync.json, from our promise down to our own parts."""

import json
from pathlib import Path
from typing import Any, NamedTuple

PATH = Path(__file__).parents[2] / "deploy" / "grafana" / "b2copy-sync.json"


class Panel(NamedTuple):
    """A time series. `queries` are PromQL by legend. `description` says what a person reads from it."""

    title: str
    description: str
    unit: str
    queries: dict[str, str]


def _ledger(selector: str) -> str:
    """Two exporters of one ledger show its values once."""
    return f"max without (instance, job, pod) ({selector})"


def _p95(histogram: str, by: str) -> str:
    return f"histogram_quantile(0.95, sum by (le, {by}) (rate({histogram}_bucket[5m])))"


ROWS: dict[str, list[Panel]] = {
    "Promise": [
        Panel(
            "Oldest withdrawal",
            "By our clock, which leaves out the time that B2COPY takes, it should stay below 30 s; MoneyLate fires at"
            " 120 s.",
            "s",
            {
                "by our clock": _ledger('b2copy_oldest_seconds{lane="money",clock="ours"}'),
                "begun at B2COPY": _ledger('b2copy_oldest_seconds{lane="money",clock="theirs"}'),
            },
        ),
        Panel(
            "Failed, to be decided",
            "Failed operations by reason. A person decides: b2copy-sync failed list.",
            "short",
            {"{{lane}} {{reason}}": f'sum by (lane, reason) ({_ledger("""b2copy_operations{state="failed"}""")})'},
        ),
        Panel(
            "Ended",
            "Operations that ended, by state.",
            "ops",
            {"{{kind}} {{state}}": "sum by (kind, state) (rate(b2copy_operations_ended_total[5m]))"},
        ),
    ],
    "Flow": [
        Panel(
            "Backlog",
            "Open operations by lane, up to 10,000 for each lane and phase.",
            "short",
            {"{{lane}}": f'sum by (lane) ({_ledger("""b2copy_operations{state!="failed"}""")})'},
        ),
        Panel(
            "What they wait for",
            "Waiting operations by reason.",
            "short",
            {"{{reason}}": f'sum by (reason) ({_ledger("""b2copy_operations{state="waiting"}""")})'},
        ),
        Panel(
            "Due and not taken",
            "For how long something has been due and no worker has worked on its lane. NobodyWorks fires at 30 s.",
            "s",
            {"{{lane}}": _ledger("b2copy_late_seconds")},
        ),
        Panel(
            "Last look of a worker",
            "Since a worker last looked at the ledger. Each does so four times a second. NoWorkerRuns fires at 15 s.",
            "s",
            {"all workers": _ledger("b2copy_dispatch_age_seconds")},
        ),
        Panel(
            "Attempts",
            "Attempts by what was learned.",
            "ops",
            {"{{outcome}}": "sum by (outcome) (rate(b2copy_attempts_total[5m]))"},
        ),
    ],
    "B2COPY": [
        Panel(
            "Request, 95th percentile",
            "Duration of a request by route, to the last byte.",
            "s",
            {"{{route}}": _p95("b2copy_http_request_seconds", "route")},
        ),
        Panel(
            "Answers",
            "Requests by status.",
            "reqps",
            {"{{status}}": "sum by (status) (rate(b2copy_http_requests_total[5m]))"},
        ),
        Panel(
            "Circuit open",
            "1 while only probes are sent, because requests have failed in a row.",
            "short",
            {"{{destination}}": "max by (destination) (b2copy_circuit_open)"},
        ),
        Panel(
            "Rate limit",
            "How often our own limit had no permit, and how often B2COPY answered 429.",
            "ops",
            {
                "no permit": "sum(rate(b2copy_permits_refused_total[5m]))",
                "429": "sum(rate(b2copy_holds_total[5m]))",
            },
        ),
        Panel(
            "Hold",
            "For how long nothing is sent, because the destination has answered 429. LongHold fires at 900 s.",
            "s",
            {"{{destination}}": _ledger("b2copy_held_seconds")},
        ),
        Panel(
            "Access token",
            "Seconds until the shared token expires. It is renewed at 60 to 75 % of its life.",
            "s",
            {"{{login}}": "max by (login) (b2copy_session_expires_timestamp_seconds) - time()"},
        ),
    ],
    "Our parts": [
        Panel(
            "Ledger transaction, 95th percentile",
            "Duration of a committed transaction.",
            "s",
            {"{{instance}}": _p95("b2copy_ledger_transaction_seconds", "instance")},
        ),
        Panel(
            "Operations held",
            "Operations that each worker holds a lease on.",
            "short",
            {"{{instance}}": "sum by (instance) (b2copy_claims_held)"},
        ),
        Panel(
            "Errors logged",
            "Errors and warnings of our own. They should be rare.",
            "ops",
            {"{{level}}": "sum by (level) (rate(b2copy_log_records_total[5m]))"},
        ),
        Panel(
            "Versions",
            "Workers by version. Two versions at the same time: an upgrade is going on.",
            "short",
            {"{{version}} schema {{schema}}": "count by (version, schema) (b2copy_build_info)"},
        ),
    ],
}


def document() -> dict[str, Any]:
    """Return the dashboard, as Grafana's schema 39 has it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append({"type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "panels": []})
        edges = [24 * number // len(row) for number in range(len(row) + 1)]
        for number, panel in enumerate(row):
            position = {"x": edges[number], "y": y + 1, "w": edges[number + 1] - edges[number], "h": 8}
            panels.append(_panel(panel, position))
        y += 9
    for number, each in enumerate(panels, start=1):
        each["id"] = number
    return {
        "title": "b2copy-sync",
        "uid": "b2copy-sync",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "utc",
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": panels,
    }


def _panel(panel: Panel, position: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": source,
        "gridPos": position,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": source, "expr": expression, "legendFormat": legend}
            for number, (legend, expression) in enumerate(panel.queries.items())
        ],
    }


def text() -> str:
    return json.dumps(document(), indent=2) + "\n"


if __name__ == "__main__":
    PATH.write_text(text())
