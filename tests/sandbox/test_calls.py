"""The sandbox's list of calls, and the interim responses it can send."""

import json

from tests.sandbox.caller import Caller
from worker.sandbox.b2copy import PROCESS
from worker.sandbox.control_client import SandboxControl


def test_calls_are_listed_with_their_times_while_the_switch_is_on(caller: Caller, sandbox: SandboxControl) -> None:
    token = caller.pair()[0]
    caller.fees(token)
    sandbox.switches(call_log=True, faults=[{"what": "status", "status": 429, "next": 1}])

    caller.fees(token)
    caller.fees(token)

    refused, answered = sandbox.calls()
    assert [refused["status"], answered["status"]] == [429, 200]
    assert refused["arrived"] <= refused["answered"] <= answered["arrived"] <= answered["answered"]


def test_interim_responses_precede_the_answer(caller: Caller, sandbox: SandboxControl) -> None:
    token = caller.pair()[0]
    sandbox.faults({"what": "interim", "next": 1})

    raw = caller.raw(PROCESS, b'{"account_login": "1001", "request_id": "W1"}', token)

    processing, hints, head, body = raw.split(b"\r\n\r\n", 3)
    assert processing == b"HTTP/1.1 102 Processing"
    assert hints.startswith(b"HTTP/1.1 103 Early Hints")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert json.loads(body)["status"] == 2
