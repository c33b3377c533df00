"""`python -m tests.watch.screenshots FILE.png`: the dashboard's panels, drawn from a scrape of a real system.

A minute of work is scraped: at first all is well, then B2COPY answers 503, then 429. A real Prometheus evaluates each
panel's expressions, over 15 s in place of 5 min because the recording is short. Needs `prometheus` and chromium.
"""

import html
import json
import sys
import time
import urllib.parse
import urllib.request
from typing import Any

import yaml

from tests.console import browser
from tests.watch.dashboard import ROWS, Panel
from worker.ledger import Ledger, open_ledger, record
from worker.operation import New, OnUnknown
from worker.testbed.local_system import Environment, wait_for_worker
from worker.testbed.ports import free_port, wait_for_port

PHASES: tuple[list[dict[str, Any]], ...] = (
    [],
    [{"what": "status", "route": "api", "status": 503}],
    [],
    [{"what": "status", "route": "api", "status": 429, "retry_after": "5", "share": 0.2}],
    [],
)
PHASE_S = 14.0  # seconds
PER_SECOND = 15  # operations
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ffa6b0", "#96d98d", "#fade2a")
WIDTH, HEIGHT, LEFT, BOTTOM = 400, 150, 58, 18  # px of a plot, and of the space for its axes

Series = tuple[str, list[tuple[float, float]]]


def main() -> None:
    with Environment(access_lifetime=30) as environment:
        environment.sandbox.control.switches(
            logins={str(n): {"ends": "ERROR"} for n in range(4)}, fees={"pending_polls": 1}, latency={"api": 0.02}
        )
        began, prometheus = time.time(), _work(environment)
        panels = [(row, panel, _read(prometheus, panel, began)) for row, found in ROWS.items() for panel in found]
    empty = [panel.title for _, panel, series in panels if not series]
    with browser.started() as chromium:
        page = chromium.new_page(viewport={"width": 1800, "height": 900})
        page.set_content(_document(panels))
        page.screenshot(path=sys.argv[1], full_page=True)
    print(f"{len(panels)} panels in {sys.argv[1]}; without any value: {', '.join(empty) or 'none'}")


def _work(environment: Environment) -> str:
    """Let a worker work through all phases while Prometheus scrapes it. Returns Prometheus' address."""
    ports = {name: free_port() for name in ("worker", "ledger", "prometheus")}
    ledger = open_ledger(environment.database_url, create=True)
    wait_for_worker(environment.worker(B2COPY_METRICS_LISTEN=str(ports["worker"]), B2COPY_RATE_LIMIT="40/second"))
    exporter = (sys.executable, "-m", "worker.cli", "metrics", "--listen", str(ports["ledger"]))
    wait_for_port(ports["ledger"], environment.run("metrics", *exporter))
    jobs = [
        {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{ports[name]}"]}]}
        for name in ("worker", "ledger")
    ]
    file = environment.folder / "prometheus.yml"
    file.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    address = f"127.0.0.1:{ports['prometheus']}"
    store = f"--storage.tsdb.path={environment.folder / 'tsdb'}"
    process = environment.run(
        "prometheus", "prometheus", f"--config.file={file}", f"--web.listen-address={address}", store
    )
    wait_for_port(ports["prometheus"], process)
    for number, faults in enumerate(PHASES):
        environment.sandbox.control.faults(*faults)
        _request(ledger, number)
    ledger.close()
    return f"http://{address}"


def _request(ledger: Ledger, phase: int) -> None:
    began = time.monotonic()
    for second in range(int(PHASE_S)):
        names = [f"{phase}-{second}-{number}" for number in range(PER_SECOND)]
        wanted = [
            New(
                kind="fees.process", key=f"fees.process:{name}", lane=("money", "bulk")[number % 3 == 0],
                payload={"account_login": str(number), "request_id": name}, on_unknown=OnUnknown.START_OR_GET,
                time_allowed_s=3600.0,
            )
            for number, name in enumerate(names)
        ]  # fmt: skip
        record(ledger, wanted, "a screenshot")
        time.sleep(max(0.0, began + second + 1 - time.monotonic()))


def _read(prometheus: str, panel: Panel, began: float) -> list[Series]:
    """Return the lines of a panel: legend, and (seconds since `began`, value)."""
    found = []
    for legend, expression in panel.queries.items():
        query = {"query": expression.replace("[5m]", "[15s]"), "start": began, "end": time.time(), "step": 1}
        with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{urllib.parse.urlencode(query)}") as answer:
            result = json.load(answer)["data"]["result"]
        for one in result:
            text = legend
            for name, value in one["metric"].items():
                text = text.replace("{{" + name + "}}", value)
            points = [(at - began, float(value)) for at, value in one["values"] if value != "NaN"]
            found.append((text, points))
    return [(text, points) for text, points in found if points]


def _document(panels: list[tuple[str, Panel, list[Series]]]) -> str:
    rows = []
    for title in ROWS:
        drawn = "".join(_panel(panel, series) for row, panel, series in panels if row == title)
        rows.append(f"<h2>{title}</h2><div class=row>{drawn}</div>")
    style = """
        body {background: #111217; color: #ccccdc; font: 13px sans-serif; margin: 16px}
        h2 {font-size: 16px; font-weight: 500; margin: 12px 0 6px}
        .row {display: flex; gap: 8px}
        .row > div {flex: 1; background: #181b1f; border: 1px solid #2c3235; padding: 8px}
        b {font-weight: 500} p {color: #8e8e99; font-size: 11px; margin: 2px 0 6px; min-height: 28px}
        svg {width: 100%} text {fill: #8e8e99; font: 9px sans-serif} span {margin-right: 12px; white-space: nowrap}
        i {display: inline-block; width: 12px; height: 3px; margin-right: 4px; vertical-align: middle}
    """
    return f"<style>{style}</style>{''.join(rows)}"


def _panel(panel: Panel, series: list[Series]) -> str:
    top = max((value for _, points in series for _, value in points), default=0.0) * 1.1 or 1.0
    end = PHASE_S * len(PHASES)
    lines, legend = [], []
    for part in range(3):
        y = HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - 8) / 2
        lines.append(f"<path d='M{LEFT} {y}H{WIDTH}' stroke='#2c3235'/>")
        lines.append(f"<text x={LEFT - 4} y={y + 3} text-anchor=end>{_value(top * part / 2, panel.unit)}</text>")
        lines.append(f"<text x={LEFT + (WIDTH - LEFT - 20) * part / 2} y={HEIGHT - 4}>{end * part / 2:.0f} s</text>")
    for number, (text, points) in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(
            f"{LEFT + at / end * (WIDTH - LEFT):.1f},{HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - 8):.1f}"
            for at, value in points
        )
        lines.append(f"<polyline points='{path}' fill=none stroke='{colour}' stroke-width=1.3 />")
        legend.append(f"<span><i style='background:{colour}'></i>{html.escape(text)}</span>")
    plot = f"<svg viewBox='0 0 {WIDTH} {HEIGHT}'>{''.join(lines)}</svg>"
    return f"<div><b>{panel.title}</b><p>{panel.description}</p>{plot}{' '.join(legend) or 'No data'}</div>"


def _value(value: float, unit: str) -> str:
    """Write a value as Grafana does in this unit."""
    if unit == "s":
        return f"{value * 1000:.0f} ms" if 0 < value < 1 else f"{value:.3g} s"
    return f"{value:.3g}" + {"ops": " ops/s", "reqps": " req/s"}.get(unit, "")


if __name__ == "__main__":
    main()
