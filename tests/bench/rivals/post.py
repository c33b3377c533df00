"""The call that every rival makes, and its retry budget. Imports nothing of the project."""

import os
import threading
import time
from typing import Any

URL = os.environ["BENCH_URL"]
HEADERS = {"Authorization": f"Bearer {'t' * 80}"}
AT_ONCE = int(os.environ["BENCH_AT_ONCE"])
REDIS = os.environ.get("BENCH_REDIS", "")
TIMEOUT_S = 12  # for the whole call, where the client can do that
TRIES = 5
PAUSE_S = 0.2  # seconds before the next try, where it can be set

_threads = threading.local()


def payload(name: str) -> dict[str, str]:
    return {"account_login": "123456", "request_id": name}


def post(name: str) -> None:
    """Make the call with this thread's `requests.Session`. Raises if there is no good answer."""
    import requests

    session: Any = getattr(_threads, "session", None)
    if session is None:
        session = _threads.session = requests.Session()
    response = session.post(URL, json=payload(name), headers=HEADERS, timeout=TIMEOUT_S)
    response.raise_for_status()
    check(response.json())


async def post_async(session: Any, name: str) -> None:
    """Make the call with an `aiohttp.ClientSession`. Raises if there is no good answer."""
    async with session.post(URL, json=payload(name), headers=HEADERS) as response:
        response.raise_for_status()
        check(await response.json())


def aiohttp_session() -> Any:
    import aiohttp

    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), connector=aiohttp.TCPConnector(limit=AT_ONCE)
    )


def check(answer: dict[str, Any]) -> None:
    if answer["status"] != "FEE_PROCESS_STATUS_SUCCESS":
        raise ValueError(f"not done: {answer}")


def pause() -> None:
    time.sleep(PAUSE_S)
