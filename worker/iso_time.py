"""How a time is written for programs."""

from datetime import UTC, datetime


def iso_time(seconds: float) -> str:
    """Return a time as ISO 8601, in UTC, to the millisecond. `seconds` since the epoch."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
