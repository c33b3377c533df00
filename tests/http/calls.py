"""How the tests send a request from a thread that runs no event loop."""

from collections.abc import Mapping
from typing import Any

from worker.http import Answer, Http, event_loop
from worker.operation import OnUnknown


def post(http: Http, path: str, json: Mapping[str, Any] | None, on_unknown: OnUnknown = OnUnknown.REPEAT) -> Answer:
    """POST `json` and return the answer."""
    return event_loop().run(http.request("POST", path, json=json, on_unknown=on_unknown))
