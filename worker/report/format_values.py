"""How values are written for people and programs."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from worker.iso_time import iso_time
from worker.ledger.schema import HELD_MS
from worker.watch.redact import redacted_value


def count(number: int, what: str = "operation") -> str:
    """Return `1 operation`, `2 operations`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def clock(ms: int) -> str:
    """Return date and time for people, in UTC as the evidence has it. `ms` since the epoch."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def iso(ms: int | None) -> str | None:
    """Return a time for programs: ISO 8601, UTC, to the millisecond. `ms` since the epoch."""
    return None if ms is None else iso_time(ms / 1000)


def span(seconds: float) -> str:
    """Return a duration for people: `340 ms`, `3.2 s`, `12 min`, `5.0 h`, `3.1 d`."""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    for limit, unit, size in ((100, "s", 1), (100 * 60, "min", 60), (100 * 3600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.{0 if unit == 'min' else 1}f} {unit}"
    return f"{seconds / 86400:.1f} d"


def with_iso_times(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with every instant (ms since the epoch) as ISO 8601. An instant's name ends as a column's.

    What is put aside because its batch is paused has no due time.
    """
    instants = {name: value for name, value in fields.items() if name == "at" or name.endswith(("_at", "_since"))}
    if (instants.get("due_at") or 0) >= HELD_MS:
        instants["due_at"] = None
    return fields | {name: iso(value) for name, value in instants.items()}


def named_values(values: Mapping[str, Any]) -> str:
    """Return values on one line as `name=JSON`, with secrets blanked. A value that is None is left out.

    The shortest comes first, because a page cuts a long line.
    """
    shown = redacted_value({name: value for name, value in values.items() if value is not None})
    texts = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in shown.items()]
    return ", ".join(sorted(texts, key=len))


def our_address() -> str:
    """Return how to name the address that our requests come from, as far as this machine knows it."""
    address = os.environ.get("B2COPY_DEVICE_IP", "").strip()
    return f"{address} (B2COPY_DEVICE_IP)" if address else "the address in B2COPY_DEVICE_IP of the workers"
