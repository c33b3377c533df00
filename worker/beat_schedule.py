"""What beat starts, and when. Tasks are named as strings: `worker` imports nothing of `tasks`."""

from typing import Any

from worker.queues import HOUSEKEEPING

EXPIRES_S = 60.0  # seconds; the clocks of beat's host and of a worker's may differ by less


def schedule(token_ttl: float, reconciles: bool = False) -> dict[str, dict[str, Any]]:
    """Return beat's schedule for access tokens that live `token_ttl` seconds.

    Messages expire soon, so that workers that were unavailable do not run a pile of old ones. Those of a minute do no
    harm, because each task finds out in the ledger or in Redis whether there is something to do. `reconciles`: B2COPY's
    accounts are compared now and then, in slices of less than a second.
    """
    refresh_every = max(1.0, min(30.0, token_ttl / 10))
    entries = {
        "renew the session ahead of expiry": _entry("b2copy.session.refresh", refresh_every),
        "wake what is due": _entry("b2copy.ledger.dispatch", 1.0),
    }
    if reconciles:
        entries["compare a part of B2COPY's accounts"] = _entry("b2copy.ledger.reconcile", 1.0)
    return entries


def _entry(task: str, every: float) -> dict[str, Any]:
    return {"task": task, "schedule": every, "options": {"queue": HOUSEKEEPING, "expires": max(every, EXPIRES_S)}}
