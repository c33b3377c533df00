"""The one decision about when a session is renewed."""

from enum import StrEnum

from worker.session.redis_store import Stored
from worker.session.timings import Timings


class Stage(StrEnum):
    """How far an access token's life has gone."""

    FRESH = "fresh"  # use it
    EARLY = "early"  # renew it, and use it until then
    BLOCKING = "blocking"  # renew it, and wait for the new one
    GONE = "gone"  # expired: there is nothing to use


def stage(stored: Stored, now: int, timings: Timings, grace_s: float = 0.0) -> Stage:
    """Return the stage of a stored session. `now` is Redis' clock in ms.

    Beat renews a session as soon as it is early. Workers add `grace_s`, so that they renew it only if beat did not.
    """
    if now >= stored.expires_at:
        return Stage.GONE
    if now >= stored.expires_at - timings.blocking_for(stored.life_s) * 1000:
        return Stage.BLOCKING
    if now >= stored.renew_after + grace_s * 1000:
        return Stage.EARLY
    return Stage.FRESH
