"""`python -m tests.watch.metrics_table` writes deploy/metrics.md from the metrics themselves."""

from pathlib import Path
from typing import Any

from prometheus_client.metrics import MetricWrapperBase

from worker.report.ledger_metrics import FAMILIES, UP
from worker.watch import metrics

PATH = Path(__file__).parents[2] / "deploy" / "metrics.md"

_HEAD = """\
# Metrics

A worker serves its own metrics at `B2COPY_METRICS_LISTEN`. One `b2copy-sync metrics` for each ledger serves what the
ledger holds. No label holds an id. This file is generated from the code: `make env`.
"""


def names() -> dict[str, tuple[str, ...]]:
    """Return the labels of every metric by its name, as a query names it."""
    exported = {UP[0]: (), **{family.name: family.labels for family in FAMILIES}}
    for metric in _process_metrics():
        for suffix in {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(metric._type, ("",)):
            exported[metric._name + suffix] = (*metric._labelnames, *(["le"] if suffix == "_bucket" else []))
    return exported


def text() -> str:
    """Return the whole file."""
    ledgers = [(UP[0], "gauge", (), UP[1])] + [
        (family.name, "gauge", family.labels, family.documentation) for family in FAMILIES
    ]
    processes = [
        (metric._name + ("_total" if metric._type == "counter" else ""), metric._type, metric._labelnames,
         metric._documentation)
        for metric in _process_metrics()
    ]  # fmt: skip
    return "\n".join([_HEAD, "## Of a worker\n", _table(processes), "## Of the ledger\n", _table(ledgers)])


def _table(rows: list[tuple[str, str, tuple[str, ...], str]]) -> str:
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    lines += [f"| `{name}` | {kind} | {', '.join(labels) or '-'} | {meaning} |" for name, kind, labels, meaning in rows]
    return "\n".join(lines) + "\n"


def _process_metrics() -> list[Any]:
    return [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]


if __name__ == "__main__":
    PATH.write_text(text())
