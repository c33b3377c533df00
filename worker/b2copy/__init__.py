"""B2COPY's API: its routes, its client, and the one place that says what an answer means.

The client is loaded when it is first used: see `worker.http`.
"""

from typing import TYPE_CHECKING, Any

from worker.b2copy.route import Route
from worker.b2copy.routes.fees import FeeState, FeeStatus

if TYPE_CHECKING:
    from worker.b2copy.client import B2Copy

__all__ = ["B2Copy", "FeeState", "FeeStatus", "Route"]


def __getattr__(name: str) -> Any:
    if name != "B2Copy":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from worker.b2copy.client import B2Copy

    return B2Copy
