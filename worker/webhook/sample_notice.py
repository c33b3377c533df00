"""A sample notice, to try a receiver with."""

import json
import time
from secrets import token_hex

from worker.iso_time import iso_time

TYPE = "webhook.test"
"""No operation's notice has this type, so that a receiver cannot take a sample for the end of a withdrawal."""


def sample() -> tuple[str, str]:
    """Return the id and the body of a sample, in the shape of a notice."""
    now = iso_time(time.time())
    data = {
        "key": "fees.process:W1",
        "kind": "fees.process",
        "state": "succeeded",
        "failure_reason": None,
        "server_message": None,
        "payload": {"account_login": "123456", "request_id": "W1"},
        "attempts": 1,
        "requested_at": now,
        "ended_at": now,
        "sequence": 1,
        "trace_id": None,
    }
    return f"ntc_test_{token_hex(8)}", json.dumps({"type": TYPE, "timestamp": now, "data": data}, sort_keys=True)
