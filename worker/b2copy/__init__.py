"""B2COPY's API: its routes, its client, and the one place that says what an answer means."""

from worker.b2copy.client import B2Copy
from worker.b2copy.route import Route
from worker.b2copy.routes.fees import FeeState, FeeStatus

__all__ = ["B2Copy", "FeeState", "FeeStatus", "Route"]
