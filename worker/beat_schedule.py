"""What beat starts, and when. Tasks are named as strings: `worker` imports nothing of `tasks`."""

from typing import Any

from worker.queues import HOUSEKEEPING


def schedule(token_ttl: float, reconciles: bool = False) -> dict[str, dict[str, Any]]:
    """Return beat's schedule for access tokens that live `token_ttl` seconds.

    Each entry expires with the next tick: a worker that was unavailable must not run a pile of old ones. `reconciles`:
    B2COPY's accounts are compared now and then, in slices of less than a second.
    """
    refresh_every = min(30.0, token_ttl / 10)
    entries = {
        "renew the session ahead of expiry": _entry("b2copy.session.refresh", refresh_every),
        "wake what is due": _entry("b2copy.ledger.dispatch", 1.0),
    }
    if reconciles:
        entries["compare a part of B2COPY's accounts"] = _entry("b2copy.ledger.reconcile", 1.0)
    return entries


def _entry(task: str, every: float) -> dict[str, Any]:
    return {"task": task, "schedule": every, "options": {"queue": HOUSEKEEPING, "expires": every}}
