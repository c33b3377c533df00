"""Whatever arrives, the sandbox answers it and stays available."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as any_

from tests.sandbox.caller import Caller
from worker.sandbox.openapi import DOCUMENT

PATHS = [path.replace("{uuid}", "unknown").replace("{account}", "unknown") for path in DOCUMENT["paths"]]
PATHS += ["/api/admin/x", "/_sandbox/switches", "/_sandbox/fees", "/_sandbox/effects", "/nowhere"]
FIELDS = ["account_login", "request_id", "external_token", "clientId", "accountNumber", "isMaster", "limit", "token"]

scalars = any_.none() | any_.booleans() | any_.integers() | any_.floats() | any_.text(max_size=20) | any_.just("\ud800")
values = any_.recursive(scalars, lambda inner: any_.lists(inner) | any_.dictionaries(any_.text(), inner), max_leaves=5)
bodies = any_.dictionaries(any_.sampled_from(FIELDS), values) | values


@settings(max_examples=80, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=any_.sampled_from(PATHS), method=any_.sampled_from(["GET", "POST", "PUT", "PATCH"]), body=bodies)
def test_no_request_causes_a_server_error(caller: Caller, path: str, method: str, body: Any) -> None:
    headers = {"Authorization": f"Bearer {caller.pair()[0]}"}
    text = json.dumps(body)

    answer = caller.http.request(method, caller.base_url + path, data=text, headers=headers, timeout=5)

    assert answer.status_code in {200, 400, 401, 403, 404}


def test_a_body_nested_too_deep_is_refused(caller: Caller) -> None:
    headers = {"Authorization": f"Bearer {caller.pair()[0]}"}
    for path in PATHS[:3]:
        answer = caller.http.post(caller.base_url + path, data=b"[" * 100_000, headers=headers, timeout=5)

        assert answer.status_code in {400, 401}
