"""Several members of a fleet at once, and what B2COPY saw of them."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from worker.errors import B2CopyError, CredentialsRejected
from worker.sandbox.control_client import SandboxControl
from worker.session.redis_store import Store
from worker.session.service_admin_login import ServiceAdmin
from worker.session.shared_session import SharedSession
from worker.session.timings import Timings
from worker.settings import Settings


def store_of(settings: Settings, timings: Timings) -> Store:
    """Return the store of the session that these settings' service admin has."""
    return Store(settings, timings, ServiceAdmin(settings, timings, time.time).identity)


def token_calls(sandbox: SandboxControl) -> int:
    calls = sandbox.counters()["calls"]
    return int(calls.get("authexternalcrm", 0) + calls.get("refreshtoken", 0))


def together(*work: Callable[[], Any]) -> list[Any]:
    """Do all at once, each in a thread; return what each returned or raised."""
    barrier = threading.Barrier(len(work))

    def run(one: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return one()
        except B2CopyError as error:
            return error

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(run, work))


def above(generation: int, members: list[SharedSession]) -> int:
    """The generation all members have come to use, if it is a newer one."""
    found = {token.generation for token in together(*[member.current for member in members])}
    return min(found) if len(found) == 1 and min(found) > generation else 0


def token_or_none(session: SharedSession) -> object:
    try:
        return session.current()
    except CredentialsRejected:
        return None
