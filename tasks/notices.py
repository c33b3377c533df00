"""Notices: tell the CRM by webhook that an operation has ended. The ledger records them, and nobody requests them."""

from worker.b2copy.route import Route
from worker.kind import Attempt, Description, Kind, Payload
from worker.ledger.notices import GIVES_UP_AFTER_S
from worker.operation import NOTICE_KIND, Done, OnUnknown, Outcome
from worker.queues import CRM
from worker.queues import NOTIFY as LANE

WAITS_S = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0)
"""Seconds between two tries to deliver a notice. Money may wait for it, so the first ones follow soon."""

DELIVER = Route(
    name="notice",
    page_url="https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md",
    method="POST",
    path="",
    read=lambda body, sent: body,
    login=None,
    has_effect=False,  # the CRM recognizes a repeated notice by its id
)


class Notice(Payload):
    """`id` is the `webhook-id`, `body` the text that is signed and sent."""

    id: str
    body: str


def describe(notice: Notice) -> Description:
    """See `worker.ledger.notices`, which records notices."""
    return Description(notice.id, lane=LANE)


async def attempt(attempt: Attempt, notice: Notice) -> Outcome:
    """Send the notice once. After any answer but 2xx the engine sends it again until the deadline."""
    await attempt.call(DELIVER, {"id": notice.id, "body": notice.body, "trace_id": attempt.claim.trace_id})
    return Done()


NOTIFY = Kind(
    name=NOTICE_KIND,
    payload=Notice,
    describe=describe,
    attempt=attempt,
    on_unknown=OnUnknown.REPEAT,
    time_allowed_s=lambda _: GIVES_UP_AFTER_S,
    destination=CRM,
    waits_s=WAITS_S,
)
