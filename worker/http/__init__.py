"""How any request travels: one deadline, one size limit, TLS, and failures sorted by whether the request was sent.

The HTTP client is loaded when it is first used. A CRM that enqueues imports the routes, which only read answers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from worker.http.answer import Answer

if TYPE_CHECKING:
    from worker.http.client import Http
    from worker.http.connections import check
    from worker.http.curl import USER_AGENT, StaleConnection
    from worker.http.event_loop_thread import event_loop
    from worker.http.requests_adapter import Transport

__all__ = ["USER_AGENT", "Answer", "Http", "StaleConnection", "Transport", "check", "event_loop"]

_MODULES = {
    "Http": "client",
    "StaleConnection": "curl",
    "Transport": "requests_adapter",
    "USER_AGENT": "curl",
    "check": "connections",
    "event_loop": "event_loop_thread",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
