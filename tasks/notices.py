"""Notices: tell the CRM that an operation has ended. The ledger records them, and nobody requests them."""

import asyncio
import logging

from worker.errors import B2CopyError, ReceiverGone
from worker.instances import ledger
from worker.ledger import pause
from worker.ledger.notices import BY, GIVES_UP_AFTER_S
from worker.operation import NOTICE_KIND, Done, FailureReason, OnUnknown, Outcome
from worker.operation_kind import Attempt, Description, Kind, Payload
from worker.queues import CRM
from worker.queues import NOTIFY as LANE
from worker.webhook.notice_routes import notice_routes

log = logging.getLogger(__name__)

GONE_NOTE = (
    "the CRM's webhook answered 410 Gone: it wants no further notice. Correct B2COPY_WEBHOOK_URL, or have the receiver"
    f" answer again; then: b2copy-sync resume --lane {LANE} --why ..."
)

WAITS_S = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0)
"""Seconds between two tries to deliver a notice. Money may wait for it, so the first ones follow soon."""


class Notice(Payload):
    """`id` is the `webhook-id`, `body` the text that is signed and sent."""

    id: str
    body: str


def describe(notice: Notice) -> Description:
    """See `worker.ledger.notices`, which records notices."""
    return Description(notice.id, lane=LANE)


async def attempt(attempt: Attempt, notice: Notice) -> Outcome:
    """Deliver a notice once in each way that the settings name. `delivered` in the progress holds those that succeeded.

    After any answer but 2xx, or if the CRM's broker took no message, the engine tries again until the deadline. If one
    way fails, or its gate refuses the notice, the other is still tried.
    """
    delivered = set((attempt.progress or {}).get("delivered", ()))
    failures: list[B2CopyError] = []
    for route in notice_routes(attempt.settings):
        if route.name in delivered:
            continue
        try:
            await attempt.call(route, {"id": notice.id, "body": notice.body, "trace_id": attempt.claim.trace_id})
        except B2CopyError as error:
            failures.append(error)
            if isinstance(error, ReceiverGone):
                await asyncio.to_thread(_hold_notices)
        else:
            delivered.add(route.name)
            attempt.progress = {"delivered": sorted(delivered)}
    if failures:
        # If no message reached the task, that failure comes first: it must not wait for a Retry-After of the webhook.
        raise next((error for error in failures if isinstance(error, ReceiverGone)), failures[0])
    return Done()


def _hold_notices() -> None:
    """Pause the lane, because after a 410 the receiver refuses each further notice, and all would be given up.

    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md asks to disable it.
    """
    if pause(ledger(), LANE, BY, GONE_NOTE):
        log.critical("notices are paused: %s", GONE_NOTE)


NOTIFY = Kind(
    name=NOTICE_KIND,
    payload=Notice,
    describe=describe,
    attempt=attempt,
    on_unknown=OnUnknown.REPEAT,
    time_allowed_s=lambda _: GIVES_UP_AFTER_S,
    destination=CRM,
    failure_reasons={FailureReason.EXHAUSTED: "it could not be delivered; its last attempt says why"},
    waits_s=WAITS_S,
)
