"""A sample notice, to try a receiver with."""

import json
import time
from secrets import token_hex

from worker.iso_time import iso_time

TYPE = "webhook.test"
"""No operation's notice has this type: the type of each begins with `operation.`."""

REQUEST_ID = "webhook-test-only"
"""No withdrawal has this id."""


def sample() -> tuple[str, str]:
    """Return the id and the body of a sample, in the shape of a notice.

    It is harmless even to a receiver that does not look at the type: a cancelled operation, and no withdrawal's id.
    """
    now = iso_time(time.time())
    data = {
        "key": f"fees.process:{REQUEST_ID}",
        "kind": "fees.process",
        "state": "cancelled",
        "failure_reason": None,
        "server_message": None,
        "payload": {"account_login": "0", "request_id": REQUEST_ID},
        "attempts": 0,
        "requested_at": now,
        "ended_at": now,
        "sequence": 1,
        "trace_id": None,
    }
    return f"ntc_test_{token_hex(8)}", json.dumps({"type": TYPE, "timestamp": now, "data": data}, sort_keys=True)
